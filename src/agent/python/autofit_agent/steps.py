"""Optimizer steps: what counts as one, how long it took, and when enough of them were measured.

A step is the end of `step()` of the least frequent torch.optim optimizer (a GAN has two, a critic may step
five times for each step of the generator).  An optimizer that runs inside another one's `step()` is part of
it. Without a torch.optim optimizer a step is the end of an outermost `backward()`; without that, see
`inference.py`.
"""

import sys
import time
import weakref
from collections import deque

from . import imports, memory, patches

# A step's time may still change by this factor when warm-up ends ...
STEADY = 1.25
# ... but warm-up is not drawn out for more steps than this beyond those asked for: a busy machine never
# settles.
EXTRA_WARMUP = 8
# An optimizer that has not stepped while another stepped this often is no longer waited for.
FORGET = 64
# With several optimizers, measuring waits until each has stepped, but not for more steps than this.
WAIT_FOR_ALL = 32
# What a step is taken from, worst first.
_TRUST = ("inference", "backward", "optimizer")
# Step records are written together, at most this many seconds late.
LATE = 0.05
# A step's resident memory was read at most this many seconds before its end.
FRESH = 0.005
# Steps, the very first one left out, in which the time that optimizers take is measured (on the processor).
UPDATES_TIMED = 3
# Measuring begins again after a step in which something was compiled, at most this often.
MOST_RESTARTS = 8


def install(session):
    """Hooks torch's optimizers once torch is there."""
    session.stepper = (Counted if session.mode == "watch" else Steps)(session)
    imports.on_import("torch.optim.optimizer", session.stepper.ready)


