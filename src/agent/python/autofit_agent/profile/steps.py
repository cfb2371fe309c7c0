"""The steps of a profile, one after the other."""

import json
import os
import time

from .. import VERSION, memory, tensors
from . import attribution, operators, snapshot
from .block import peak
from .notes import Notes
from .trace import Trace

TRACE = "trace.json.gz"
BLOCKS = "blocks.json"
MOST = 5000  # rows of that file
SUMMARY = "memory_summary.txt"


class Profile:
    """See the package."""

    def __init__(self, session):
        self.session = session
        self.remarks = []
        self._after_step = None  # what the end of the step under way brings

    def begin(self):
        """The next steps are the ones; of several ranks the first one's."""
        if self.session.rank != 0:
            return  # it ends with the first one, at a step that they have in common
        torch = self._torch = self.session.torch
        self._cuda = memory.cuda()
        self._device = "cpu" if self._cuda is None else "cuda"
        self._trace = Trace()
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._cuda is not None:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = self._start(activities)
        self._after_step = self._operators

    def step_ended(self, index):
        """A step is over: the next part, or the end, also where something failed."""
        following, self._after_step = self._after_step, None
        if following is None:
            return
        try:
            following(index)
        finally:
            if self._after_step is None:
                self.session.end.now("measured")

    def _start(self, activities):
        profiler = self._torch.profiler.profile(
            activities=activities, record_shapes=True, profile_memory=True
        )
        self._started = time.perf_counter()
        profiler.start()
        return profiler

    def _operators(self, index):
        seconds = time.perf_counter() - self._started
        self._profiler.stop()
        # Without a gap: what is alive now was traced, and so will be its end.
        following = self._start([self._torch.profiler.ProfilerActivity.CPU]) if self._cuda is None else None
        # It stays: freed while another one traces, it takes the process down.
        profiler, self._profiler = self._profiler, following
        self._first = profiler
        self._told = {"step": index, "seconds": round(seconds, 6), "device": self._device}
        by_time, by_memory = operators.tables(profiler, self._device)
        self._told.update(by_time=by_time, by_memory=by_memory)
        profiler.export_chrome_trace(self._path(TRACE))
        if self._cuda is None:
            self._trace.read(profiler, self._torch)
        else:
            snapshot.begin(self._cuda)
        self._before = tensors.held(self.session, self._torch, self._device)
        self._notes = Notes(self.session, self._torch, self._device)
        self._notes.begin()
        self._started = time.perf_counter()
        self._begin = time.time_ns()
        self._after_step = self._memory

    def _memory(self, _index):
        end = time.time_ns()
        seconds = time.perf_counter() - self._started
        self._notes.end()
        after = tensors.held(self.session, self._torch, self._device)
        if self._cuda is None:
            self._profiler.stop()
            self._trace.read(self._profiler, self._torch)
            blocks, shapes = self._trace.blocks, self._trace.shapes
            counted = self._trace.counted(self._begin, end)
            pieces = None
        else:
            counted = self._cuda.max_memory_allocated()
            with open(self._path(SUMMARY), "w", encoding="utf-8") as file:
                file.write(self._cuda.memory_summary())
            document = snapshot.take(self._cuda, self._path(snapshot.FILE))
            device = self._cuda.current_device()
            blocks, shapes = snapshot.blocks(document, device, self._notes.line_of), []
            pieces = snapshot.pieces(document, device)
        if not self._notes.lines:
            self.remarks.append("compiled code hides which lines asked for memory")
        facts = attribution.Facts(self._begin, end, self._before, after, self._notes, shapes)
        moment, alive = peak(blocks, self._begin, end)
        untold = attribution.untraced(blocks, moment, facts)
        found = attribution.entries(alive, untold, moment, facts)
        sums = attribution.categories(found)
        older = sum(held.size for held in untold)
        memory_at_peak = {
            "seconds": round(seconds, 6),
            "peak": sum(sums.values()),
            "counted": counted + older,
            "at_start": older + sum(block.size for block in blocks if block.lives(self._begin)),
            "categories": sums,
            "blocks": attribution.rows(found),
            "pieces": pieces,
        }
        with open(self._path(BLOCKS), "w", encoding="utf-8") as file:
            whole = {**memory_at_peak, "blocks": attribution.rows(found, MOST)}
            json.dump({"version": VERSION, **whole}, file, indent=1)
        self.session.emit(
            "profile",
            memory=memory_at_peak,
            host=host(sum(held.size for held in after.values()) if self._cuda is None else 0),
            notes=self.remarks,
            **self._told,
        )

    def _path(self, name):
        return os.path.join(self.session.plan.trial_dir, name)


def host(kept):
    """This process by the kernel's books; `rest` is what is not tensors that outlive a step."""
    figures = memory.host()
    mine = figures.get("anonymous", 0) + figures.get("shared", 0)
    return {
        "anonymous_and_shared": mine,
        "rest": max(mine - kept, 0),
        "mapped_files": max(figures.get("rss", 0) - mine, 0),
        "rss_peak": figures.get("rss_peak", 0),
    }
