"""What `checkpoint=selective` keeps: the results of products, convolutions and attention; the rest, which
costs little compute and as much memory, is computed again.

torch keeps those results in its own contexts (`create_selective_checkpoint_contexts`).  Two things that it
answers with an error in the backward pass are answered here by computing the whole block again, which is
always right: a kept result that was changed in place afterwards (`relu(conv(x), inplace=True)`), and a second
backward pass through the same block.
"""

import contextlib

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addbmm", "addmv", "mv", "convolution", "_scaled_mm")
ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_flash_attention_forward",
    "_efficient_attention_forward",
)


class Selection:
    """Which operators' results are kept, and how often that happened."""

    def __init__(self, torch):
        self.module = torch.utils.checkpoint
        self.leaves = torch.utils._pytree.tree_leaves
        self.kept = {}  # operator -> place and name of its dropout probability, or None
        for name in (*PRODUCTS, *ATTENTION):
            operator = getattr(getattr(torch.ops.aten, name, None), "default", None)
            if operator is not None:
                self.kept[operator] = _dropout(operator)
        self.results = 0  # kept so far
        self.first = 0  # ... in the first call of the root
        self.told_changed = None  # called when a kept result had been changed in place

    def policy(self, context, operator, *args, **kwargs):
        """`CheckpointPolicy` of one call."""
        policies = self.module.CheckpointPolicy
        if operator not in self.kept:
            return policies.PREFER_RECOMPUTE
        place = self.kept[operator]
        if place is not None:
            index, name = place
            probability = args[index] if len(args) > index else kwargs.get(name, 0.0)
            if probability:
                # It draws its mask by itself: left out, everything random after it would draw other numbers.
                return policies.PREFER_RECOMPUTE
        if not context.is_recompute:
            self.results += 1
        return policies.MUST_SAVE

    def contexts(self):
        """For one block: around its forward, and around computing it again."""
        keeping, using = self.module.create_selective_checkpoint_contexts(self.policy)
        return keeping, _Using(self, keeping, using)


def available(torch):
    """Whether this PyTorch can keep results of chosen operators (from 2.5 on)."""
    return hasattr(torch.utils.checkpoint, "create_selective_checkpoint_contexts")


def _dropout(operator):
    for index, argument in enumerate(operator._schema.arguments):
        if argument.name == "dropout_p":
            return index, argument.name
    return None


class _Using(contextlib.AbstractContextManager):
    """torch's context for computing again, where what was kept can be used."""

    def __init__(self, selection, keeping, using):
        self.selection = selection
        self.storage = keeping.storage
        self.using = using
        self.used = False
        self.entered = False

    def __enter__(self):
        changed = not self.used and any(map(_is_changed, self._kept()))
        self.entered = not self.used and not changed
        self.used = True
        if self.entered:
            return self.using.__enter__()
        self.storage.clear()
        if changed and self.selection.told_changed is not None:
            self.selection.told_changed()
        return self

    def __exit__(self, *error):
        if not self.entered:
            return None
        self.entered = False
        return self.using.__exit__(*error)

    def _kept(self):
        return [leaf for results in self.storage.values() for leaf in self.selection.leaves(results)]


def _is_changed(kept):
    # From PyTorch 2.15 on there is a mark for each operator whose result is not kept.
    return getattr(kept, "version", None) is not None and kept.val._version != kept.version
