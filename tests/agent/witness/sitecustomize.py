"""Says what a script really did under the agent, seen without the agent's own reading back.

Stands where a user's own `sitecustomize` would, and writes a JSON document to $WITNESS when the script's
process ends.
"""

import atexit
import collections
import ctypes
import json
import os
import sys

from autofit_agent import imports, session

LARGE = 64 << 20  # bytes that glibc takes from mmap whatever its moving threshold is, unless it may not
SMALL = 4 << 20  # ... at first, and half as many no more once these were freed, unless the threshold is fixed

pid = os.getpid()
forks = [0]
norms = collections.Counter()  # (samples, inside a backward pass) -> calls of a normalisation
pinning = []  # whether a DataLoader was to pin, for each time that one was walked
ahead = []  # batches asked of the workers at once, for each time that one with workers was walked


def count_forks(event, _):
    if event == "os.fork" and os.getpid() == pid:
        forks[0] += 1


def watch(torch):
    def counted(original):
        def norm(x, *args, **kwargs):
            if torch.is_grad_enabled():
                norms[len(x), torch._C._current_graph_task_id() != -1] += 1
            return original(x, *args, **kwargs)

        return norm

    functional = torch.nn.functional
    functional.layer_norm = counted(functional.layer_norm)
    functional.batch_norm = counted(functional.batch_norm)
    module = sys.modules["torch.utils.data.dataloader"]
    after_init(module._BaseDataLoaderIter, lambda _, loader: pinning.append(loader.pin_memory))
    after_init(module._MultiProcessingDataLoaderIter, lambda walk, _: ahead.append(walk._tasks_outstanding))


def after_init(cls, look):
    original = cls.__init__

    def __init__(self, loader):
        original(self, loader)
        look(self, loader)

    cls.__init__ = __init__


class Mallinfo(ctypes.Structure):
    _fields_ = [(f"_{i}" if i != 3 else "mmapped", ctypes.c_int) for i in range(10)]


def mmapped(torch, size):
    """How many pieces of mmap a tensor of this many bytes takes, and the tensor."""
    mallinfo = ctypes.CDLL(None).mallinfo
    mallinfo.restype = Mallinfo
    before = mallinfo().mmapped
    tensor = torch.empty(size, dtype=torch.uint8)
    return mallinfo().mmapped - before, tensor


def has_huge_pages(address):
    """Whether the kernel was asked for huge pages there; None where it has none."""
    if not os.path.exists("/sys/kernel/mm/transparent_hugepage"):
        return None
    inside = False
    with open("/proc/self/smaps", encoding="ascii", errors="replace") as file:
        for line in file:
            first, *rest = line.split()
            if not first.endswith(":"):
                start, end = (int(x, 16) for x in first.split("-"))
                inside = start <= address < end
            elif inside and first == "VmFlags:":
                return "hg" in rest
    return None


def tell():
    if os.getpid() != pid:
        return
    torch, here = sys.modules["torch"], session.current()
    threads = len(os.listdir("/proc/self/task"))
    large, tensor = mmapped(torch, LARGE)
    huge_pages = has_huge_pages(tensor.data_ptr())
    mmapped(torch, SMALL)
    small, _ = mmapped(torch, SMALL // 2)
    told = {
        "settings": {name: report["effective"] for name, report in here.knob_reports.items()},
        "faults": here.faults,
        "samples": max((samples for samples, _ in norms), default=0),
        "recomputed": sum(count for (_, backward), count in norms.items() if backward),
        "forks": forks[0],
        "pinning": pinning,
        "ahead": ahead,
        "threads": threads,
        "mmapped": [large, small],
        "huge_pages": huge_pages,
    }
    with open(os.environ["WITNESS"], "w", encoding="utf-8") as file:
        json.dump(told, file)


sys.addaudithook(count_forks)
atexit.register(tell)
imports.on_import("torch", watch)
