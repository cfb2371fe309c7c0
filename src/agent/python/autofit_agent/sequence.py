"""Which dimension of a model's input is the batch, where its layers take the sequence first.

torch.nn's recurrent and attention layers take (sequence, batch, features) unless they are told `batch_first`.
A model may still be given the batch first and turn it round by itself, so the shapes decide: what reaches the
first such layer in the root's first call is compared with what the root was given.
"""


class Watch:
    """For one call of a module."""

    def __init__(self, module, given, torch):
        self.given = given  # shape of the root's first tensor argument
        self.seen = None
        self.handle = None
        layer = next((m for m in module.modules() if _sequence_first(m, torch)), None)
        if layer is not None and len(given) >= 2:
            self.handle = layer.register_forward_pre_hook(self._look)

    def _look(self, _layer, args):
        shape = getattr(args[0] if args else None, "shape", ())
        if self.seen is None and len(shape) == 3:
            self.seen = tuple(shape)

    def stop(self):
        """The call is over."""
        if self.handle is not None:
            self.handle.remove()

    def batch_dim(self):
        """The dimension: 1 where the sequence came first, 0 otherwise; None where it cannot be told."""
        if self.seen is None:
            return 0  # the layer was not called: nothing speaks against the usual order
        length, batch = self.seen[0], self.seen[1]
        if length == batch:
            return None
        return 1 if (self.given[0], self.given[1]) == (length, batch) else 0


def _sequence_first(module, torch):
    kinds = (torch.nn.RNNBase, torch.nn.MultiheadAttention)
    return isinstance(module, kinds) and not module.batch_first
