"""`idle_models`: while one model trains, those that are not needed then wait in host memory.

For scripts with several models: two that train in turn (GANs, actor and critic), or one beside others that
only answer (a teacher, a text encoder, an average of the weights). When a call begins that trains a model,
every other one whose gradients are all taken leaves the device, with its gradients and its part of the
optimizer's state, and comes back when it is called, updated, or looked at by anybody (`parking.py`).

A model is in use as long as what one of its calls has saved for a backward pass exists.
"""

import weakref

from .. import describe, parking
from ..session import DONE
from .base import Knob

MANY_MODELS = 8
BY_THEN = 8  # optimizer steps by which some model was idle, if one ever is
ALONE = "one model is trained, and no other one is called"


class IdleModels(Knob):
    name = "idle_models"
    layer = 5
    per_root = True
    devices = ("cuda",)  # kinds of device whose models are moved
    small = 1 << 16  # bytes of a tensor below which it stays

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.parking = None
        self.models = {}  # id of a module -> _Model
        self.states = weakref.WeakKeyDictionary()  # optimizer -> group of its state
        self.shared = set()  # ids of tensors that several models have
        self.handle = None
        self.times = 0  # that a model has left the device
        self.largest = {}  # name of a model -> bytes of it that did

    def start(self):
        if not self.acts or self.wanted == "device" or not parking.available(self.torch):
            return
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        self.parking = parking.Parking(self.torch, self.devices, self.small)
        self.handle = register_optimizer_step_pre_hook(self._before_step)
        self.session.roots.on_other.append(self._other)
        self.session.on_step(self._stepped)

    # Which models there are.

    def requires(self, root, args, kwargs):
        if self.wanted == "device":
            return None
        kind = next(root.module.parameters()).device.type
        if kind not in self.devices:
            return "the models are in host memory already"
        if self.parking is None:
            return "PyTorch %s does not tell who else holds a tensor" % self.torch.__version__
        if root.compiled or self.session.settings.get("compile", "off") != "off":
            return "compiled code counts on parameters that stay where they are"
        if self.session.settings.get("offload") == "activations":
            return "offload=activations already watches what is saved for the backward pass"
        wrapper = describe.distributed(root.module)
        if wrapper is not None:
            return "the model is wrapped in %s" % wrapper
        if len(self.session.roots.roots) > MANY_MODELS:
            return "the script calls parts of its model one by one"
        return None

    def apply(self, root, args, kwargs):
        if self.wanted == "host":
            self._add(root.module, True)

    def _other(self, module):
        """A module that trains nothing then: a frozen one, or one that is called without gradients."""
        if self.reason is not None or id(module) in self.models or len(self.models) > MANY_MODELS:
            return
        first = next(module.parameters(), None)
        if first is not None and first.device.type in self.devices:
            model = self._add(module, False)
            self.session.roots.also(module, lambda call, *given: self._call(model, call, *given))

    def _add(self, module, trains):
        known = self.models.get(id(module))
        if known is not None and known.module is module:
            known.trains = known.trains or trains
            return known
        model = self.models[id(module)] = _Model(module, trains, self.parking)
        seen = set()
        for one in list(self.models.values()):
            ids = {id(t) for t in one.tensors()}
            self.shared |= seen & ids
            seen |= ids
        return model

    # Their calls.

    def around(self, root, call, args, kwargs):
        model = self.models.get(id(root.module))
        if model is None or self.reason is not None:
            return call(*args, **kwargs)
        return self._call(model, call, args, kwargs)

    def _call(self, model, call, args, kwargs):
        if self.reason is not None:
            return call(*args, **kwargs)
        if not self.torch.is_grad_enabled():
            model.group.bring()
            return call(*args, **kwargs)
        if model.trains:
            self.session.guard("idle models")(self._park_others)(model)
        model.group.bring()
        use = _Use()
        model.uses.add(use)
        hooks = self.torch.autograd.graph.saved_tensors_hooks(lambda tensor: (tensor, use), _first)
        with hooks:
            return call(*args, **kwargs)

    def _park_others(self, model):
        if self._elsewhere():
            self.refuse("the script computes on a stream of its own")
            self._bring_all()
            return
        for key, other in list(self.models.items()):
            if other.module is None:
                del self.models[key]
            elif other is not model and not other.uses:
                self._park(other)

    def _elsewhere(self):
        """Whether work is not on the default stream: then the copies would need more than its order."""
        cuda = self.torch.cuda
        return cuda.is_initialized() and cuda.current_stream() != cuda.default_stream()

    def _park(self, model):
        mine = [t for t in model.tensors() if id(t) not in self.shared]
        gradients = [p.grad for p in model.parameters() if id(p) not in self.parking.groups]
        was = model.group.bytes if model.group.parked else 0
        model.group.park([*mine, *(g for g in gradients if g is not None)])
        if not was and model.group.parked:
            self.times += 1
            size = model.group.bytes + self._park_state(model)
            self.largest[model.name] = max(size, self.largest.get(model.name, 0))
            if self.times == 1:
                self.session.knob_changed(self)

    def _park_state(self, model):
        size = 0
        for optimizer in list(self.session.roots.optimizers):
            states = [optimizer.state[p] for p in model.parameters() if p in optimizer.state]
            group = self.states.setdefault(optimizer, parking.Group(self.parking))
            group.park([t for state in states if isinstance(state, dict) for t in state.values()])
            size += group.bytes
        return size

    def _before_step(self, optimizer, _args, _kwargs):
        group = self.states.get(optimizer)
        if group is not None:
            group.bring()

    def _stepped(self, index):
        if index < BY_THEN:
            return None
        if self.reason is None and not self.times:
            self.refuse(ALONE if len(self.models) < 2 else "no model was idle while another one trained")
        return DONE

    # Reading back.

    def verify(self):
        if self.wanted == "device":
            self.how = "models stay where they are"
            return "device"
        if not self.acts:
            self.reason = "only the agent moves models"
            return None
        if not self.models:
            self.reason = "no call of a module with trainable parameters was seen"
            return None
        self.objects = len(self.models)
        self.how = "%d models were called" % len(self.models)
        if self.largest:
            parts = ["%s (%.1f MiB)" % (name, size / 2**20) for name, size in self.largest.items()]
            self.how = "in host memory while another model trains: %s" % ", ".join(parts)
        return "host"

    def _bring_all(self):
        for model in self.models.values():
            model.group.bring()
        for group in list(self.states.values()):
            group.bring()

    def undo(self):
        if self.handle is not None:
            self.handle.remove()
        if self.parking is not None:
            self._bring_all()


class _Model:
    """One of the script's models."""

    def __init__(self, module, trains, lot):
        self._module = weakref.ref(module)
        self.name = type(module).__name__
        self.trains = trains
        self.group = parking.Group(lot)
        self.uses = weakref.WeakSet()

    @property
    def module(self):
        return self._module()

    def parameters(self):
        return list(self.module.parameters()) if self.module is not None else []

    def tensors(self):
        return [*self.parameters(), *self.module.buffers()] if self.module is not None else []


class _Use:
    """Lives as long as something that a call has saved for its backward pass."""

    __slots__ = ("__weakref__",)


def _first(pair):
    return pair[0]
