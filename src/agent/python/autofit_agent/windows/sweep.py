"""Which window comes next, and when enough is known."""

import math
import time

from .. import roles
from .cutting import Cutter
from .footprint import Footprint
from .turning import Turner, not_in_force

# A window lasts about this long, within these numbers of measured steps: one odd step must not decide it, and
# the machine should not become faster or slower from one window to the next.
WINDOW_SECONDS = 0.15
FEWEST, MOST = 3, 16
# Steps of more than a second are alike enough for fewer.
LONG_STEP, FEWEST_LONG = 1.0, 2
# One that turns out to be much slower ends after the fewest steps, once it has lasted so many times as long.
SLOWER = 4
# Steps at the front of a window that are not measured.  Two where memory is read: after the first one, in
# which the script may still hold what the window before has made, everything is given back.  Two where
# batches are cut: the first may have been drawn before.
WARM, WARM_WITH_CARE = 1, 2
# ... and up to as many more until the first cut batch arrives.
DRAWN_AHEAD = 4
# Rounds: fewer tell nothing of the spread between them, for more another launch is worth as much.
FEWEST_ROUNDS, MOST_ROUNDS = 3, 12
# The first round may take this many times its share of the schedule's seconds: with slow steps it is the only
# one.
PATIENCE = 3
# What takes memory away, and roughly how much of it.
RELIEF = {
    "checkpoint": {"selective": 2, "alternate": 2, "all": 4},
    "offload": {"activations": 4},
    "amp": {"bf16": 1},
}


class Window:
    """One configuration of the plan."""

    def __init__(self, index, settings):
        self.index = index
        self.settings = settings
        self.batch = None  # samples of a step, where the batch is cut
        self.ratios = []  # logarithms of its rate over that of `settings`, one a round
        self.over = False  # it cannot be measured

    def precise(self, wanted):
        return len(self.ratios) >= FEWEST_ROUNDS and standard_error(self.ratios) <= wanted

    def relief(self):
        """More for what needs less memory."""
        parts = self.settings.get("accumulation", 1)
        return min(parts, 4) + sum(values.get(self.settings.get(name), 0) for name, values in RELIEF.items())


