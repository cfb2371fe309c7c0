"""`offload`: tensors that a GPU does not need for a while wait in page-locked host memory.

`activations`: what the root's call saves for the backward pass goes to the host by torch's `save_on_cpu` and
comes back when its gradient is computed.  Small tensors stay, for a copy costs more than it gives back, and
so do parameters and buffers, which stay on the device anyway.

`optimizer`: the optimizer's state is on the device during `step()` only.  The tensors keep their identity, so
that a script which saves or reads `state_dict()` between steps finds the right values, on the host.
"""

import weakref

from ..updates import parameters_of
from .base import Knob


class Offload(Knob):
    name = "offload"
    layer = 20
    devices = ("cuda",)  # kinds of device whose tensors are moved
    small = 1 << 20  # bytes of a tensor below which it stays

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.per_root = wanted == "activations"
        self.names = []
        self.moved = 0
        self.bytes = 0
        self.hooks = None  # torch's own, for the copies
        self.handles = []
        self.buffers = weakref.WeakKeyDictionary()  # optimizer -> {id of a state tensor: (it, host, device)}
        self.checked = False

    @classmethod
    def turns_between_steps(cls, value):
        return value in ("none", "activations")

    def start(self):
        if not self.acts:
            return
        if self.wanted == "activations":
            self.hooks = self.torch.autograd.graph.save_on_cpu(pin_memory=True)
        elif self.wanted == "optimizer":
            from torch.optim import optimizer as module

            before = self.session.guard("offload before step")(self._before_step)
            after = self.session.guard("offload after step")(self._after_step)
            self.handles = [
                module.register_optimizer_step_pre_hook(before),
                module.register_optimizer_step_post_hook(after),
            ]
        elif self.wanted == "parameters":
            self.refuse("parameters are not moved by this version: that needs sharded modules")

    # Activations.

    def requires(self, root, args, kwargs):
        kind = next(root.module.parameters()).device.type
        if kind not in self.devices:
            return "activations of %s are in host memory already" % root.name
        if root.compiled:
            return "a compiled %s chooses by itself what it keeps" % root.name
        return None

    def apply(self, root, args, kwargs):
        self.names.append(root.name)

    def around(self, root, call, args, kwargs):
        on = self.hooks is not None and self.reason is None and self.torch.is_grad_enabled()
        if not on or root.module is None:
            return call(*args, **kwargs)
        module, copies, count = root.module, self.hooks, self.first(root)
        stays = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
        small, devices, plain = self.small, self.devices, self.torch.strided

        def pack(tensor):
            size = tensor.numel() * tensor.element_size()
            if size < small or tensor.device.type not in devices or tensor.layout is not plain:
                return tensor
            if tensor.untyped_storage().data_ptr() in stays:
                return tensor
            if count:
                self.moved += 1
                self.bytes += size
            return copies.pack_hook(tensor)

        def unpack(packed):
            return copies.unpack_hook(packed) if isinstance(packed, tuple) else packed

        with self.torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return call(*args, **kwargs)

    # The optimizer's state.

    def _before_step(self, optimizer, _args, _kwargs):
        """The state comes back."""
        for tensor, host, device in self.buffers.get(optimizer, {}).values():
            if tensor.device == host.device and tensor.data_ptr() == host.data_ptr():
                tensor.data = host.to(device, non_blocking=True, copy=True)

    def _after_step(self, optimizer, _args, _kwargs):
        """The state goes to the host; the copies have ended before the script goes on and may read them."""
        torch = self.torch
        known, now, cuda = self.buffers.get(optimizer, {}), {}, None
        for state in optimizer.state.values():
            for tensor in state.values() if isinstance(state, dict) else ():
                if not self._moves(tensor):
                    continue
                device = tensor.device
                entry = known.get(id(tensor))
                host = entry[1] if entry is not None and entry[0] is tensor else None
                if host is None:
                    host = torch.empty_like(tensor, device="cpu", pin_memory=device.type == "cuda")
                host.copy_(tensor, non_blocking=True)
                now[id(tensor)] = (tensor, host, device)
                cuda = device if device.type == "cuda" else cuda
        if cuda is not None:
            torch.cuda.current_stream(cuda).synchronize()
        for tensor, host, _ in now.values():
            tensor.data = host
        self.buffers[optimizer] = now
        if not self.checked and any(p.device.type in self.devices for p in parameters_of(optimizer)):
            self.checked = True
            self.moved = len(now)
            self.bytes = sum(host.numel() * host.element_size() for _, host, _ in now.values())
            if not now:
                self.refuse("%s keeps no state that is worth moving" % type(optimizer).__name__)

    def _moves(self, tensor):
        torch = self.torch
        if not isinstance(tensor, torch.Tensor) or tensor.device.type not in self.devices:
            return False
        return tensor.layout is torch.strided and tensor.numel() * tensor.element_size() >= self.small

    # Reading back.

    def verify(self):
        if self.wanted == "none":
            self.how = "tensors stay where they are"
            return "none"
        if not self.acts:
            self.reason = "only the agent moves tensors"
            return None
        self.objects = self.moved
        if self.wanted == "optimizer":
            return self._verify_optimizer()
        self.how = "%d tensors of %.1f MiB in the first call of %s, in host memory until their gradient" % (
            self.moved, self.bytes / 2**20, ", ".join(self.names[:4]),
        )  # fmt: skip
        if not self.names:
            self.reason = "no call of a module with trainable parameters was seen"
            return None
        if not self.moved:
            self.reason = "no activation of %d KiB or more was seen" % (self.small >> 10)
            return None
        return "activations"

    def _verify_optimizer(self):
        kinds = {p.device.type for o in list(self.session.roots.optimizers) for p in parameters_of(o)}
        if not kinds & set(self.devices):
            self.reason = "the optimizer's state is in host memory already"
            return None
        self.how = "state of %d optimizers in host memory between steps" % len(self.session.roots.optimizers)
        if self.checked:
            self.how += ", %d tensors of %.1f MiB" % (self.moved, self.bytes / 2**20)
        return "optimizer"

    def undo(self):
        for handle in self.handles:
            handle.remove()
        for optimizer in list(self.buffers):
            self._before_step(optimizer, (), {})
        self.buffers.clear()
