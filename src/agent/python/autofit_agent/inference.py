"""Scripts that never train: a step is an outermost module call without gradients.

Before training shows itself nobody can tell an inference script from one that evaluates before it trains, so
calls are only counted as steps after a number of them, larger where the script's text speaks of training.
 The global hooks that this needs cost about 2 us a module call; they are gone as soon as an optimizer is
built or `backward` is called.
"""

import sys

from . import imports

CALLS = 4
CALLS_IF_IT_MAY_TRAIN = 200
_WORDS = ("backward(", "optim", "Trainer", ".fit(", ".train(")


def install(session):
    """Watches module calls until training is seen."""
    session.inference = Inference(session)
    imports.on_import("torch.nn.modules.module", session.inference.ready)


class Inference:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self._handles = []
        self._depth = 0
        self._calls = 0
        self._needed = None
        self._size = 0
        self._elements = 0

    def ready(self, module):
        """Registers the global hooks."""
        guard = self.session.guard("inference")
        self._handles = [
            module.register_module_forward_pre_hook(guard(self._before)),
            module.register_module_forward_hook(guard(self._after), always_call=True),
        ]

    def stop(self):
        """Training was seen: take the hooks away."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    def _before(self, _module, args):
        self._depth += 1
        if self._depth == 1:
            if self.session.steps == 0:
                self.session.stepper.begun()
            from .samples import look

            (self._size, _), self._elements = look(args, {})

    def _after(self, _module, _args, _output):
        self._depth = max(self._depth - 1, 0)
        if self._depth or not self._handles:
            return
        if sys.modules["torch"].is_grad_enabled():
            return
        self._calls += 1
        if self._needed is None:
            self._needed = CALLS_IF_IT_MAY_TRAIN if _may_train() else CALLS
        if self._calls > self._needed and self.session.claim():
            self.session.phase = "eval"
            self.session.samples.inferred(self._size, self._elements)
            self.session.stepper.ended("inference")


def _may_train():
    """Whether the script's own text speaks of training; true where it cannot be read."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None:
        return True
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 20)
    except OSError:
        return True
    return any(word in text for word in _WORDS)
