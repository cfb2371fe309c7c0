"""`strategy` of a script that starts several processes and wraps its model in DistributedDataParallel.

`ddp` is what it does.  With `fsdp`, `fsdp_offload` and `hybrid` the wrapper stays, and what it wraps is
sharded (FSDP2, block by block): the script's `.module`, `no_sync`, clipping, optimizers and checkpoints go on
as they are (`ranks/own.py`).
"""

import inspect
import os
import sys

from .. import describe, patches, tree
from .base import Knob
from .strategy import SHARDED, STATUS

# Arguments of DistributedDataParallel that ask for something else than averaged gradients, and why it stays.
_REFUSED = {
    "process_group": "it has a process group of its own",
    "device_mesh": "it has a device mesh of its own",
    "find_unused_parameters": "it looks for unused parameters, and what is sharded must all be used",
    "mixed_precision": "it has a mixed precision of its own",
    "delay_all_reduce_named_params": "it delays some gradients",
}
_METHODS = {
    "join": "the script lets ranks have different numbers of batches (join)",
    "join_hook": "the script lets ranks have different numbers of batches (join)",
    "register_comm_hook": "the script has a communication hook of its own",
}


class Wrapped(Knob):
    name = "strategy"

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.per_root = True
        self.sharding = None
        self._group = None  # `hybrid`: how many ranks share a copy of the model
        self.wrapper = None
        self._handles = []
        self._synchronizes = True  # what the sharded model was told last
        self._optimizers = []  # in the order of construction, until there is a sharding
        self._gradients = None  # why it ends where the first update finds parameters without a gradient

    def start(self):
        if not self.acts or self.wanted == "ddp":
            return
        if self.wanted not in SHARDED:
            self.refuse("the command starts several processes by itself")
            return
        torch, guard = self.torch, self.session.guard
        wrapper = torch.nn.parallel.DistributedDataParallel
        patches.replace(wrapper, "__init__", self._make_init)
        patches.replace(wrapper, "forward", self._make_forward)
        for name, why in _METHODS.items():
            patches.replace(wrapper, name, self._make_refused(why))
        patches.replace(torch.optim.Optimizer, "__init__", self._make_optimizer)
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        before, after = guard("strategy before step"), guard("strategy after step")
        self._handles = [
            register_optimizer_step_pre_hook(before(self._before_step)),
            register_optimizer_step_post_hook(after(self._after_step)),
        ]

    def undo(self):
        for handle in self._handles:
            handle.remove()

    # Wrapping

    def _make_init(self, original):
        signature = inspect.signature(original)

        def __init__(wrapper, *args, **kwargs):
            asked = signature.bind(wrapper, *args, **kwargs)
            asked.apply_defaults()
            if self.sharding is not None:
                self.stop("the script wraps several models")
            why = self.reason or self._why_not(asked.arguments)
            if why is not None:
                self.refuse(why)
                original(wrapper, *args, **kwargs)
                return
            self._wrap(wrapper, asked.arguments)

        return __init__

    def _why_not(self, asked):
        from ..ranks import hybrid, sharding

        module, torch = asked["module"], self.torch
        for name, why in _REFUSED.items():
            if asked.get(name):
                return why
        if getattr(module, "_ddp_params_and_buffers_to_ignore", None):
            return "the script has some parameters left alone"
        if any(type(o).__name__ == "ZeroRedundancyOptimizer" for o in self._optimizers):
            return "the script shards its optimizer by itself"
        if any(torch.nn.parameter.is_lazy(p) for p in module.parameters()):
            return "parameters get their shape in the first call"
        if len({p.device for p in module.parameters()}) > 1:
            return "the model lies on several devices"
        for m in module.modules():
            if isinstance(m, (torch.nn.Embedding, torch.nn.EmbeddingBag)) and m.sparse:
                return "%s has sparse gradients" % type(m).__name__
        why = sharding.why_not(module, torch)
        if why is None and self.wanted == "hybrid":
            self._group, why = hybrid.agreed(torch)
        return why

    def _wrap(self, wrapper, asked):
        from ..ranks import mixing, own

        torch, module = self.torch, asked["module"]
        torch.nn.Module.__init__(wrapper)
        for name in ("device_ids", "output_device", "dim", "broadcast_buffers", "static_graph"):
            setattr(wrapper, name, asked.get(name))
        wrapper.find_unused_parameters = False
        wrapper.gradient_as_bucket_view = bool(asked.get("gradient_as_bucket_view"))
        wrapper.require_backward_grad_sync = wrapper.require_forward_param_sync = True
        wrapper.process_group = torch.distributed.group.WORLD
        wrapper.device = next(module.parameters()).device
        wrapper.module = module
        if asked.get("init_sync", True):
            for tensor in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(tensor.detach(), 0)
        offload = self.wanted == "fsdp_offload"
        device = wrapper.device.type
        self.sharding = own.OwnSharding(
            module, self._optimizers, offload, device, torch, self.stop, self._end, self._group
        )
        self.wrapper, self._optimizers = wrapper, []
        mixing.watch(self.stop, torch)

    def _make_optimizer(self, original):
        def __init__(optimizer, *args, **kwargs):
            original(optimizer, *args, **kwargs)
            if self.sharding is None:
                self._optimizers.append(optimizer)
            else:
                self.sharding.built(optimizer)

        return __init__

    def _make_refused(self, why):
        def make(original):
            def method(wrapper, *args, **kwargs):
                if wrapper is self.wrapper:
                    self.stop(why)
                return original(wrapper, *args, **kwargs)

            return method

        return make

    # Training

    def _make_forward(self, original):
        def forward(wrapper, *args, **kwargs):
            if wrapper is not self.wrapper:
                return original(wrapper, *args, **kwargs)
            return self._forward(wrapper, args, kwargs)

        return forward

    def _forward(self, wrapper, args, kwargs):
        torch, module = self.torch, wrapper.module
        if wrapper.broadcast_buffers and wrapper.require_forward_param_sync:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)
        if wrapper.device_ids:
            args, kwargs = tree.rebuild((args, kwargs), lambda _, leaf: self._moved(leaf))
        synchronizes = wrapper.require_backward_grad_sync
        wrapper.require_forward_param_sync = synchronizes and torch.is_grad_enabled()
        if not torch.is_grad_enabled():
            return module(*args, **kwargs)
        if synchronizes != self._synchronizes:
            module.set_requires_gradient_sync(synchronizes)
            self._synchronizes = synchronizes
        return self.sharding.train(module, args, kwargs)

    def _moved(self, leaf):
        return leaf.to(self.wrapper.device) if isinstance(leaf, self.torch.Tensor) else leaf

    def expect_gradients(self, why):
        """The first update must find a gradient of all parameters; `why` has a place for their number."""
        self._gradients = why

    def _before_step(self, *_):
        if self.sharding is None:
            return
        if self._gradients is not None:
            missing = sum(p.grad is None and p.requires_grad for p in self.sharding.parameters())
            if missing:
                self.stop(self._gradients % missing)
            self._gradients = None
        self.sharding.peers.changing()

    def _after_step(self, *_):
        if self.sharding is not None:
            self.sharding.peers.changed()
            self.sharding.peers.leaves()

    # The end

    def stop(self, reason):
        """Not in force, although the ranks are at work already: none of them can go on."""
        if self.sharding is not None:
            self.sharding.peers.end(reason)
        if self.session.mode != "trial":
            from ..ranks import followers

            text = "stopped, since the strategy %s is not in force: %s" % (self.wanted, reason)
            followers.stop(None, STATUS, text)
        self._end(reason)

    def _end(self, reason):
        self.refuse(reason)
        if self.session.mode == "trial":
            self.session.end.finish("refused")
        sys.stderr.flush()
        os._exit(STATUS)

    # Reading back

    def verify(self):
        roots = [root.module for root in self.session.roots.roots if root.module is not None]
        self.objects = 1
        if self.wanted == "ddp":
            self.how = "read back from the model that the script calls"
            names = [describe.distributed(module) for module in roots]
            return "ddp" if "DistributedDataParallel" in names and self.sharding is None else None
        if self.sharding is None:
            self.reason = "the script has not wrapped a model in DistributedDataParallel"
            return None
        if not self.sharding.trained:
            self.reason = "the model is not called through the script's DistributedDataParallel"
            return None
        words, missing = self.sharding.read_back()
        self.how = "FSDP2 in place of DistributedDataParallel, %d processes; %s"
        self.how %= self.sharding.peers.ranks, words
        if missing:
            self.reason = missing
            return None
        return self.wanted
