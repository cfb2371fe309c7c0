"""Memory of this process, in bytes: the host's view and the CUDA allocator's."""

import os
import sys
import time

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_STATUS = {
    "VmHWM": "rss_peak",
    "VmRSS": "rss",
    "RssShmem": "shared",
    "RssAnon": "anonymous",
    "VmData": "data",
}
_statm = [None]


def install(session):
    """Adds the allocator's figures to steps."""
    session.stepper.take.append(DeviceFields(session))


def rss():
    """Resident set now, about 2 us."""
    try:
        if _statm[0] is None or _statm[0][0] != os.getpid():
            _statm[0] = (os.getpid(), os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC))
        return int(os.pread(_statm[0][1], 128, 0).split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def host():
    """Peak and present memory of this process by the kernel's books."""
    found = {}
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for row in file:
                name, _, value = row.partition(":")
                if name in _STATUS:
                    found[_STATUS[name]] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return found
    return found


def cuda():
    """torch.cuda where it is in use, else None."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return torch.cuda


def device_figures(cuda_module, device=None):
    """The allocator's peaks and troubles since the process began."""
    stats = cuda_module.memory_stats_as_nested_dict(device)
    return {
        "allocated_peak": stats["allocated_bytes"]["all"]["peak"],
        "reserved_peak": stats["reserved_bytes"]["all"]["peak"],
        "alloc_retries": stats["num_alloc_retries"],
        "num_ooms": stats["num_ooms"],
    }


def reading(session, moment):
    """Emits a `memory` record."""
    figures = host()
    module = cuda()
    if module is not None:
        device = device_figures(module)
        figures["allocated_peak"] = device["allocated_peak"]
        figures["reserved_peak"] = device["reserved_peak"]
        context = session.device_cap.context()
        if context is not None:
            figures["context"] = context
    session.emit("memory", moment=moment, bytes=figures)


class DeviceFields:
    """The allocator's figures in a step's record; read sparingly, since they are cumulative."""

    FIRST = 10  # steps at which they are always read
    EVERY = 0.02  # seconds between two readings after that

    def __init__(self, session):
        self._session = session
        self._read = 0.0
        self._latest = {}

    def __call__(self, fields):
        if self._session.device != "cuda":
            return
        now = time.perf_counter()
        if fields["index"] < self.FIRST or now - self._read >= self.EVERY:
            module = cuda()
            if module is None:
                return
            self._latest = device_figures(module)
            self._read = now
        fields.update(self._latest)
