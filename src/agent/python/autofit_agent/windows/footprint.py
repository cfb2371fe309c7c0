"""What a window needs of memory, as if the process had run nothing else.

On the processor: the most anonymous and shared memory, which is what a limit counts.  The kernel's high-water
mark is set back (`clear_refs`), after the C library has given back what earlier steps have left; pages of
files are taken off, and what worker processes hold is added.  On a GPU: the allocator's peaks, after its
cache was emptied, and the context.

What the process needed before it trained is common to all windows: no peak is below that.  Where the kernel
does not let the mark be set back, nothing is reported.
"""

import ctypes
import os

from .. import memory


class Footprint:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.before = {}  # peaks before training began
        self._was_reset = True

    def training_begins(self):
        """Called before the first call of a root."""
        if not self.before:
            self.before = self._now() or {}

    def reset(self):
        """Only what comes from now on counts."""
        cuda = self._cuda()
        if cuda is not None:
            cuda.synchronize()
            cuda.empty_cache()
            cuda.reset_peak_memory_stats()
            return
        _give_back()
        self._was_reset = _reset_mark()

    def peak(self):
        """Fields of `window_memory`; None where it is not known."""
        now = self._now()
        if now is None:
            return None
        return {name: max(now[name], self.before.get(name, 0)) for name in now}

    def _now(self):
        cuda = self._cuda()
        if cuda is not None:
            figures = memory.device_figures(cuda)
            context = self.session.device_cap.context() or 0
            return {"peak": figures["reserved_peak"] + context, "allocated": figures["allocated_peak"]}
        figures = memory.host()
        if not self._was_reset or "rss_peak" not in figures or "anonymous" not in figures:
            return None
        own = figures["anonymous"] + figures.get("shared", 0)
        files = max(figures["rss"] - own, 0)
        return {"peak": max(figures["rss_peak"] - files, own) + _workers(own)}

    def _cuda(self):
        return memory.cuda() if self.session.device == "cuda" else None


def _give_back():
    """The C library keeps freed memory; musl has no such function, and keeps little."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass


def _reset_mark():
    """Sets `VmHWM` back to what is resident now; false where that is forbidden."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _workers(own):
    """Memory that child processes have for themselves; pages that several share are counted once."""
    children = _children(os.getpid())
    if not children:
        return 0
    whole = sum(_share(pid) for pid in (os.getpid(), *children))
    return max(whole - own, 0)


def _children(pid):
    found = []
    try:
        for thread in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, thread), encoding="ascii") as file:
                for child in map(int, file.read().split()):
                    found += [child, *_children(child)]
    except (OSError, ValueError):
        return found  # it has just ended
    return found


def _share(pid):
    """Anonymous and shared memory of a process, its part of what it shares with others."""
    total = 0
    try:
        with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as file:
            for row in file:
                if row.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(row.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return total
