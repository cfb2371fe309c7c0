"""`amp`: autocast around the call of the root, its outputs cast back to single precision.

`fp16` brings a gradient scaler along (`scaling.py`).
"""

from .. import tree
from .base import Knob
from .scaling import Scaling

DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
NAMES = {"bfloat16": "bf16", "float16": "fp16"}
WATCHED = 8  # layers asked for the type of their output, once


class Amp(Knob):
    name = "amp"
    layer = 30
    per_root = True
    serves = True

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.seen = set()  # types of outputs of linear and convolution layers inside a root
        self.inside = None  # autocast's type as seen inside the root's call
        self.names = []
        self.scaling = None

    @classmethod
    def turns_between_steps(cls, value):
        return value != "fp16"  # whose gradient scale goes on from step to step

    def start(self):
        if self.acts and self.wanted == "fp16":
            self.scaling = Scaling(self)
            self.scaling.start()
            self.session.detect.scaling = self.scaling

    def refuse(self, reason):
        super().refuse(reason)
        if self.scaling is not None:
            self.scaling.stop()

    def undo(self):
        if self.scaling is not None:
            self.scaling.undo()

    def not_twice(self):
        if self.scaling is None:
            return None
        return "the script differentiates twice, which fp16's gradient scale does not bear"

    def requires(self, root, args, kwargs):
        if self.wanted == "off":
            return None
        module, torch = root.module, self.torch
        device = next(module.parameters()).device
        own = self.session.detect.script_autocast(device.type)
        if own is not None:
            return "the script's own autocast (%s) is active at the call of %s" % (own, root.name)
        low = next((p for p in module.parameters() if p.dtype in (torch.float16, torch.bfloat16)), None)
        if low is not None:
            return "parameters of %s are in %s already" % (root.name, str(low.dtype)[6:])
        if self.wanted == "fp16" and not root.serves:
            return self._no_scaler(root, device)
        if device.type == "cuda" and not bf16_in_hardware(torch, device):
            return "%s does not compute in bf16" % torch.cuda.get_device_name(device)
        if device.type == "cpu" and not torch.amp.is_autocast_available("cpu"):
            return "this PyTorch has no autocast for the CPU"
        return None

    def _no_scaler(self, root, device):
        """Why the gradients of this script cannot be scaled, or None."""
        detect, torch = self.session.detect, self.torch
        if detect.own_scaler():
            return "the script has a GradScaler of its own"
        if not torch.amp.is_autocast_available(device.type):
            return "this PyTorch has no autocast for %s" % device.type
        if detect.double_backward:
            return "the script differentiates twice, which fp16's gradient scale does not bear"
        if any("LBFGS" in name for name in detect.optimizers):
            return "LBFGS computes its gradients inside its step, which could not be skipped"
        for m in root.module.modules():
            if m._backward_hooks or m._backward_pre_hooks:
                return "%s has hooks that would see scaled gradients" % type(m).__name__
        return None

    def apply(self, root, args, kwargs):
        self.names.append(root.name)
        if self.scaling is not None and not root.serves:
            self.scaling.switch_on(next(root.module.parameters()).device.type)

    def around(self, root, call, args, kwargs):
        torch = self.torch
        if self.first(root):
            call = self._watched(root, call)
        if not self.acts or self.wanted == "off" or self.reason is not None:
            return call(*args, **kwargs)
        if self.scaling is not None and self.torch.is_grad_enabled():
            self.scaling.settle()
        device = (
            root.info["device"].split(":")[0] if root.info else next(root.module.parameters()).device.type
        )
        dtype = getattr(torch, DTYPES[self.wanted])
        detect = self.session.detect
        with detect.our_autocast(device, dtype):
            if self.inside is None:
                self.inside = detect.script_autocast(device)
            output = call(*args, **kwargs)
        if self.first(root) and detect.amp_inside:
            self.refuse("%s has autocast of its own inside" % root.name)

        def widen(_, leaf):
            return leaf.float() if isinstance(leaf, torch.Tensor) and leaf.dtype == dtype else leaf

        return tree.rebuild(output, widen)

    def _watched(self, root, call):
        """Looks at the type that the first layers of the root compute in, in this call only."""
        torch = self.torch
        kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.MultiheadAttention)
        module = root.module
        if module is None or root.traced:
            return call

        def look(_module, _args, output):
            for leaf in output if isinstance(output, tuple) else (output,):
                if isinstance(leaf, torch.Tensor):
                    self.seen.add(str(leaf.dtype)[6:])

        def watching(*args, **kwargs):
            layers = [m for m in module.modules() if isinstance(m, kinds)][:WATCHED]
            handles = [layer.register_forward_hook(look) for layer in layers]
            try:
                return call(*args, **kwargs)
            finally:
                for handle in handles:
                    handle.remove()

        return watching

    def verify(self):
        low = sorted(NAMES[name] for name in self.seen if name in NAMES)
        if self.wanted == "off":
            self.how = "no layer computes in lower precision"
            self.objects = len(self.session.roots.roots)
            return low[0] if low else "off"
        if self.acts and not self.names:
            self.reason = "no call of a module with trainable parameters was seen"
            return None
        if self.acts:
            self.objects = len(self.names)
            self.how = "autocast around the call of " + ", ".join(self.names[:4])
            if len(self.names) > 4:
                self.how += " and %d more: the script calls parts of its model one by one" % (
                    len(self.names) - 4
                )
        else:
            self.objects = len(self.session.roots.roots)
            self.how = "read back from the layers of the model"
        if self.scaling is not None and self.scaling.on:
            self.how += ", gradients scaled by %g" % self.scaling.value()
        if low:
            return low[0]
        if not self.seen and self.inside:
            return self.inside  # a model without linear or convolution layers, or a compiled one
        self.reason = "no layer computes in lower precision"
        return None


def bf16_in_hardware(torch, device):
    try:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    except (AssertionError, RuntimeError):
        return False
