"""How tensors of images lie in memory: the channels of a pixel side by side, or the pixels of a channel."""

from . import tree


def formats(torch):
    """Memory format by the number of dimensions."""
    return {4: torch.channels_last, 5: torch.channels_last_3d}


def convolutions(module, torch):
    """Convolutions over two or three dimensions that hold their own weight."""
    kinds = torch.nn.modules.conv._ConvNd
    lazy = torch.nn.parameter.is_lazy
    return [
        m
        for m in module.modules()
        if isinstance(m, kinds)
        and m._parameters.get("weight") is not None
        and not lazy(m._parameters["weight"])
        and m._parameters["weight"].dim() in (4, 5)
    ]


def is_last(tensor, torch):
    """True for channels last, False for the usual order, None where both are the same strides."""
    last = tensor.is_contiguous(memory_format=formats(torch)[tensor.dim()])
    first = tensor.is_contiguous()
    return None if last and first else last


def has_images(args, kwargs, torch):
    """Whether there is a floating-point argument of four or five dimensions."""
    leaves = (leaf for _, leaf in tree.leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
    return any(leaf.dim() in (4, 5) and leaf.is_floating_point() for leaf in leaves)
