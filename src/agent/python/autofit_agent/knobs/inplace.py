"""`inplace`: activations overwrite what they are given where nobody else needs it (`activations.py`).

`Sequential.forward` runs its layers as it always does; around the call of such an activation its `inplace` is
on.  So a script that calls the layers one by one, and keeps what they return, finds them as they were.  An
activation is passed over in a call in which somebody watches it or the layer before it.
"""

import weakref

from .. import activations
from ..compiling import is_compiling
from .base import Knob

WATCHERS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Inplace(Knob):
    name = "inplace"
    per_root = True

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.members = weakref.WeakKeyDictionary()  # Sequential -> {(id of a layer, id of its activation)}
        self.names = []
        self.found = 0
        self.ran = set()  # ids of activations that have overwritten what they were given
        self.patched = None  # (forward of Sequential as it was, ours)

    @classmethod
    def turns_between_steps(cls, _value):
        return True

    def start(self):
        if self.acts and self.wanted:
            self.session.roots.on_first_output.append(self._called)

    def _called(self, root):
        """The model that has such places need not be the first one that is called."""
        if root.index > 0:
            self.session.knob_changed(self)

    def requires(self, root, args, kwargs):
        if not self.wanted:
            return None
        if root.compiled or self.session.settings.get("compile", "off") != "off":
            return "in compiled code the compiler chooses what is overwritten"
        if self.session.settings.get("checkpoint") == "selective":
            return "checkpoint=selective keeps results that would be overwritten"
        return None

    def apply(self, root, args, kwargs):
        if not self.wanted:
            return
        self.names.append(root.name)
        for sequential, behind in activations.pairs(root.module, self.torch).items():
            self.members[sequential] = {(id(layer), id(activation)) for layer, activation in behind}
            self.found += len(behind)
        if self.found and self.patched is None:
            self._patch(self.torch.nn.Sequential)

    def _patch(self, cls):
        torch = self.torch
        original, members, ran = cls.forward, self.members, self.ran
        compiling, grad_on, tracing = (
            is_compiling(torch),
            torch.is_grad_enabled,
            self.session.roots.tracing,
        )
        hooks = torch.nn.modules.module
        tensor = torch.Tensor

        def forward(self, input):
            if compiling() or not grad_on():
                return original(self, input)
            ours = members.get(self)
            if ours is None or tracing() or any(map(hooks.__dict__.get, GLOBAL_WATCHERS)):
                return original(self, input)
            before = None
            for module in self:
                if (
                    (id(before), id(module)) in ours
                    and type(input) is tensor
                    and not input._is_view()
                    and not watched(before)
                    and not watched(module)
                ):
                    given = input
                    module.__dict__["inplace"] = True
                    try:
                        input = module(given)
                    finally:
                        module.__dict__["inplace"] = False
                    if input is given:
                        ran.add(id(module))
                else:
                    input = module(input)
                before = module
            return input

        for name in ("__doc__", "__name__", "__qualname__", "__module__", "__annotations__"):
            setattr(forward, name, getattr(original, name))
        forward.__wrapped__ = original  # whose source TorchScript reads
        self.patched = (original, forward)
        cls.forward = forward

    def verify(self):
        self.objects = len(self.ran)
        if not self.wanted:
            self.how = "activations as the script has them"
            return False
        if not self.acts or not self.names:
            return None
        if not self.found:
            self.reason = "%s has no ReLU behind a layer in a Sequential that is not in place already"
            self.reason %= ", ".join(self.names[:4])
            return None
        self.how = "%d of %d activations behind layers in Sequentials" % (self.objects, self.found)
        if not self.ran:
            self.reason = "no activation has overwritten what it was given"
            return None
        return True

    def undo(self):
        if self._called in self.session.roots.on_first_output:
            self.session.roots.on_first_output.remove(self._called)
        self.members.clear()
        if self.patched is not None:
            original, ours = self.patched
            cls, self.patched = self.torch.nn.Sequential, None
            if cls.__dict__.get("forward") is ours:
                cls.forward = original


GLOBAL_WATCHERS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def watched(module):
    """Whether somebody else than the agent, which keeps nothing, is shown what goes in or out."""
    own = module.__dict__
    return any(
        not (getattr(hook, "__module__", None) or "").startswith(__package__.split(".")[0])
        for name in WATCHERS
        if own.get(name)
        for hook in own[name].values()
    )
