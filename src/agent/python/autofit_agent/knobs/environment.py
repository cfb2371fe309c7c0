"""Knobs that the launcher turns through the environment; here the values in force are read back.

`allocator`: settings of CUDA's caching allocator.  `omp_threads`: threads of one process's CPU kernels.
`malloc`: the C library's allocator, whose settings are read once, before Python's first line.
"""

import os

from .base import Knob

# The words of the contract and the variables that they stand for (src/inspect/environment.rs sets them).
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
TRIM = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
MALLOC = {"huge": {**KEEP, **PAGES}, "retain": KEEP, "trim": TRIM, "pages": PAGES, "default": {}}


class Environment(Knob):
    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.objects = 1


class OmpThreads(Environment):
    name = "omp_threads"

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.how = "torch.get_num_threads()"
        self.before = None

    @classmethod
    def turns_between_steps(cls, _value):
        return True

    def start(self):
        if self.told:
            return  # the environment has set them
        now, given = self.torch.get_num_threads(), self.session.windows.threads
        if now != given:
            self.refuse("the script set %d threads by itself" % now)
            return
        self.before = now
        self.torch.set_num_threads(self.wanted)

    def undo(self):
        if self.before is not None:
            self.torch.set_num_threads(self.before)
            self.before = None

    def verify(self):
        return self.torch.get_num_threads()

    def report(self):
        report = super().report()
        if report["effective"] not in (None, self.wanted):
            threads = report["effective"]
            report.update(effective=None, reason="the script set %d threads by itself" % threads)
        return report


class Malloc(Environment):
    name = "malloc"

    def verify(self):
        # What the process was started with: the C library read it then, a later change has no effect.
        at_start = started_with()
        self.how = "variables that the C library read at the start"
        for word, variables in MALLOC.items():
            if all(at_start.get(name) == value for name, value in variables.items()):
                return word if word == self.wanted else self._differs(word)
        return None

    def _differs(self, word):
        self.reason = "the process was started with malloc=%s" % word


class Allocator(Environment):
    name = "allocator"

    def verify(self):
        torch = self.torch
        if not torch.cuda.is_available():
            self.reason = "there is no GPU in this process"
            return None
        own = os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or os.environ.get("PYTORCH_ALLOC_CONF") or ""
        asked, given = settings(self.wanted), settings(own)
        for key, value in asked.items():
            if given.get(key) != value:
                self.reason = "the script set PYTORCH_CUDA_ALLOC_CONF=%s by itself" % own
                return None
        backend = torch.cuda.get_allocator_backend()
        self.how = "PYTORCH_CUDA_ALLOC_CONF=%s, backend %s" % (own, backend)
        if asked.get("backend", backend) != backend:
            self.reason = "the allocator's backend is %s" % backend
            return None
        return self.wanted


def settings(text):
    """`key:value` pairs of an allocator configuration."""
    pairs = (part.split(":", 1) for part in text.split(",") if ":" in part)
    return {key.strip(): value.strip() for key, value in pairs}


def started_with():
    """The environment at the process's start; what Python shows where the system does not tell."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)
    return dict(pairs)
