"""What a root module is: the `root` record."""

from . import activations, blocks, layouts, tree

ROOTS_TOLD = 16  # a script that calls layers one by one has as many roots as layers; these many are told of


def tensors_of(value, torch):
    """All tensors in arguments or outputs, with their paths."""
    return [(path, leaf) for path, leaf in tree.leaves(value) if isinstance(leaf, torch.Tensor)]


def has_batch_norm(module, torch):
    """A BatchNorm in training mode that normalises with the batch's own statistics."""
    kinds = torch.nn.modules.batchnorm._BatchNorm
    return any(isinstance(m, kinds) and m.training for m in module.modules())


def has_dropout(module, torch):
    kinds = torch.nn.modules.dropout._DropoutNd
    for m in module.modules():
        if isinstance(m, kinds):
            if m.p > 0:
                return True
        else:
            rate = m.__dict__.get("dropout")  # MultiheadAttention, LSTM, and models that call F.dropout
            if isinstance(rate, float) and rate > 0:
                return True
    return False


def has_recurrent(module, torch):
    kinds = (torch.nn.RNNBase, torch.nn.RNNCellBase)
    return any(isinstance(m, kinds) for m in module.modules())


# Attributes by which models say that they checkpoint by themselves.
SWITCHES = (
    "gradient_checkpointing",
    "grad_checkpointing",
    "use_checkpoint",
    "use_checkpointing",
    "activation_checkpointing",
    "use_gradient_checkpointing",
)


def checkpoints_itself(module):
    """The class of a module below that says it checkpoints by itself, or None."""
    for m in module.modules():
        if any(m.__dict__.get(switch) is True for switch in SWITCHES):
            return type(m).__name__
    return None


def distributed(module):
    """`DistributedDataParallel` or what else joins several processes' models here, or None."""
    names = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")
    for m in module.modules():
        for cls in type(m).__mro__:
            if cls.__name__ in names:
                return cls.__name__
    return None


def describe_root(root, module, args, kwargs, torch):
    """`RootInfo` before the first call; what the call returns is filled in after it."""
    lazy = torch.nn.parameter.is_lazy
    parameters = [p for p in module.parameters() if not lazy(p)]
    buffers = [b for b in module.buffers() if not lazy(b)]
    total = sum(p.numel() for p in parameters)
    given = tensors_of((args, kwargs), torch)
    return {
        "index": root.index,
        "class": root.name,
        "parameters": total,
        "serves": root.serves,
        "inference_mode": torch.is_inference_mode_enabled(),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "bytes": sum(t.numel() * t.element_size() for t in (*parameters, *buffers)),
        "blocks": blocks.blocks_info(blocks.find_blocks(module, torch), total),
        "batch_norm": has_batch_norm(module, torch),
        "dropout": has_dropout(module, torch),
        "recurrent": has_recurrent(module, torch),
        "returns": "",
        "returns_loss": False,
        "device": str(parameters[0].device),
        "convolutions": len(layouts.convolutions(module, torch)),
        "images": layouts.has_images(args, kwargs, torch),
        "channels_last": any(layouts.is_last(m.weight, torch) for m in layouts.convolutions(module, torch)),
        "in_place": sum(map(len, activations.pairs(module, torch).values())),
        "batch_dim": 0,
        "several_inputs": len(given) > 1,
        "batch": next((t.shape[0] for _, t in given if t.dim() > 0), None),
    }


def is_loss(leaf, torch):
    """A floating-point scalar that a gradient can come from."""
    return (
        isinstance(leaf, torch.Tensor)
        and leaf.numel() == 1
        and leaf.is_floating_point()
        and leaf.requires_grad
    )


def describe_output(output, torch):
    """The two fields of `RootInfo` about what the call returned."""
    if isinstance(output, torch.Tensor):
        kind = "scalar" if output.numel() == 1 and output.dim() == 0 else "tensor"
    elif isinstance(output, dict):
        kind = "dict"
    elif isinstance(output, (tuple, list)):
        kind = "tuple"
    else:
        kind = "object"
    losses = [leaf for _, leaf in tree.leaves(output) if is_loss(leaf, torch) and leaf.dim() == 0]
    return {"returns": kind, "returns_loss": bool(losses)}
