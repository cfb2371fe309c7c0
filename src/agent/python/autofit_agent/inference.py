"""Scripts that never train: a step is an outermost call of a module without gradients.

Before training shows itself nobody can tell an inference script from one that evaluates before it trains, so
calls are only taken for the work itself after a number of them, larger where the script's text speaks of
training.  From then on the modules that are called are roots like those that train (`root.py`), and a call is
a step; in production it is known from the plan that the script does not train.  The global hooks that this
needs cost about 2 us a module call; they are gone as soon as the work has begun, an optimizer is built or
`backward` is called.
"""

import sys

from . import imports
from .answers import Answers
from .samples import look

CALLS = 4
CALLS_IF_IT_MAY_TRAIN = 200
_WORDS = ("backward(", "optim", "Trainer", ".fit(", ".train(")


def install(session):
    """Watches module calls until training is seen."""
    if session.mode == "run" and not session.plan.serves:
        return
    session.inference = Inference(session)
    imports.on_import("torch.nn.modules.module", session.inference.ready)


class Inference:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self._handles = []
        self._depth = 0
        self._calls = 0
        self._needed = CALLS if session.mode == "run" else None
        self._given = ((0, 0), 0)  # dimensions 0 and 1, elements of what the call under way was given
        self._answers = Answers(session) if session.plan.parity_steps else None

    def ready(self, module):
        """Registers the global hooks."""
        guard = self.session.guard("inference")
        self._handles = [
            module.register_module_forward_pre_hook(guard(self._enter)),
            module.register_module_forward_hook(guard(self._leave), always_call=True),
        ]

    def stop(self):
        """Training was seen, or the work has begun: take the hooks away."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    def _enter(self, _module, _args):
        self._depth += 1

    def _leave(self, _module, _args, _output):
        self._depth = max(self._depth - 1, 0)
        if self._depth or not self._handles:
            return
        if sys.modules["torch"].is_grad_enabled():
            return
        self._calls += 1
        if self._needed is None:
            self._needed = CALLS_IF_IT_MAY_TRAIN if _may_train() else CALLS
        if self._calls >= self._needed and (self.session.mode == "run" or self.session.claim()):
            self.stop()
            self.session.roots.serving = True
            if self.session.mode != "run":
                self.session.phase = "eval"
                self.session.samples.forget()
                self.session.stepper.begun()
                self.session.root_calls.append(self)

    # Calls of a root, once the work has begun.

    def before(self, _root, args, kwargs):
        """Called by root.py."""
        self._given = look(args, kwargs)

    def after(self, _root, args, kwargs, output):
        """Called by root.py: a step is over."""
        session = self.session
        if not session.roots.serving:
            return  # it trains after all
        (size, _), elements = self._given
        session.samples.inferred(size, elements)
        session.stepper.ended("inference")
        if self._answers is not None and self._answers.more(args, kwargs, output):
            session.stepper.skip_time()


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
