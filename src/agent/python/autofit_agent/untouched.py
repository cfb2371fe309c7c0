"""Trial calls of a module that leave no trace in it."""

import contextlib
import random
import sys

from . import tree
from .ways import Refused


class Untouched(contextlib.AbstractContextManager):
    """Calls inside leave the module's attributes and buffers and all random states as they were."""

    def __init__(self, module, torch):
        self.torch = torch
        self.modules = list(module.modules())
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        torch = self.torch
        self.training = [m.training for m in self.modules]
        self.attributes = [dict(m.__dict__) for m in self.modules]
        self.buffers = [
            (m, name, b, b.detach().clone(), b._version)
            for m in self.modules
            for name, b in m._buffers.items()
            if b is not None
        ]
        self.random = (random.getstate(), numpy_state())
        self.stack.enter_context(_without_global_hooks(torch))
        self.stack.enter_context(torch.random.fork_rng(devices=_devices(torch)))
        set_stance = getattr(torch.compiler, "set_stance", None)
        if set_stance is not None and "torch._dynamo" in sys.modules:
            self.stack.enter_context(set_stance("force_eager"))  # odd sizes are not worth compiling for
        return self

    def __exit__(self, *_):
        self.stack.close()
        for m, name, buffer, before, version in self.buffers:
            if buffer._version != version:
                with self.torch.no_grad():
                    buffer.copy_(before)
            if m._buffers.get(name) is not buffer:
                m._buffers[name] = buffer
        for m, before in zip(self.modules, self.attributes):
            now = m.__dict__
            for key in [key for key in now if key not in before]:
                del now[key]
            for key, value in before.items():
                if now.get(key) is not value:
                    now[key] = value
        self.set_training(None)
        random.setstate(self.random[0])
        restore_numpy(self.random[1])

    def set_training(self, value):
        """For all modules; None for what each had."""
        for m, before in zip(self.modules, self.training):
            m.__dict__["training"] = before if value is None else value

    def look_at_buffers(self):
        for m, name, buffer, _, version in self.buffers:
            if buffer._version != version or m._buffers.get(name) is not buffer:
                raise Refused("%s updates its buffer `%s` at each call" % (type(m).__name__, name))

    def mark(self):
        self.marked = [dict(m.__dict__) for m in self.modules]

    def look_for_state(self):
        """What changes from one call to the next of the same kind is state that later calls may depend on."""
        for m, before in zip(self.modules, self.marked):
            for key, value in m.__dict__.items():
                if before.get(key) is not value and self._holds_tensor(value):
                    raise Refused("%s keeps a tensor from call to call (`%s`)" % (type(m).__name__, key))

    def _holds_tensor(self, value):
        return any(isinstance(leaf, self.torch.Tensor) for _, leaf in tree.leaves(value))


@contextlib.contextmanager
def _without_global_hooks(torch):
    """Whoever watches all modules (the script, or the agent) does not see the test."""
    module = torch.nn.modules.module
    names = [name for name in vars(module) if name.startswith("_global_forward_")]
    held = [
        (hooks, dict(hooks)) for hooks in (getattr(module, name) for name in names) if hasattr(hooks, "clear")
    ]
    for hooks, _ in held:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in held:
            hooks.update(before)


def _devices(torch):
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return [torch.cuda.current_device()]
    return []


def numpy_state():
    numpy = sys.modules.get("numpy")
    return numpy.random.get_state() if numpy is not None and hasattr(numpy, "random") else None


def restore_numpy(state):
    if state is not None:
        sys.modules["numpy"].random.set_state(state)
