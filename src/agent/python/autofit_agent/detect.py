"""What the script already does by itself: the `detected` record.  None of it is done twice.

Told when the first root is found (a process that is killed for its memory says nothing later) and again after
the first steps, when more is known.
"""

import contextlib
import importlib
import os
import sys
import weakref

from . import describe, imports, patches
from .checkpoints import Checkpoints

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
        self.amp = None
        self.amp_inside = False  # the script enters autocast inside a root's forward
        self.double_backward = False
        self.optimizers = []  # names of classes, in the order of construction
        self.updates = 0  # calls of any optimizer's step
        self._ours = 0  # > 0 while the agent's own autocast is being entered
        self._scalers = weakref.WeakSet()
        self._told = None
        self._handle = None

    def start(self):
        """Puts the watchers in place."""
        torch = self.torch
        self.checkpoints.watch()
        patches.replace(torch.optim.Optimizer, "__init__", self._make_optimizer)
        patches.replace(torch.autograd, "grad", self._make_create_graph(4))
        patches.replace(torch.autograd, "backward", self._make_create_graph(3))
        scaler = getattr(torch.amp, "GradScaler", None)
        if scaler is not None:
            patches.replace(scaler, "__init__", self._make_scaler)
        patches.replace(
            importlib.import_module("torch.amp.autocast_mode").autocast, "__enter__", self._make_enter
        )
        register = importlib.import_module("torch.optim.optimizer").register_optimizer_step_pre_hook
        # Before the step: whoever is told of its end already finds it counted.
        self._handle = register(self._updated)
        self.session.roots.on_found.append(self._found)
        self.session.root_calls.append(self)
        self.session.on_step(self._stepped)

    # What others ask.

    def backwards_per_step(self):
        """Backward calls for each call of an optimizer's step; 0 while unknown."""
        losses = getattr(self.session, "losses", None)
        return losses.backwards // self.updates if losses is not None and self.updates else 0

    def gradient_scale(self):
        """The factor of an enabled GradScaler, else 1."""
        for scaler in list(self._scalers):
            if scaler.is_enabled():
                return float(scaler.get_scale())
        return 1.0

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
            self._scalers.add(scaler)

        return __init__

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

    def stop(self):
        """Stops counting updates.  Never from inside a step: torch is going through its hooks there."""
        self._handle.remove()

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
            "distributed": next((n for n in map(describe.distributed, modules) if n), None),
            "alloc_conf": os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF"),
            "optimizers": list(self.optimizers),
            "roots": len(roots),
            "grad_scaler": any(scaler.is_enabled() for scaler in list(self._scalers)),
            "double_backward": self.double_backward,
            "samples_per_step": samples.last if samples is not None else 0,
            "samples_from": samples.source if samples is not None else "unknown",
            "threads": self.torch.get_num_threads(),
        }

    @staticmethod
    def _dynamo_ran():
        utils = sys.modules.get("torch._dynamo.utils")
        return utils is not None and bool(utils.counters["frames"]["ok"])
