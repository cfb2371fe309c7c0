"""What the script already does by itself: the `detected` record.  None of it is done twice.

Told when a model is wrapped for several processes, when the first root is found (a process that is killed for
its memory says nothing later) and again after the first steps, when more is known.
"""

import contextlib
import importlib
import os
import sys
import weakref

from . import compiling, describe, imports, patches, updates
from .checkpoints import Checkpoints
from .session import DONE
from .tf32 import read_tf32
from .wrapping import Wrapping

TOLD_AFTER = (0, 1, 3, 8)  # optimizer steps after which the record is written again, if it has changed
NAMES = {"bfloat16": "bf16", "float16": "fp16"}


def install(session):
    """Watches once torch is there."""

    def ready(torch):
        session.detect = Detect(session, torch)
        session.detect.start()

    imports.on_import("torch", ready)


class Detect:
    """See the head of this file."""

    def __init__(self, session, torch):
        self.session = session
        self.torch = torch
        self.checkpoints = Checkpoints(torch)
        self.wrapping = Wrapping(torch)
        self.wraps = None  # the name of what the script builds around its model
        self.amp = None
        self.amp_inside = False  # the script enters autocast inside a root's forward
        self.double_backward = False
        self.optimizers = []  # names of classes, in the order of construction
        self.updates = 0  # calls of any optimizer's step
        self._ours = 0  # > 0 while the agent's own autocast is being entered
        self._scalers = weakref.WeakSet()
        self.scaling = None  # the agent's own gradient scaler (knobs/scaling.py)
        self._others = []  # weak references to modules that are called and are no roots
        self._told = None
        self._lacks = None
        self.keeps_zeros = False  # the script passes set_to_none=False to a zero_grad
        self._zeroing = []  # functions that stop watching for it
        self._handle = None
        self._undo = []

    def start(self):
        """Puts the watchers in place."""
        torch = self.torch
        self.checkpoints.watch()
        self.wrapping.on_begin.append(self._wrapping)
        self.wrapping.watch(self.session.guard("detect: wrapping"))
        patches.replace(torch.optim.Optimizer, "__init__", self._make_optimizer)
        self._undo = [
            patches.replace(torch.autograd, "grad", self._make_create_graph(4)),
            patches.replace(torch.autograd, "backward", self._make_create_graph(3)),
        ]
        scaler = getattr(torch.amp, "GradScaler", None)
        if scaler is not None:
            patches.replace(scaler, "__init__", self._make_scaler)
        autocast = importlib.import_module("torch.amp.autocast_mode").autocast
        self._undo.append(patches.replace(autocast, "__enter__", self._make_enter))
        for owner in (torch.optim.Optimizer, torch.nn.Module):
            self._zeroing.append(patches.replace(owner, "zero_grad", self._make_zero_grad))
        register = importlib.import_module("torch.optim.optimizer").register_optimizer_step_pre_hook
        # Before the step: whoever is told of its end already finds it counted.
        self._handle = register(self._updated)
        self.session.roots.on_found.append(self._found)
        if self.session.plan.inspect:
            self.session.roots.on_other.append(self._other)
        self.session.root_calls.append(self)
        self.session.on_step(self._stepped)

    # What others ask.

    def backwards_per_step(self):
        """Backward calls for each call of an optimizer's step; 0 while unknown."""
        losses = getattr(self.session, "losses", None)
        return losses.backwards // self.updates if losses is not None and self.updates else 0

    def own_scaler(self):
        """Whether the script has an enabled GradScaler."""
        return any(scaler.is_enabled() for scaler in list(self._scalers))

    def gradient_scale(self):
        """The factor of an enabled GradScaler, else 1."""
        if self.scaling is not None and self.scaling.on:
            return self.scaling.value()
        for scaler in list(self._scalers):
            if scaler.is_enabled():
                return float(scaler.get_scale())
        return 1.0

    @contextlib.contextmanager
    def our_scaler(self):
        """A GradScaler built inside does not count as the script's."""
        self._ours += 1
        try:
            yield
        finally:
            self._ours -= 1

    @contextlib.contextmanager
    def our_autocast(self, device, dtype):
        """Autocast that does not count as the script's."""
        context = self.torch.autocast(device_type=device, dtype=dtype)
        self._ours += 1
        try:
            context.__enter__()
        finally:
            self._ours -= 1
        try:
            yield
        finally:
            context.__exit__(None, None, None)

    def script_autocast(self, device):
        """`bf16` or `fp16` where autocast is on for this kind of device, None where it is off."""
        torch = self.torch
        if not torch.is_autocast_enabled(device):
            return None
        return NAMES.get(str(torch.get_autocast_dtype(device))[6:])

    # Watchers.

    def _found(self, root, _args, _kwargs):
        """A root is called for the first time, and the settings do not act yet."""
        if self.amp is None:
            first = next(root.module.parameters())
            self.amp = NAMES.get(str(first.dtype)[6:]) or self.script_autocast(first.device.type)
        if root.index == 0:
            self.tell()

    def _wrapping(self):
        """DistributedDataParallel takes room for the gradients, and memory may run out there."""
        self.wraps = "DistributedDataParallel"
        if self.session.claim():
            self.tell()

    def _other(self, module):
        """A module is called that trains nothing then: a frozen one, or one without gradients."""
        if next(module.parameters(), None) is not None:
            self._others.append(weakref.ref(module))

    def failed(self, _module, _error):
        """A root's call raised: what was seen of the script until then is told."""
        self.tell()

    def _make_optimizer(self, original):
        def __init__(optimizer, *args, **kwargs):
            self.optimizers.append(type(optimizer).__name__)
            original(optimizer, *args, **kwargs)

        return __init__

    def _make_scaler(self, original):
        def __init__(scaler, *args, **kwargs):
            original(scaler, *args, **kwargs)
            if not self._ours:
                self._scalers.add(scaler)
                if self.scaling is not None and scaler.is_enabled():
                    self.scaling.knob.refuse("the script has a GradScaler of its own")

        return __init__

    def _make_zero_grad(self, original):
        def zero_grad(owner, set_to_none=True):
            self.keeps_zeros = self.keeps_zeros or not set_to_none
            return original(owner, set_to_none)

        return zero_grad

    def _make_create_graph(self, place):
        def make(original):
            def differentiate(*args, **kwargs):
                if kwargs.get("create_graph") or (len(args) > place and args[place]):
                    self._seen_twice()
                return original(*args, **kwargs)

            return differentiate

        return make

    def _seen_twice(self):
        if not self.double_backward:
            self.double_backward = True
            knobs = getattr(self.session, "knobs", None)
            if knobs is not None:
                self.session.guard("double backward")(knobs.double_backward)()

    def _make_enter(self, original):
        graph = self.torch._C._current_graph_task_id

        def __enter__(context):
            if not self._ours and context._enabled and self.session.roots.inside() and graph() == -1:
                name = NAMES.get(str(context.fast_dtype)[6:])
                if name is not None and not self.amp_inside:
                    self.amp_inside, self.amp = True, self.amp or name
            return original(context)

        return __enter__

    def _updated(self, *_):
        self.updates += 1

    def _stepped(self, index):
        if index in TOLD_AFTER:
            self.tell()
        if index < max(TOLD_AFTER):
            return None
        zeroing, self._zeroing = self._zeroing, []
        for stop in zeroing:
            stop()
        return DONE

    def stop(self):
        """Stops counting updates.  Never from inside a step: torch is going through its hooks there."""
        self._handle.remove()

    def rest(self):
        """In production nobody reads the record: only a knob may still want to hear of a double backward."""
        knobs = getattr(self.session, "knobs", None)
        if knobs is None or not knobs.mind_double_backward():
            while self._undo:
                self._undo.pop()()
        self.session.root_calls = [hook for hook in self.session.root_calls if hook is not self]

    # The record.

    def tell(self):
        """Writes the record if it has changed."""
        record = self.record()
        if record != self._told:
            self._told = record
            self.session.emit("detected", **record)

    def record(self):
        """`Detected` of the contract."""
        roots = self.session.roots.roots
        modules = [root.module for root in roots if root.module is not None]
        samples = getattr(self.session, "samples", None)
        return {
            "amp": self.amp,
            "compile": any(root.compiled for root in roots) or self._dynamo_ran(),
            "checkpointing": bool(self.checkpoints.theirs) or any(map(describe.checkpoints_itself, modules)),
            "accumulation": self.backwards_per_step(),
            "distributed": self._distributed(modules),
            "exchange": self.wrapping.describe(),
            "alloc_conf": os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF"),
            "optimizers": list(self.optimizers),
            "roots": len(roots),
            "others": self._count_others(modules),
            "grad_scaler": self.own_scaler(),
            "double_backward": self.double_backward,
            "samples_per_step": samples.last if samples is not None else 0,
            "samples_from": samples.source if samples is not None else "unknown",
            "threads": self.torch.get_num_threads(),
            "no_bf16": self._no_bf16(),
            "update": self._update(),
            "keeps_zeros": self.keeps_zeros,
            "tf32": read_tf32(self.torch)[0],
            "cudnn_benchmark": bool(self.torch.backends.cudnn.benchmark),
            "deterministic": self._deterministic(),
            "compile_lacks": self._compile_lacks(),
        }

    def _distributed(self, modules):
        if not modules:
            return self.wraps
        return next((n for n in map(describe.distributed, modules) if n), None)

    def _count_others(self, modules):
        """Modules that were called and belong to none of the roots."""
        ours = {id(inner) for module in modules for inner in module.modules()} if self._others else ()
        found = [reference() for reference in self._others]
        return sum(one is not None and id(one) not in ours for one in found)

    def _deterministic(self):
        torch = self.torch
        return bool(torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled())

    def _compile_lacks(self):
        """What torch.compile lacks here; looked for once."""
        if self._lacks is None:
            self._lacks = [compiling.tools_missing(self.session.device)]
        return self._lacks[0]

    def _update(self):
        """How the optimizers update the parameters, and the part of a step that it takes."""
        built = [reference() for reference in self.session.optimizers]
        found = updates.describe([one for one in built if one is not None and one.param_groups], self.torch)
        if found is not None:
            stepper = getattr(self.session, "stepper", None)
            found["share"] = stepper.update_share() if stepper is not None else None
        return found

    def _no_bf16(self):
        """Whether training happens on a GPU that does not compute in bf16."""
        told = [root.info["device"] for root in self.session.roots.roots if root.info is not None]
        on_cuda = any(device.startswith("cuda") for device in told)
        return on_cuda and self.torch.cuda.get_device_capability() < (8, 0)

    @staticmethod
    def _dynamo_ran():
        utils = sys.modules.get("torch._dynamo.utils")
        return utils is not None and bool(utils.counters["frames"]["ok"])
