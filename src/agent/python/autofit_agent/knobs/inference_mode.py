"""`inference_mode`: the calls of a script that never trains run in `torch.inference_mode()`.

A script in `no_grad` has PyTorch count versions and remember views all the same. In inference mode it does
not, which saves a little in each operation, but the tensors made there may be neither changed in place nor
given to autograd afterwards. So what a call returns is copied to plain tensors, and where a model keeps what
it has computed, the knob ends and gives it plain tensors back.
"""

from .. import tree
from .base import Knob

MANY = 64  # entries of a container up to which it is looked through


class InferenceMode(Knob):
    name = "inference_mode"
    layer = 8
    per_root = True
    serves = True

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.calls = 0
        self.copied = 0  # outputs of the first call

    def requires(self, root, args, kwargs):
        if not self.wanted:
            return None
        if not root.serves:
            return "%s is trained, and autograd needs what its calls record" % root.name
        if root.info is not None and root.info["inference_mode"]:
            return "the script calls %s in inference mode by itself" % root.name
        if root.compiled or self.session.settings.get("compile", "off") != "off":
            return "compiled code has nothing to gain from it"
        return None

    def around(self, root, call, args, kwargs):
        torch = self.torch
        on = self.wanted and self.acts and self.reason is None and self.session.roots.serving
        if not on or torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return call(*args, **kwargs)
        with torch.inference_mode():
            output = call(*args, **kwargs)
        self.calls += 1
        if not self.calls & (self.calls - 1):
            self.session.guard("inference mode")(self._look)(root)
        return tree.rebuild(output, self._plain)

    def _plain(self, _, leaf):
        if not isinstance(leaf, self.torch.Tensor) or not leaf.is_inference():
            return leaf
        self.copied += self.calls == 1
        return leaf.clone()

    def _look(self, root):
        """After calls 1, 2, 4, 8, ...: does the model keep a tensor that was made in one?"""
        found = False
        for module in root.module.modules():
            for held in (module._buffers, module.__dict__):
                for name, value in list(held.items()):
                    if name not in ("_modules", "_parameters", "_buffers") and self._keeps(value):
                        held[name] = tree.rebuild(value, self._plain)
                        found = True
        if found:
            self.refuse("%s keeps what it has computed, which nobody could train with or change" % root.name)

    def _keeps(self, value):
        if isinstance(value, (dict, list, tuple)) and len(value) > MANY:
            return False
        held = [leaf for _, leaf in tree.leaves(value)]
        return any(isinstance(leaf, self.torch.Tensor) and leaf.is_inference() for leaf in held)

    # Reading back.

    def verify(self):
        if not self.acts:
            self.reason = "only the agent calls models in inference mode"
            return None
        if not self.wanted:
            self.how = "calls are as the script makes them"
            return False
        self.objects = self.calls
        self.how = "torch.inference_mode() in the calls; %d of the first one's outputs copied" % self.copied
        if not self.calls:
            self.reason = "no call of a module without gradients was seen"
            return None
        return True
