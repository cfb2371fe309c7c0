"""`strategy`: the script in several processes, each with its part of every batch (see `ranks/`).

`ddp`: a copy of the model in each, gradients are averaged.  `fsdp`: a part of the parameters, gradients and
optimizer state in each, put together block by block where they are needed.  `fsdp_offload`: the same, and
each part waits in host memory.  `hybrid`: as `fsdp` within each of several groups (`ranks/hybrid.py`), among
which gradients are averaged.
"""

import sys

from .. import checking, describe, parts
from ..ranks import group
from . import buckets
from .base import Knob

SHARDED = ("fsdp", "fsdp_offload", "hybrid")
_OLDEST_PYTHON = (3, 11)
STATUS = 125  # of a run that would go on with something else than what was tuned


class Strategy(Knob):
    name = "strategy"
    layer = 15  # inside of `accumulation`: a micro-batch is shared out, and the ranks make as many of them
    per_root = True

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.acts = self.acts and wanted != "single"
        self.per_root = self.acts
        self.place = session.rank_layout
        self.root = None
        self.sharing = None
        self.reducer = None
        self.sharding = None
        self._group = None  # `hybrid`: how many ranks share a copy of the model

    def start(self):
        if self.acts and self.place is None:
            self.refuse("this process was not started as one of several")
        elif self.acts and sys.version_info < _OLDEST_PYTHON:
            # Before, pathlib opens files in ways of its own, and ranks other than the first would write.
            self.refuse("several processes need Python %d.%d" % _OLDEST_PYTHON)

    # Before the first call

    def on_root(self, root, args, kwargs):
        if not self.acts or self.reason is not None:
            return
        if self.root is not None:
            self.stop("%s is called by itself beside %s" % (root.name, self.root.name))
            return
        super().on_root(root, args, kwargs)

    def requires(self, root, args, kwargs):
        module, torch = root.module, self.torch
        wrapper = describe.distributed(module)
        if wrapper is not None:
            return "the script wraps its model in %s" % wrapper
        if describe.has_batch_norm(module, torch):
            return "BatchNorm in training mode would normalise with a part of the batch"
        if any("LBFGS" in name for name in self.session.detect.optimizers):
            return "LBFGS computes the loss several times a step"
        if self.session.detect.double_backward:
            return "the script differentiates twice"
        for m in module.modules():
            if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks:
                return "%s has hooks that would see a part of the batch" % type(m).__name__
            if isinstance(m, (torch.nn.Embedding, torch.nn.EmbeddingBag)) and m.sparse:
                return "%s has sparse gradients" % type(m).__name__
        if any(torch.nn.parameter.is_lazy(p) for p in module.parameters()):
            return "parameters get their shape in the first call"
        if len({p.device for p in module.parameters()}) > 1:
            return "the model lies on several devices"
        if any(t.requires_grad for _, t in describe.tensors_of((args, kwargs), torch)):
            return "a gradient goes through the arguments of %s" % root.name
        if self.wanted in SHARDED:
            from ..ranks import sharding

            why = sharding.why_not(module, torch)
            if why is not None:
                return "%s: %s" % (root.name, why)
        if self.wanted == "hybrid":
            from ..ranks import hybrid

            self._group, why = hybrid.group_of(self.place.world_size, self.place.local_world_size)
            return why
        return None

    def apply(self, root, args, kwargs):
        from ..ranks import copies, mixing, reducer, sharding, sharing

        module, torch, place = root.module, self.torch, self.place
        try:
            with self.session.roots.hidden():
                rule = checking.find_rule(module, args, kwargs, place.world_size, torch)
        except checking.Refused as why:
            self.refuse("%s: %s" % (root.name, why))
            return
        if "other" in rule.outputs.values():
            self.refuse("%s returns something that cannot be put together from parts" % root.name)
            return
        device = next(module.parameters()).device.type
        group.start(place, device, torch)
        if not group.agree([leaf for _, leaf in describe.tensors_of((args, kwargs), torch)], torch):
            self._disagree()
            return
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor.detach(), 0)
        others = copies.find(module) if self.wanted in SHARDED else []
        if not self._same_everywhere(others):
            self._disagree()
            return
        self.root = root
        self.sharing = sharing.Sharing(root, rule, place, torch)
        if self.wanted in SHARDED:
            optimizers = list(self.session.roots.optimizers)
            offload = self.wanted == "fsdp_offload"
            self.sharding = sharding.Sharding(module, others, optimizers, offload, device, torch, self._group)
            mixing.watch(self.stop, torch)
        else:
            trained = [p for p in module.parameters() if p.requires_grad]
            self.reducer = reducer.Reducer(trained, torch, **buckets.of_strategy(self.session.settings))
        self.session.part_of = self.sharing.part
        self.session.strategy = self

    def _same_everywhere(self, others):
        """Whether all ranks have found the same copies of the model, in the same order."""
        torch = self.torch
        count = torch.tensor([float(len(others))])
        return group.agree([count], torch) and all(
            group.agree(list(one.parameters()), torch) for one in others
        )

    # In the root's call

    def around(self, root, call, args, kwargs):
        from ..ranks import sharing

        if root is not self.root or self.sharing is None:
            return call(*args, **kwargs)
        if not self.torch.is_grad_enabled() and not parts.computing_again():
            return call(*args, **kwargs)
        try:
            return self.sharing.call(call, args, kwargs)
        except sharing.Disagree:
            self._disagree()
        except sharing.Unjoinable:
            self.stop("%s returned something that was not seen before" % root.name)
        return call(*args, **kwargs)

    def _disagree(self):
        self.stop("the ranks were given different batches: the script draws from a source without a seed")

    def stop(self, reason):
        """Not in force, although other ranks may be at work already: this process cannot go on."""
        self.refuse(reason)
        if self.sharing is None:
            return
        if self.session.mode == "trial":
            self.session.end.finish("refused")
        from ..ranks import followers

        text = "stopped, since the strategy %s is not in force: %s" % (self.wanted, reason)
        followers.stop(self.place, STATUS, text)

    def undo(self):
        if self.reducer is not None:
            self.reducer.remove()

    # Reading back

    def verify(self):
        if self.wanted == "single":
            self.how = "one process"
            return "single" if self.place is None else None
        if self.sharing is None or not self.sharing.shared:
            self.reason = "no batch was shared out"
            return None
        self.objects = 1
        ranks = self.place.world_size
        backend = self.torch.distributed.get_backend()
        self.how = "%d processes (%s), each with its part of every batch of %s" % (
            ranks,
            backend,
            self.root.name,
        )
        if self.sharding is None:
            self.how += "; gradients are averaged"
            return self.wanted
        words, missing = self.sharding.read_back()
        self.how += "; " + words
        if missing:
            self.reason = missing
            return None
        return self.wanted


class Processes(Knob):
    """`processes`: how many `strategy` has."""

    name = "processes"

    def verify(self):
        place = self.session.rank_layout
        if place is None:
            self.reason = "it is the number of processes of a strategy, and one process trains"
            return None
        self.how, self.objects = "WORLD_SIZE", place.world_size
        return place.world_size
