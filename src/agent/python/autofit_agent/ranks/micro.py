"""A part of a call of a sharded root: its gradient comes through backward.

Autograd ends at the parameters that FSDP puts together for the call, not at the sharded ones which the script
and its optimizer hold.  So each part runs a backward of its own, in which FSDP averages the gradients over
the ranks and leaves each rank its part of them.
"""

from .. import parts


class ShardedCall(parts.Call):
    """`parts.Call` of a root whose parameters are sharded; gradients are this rank's part of each."""

    def __init__(self, root, call, rule, args, kwargs, count, sharding):
        super().__init__(root, call, rule, args, kwargs, count, sharding.torch)
        # While FSDP holds whole parameters the module does not name the sharded ones.
        self.parameters = [p for p in sharding.parameters() if p.requires_grad]
        self.leaves = [*self.parameters, *self.inputs]
        self.versions = [t._version for t in self.leaves]
        self.call = self._watched
        self._plain = call
        self._whole = []  # the parameters that were put together

    def _watched(self, *args, **kwargs):
        """The first call: notes what the modules compute with."""
        self.call = self._plain
        handles = [
            m.register_forward_pre_hook(self._note) for m in self.module.modules() if hasattr(m, "unshard")
        ]
        try:
            return self._plain(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, module, _args):
        self._whole.extend(module.parameters())

    def known(self, inputs):
        return {id(t) for t in (*self._whole, *inputs)}

    def gradients(self, index, outputs, upstream, inputs, retain=False):
        kept = [leaf.grad for leaf in self.parameters]
        for leaf in self.parameters:
            leaf.grad = None
        engine = self.torch.autograd.Variable._execution_engine
        try:
            # Not the function that scripts call: a part's backward is not a backward of theirs.
            engine.run_backward(tuple(outputs), tuple(upstream), retain, False, (), True, True)
            found = [leaf.grad for leaf in self.parameters]
        finally:
            for leaf, gradient in zip(self.parameters, kept):
                leaf.grad = gradient
        mine = [None if g is None else g.to_local() for g in found]
        return [*mine, *(leaf.grad for leaf in inputs)]

    def handed(self, gradients):
        from torch.distributed.tensor import DTensor

        count = len(self.parameters)
        sharded = [
            None
            if gradient is None
            else DTensor.from_local(
                gradient,
                leaf.device_mesh,
                leaf.placements,
                run_check=False,
                shape=leaf.shape,
                stride=leaf.stride(),
            )
            for leaf, gradient in zip(self.parameters, gradients)
        ]
        return [*sharded, *gradients[count:]]
