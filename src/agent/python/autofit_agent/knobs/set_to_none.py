"""`set_to_none`: `zero_grad(set_to_none=False)` drops the gradients instead of filling them with zeros.

A parameter that gets no gradient in a step would then be passed over by the optimizer, which with zeros moves
it (momentum, weight decay).  So before each update those that were dropped and have not come back are given
their zeros, and the knob ends there: training stays what it was.
"""

from .. import patches
from ..session import DONE
from .base import Knob

WAIT = 3  # optimizer steps by which a script has zeroed its gradients, if it ever does


class SetToNone(Knob):
    name = "set_to_none"

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.dropped = {}  # id of a parameter -> parameter whose zeros were dropped
        self.owners = set()
        self.handle = None
        self.patched = []  # functions that give zero_grad back
        self.steps = 0

    @classmethod
    def turns_between_steps(cls, _value):
        return True

    def start(self):
        if not self.acts or not self.wanted:
            return
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        of_optimizer = self._maker(lambda o: [p for g in o.param_groups for p in g["params"]])
        of_module = self._maker(lambda m: list(m.parameters()))
        self.patched = [
            patches.replace(self.torch.optim.Optimizer, "zero_grad", of_optimizer),
            patches.replace(self.torch.nn.Module, "zero_grad", of_module),
        ]
        before = self.session.guard("knob.set_to_none")(self._before_step)
        self.handle = register_optimizer_step_pre_hook(lambda optimizer, *_: before(optimizer))
        self.session.on_step(self._stepped)

    def _maker(self, parameters_of):
        note = self.session.guard("knob.set_to_none")(self._note)

        def make(original):
            def zero_grad(owner, set_to_none=True):
                if set_to_none or self.reason is not None:
                    return original(owner, set_to_none)
                note(owner, parameters_of(owner))
                return original(owner, True)

            return zero_grad

        return make

    def _note(self, owner, parameters):
        self.dropped.update((id(p), p) for p in parameters if p.grad is not None)
        if id(owner) not in self.owners:
            self.owners.add(id(owner))
            if len(self.owners) == 1 and self.name in self.session.knob_reports:
                self.session.knob_changed(self)

    def _before_step(self, optimizer):
        if not self.dropped:
            return
        dropped = self.dropped
        for group in optimizer.param_groups:
            for p in group["params"]:
                if dropped.pop(id(p), None) is not None and p.grad is None:
                    dropped[id(p)] = p
                    self._end(optimizer)
                    return

    def _end(self, optimizer):
        self._fill()
        self.refuse("a parameter of %s gets no gradient in some steps" % type(optimizer).__name__)

    def _fill(self):
        """Zeros where the script has them."""
        for p in self.dropped.values():
            if p.grad is None:
                p.grad = self.torch.zeros_like(p)
        self.dropped = {}

    def _stepped(self, _index):
        self.steps += 1
        if not self.patched or self.steps > WAIT:
            if self.patched and not self.owners:
                self.refuse("the script was not seen to pass set_to_none=False")
            return DONE
        return None

    def verify(self):
        self.objects = len(self.owners)
        self.how = "zero_grad of optimizers and modules" + ("" if self.owners else "; not called yet")
        if self.wanted and not self.owners and not self.told:
            self.reason = "the script was not seen to pass set_to_none=False"
            return None
        return self.wanted if self.acts else None

    def undo(self):
        for give_back in reversed(self.patched):
            give_back()
        self.patched = []
        if self.handle is not None:
            self.handle.remove()
            self.handle = None
        self._fill()
