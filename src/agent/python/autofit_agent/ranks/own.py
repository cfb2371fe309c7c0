"""A model that the script trains in several processes by itself, sharded in place of DistributedDataParallel.

The ranks of such a script do not all do the same, so that nothing which one of them may do alone is a
collective (`peers.py`): what is saved is put together from what the others answer, and where no gradients are
wanted, the model is a whole copy that is kept until the next training call.
"""

import contextlib
import weakref

from .. import patches, tree
from ..updates import parameters_of
from .peers import Peers, Unanswered
from .sharding import Sharding


class OwnSharding(Sharding):
    """`Sharding` whose ranks answer each other."""

    shards_copies = False  # one rank may have made it alone

    def __init__(self, module, optimizers, offload, device, torch, stop, end, group=None):
        self.peers = Peers(end, torch)
        # Not weak: another rank may ask for its state when this one has returned from the script's function.
        self._optimizers = list(optimizers)
        self._stop = stop  # function(reason), which ends the others, and by `end` this process
        self._module = weakref.ref(module)
        self._copy = None  # (what it was made of, the whole copy)
        self._through = False  # a call that comes from the wrapper
        self.trained = False  # there was one
        super().__init__(module, (), optimizers, offload, device, torch, group)
        sharing = self._mesh.get_group(self._mesh.ndim - 1)
        self._numbers = {id(p): n for n, p in enumerate(self._mine)}
        self.peers.begin(self._part, torch.distributed.get_process_group_ranks(sharing))
        patches.replace(type(module), "__call__", self._make_call)

    def built(self, optimizer):
        """The script has made another optimizer."""
        self._optimizers.append(optimizer)
        self.adopt(optimizer)

    # Calls

    def train(self, module, args, kwargs):
        """A training call through the wrapper, which all ranks make."""
        self._copy = None
        self.peers.enters()
        self._through = self.trained = True
        try:
            output = module(*args, **kwargs)
        finally:
            self._through = False
        for _, leaf in tree.leaves(output):
            if isinstance(leaf, self.torch.Tensor) and leaf.requires_grad:
                leaf.register_hook(self.peers.goes_back)
        return output

    def _make_call(self, _original):
        kind = type(self._module())

        def __call__(module, *args, **kwargs):
            call = super(kind, module).__call__
            if module is not self._module() or self._through:
                return call(*args, **kwargs)
            if self.torch.is_grad_enabled():
                self._stop(
                    "%s is called with gradients on, and not through its wrapper" % kind.__mro__[2].__name__
                )
            return self._whole_copy(module)(*args, **kwargs)

        return __call__

    def _whole_copy(self, module):
        """The model as one process has it, for calls that not all ranks may make."""
        made_of = (self.peers.version, [p._version for p in self._mine])
        if self._copy is None or self._copy[0] != made_of:
            self._copy = None  # two would need more room
            buffers = {id(buffer): buffer for buffer in module.buffers()}
            self._copy = (made_of, self.plain(module, buffers))
        copy = self._copy[1]
        for mine, theirs in zip(copy.modules(), module.modules()):
            mine.training = theirs.training
        return copy

    # What is whole

    def _part(self, key):
        """This rank's part of a parameter or of an optimizer's state; asked for by other threads too."""
        kind, number, *rest = key
        if kind == "parameter":
            return self._mine[number]._local_tensor.detach()
        self._copy = None  # somebody saves, and needs the room
        optimizer, (index, name) = self._optimizers[number], rest
        return optimizer.state[list(parameters_of(optimizer))[index]][name]._local_tensor

    def _ask(self, key):
        with self._answered():
            return self.peers.whole([(key, self._part(key))])[0]

    @contextlib.contextmanager
    def _answered(self):
        try:
            yield
        except Unanswered as why:
            self._stop(str(why))
            raise

    def _whole_parameter(self, parameter):
        return self._ask(("parameter", self._numbers[id(parameter)]))

    def _whole_state(self, optimizer, index, name, value):
        if not hasattr(value, "full_tensor"):
            return value
        number = next(n for n, one in enumerate(self._optimizers) if one is optimizer)
        return self._ask(("state", number, index, name))

    # What is loaded

    def _meet(self):
        with self._answered():
            self.peers.meets()

    def _loading(self, module, loaded, prefix, *rest):
        self._meet()
        super()._loading(module, loaded, prefix, *rest)
        self.peers.changed()

    def _optimizer_loading(self, optimizer, loaded):
        self._meet()
        self.peers.changed()
        return super()._optimizer_loading(optimizer, loaded)
