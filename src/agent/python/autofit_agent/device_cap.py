"""The cap on device memory, enforced through the caching allocator.

The allocator knows nothing of the CUDA context and of the libraries' own memory, so these are taken off the
cap first: by an estimate until the context exists, then by what the driver says is used beyond what was used
before us and what the allocator holds.
"""

import ctypes

from . import imports, memory
from .session import DONE

# A context with PyTorch's own kernels and cuBLAS, until it is measured.  Seen between 300 and 600 MiB on
# recent GPUs.
CONTEXT_ESTIMATE = 512 << 20
# Measured contexts beyond this are somebody else's memory that came in between.
CONTEXT_LIMIT = 4 << 30
# Steps after which the context is measured again: libraries are loaded as they are first used.
MEASURE_AFTER = (1, 2, 4)


def install(session):
    """Does nothing unless the plan is for CUDA."""
    session.device_cap = DeviceCap(session)
    if session.device == "cuda":
        imports.on_import("torch.cuda", session.device_cap.watch)
        session.on_step(session.device_cap.step_ended)


class DeviceCap:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self._cuda = None
        self._before = {}  # uuid -> bytes used before this process used the device
        self._context = None

    def watch(self, cuda):
        """The cap is set as CUDA is initialised, before the first allocation."""
        self._cuda = cuda
        cuda._lazy_call(self.session.guard("device cap")(self._first))

    def _first(self):
        # The driver is up, the context is not: what is used now is not ours.
        self._before = used_by_uuid()
        cap = self.session.plan.cap_bytes
        if cap is None:
            return
        for device in range(self._cuda.device_count()):
            self._limit(device, cap, CONTEXT_ESTIMATE)

    def _limit(self, device, cap, context):
        total = self._cuda.get_device_properties(device).total_memory
        fraction = max(cap - context, 1 << 20) / total
        self._cuda.set_per_process_memory_fraction(min(fraction, 1.0), device)

    def step_ended(self, index):
        """Measures the context again, and corrects the limit."""
        if index + 1 in MEASURE_AFTER and memory.cuda() is not None:
            self._measure()
            if self._context is not None and self.session.plan.cap_bytes is not None:
                self._limit(self._cuda.current_device(), self.session.plan.cap_bytes, self._context)
        return DONE if index + 1 >= max(MEASURE_AFTER) else None

    def _measure(self):
        device = self._cuda.current_device()
        uuid = getattr(self._cuda.get_device_properties(device), "uuid", None)
        before = self._before.get(str(uuid))
        if before is None:
            return
        free, total = self._cuda.mem_get_info(device)
        context = total - free - before - self._cuda.memory_reserved(device)
        if 0 < context <= CONTEXT_LIMIT:
            self._context = context

    def context(self):
        """Bytes of the device that are ours beyond the allocator's, or the estimate if not measured."""
        if memory.cuda() is None:
            return None
        self._measure()
        return self._context if self._context is not None else CONTEXT_ESTIMATE


class _Memory(ctypes.Structure):
    """nvmlMemory_v2_t.  The older structure counts the driver's own reserve (hundreds of MiB) as used, which
    CUDA's total and free leave out."""

    _fields_ = [
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def used_by_uuid():
    """Bytes in use on each device by NVML, under the device's UUID without `GPU-`; empty without NVML."""
    used = {}
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return used
    if not hasattr(nvml, "nvmlDeviceGetMemoryInfo_v2") or nvml.nvmlInit_v2() != 0:
        return used
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for index in range(count.value):
            device = ctypes.c_void_p()
            text = ctypes.create_string_buffer(96)
            figures = _Memory(version=ctypes.sizeof(_Memory) | 2 << 24)
            if (
                nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0
                and nvml.nvmlDeviceGetUUID(device, text, len(text)) == 0
                and nvml.nvmlDeviceGetMemoryInfo_v2(device, ctypes.byref(figures)) == 0
            ):
                used[text.value.decode("ascii", "replace").replace("GPU-", "", 1)] = figures.used
    finally:
        nvml.nvmlShutdown()
    return used
