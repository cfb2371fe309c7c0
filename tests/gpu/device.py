"""The GPU as NVML and /proc tell it, read without autofit: what autofit's own figures are compared with."""

import ctypes
import os
import threading
import time


class _Memory(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


NOT_AVAILABLE = 2**64 - 1


class Device:
    """One GPU by its UUID, as torch names it."""

    def __init__(self, uuid):
        self._lib = ctypes.CDLL("libnvidia-ml.so.1")
        self._ok(self._lib.nvmlInit_v2())
        self._handle = ctypes.c_void_p()
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else "GPU-" + uuid
        found = self._lib.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(self._handle))
        if found != 0:
            self._ok(self._lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self._handle)))

    @staticmethod
    def _ok(status):
        if status != 0:
            raise RuntimeError(f"NVML answered {status}")

    def driver(self):
        text = ctypes.create_string_buffer(96)
        self._ok(self._lib.nvmlSystemGetDriverVersion(text, len(text)))
        return text.value.decode()

    def memory(self):
        """total and used, bytes; the driver's own reserve is in neither `used` nor `free`."""
        m = _Memory(version=ctypes.sizeof(_Memory) | 2 << 24)
        self._ok(self._lib.nvmlDeviceGetMemoryInfo_v2(self._handle, ctypes.byref(m)))
        return {"total": m.total, "used": m.used, "free": m.free, "reserved": m.reserved}

    def used(self):
        return self.memory()["used"]

    def processes(self):
        """PID to bytes (None where the driver does not tell), or None without a list."""
        room = (_Process * 64)()
        count = ctypes.c_uint(64)
        if self._lib.nvmlDeviceGetComputeRunningProcesses_v3(self._handle, ctypes.byref(count), room) != 0:
            return None
        rows = room[: count.value]
        return {p.pid: None if p.used == NOT_AVAILABLE else p.used for p in rows}

    def settle(self, baseline, seconds=10.0, slack=48 << 20):
        """Waits until use is back at the baseline; bytes over it in the end."""
        deadline = time.monotonic() + seconds
        while True:
            over = self.used() - baseline
            if over <= slack or time.monotonic() > deadline:
                return max(over, 0)
            time.sleep(0.05)


class Peak(threading.Thread):
    """The highest use over a baseline while it runs, looked at every 5 ms."""

    def __init__(self, device):
        super().__init__(daemon=True)
        self._device = device
        self._halt = threading.Event()
        self.baseline = device.used()
        self.highest = 0
        self.samples = 0

    def run(self):
        while not self._halt.wait(0.005):
            self.highest = max(self.highest, self._device.used() - self.baseline)
            self.samples += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._halt.set()
        self.join()


def marked(name, value):
    """PIDs of processes that carry NAME=VALUE in their environment, ours not counted."""
    wanted, found = f"{name}={value}".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if wanted in file.read().split(b"\0") and int(pid) != os.getpid():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def machine():
    """What the machine is; nothing in it names the host."""

    def field(path, key):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                rows = [row.split(":", 1)[1].strip() for row in file if row.startswith(key)]
        except OSError:
            rows = []
        return rows[0] if rows else None

    ram = field("/proc/meminfo", "MemTotal")
    shm = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    return {
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "ram_bytes": int(ram.split()[0]) * 1024 if ram else None,
        "shm_bytes": shm.f_blocks * shm.f_frsize if shm else 0,
        "kernel": os.uname().release,
    }