class Steps:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.schedule = session.plan.schedule
        self.index = 0
        self.source = None  # "optimizer", "backward", "inference"
        self.has_begun = False
        self.enough = False  # the schedule is satisfied
        self.take = []  # functions that add fields to the record of the step that just ended
        self.settle_fields = []  # functions(fields) that read what the device has finished by then
        self._stack = []
        self._ticker = Ticker()
        self._seen = set()  # ids of the optimizers that have stepped
        self._warm = 0  # steps since warm-up began (again)
        self._measuring = False
        self._measure_from = None
        self._seconds = []
        self._recent = deque(maxlen=3)
        self._clock = None
        self._rss = (0.0, 0)  # when it was read, bytes
        self._unsettled = deque()
        self._written = 0.0
        self._handles = []
        self.unsteady_step = False  # something was compiled in the step under way
        self._restarts = 0
        self._update_began = 0.0
        self._updating = 0.0  # seconds inside optimizers since the last step ended
        self._update_shares = []

    def ready(self, module):
        """Registers the global optimizer hooks."""
        before = self.session.guard("optimizer step")(self._before)
        after = self.session.guard("optimizer step")(self._after)
        self._handles = [
            module.register_optimizer_step_pre_hook(before),
            module.register_optimizer_step_post_hook(after),
        ]
        patches.replace(module.Optimizer, "__init__", self._make_init)

    def _make_init(self, original):
        built = self.session.guard("optimizer built")(self._built)

        def __init__(optimizer, *args, **kwargs):
            original(optimizer, *args, **kwargs)
            built(optimizer)

        return __init__

    def _built(self, optimizer):
        self.session.optimizers.append(weakref.ref(optimizer))
        self.session.inference.stop()
        self.session.claim()

    # Which optimizer's step is the step

    def _before(self, optimizer, args, kwargs):
        if not self.session.claim():
            return
        if optimizer in self._stack:
            # Its step raised and was tried again.
            del self._stack[self._stack.index(optimizer) :]
        self._stack.append(optimizer)
        self._seen.add(id(optimizer))
        self.session.phase = "train"
        self.session.phases.finish()
        if len(self._stack) > 1:
            return
        self._update_began = time.perf_counter()
        # With a closure (Lightning) this step's gradients are made inside the step.
        if not _closure(args, kwargs):
            self.session.norms.before_update(optimizer)

    def _after(self, optimizer, args, kwargs):
        if self.session.state != "training" or optimizer not in self._stack:
            return
        if len(self._stack) == 1 and _closure(args, kwargs):
            self.session.norms.before_update(optimizer)
        del self._stack[self._stack.index(optimizer) :]
        if self._stack:
            return
        self._updating += time.perf_counter() - self._update_began
        before = self._ticker.key
        if self._ticker.is_step(id(optimizer)):
            if before is not None and before != self._ticker.key:
                self._restart()
            self.ended("optimizer")

    def in_step(self):
        """Whether an optimizer is making a step, from which it may call a closure."""
        return bool(self._stack)

    # The end of a step

    def begun(self):
        """The first sign of training: step 0 is timed from here."""
        if not self.has_begun:
            self.has_begun = True
            self._clock = _clock(self.session)
            self._clock.start()

    def ended(self, source):
        """One step is over."""
        if not self._is_counted(source):
            return
        self.begun()
        again = self.unsteady_step and self._restarts < MOST_RESTARTS
        measured = self._measuring and not again
        fields = self.session.record("step")
        fields["index"] = self.index
        fields["warmup"] = not measured
        fields["rss"] = self._resident()
        for take in self.take:
            take(fields)
        self.unsteady_step = False
        lap = self._clock.lap()
        self._unsettled.append((fields, lap, measured))
        if 0 < self.index <= UPDATES_TIMED and isinstance(self._clock, HostClock):
            self._update_shares.append(self._updating / max(lap[0], 1e-9))
        self._updating = 0.0
        self.index += 1
        self.session.steps = self.index
        self.settle()
        self.session.step_ended(self.index - 1)
        if again and not self.enough:
            self._restarts += 1
            self._restart()
        self._decide()

    def _is_counted(self, source):
        if self.source != source:
            if self.source is not None:
                if _TRUST.index(source) < _TRUST.index(self.source):
                    return False  # a backward() beside optimizer steps
                self._restart()
            self.source = source
        return True

    def unsteady(self):
        """The step under way is no measure of the others: something was compiled in it."""
        self.unsteady_step = True

    def update_share(self):
        """The part of a step that optimizers take; None where it was not measured."""
        shares = sorted(self._update_shares)
        return round(shares[len(shares) // 2], 4) if self.source == "optimizer" and shares else None

    def _resident(self):
        """Resident bytes, not older than `FRESH`: it is the kernel that keeps the peak."""
        now = time.perf_counter()
        if now - self._rss[0] > FRESH:
            self._rss = (now, memory.rss())
        return self._rss[1]

    def settle(self, wait=False):
        """Writes the steps that the device has finished."""
        done = []
        while self._unsettled:
            fields, lap, measured = self._unsettled[0]
            times = self._clock.read(lap, wait)
            if times is None:
                break
            self._unsettled.popleft()
            fields["seconds"], fields["cpu_seconds"] = times
            for settle in self.settle_fields:
                settle(fields)
            done.append(fields)
            if fields["index"] > 0:  # the very first step is never a measure
                self._recent.append(times[0])
            if measured:
                self._seconds.append(times[0])
        if done:
            self.session.emit_later(done)
        now = time.perf_counter()
        if wait or now - self._written > LATE:
            self._written = now
            self.session.flush()

    def skip_time(self):
        """What has passed since the end of the last step is no part of the next one."""
        if self._clock is not None:
            self._clock.start()

    # When enough was measured

    def _restart(self):
        self._warm = 0
        self._measuring = False
        self._seconds = []
        self._recent.clear()

    def _decide(self):
        if self.enough:
            return
        plan = self.schedule
        if not self._measuring:
            self._warm += 1
            if self._warm >= max(plan.warmup_steps, 1) and self._is_steady():
                self._measuring = True
                self._measure_from = time.perf_counter()
            return
        count = len(self._seconds)
        if count < max(plan.min_steps, 1):
            return
        if (
            count >= plan.max_steps
            or time.perf_counter() - self._measure_from >= plan.max_seconds
            or (count >= 3 and relative_error(self._seconds) <= plan.relative_error)
        ):
            self.enough = True
            self.session.measured_enough()

    def _is_steady(self):
        all_seen = len(self._seen) >= sum(1 for o in self.session.optimizers if o() is not None)
        if self.source == "optimizer" and not all_seen and self._warm < WAIT_FOR_ALL:
            return False
        if self._warm >= self.schedule.warmup_steps + EXTRA_WARMUP:
            return True
        return len(self._recent) >= 2 and max(self._recent) <= STEADY * min(self._recent)


class Counted(Steps):
    """Steps that are counted and not measured, for a script that is watched and may go on for days."""

    def __init__(self, session):
        super().__init__(session)
        self._fields = {}

    def ended(self, source):
        """One step is over."""
        if not self._is_counted(source):
            return
        self.has_begun = True
        self.index += 1
        self.session.steps = self.index
        for take in self.take:
            take(self._fields)
        self.session.step_ended(self.index - 1)

    def begun(self):
        """Nothing is timed."""
        self.has_begun = True


def _closure(args, kwargs):
    """Whether `step(closure)` was called; `args` may begin with the optimizer itself."""
    given = kwargs.get("closure") or (args[-1] if args else None)
    return callable(given)


class Ticker:
    """Which optimizer's steps are counted: the least frequent one's."""

    def __init__(self):
        self.key = None
        self._ticks = 0
        self._seen_at = {}  # of each other optimizer: counted steps at its last step
        self._alone = {}  # ... and its steps since the last counted one

    def is_step(self, key):
        """Takes one optimizer's step; true if it is counted."""
        if self.key is None:
            self.key = key
        elif key != self.key:
            self._alone[key] = self._alone.get(key, 0) + 1
            rarer = self._ticks - self._seen_at.get(key, 0) >= 2
            self._seen_at[key] = self._ticks
            if not rarer and self._alone[key] <= FORGET:
                return False
            self.key = key
        self._ticks += 1
        self._seen_at[key] = self._ticks
        self._alone.clear()
        return True


def relative_error(values):
    """Standard error of the mean over the mean."""
    n = len(values)
    mean = sum(values) / n
    if mean <= 0 or n < 2:
        return float("inf")
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return (variance / n) ** 0.5 / mean


def _clock(session):
    if session.device == "cuda":
        torch = sys.modules["torch"]
        if torch.cuda.is_initialized():
            return DeviceClock(torch)
    return HostClock()


class HostClock:
    """Wall and CPU time of the process."""

    def start(self):
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def lap(self):
        """The end of a step, to be read later."""
        wall, cpu = time.perf_counter(), time.process_time()
        lap = (wall - self._wall, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu
        return lap

    def read(self, lap, wait):
        """(seconds, CPU seconds)."""
        return lap


class DeviceClock:
    """CUDA events, recorded at the end of each step and read when the device has come that far."""

    def __init__(self, torch):
        self._torch = torch
        self._host = HostClock()

    def start(self):
        self._host.start()
        self._last = self._record()

    def lap(self):
        event = self._record()
        lap = (self._last, event, self._host.lap()[1])
        self._last = event
        return lap

    def read(self, lap, wait):
        """(device seconds, CPU seconds), or None while the device is not there yet."""
        start, end, cpu = lap
        if wait:
            end.synchronize()
        elif not end.query():
            return None
        return start.elapsed_time(end) / 1000.0, cpu

    def _record(self):
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event
