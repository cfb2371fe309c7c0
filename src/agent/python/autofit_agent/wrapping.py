"""DistributedDataParallel as a script, or its framework, builds it.

Which of the settings below it passes by itself is noted, and those that it leaves to PyTorch can be added
from outside (`added`).  What the script passes is never replaced.
"""

import inspect
import weakref

from . import patches

SETTINGS = ("gradient_as_bucket_view", "bucket_cap_mb")
_MIB = 1 << 20


class Wrapping:
    """See the head of this file."""

    def __init__(self, torch):
        self.added = {}  # setting -> value that takes the place of PyTorch's own
        self._built = []  # (weak reference, names of settings that the script passes)
        self.on_begin = []  # functions that are called before the first one is built
        self._kind = getattr(torch.nn.parallel, "DistributedDataParallel", None)

    def watch(self, guard):
        """Sees what is built from now on."""
        if self._kind is not None:
            self._begins = guard(self._begun)
            self._note = guard(self._noted)
            self._add = guard(self._with_added)
            patches.replace(self._kind, "__init__", self._make_init)

    def takes(self, setting):
        """Whether this PyTorch has the setting."""
        return self._kind is not None and setting in inspect.signature(self._kind.__init__).parameters

    def models(self):
        """(DistributedDataParallel, settings that the script passes) of those that are there."""
        alive = [(reference(), passed) for reference, passed in self._built]
        return [(model, passed) for model, passed in alive if model is not None]

    def describe(self):
        """`ExchangeInfo` of the contract, of the first one; None where there is none."""
        for model, passed in self.models():
            return {**{name: read(model, name) for name in SETTINGS}, "passed": list(passed)}
        return None

    def _make_init(self, original):
        names = list(inspect.signature(original).parameters)[1:]  # without `self`

        def __init__(model, *args, **kwargs):
            self._begins()
            passed = [name for name in SETTINGS if name in kwargs or name in names[: len(args)]]
            original(model, *args, **(self._add(passed, kwargs) or kwargs))
            self._note(model, passed)

        return __init__

    def _begun(self):
        functions, self.on_begin = self.on_begin, []
        for function in functions:
            function()

    def _with_added(self, passed, kwargs):
        return {**{name: value for name, value in self.added.items() if name not in passed}, **kwargs}

    def _noted(self, model, passed):
        self._built.append((weakref.ref(model), passed))


def read(model, setting):
    """The value in force; what gradients are, as the reducer itself says."""
    if setting == "bucket_cap_mb":
        mib = model.bucket_bytes_cap / _MIB
        return int(mib) if mib.is_integer() else mib
    if getattr(model, "logger", None) is None:
        return False  # its gradients are exchanged by compiled code, which has no reducer
    return bool(model._get_ddp_logging_data()[setting])
