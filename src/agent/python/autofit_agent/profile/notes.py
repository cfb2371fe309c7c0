"""What tensors were for and which lines asked for them, noted in one step from above the allocator.

- The lines are those of calls into PyTorch, seen by a torch function mode.  In the backward pass it sees what
  checkpoints compute again; what else runs there has the line of its forward operator.
- What autograd holds for the backward pass is counted where it is saved and where it is let go.
- Gradients are looked up when `backward` has ended, the batch in the arguments of the roots.

Where something was compiled the mode stays out: a mode is a new condition for compiled code, which would be
compiled again.
"""

import bisect
import sys
import time

from .. import patches
from ..describe import tensors_of
from ..places import Places
from ..tensors import plainly, storage

# What `backward` and `grad` call, after the mode was taken away for them.
_ENGINE = "_engine_run_backward"
MOST_RESULTS = 64  # tensors in one result that are looked at


class Notes:
    """See the head of this file; times are nanoseconds of the Unix epoch."""

    def __init__(self, session, torch, device):
        self.session = session
        self.shapes = []  # (time, address, sizes, dtype)
        self.saved = []  # Saved of each tensor that autograd held
        self.marks = []  # (time, address, role) of gradients and inputs
        self._torch = torch
        self._device = device
        self._places = Places(torch)
        self._calls = []  # (begin, end, place)
        self._backwards = []  # the same of whole backward passes
        self._mode = _make_mode(torch, self) if _lines_can_be_seen(session, torch) else None
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._undo = None
        # What goes wrong in noting is a fault of ours, and the step goes on without.
        guard = session.guard("profile: notes")
        self.place = guard(self._places.here)
        self.called = guard(self._plainly(self._called))
        self.before = guard(self._plainly(self._inputs))
        self._look_at_gradients = guard(self._plainly(self._gradients))
        self._note_saved = guard(self._plainly(self._saved))

    @property
    def lines(self):
        """Whether lines are seen."""
        return self._mode is not None

    def begin(self):
        self.session.root_calls.append(self)
        self._undo = patches.replace(self._torch.autograd, _ENGINE, self._make_backward)
        self._hooks.__enter__()
        if self._mode is not None:
            self._mode.__enter__()

    def end(self):
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
        self._hooks.__exit__(None, None, None)
        self._undo()
        self.session.root_calls.remove(self)
        self._calls.sort()

    def _plainly(self, function):
        def plain(*args):
            with plainly(self._torch):
                return function(*args)

        return plain

    # The lines

    def _called(self, began, place, result):
        """A call into PyTorch has come back."""
        now = time.time_ns()
        if place is not None:
            self._calls.append((began, now, place))
        many = result if type(result) in (tuple, list) else (result,)
        for tensor in many[:MOST_RESULTS]:
            if isinstance(tensor, self._torch.Tensor):
                self._shape(now, tensor)

    def line_at(self, moment):
        """The line that had called into PyTorch then; the call may not be inside another."""
        at = bisect.bisect_right(self._calls, (moment, float("inf"))) - 1
        if at >= 0 and self._calls[at][1] >= moment:
            return self._calls[at][2]
        return None

    def backward_at(self, moment):
        """The line whose backward pass ran then; None where none did."""
        return next((place or "?" for begin, end, place in self._backwards if begin <= moment <= end), None)

    def line_of(self, frames):
        """The user's line of an allocator's own frames."""
        return self._places.first(frames)

    def _make_backward(self, original):
        def backward(*args, **kwargs):
            began, place = time.time_ns(), self.place()
            if self._mode is not None:
                self._mode.__enter__()
            try:
                return original(*args, **kwargs)
            finally:
                if self._mode is not None:
                    self._mode.__exit__(None, None, None)
                self._backwards.append((began, time.time_ns(), place))
                self._look_at_gradients()

        return backward

    # What tensors are for

    def _gradients(self):
        for module in (root.module for root in self.session.roots.roots):
            for parameter in module.parameters() if module is not None else ():
                if parameter.grad is not None:
                    self._mark(parameter.grad, "gradients")

    def _inputs(self, _root, args, kwargs):
        """A root is called: these are its inputs."""
        for _, tensor in tensors_of((args, kwargs), self._torch):
            self._mark(tensor, "inputs")

    def _mark(self, tensor, role):
        _, key = storage(tensor)
        if key is not None and key[0] == self._device:
            now = time.time_ns()
            self.marks.append((now, key[1], role))
            self._shape(now, tensor)

    def _shape(self, now, tensor):
        _, key = storage(tensor)
        if key is not None and key[0] == self._device:
            self.shapes.append((now, key[1], list(tensor.shape), str(tensor.dtype)[6:]))

    def _pack(self, tensor):
        held = self._note_saved(tensor)
        return tensor if held is None else held

    def _saved(self, tensor):
        _, key = storage(tensor)
        if key is None or key[0] != self._device:
            return None
        now = time.time_ns()
        note = Saved(now, key[1])
        self.saved.append(note)
        self._shape(now, tensor)
        return Holder(tensor, note)

    def _unpack(self, packed):
        return packed.tensor if isinstance(packed, Holder) else packed


class Saved:
    """When autograd held a block."""

    __slots__ = ("address", "let_go", "since")

    def __init__(self, since, address):
        self.since = since
        self.address = address
        self.let_go = float("inf")


class Holder:
    """A tensor in the graph; its end is the graph's letting go of it."""

    __slots__ = ("note", "tensor")

    def __init__(self, tensor, note):
        self.tensor = tensor
        self.note = note

    def __del__(self):
        self.note.let_go = time.time_ns()


def _lines_can_be_seen(session, torch):
    if any(root.traced for root in session.roots.roots):
        return False
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is None or not dynamo.counters["frames"]


def _make_mode(torch, notes):
    class Lines(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if getattr(func, "__name__", "") in ("__get__", "backward"):
                return func(*args, **kwargs)
            began, place = time.time_ns(), notes.place()
            result = func(*args, **kwargs)
            notes.called(began, place, result)
            return result

    return Lines()
