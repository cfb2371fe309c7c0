"""`optimizer`: how torch.optim updates parameters: one by one, in lists (foreach), or in one kernel.

The choice is made in the parameter groups, when the optimizer has been built and whenever a checkpoint has
been loaded into it.  What the script saves says what the script itself chose, so that the checkpoint loads
anywhere.  A GradScaler goes on to unscale gradients and to skip steps by itself, as it does without `fused`:
the optimizer is not told that it could do so in its kernel.
"""

import weakref

from .. import patches, updates
from ..session import DONE
from .base import Knob

KEYS = ("foreach", "fused")


class Optimizer(Knob):
    name = "optimizer"

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.chosen = []  # _Chosen, one for each optimizer that takes it
        self.others = []  # why the other optimizers do not
        self.first_steps = []  # handles of hooks that the first step ends
        self.give_up_building = None  # a function: what is built from now on is not told

    @classmethod
    def turns_between_steps(cls, _value):
        return True

    def start(self):
        if not self.acts:
            return
        built = self.session.guard("knob.optimizer")(self._built)

        def make(original):
            def __init__(optimizer, *args, **kwargs):
                original(optimizer, *args, **kwargs)
                built(optimizer)

            return __init__

        self.give_up_building = patches.replace(self.torch.optim.Optimizer, "__init__", make)
        self.session.on_step(self._stepped)
        for reference in list(self.session.optimizers):
            if reference() is not None:
                built(reference())

    def _built(self, optimizer):
        if self.reason is not None or self.give_up_building is None:
            return
        reason = updates.why_not(optimizer, self.wanted, self.torch)
        if reason is None and not hasattr(optimizer, "register_state_dict_post_hook"):
            reason = "this PyTorch does not tell when an optimizer is saved"
        if reason is not None:
            self.others.append(reason)
            return
        chosen = _Chosen(optimizer, self.wanted)
        self.chosen.append(chosen)
        guard = self.session.guard("knob.optimizer")
        chosen.handles = [
            optimizer.register_state_dict_post_hook(guard(chosen.saved)),
            optimizer.register_load_state_dict_post_hook(guard(chosen.loaded)),
        ]
        if self.wanted == "fused":
            first = guard(lambda optimizer, *_: self._before_first_step(chosen, optimizer))
            self.first_steps.append(optimizer.register_step_pre_hook(first))

    def _before_first_step(self, chosen, optimizer):
        """The last moment at which nothing has been updated: fused kernels take no sparse gradients."""
        if chosen.stepped:
            return
        chosen.stepped = True
        gradients = (p.grad for p in updates.parameters_of(optimizer))
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            self._give_up("%s is given sparse gradients" % type(optimizer).__name__)
            return
        reason = updates.why_not(optimizer, self.wanted, self.torch)  # the model may have moved since
        if reason is not None:
            self._give_up(reason)

    def _give_up(self, reason):
        for chosen in self.chosen:
            chosen.give_back()
        self.refuse(reason)

    def _stepped(self, _index):
        if self.first_steps and all(chosen.stepped for chosen in self.chosen):
            handles, self.first_steps = self.first_steps, []
            for handle in handles:
                handle.remove()
        return None if self.first_steps else DONE

    def verify(self):
        torch = self.torch
        if self.acts:
            optimizers = [chosen.optimizer() for chosen in self.chosen]
        else:
            optimizers = list(self.session.roots.optimizers)
        optimizers = [optimizer for optimizer in optimizers if optimizer is not None]
        self.objects = len(optimizers)
        if not optimizers:
            self.reason = self.others[0] if self.others else "the script has no optimizer of torch.optim"
            return None
        self.how = "the parameter groups of " + ", ".join(type(one).__name__ for one in optimizers[:4])
        if self.others:
            self.how += "; not of %d more: %s" % (len(self.others), self.others[0])
        found = {updates.in_force(group, torch) for one in optimizers for group in one.param_groups}
        if found == {self.wanted}:
            return self.wanted
        self.reason = "the parameter groups say " + " and ".join(sorted(found))
        return None

    def undo(self):
        if self.give_up_building is not None:
            self.give_up_building()
            self.give_up_building = None
        for chosen in self.chosen:
            chosen.give_back()
            for handle in chosen.handles:
                handle.remove()
        for handle in self.first_steps:
            handle.remove()
        self.first_steps = []


class _Chosen:
    """One optimizer, what the script chose for it and what we did."""

    def __init__(self, optimizer, word):
        self.optimizer = weakref.ref(optimizer)
        self.word = word
        self.stepped = False
        self.active = True
        self.handles = []
        self.defaults = _words(optimizer.defaults)
        self.groups = [_words(group) for group in optimizer.param_groups]
        self._set(optimizer)

    def _set(self, optimizer):
        ours = {key: value for key, value in updates.WORDS[self.word].items() if key in self.defaults}
        optimizer.defaults.update(ours)
        for group in optimizer.param_groups:
            group.update(ours)
        self._move_counters(optimizer, self.word)

    def _move_counters(self, optimizer, word):
        """Fused kernels want the counters of steps beside the parameters, the others on the host."""
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p in optimizer.state and not group.get("capturable"):
                    device = p.device if word == "fused" else "cpu"
                    optimizer.state[p] = _step_to(optimizer.state[p], device)

    def _own(self, index):
        return self.groups[index] if index < len(self.groups) else self.defaults

    def give_back(self):
        """As the script chose."""
        optimizer = self.optimizer()
        if optimizer is None or not self.active:
            return
        self.active = False
        optimizer.defaults.update(self.defaults)
        for index, group in enumerate(optimizer.param_groups):
            group.update(self._own(index))
        fused = any(group.get("fused") for group in optimizer.param_groups)
        self._move_counters(optimizer, "fused" if fused else "loop")

    def saved(self, optimizer, state_dict):
        """What is saved is what the script itself would save."""
        if not self.active:
            return None
        for index, group in enumerate(state_dict["param_groups"]):
            group.update(self._own(index))
        if self.word == "fused" and not self.defaults.get("fused"):
            groups = state_dict["param_groups"]
            kept = {i for group in groups if group.get("capturable") for i in group["params"]}
            state = state_dict["state"]
            # The entries belong to the optimizer: another dict, not another entry.
            state_dict["state"] = {i: s if i in kept else _step_to(s, "cpu") for i, s in state.items()}
        return state_dict

    def loaded(self, optimizer):
        """A checkpoint brings the words of whoever saved it, and the counters that go with them."""
        if not self.active:
            return
        self.groups = [_words(group) for group in optimizer.param_groups]
        self._set(optimizer)


def _words(group):
    return {key: group[key] for key in KEYS if key in group}


def _step_to(state, device):
    """An optimizer's state of one parameter, its counter on this device: fused kernels want theirs."""
    step = state.get("step") if isinstance(state, dict) else None
    if step is None or not hasattr(step, "device") or step.device.type == getattr(device, "type", device):
        return state
    return {**state, "step": step.to(device=device)}
