"""Out of memory: written down at the moment when the exception passes one of the agent's frames.

Those are the root's call, `backward`, the optimizer's step and the loader's `__next__`; an exception that
ends the script or a thread is seen by the hooks for those.  On CUDA the allocator also tells an observer.
Such an observation alone proves nothing, since cuDNN tries algorithms and gives up those that do not fit: it
is written down at the next step only where no library was on the stack that is known to catch its own.
"""

import functools
import sys
import threading

from . import imports, patches
from .session import DONE

_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "Cannot allocate memory",
    "not enough memory: you tried to allocate",
)
_CHAIN = 8  # exceptions behind an exception that are looked at
# Innermost Python frames below which a library may catch an OOM of its own: convolutions and compiled
# kernels, and the engine of backward, whose true errors pass our frame.
_PROBING = ("/nn/modules/conv.py", "/_inductor/", "/autograd/graph.py", "/autograd/__init__.py")


def install(session):
    """Puts the hooks in place; those of torch once torch is there."""
    session.ooms = Ooms(session)
    session.root_calls.insert(0, session.ooms)
    sys.excepthook = session.ooms.top_level(sys.excepthook)
    threading.excepthook = session.ooms.in_thread(threading.excepthook)
    sys.unraisablehook = session.ooms.in_thread(sys.unraisablehook)
    imports.on_import("torch.optim.optimizer", session.ooms.patch_optimizer)
    imports.on_import("torch.cuda", session.ooms.observe_device)
    session.on_step(session.ooms.step_ended)


def device_of(error):
    """`cpu`, `cuda:0`, or None where this is not about memory."""
    if not isinstance(error, (MemoryError, RuntimeError, OSError)):
        return None
    name = type(error).__name__
    text = str(error)
    certain = name == "OutOfMemoryError" or isinstance(error, MemoryError)
    if not certain and not any(t in text for t in _TEXTS):
        return None
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "cpu"
    if name == "OutOfMemoryError" or "CUDA" in text or "CUBLAS" in text or "CUDNN" in text:
        return f"cuda:{_number_after(text, 'GPU ')}"
    return "cpu"


class Ooms:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.filled = None
        if session.mode == "trial":
            from .filled import Filled  # now: there may be no memory for it later

            self.filled = Filled(session)
        self._observed = None

    # Agent frames

    def failed(self, _root, error):
        """A root's call raised."""
        self.seen(error)

    def seen(self, error, fatal=False):
        """Writes the record if this exception is about memory: once, and once more if fatal."""
        try:
            for _ in range(_CHAIN):
                if error is None:
                    return
                device = device_of(error)
                if device is not None:
                    self._write(error, device, fatal)
                    return
                error = (error.__cause__ or error.__context__) if fatal else None
        except Exception as mine:
            self.session.fault("oom", mine)

    def _write(self, error, device, fatal):
        told = getattr(error, "_autofit_told", None)
        if told is not None and (told or not fatal):
            return
        error._autofit_told = fatal
        self._observed = None
        self.session.oom(device, f"{type(error).__name__}: {error}", fatal)
        if self.filled is not None:
            self.filled.tell(device)

    def patch_optimizer(self, module):
        """Lets exceptions of `step()` pass a frame of ours, in every optimizer class."""

        def make(original):
            def profile_hook_step(step):
                def seen_step(*args, **kwargs):
                    try:
                        return step(*args, **kwargs)
                    except BaseException as error:
                        self.seen(error)
                        raise

                return original(functools.wraps(step)(seen_step))

            return staticmethod(profile_hook_step)

        patches.replace(module.Optimizer, "profile_hook_step", make)

    # The top

    def top_level(self, previous):
        """`sys.excepthook`: the script ends."""

        def excepthook(kind, error, trace):
            self.seen(error, fatal=True)
            previous(kind, error, trace)

        return excepthook

    def in_thread(self, previous):
        """`threading.excepthook` and `sys.unraisablehook`: the script goes on."""

        def hook(args):
            self.seen(args.exc_value)
            previous(args)

        return hook

    # The CUDA allocator

    def observe_device(self, cuda):
        """Attaches the observer once CUDA is initialised; attaching it earlier would initialise it."""
        attach = getattr(sys.modules["torch"]._C, "_cuda_attach_out_of_memory_observer", None)
        if attach is None or self.session.device != "cuda":
            return
        observe = self.session.guard("oom observer")(self._observe)

        def begin():
            # The driver's own pool takes no observers; asking for one is an error.
            if cuda.get_allocator_backend() != "cudaMallocAsync":
                attach(observe)

        cuda._lazy_call(self.session.guard("oom observer")(begin))

    def _observe(self, device, requested, total, free):
        frame = sys._getframe(2)
        name = frame.f_code.co_filename if frame is not None else ""
        text = f"CUDA out of memory. Tried to allocate {requested} bytes. {free} of {total} bytes are free."
        probing = any(part in name for part in _PROBING)
        self._observed = (device, text, probing)
        if not probing and self.filled is not None:
            self.filled.snapshot()

    def step_ended(self, _index):
        """A step went by: an observation that no exception followed was caught by somebody."""
        if self.session.device != "cuda":
            return DONE
        observed, self._observed = self._observed, None
        if observed is not None and not observed[2]:
            self.session.oom(f"cuda:{observed[0]}", observed[1], False)
        return None


def _number_after(text, word):
    start = text.find(word)
    digits = ""
    if start >= 0:
        for character in text[start + len(word) :]:
            if not character.isdigit():
                break
            digits += character
    return digits or "0"