class Sweep:
    """See the head of this package."""

    def __init__(self, session):
        self.session = session
        self.threads = session.torch.get_num_threads()  # before the script's first word on it
        self.windows = [Window(i, settings) for i, settings in enumerate(session.plan.windows)]
        self.turner = Turner(session)
        self.cutter = Cutter(session)
        self.footprint = Footprint(session)
        self.run = -1  # counts windows, returns to `settings` included
        self.usual = 0  # samples of a step with `settings`
        self._warm = True  # the step under way is not measured
        self._steps = []  # (seconds, samples) of the measured steps of this window
        self._count = FEWEST  # of steps in a window
        self._told_own = False
        self._driver = None
        session.roots.on_found.append(self._found)
        session.on_enough(self.begin)

    def _found(self, _root, _args, _kwargs):
        self.footprint.training_begins()

    def begin(self):
        """The launch is warm."""
        session = self.session
        if roles.world_size() > 1:
            for window in self.windows:
                self._open(window, "several processes train")
            session.end.now("measured")
            return
        session.stepper.take.append(self._mark)
        session.stepper.settle_fields.append(self._settled)
        self._driver = self._drive()
        self.stepped(None)
        session.on_step(self.stepped)

    def stepped(self, _index):
        """Called after each step."""
        try:
            next(self._driver)
        except StopIteration:
            self.session.end.now("measured")
        except Exception as error:
            # There is nobody else to end the process.
            self.session.fault("windows", error)
            self.session.end.now("measured")
        self.session.stepper.skip_time()

    def _mark(self, fields):
        fields["run"] = self.run
        fields["warmup"] = self._warm or self.session.stepper.unsteady_step

    def _settled(self, fields):
        if fields.get("run") == self.run and not fields["warmup"]:
            self._steps.append((fields["seconds"], fields["samples"]))

    # The order.  Each `yield` is a step of the script.

    def _drive(self):
        for window in self.windows:
            batch = window.settings.get("batch_size")
            if batch != self.turner.own.get("batch_size"):
                window.batch = batch or 0
            self._refuse(window, self.turner.why_not(window.settings))
        left = [window for window in self.windows if not window.over]
        for group in self._groups(left):
            share = self.session.plan.schedule.max_seconds * len(group) / max(len(left), 1)
            yield from self._rounds(group, share)

    def _groups(self, windows):
        """What may end the process comes last.

        Smaller batches may break a script, the smallest the likeliest; then comes what may need more memory
        than the launch's own settings.
        """
        usual = Window(None, self.turner.own).relief()
        cut = [w for w in windows if w.batch is not None]
        plain = [w for w in windows if w.batch is None]
        yield [w for w in plain if w.relief() >= usual]
        yield sorted(cut, key=lambda window: window.batch, reverse=True)
        yield sorted((w for w in plain if w.relief() < usual), key=Window.relief, reverse=True)

    def _rounds(self, group, seconds):
        began, before = time.perf_counter(), None
        for number in range(MOST_ROUNDS):
            for window in group:
                if time.perf_counter() - began > (seconds if number else PATIENCE * seconds):
                    return
                if window.over:
                    continue
                if before is None:
                    before = yield from self._own()
                if window.batch is not None and not window.ratios:
                    self._refuse(window, self.cutter.why_not(window.batch, self.usual))
                if window.over:
                    continue
                rate = yield from self._measure(window, memory=number == 0)
                after = yield from self._own()
                if rate and before and after:
                    window.ratios.append(math.log(rate) - (math.log(before) + math.log(after)) / 2)
                before = after
            wanted = self.session.plan.schedule.relative_error
            if all(window.over or window.precise(wanted) for window in group):
                return

    def _refuse(self, window, reason):
        if reason is not None:
            window.over = True
            self._open(window, reason)

    # One window.

    def _own(self):
        """The launch's own settings; their rate.

        The first time it stands for a launch of its own: nothing is set back before memory is read.
        """
        self._open(None)
        yield from self._warm_up(WARM)
        self.turner.tell_own()
        rate = yield from self._measured()
        self.usual = median([samples for _, samples in self._steps])
        self._count = self._steps_in_a_window()
        if not self._told_own:
            self._told_own = True
            self._tell_memory()
        return rate

    def _measure(self, window, memory):
        """A configuration of the plan; its rate, None where it is not in force."""
        self._open(window)
        self.turner.turn(window.settings)
        if window.batch is not None:
            self.cutter.open(window.batch, self.usual)
        yield from self._warm_up(1)
        if memory:
            self.footprint.reset()
        yield from self._warm_up((WARM_WITH_CARE if memory or window.batch is not None else WARM) - 1)
        if window.batch is not None:
            yield from self._until_cut()
        reports = self.turner.reports()
        reason = not_in_force(reports)
        if reason is None and window.batch is not None:
            reason = self.cutter.verify()
        rate = None
        if reason is None:
            self._tell(window, reports)
            rate = yield from self._measured()
            reason = self.turner.refused() or self.cutter.reason
        if reason is not None:
            window.over, rate = True, None
            self._tell(window, reports, reason)
        elif memory:
            self._tell_memory()
        self.cutter.close()
        self.turner.turn(self.turner.own)
        return rate

    def _warm_up(self, steps):
        self._warm = True
        for _ in range(steps):
            yield

    def _until_cut(self):
        """A framework or a script may have drawn some batches ahead."""
        for _ in range(DRAWN_AHEAD):
            if self.cutter.verify() is not None and self.cutter.reason is None:
                yield

    def _measured(self):
        self._warm, self._steps = False, []
        longest = time.perf_counter() + SLOWER * WINDOW_SECONDS
        for done in range(self._count):
            if done >= FEWEST and time.perf_counter() > longest:
                break
            yield
        self.session.stepper.settle(wait=True)
        return median([max(samples, 1) / seconds for seconds, samples in self._steps if seconds > 0])

    def _steps_in_a_window(self):
        seconds = max(median([seconds for seconds, _ in self._steps]), 1e-6)
        if seconds > LONG_STEP:
            return FEWEST_LONG
        return min(max(math.ceil(WINDOW_SECONDS / seconds), FEWEST), MOST)

    # Records.

    def _open(self, window, reason=None):
        self.run += 1
        self._tell(window, [], reason)

    def _tell(self, window, reports, reason=None):
        index = window.index if window is not None else None
        self.session.emit("window", run=self.run, window=index, knobs=reports, why_not=reason)

    def _tell_memory(self):
        figures = self.footprint.peak()
        if figures is not None:
            self.session.emit("window_memory", run=self.run, **figures)


def median(values):
    """0 for nothing."""
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else 0


def standard_error(values):
    """Of the mean."""
    n = len(values)
    mean = sum(values) / n
    return (sum((v - mean) ** 2 for v in values) / (n * (n - 1))) ** 0.5
