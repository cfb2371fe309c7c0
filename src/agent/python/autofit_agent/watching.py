"""Watching: what training does, once a second, from a daemon thread; nothing is turned and nothing ends.

A step adds to a few numbers; the thread writes them down as one `pulse` record, with the allocator's figures.
All counts are since the start, so that a record that is lost loses nothing but a moment.
"""

import atexit
import threading
import time

from . import memory

EVERY = 1.0  # seconds between two pulses


def install(session):
    """Starts with the claim: a process that does not report has no pulse."""
    watching = Watching(session)
    session.stepper.take.append(watching.take)
    session.on_claim(watching.start)


class Watching:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self._samples = 0
        self._loader_wait = 0.0
        self._stepped = None  # when the latest step ended
        self._begun = None  # when steps began to be counted
        self._allocator = session.guard("allocator's figures")(allocator)

    def start(self):
        """Pulses from now on, the last one when the interpreter ends."""
        self._begun = time.perf_counter()
        atexit.register(self._last)
        threading.Thread(target=self._beat, name="autofit watch", daemon=True).start()

    def take(self, fields):
        """One step is over."""
        self._samples += fields["samples"]
        self._loader_wait += fields["loader_wait"]
        self._stepped = time.perf_counter()

    def _beat(self):
        while self.session.state == "training":
            self.pulse()
            time.sleep(EVERY)

    def _last(self):
        self.session.guard("last pulse")(self.pulse)()

    def pulse(self):
        """Writes a record."""
        session = self.session
        session.emit(
            "pulse",
            phase=session.phase,
            steps=session.steps,
            begun=self._since_the_start(self._begun),
            stepped=self._since_the_start(self._stepped),
            samples=self._samples,
            loader_wait=round(self._loader_wait, 6),
            devices=self._allocator() or [],
        )

    def _since_the_start(self, moment):
        return None if moment is None else round(moment - self.session.started, 6)


def allocator():
    """The figures of each device on which this process has reserved memory, in bytes."""
    cuda = memory.cuda()
    if cuda is None:
        return []
    found = []
    for index in range(cuda.device_count()):
        stats = cuda.memory_stats_as_nested_dict(index)
        reserved = stats.get("reserved_bytes", {}).get("all", {})
        if not reserved.get("peak"):
            continue
        allocated = stats["allocated_bytes"]["all"]
        found.append(
            {
                "index": index,
                "allocated": allocated["current"],
                "allocated_peak": allocated["peak"],
                "reserved": reserved["current"],
                "reserved_peak": reserved["peak"],
                # Free parts of blocks that are partly in use: of no use to a large tensor.
                "split": stats.get("inactive_split_bytes", {}).get("all", {}).get("current", 0),
                "retries": stats["num_alloc_retries"],
                "ooms": stats["num_ooms"],
            }
        )
    return found
