"""The end of a trial.

Where enough was measured the process is ended by `os._exit`, and by nothing else: SystemExit,
KeyboardInterrupt and other exceptions are swallowed by a bare `except` in a training loop, and
KeyboardInterrupt makes scripts save. Several ranks end after the same step, which rank 0 chooses. Where they
run on several machines, launchers pass on what ranks write for each other into the trial directory, and
nobody knows how long that takes: rank 0 asks first whether it is heard, and chooses the step by the time that
the answers took.
"""

import atexit
import math
import os
import sys
import time

from . import roles
from .session import DONE

_CHILD_GRACE = 1.0  # seconds for children to end before they are killed
_AHEAD = 3  # steps between rank 0's decision and the common end; ranks run in step, give or take one
_HEARD_AFTER = 3.0  # seconds, at least, until ranks on another machine have heard of rank 0's decision
_RENDEZVOUS = 10.0  # seconds that a rank waits at the end for the others


def install(session):
    """Ends the process when enough was measured; says how it ended otherwise."""
    session.end = Ending(session)
    session.on_enough(session.end.enough)
    session.on_step(session.end.step_ended)
    atexit.register(session.end.at_exit)


def last_error():
    """The exception that has ended the script, as the interpreter has kept it; None where there was none."""
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)


class Ending:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self._over = []
        self._stop_at = None
        self._last_step = None  # when it ended
        self._shortest = None  # seconds of the shortest step so far
        self._asked = None  # when rank 0 asked who hears it, and the reason to end
        self._answered = False

    def enough(self):
        """The schedule is satisfied.

        A confirm trial goes on to what lies beyond, a profile for one step, a sweep to its windows.
        """
        plan = self.session.plan
        if plan.coverage is None and not plan.profile and not plan.windows:
            self.now("measured")

    def now(self, reason):
        """Ends this process, or all ranks at a common step."""
        if roles.world_size() > 1:
            self._publish(reason)
        else:
            self.finish(reason)

    def step_ended(self, _index):
        """Of several ranks, each looks whether the common end has come."""
        if roles.world_size() < 2:
            # The ranks have met before they train, and before the second look.
            return DONE if self.session.steps > 1 else None
        if self.session.plan.several_machines:
            if self.session.rank == 0:
                self._time_step()
                self._count_answers()
            else:
                self._answer()
        stop = self._stop_at or self._published()
        if stop is not None and self.session.steps >= stop[0]:
            self._wait_for_others()
            self.finish(stop[1])
        return None

    def finish(self, reason):
        """Last words, then the end."""
        self._say(reason, None)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception as error:
                # A closed stream is the script's business; the end comes all the same.
                self.session.faults.append(("flush", str(error)))
        _end_children()
        os._exit(0)

    def at_exit(self):
        """The interpreter ends by itself."""
        session = self.session
        if self._over or os.getpid() != session.pid or not session.claim_for_end():
            return
        last = last_error()
        error = f"{type(last).__name__}: {last}" if last is not None else None
        if isinstance(last, MemoryError) and not hasattr(session, "ooms"):
            session.oom("cpu", error, True)
        self._say("script_end" if error is None else "exception", error)

    def _say(self, reason, error):
        session = self.session
        # Appending is atomic: of two threads that come here the first one goes on.
        mine = object()
        self._over.append(mine)
        if self._over[0] is not mine:
            return
        guard = session.guard
        if hasattr(session, "stepper"):
            guard("end: steps")(session.stepper.settle)(wait=True)
            if reason == "script_end":
                guard("end: phases")(session.phases.finish)()
        session.ending(reason)
        guard("end: memory")(_last_reading)(session)
        session.emit("end", reason=reason, error=error[:2000] if error else None)

    # Several ranks

    def _path(self, name):
        return os.path.join(self.session.plan.trial_dir, name)

    def _make(self, name):
        with open(self._path(name), "w", encoding="ascii"):
            pass

    def _publish(self, reason):
        if self.session.rank != 0 or self._asked is not None or self._published() is not None:
            return
        if self.session.plan.several_machines:
            self._asked = (time.monotonic(), reason)
            self._make("stop_wanted")
        else:
            self._choose(reason, _AHEAD)

    def _answer(self):
        if not self._answered and os.path.exists(self._path("stop_wanted")):
            self._answered = True
            self._make(f"heard.{self.session.rank}")

    def _count_answers(self):
        if self._asked is None or self._stop_at is not None:
            return
        others = range(1, roles.world_size())
        if all(os.path.exists(self._path(f"heard.{rank}")) for rank in others):
            asked, reason = self._asked
            self._choose(reason, self._ahead(time.monotonic() - asked))

    def _choose(self, reason, ahead):
        self._stop_at = (self.session.steps + ahead, reason)
        temporary = self._path("stop_at_step.tmp")
        with open(temporary, "w", encoding="ascii") as file:
            file.write(f"{self._stop_at[0]} {reason}")
        os.rename(temporary, self._path("stop_at_step"))

    def _time_step(self):
        now = time.perf_counter()
        if self._last_step is not None:
            self._shortest = min(self._shortest or math.inf, now - self._last_step)
        self._last_step = now

    def _ahead(self, answered):
        """Steps until the common end: none of them may be over before all ranks know which one it is.

        `answered` are the seconds that it took to ask and to be answered.
        """
        if not self._shortest:
            return _AHEAD
        return max(_AHEAD, math.ceil(max(_HEARD_AFTER, 2 * answered) / self._shortest))

    def _published(self):
        try:
            with open(self._path("stop_at_step"), encoding="ascii") as file:
                step, reason = file.read().split()
        except OSError:
            return None
        self._stop_at = (int(step), reason)
        return self._stop_at

    def _wait_for_others(self):
        from . import memory

        cuda = memory.cuda()
        if cuda is not None:
            cuda.synchronize()
        self._make(f"stopped.{self.session.rank}")
        end = time.monotonic() + _RENDEZVOUS
        names = [self._path(f"stopped.{rank}") for rank in range(roles.world_size())]
        while time.monotonic() < end and not all(os.path.exists(name) for name in names):
            time.sleep(0.01)


def _last_reading(session):
    from . import memory

    memory.reading(session, "end")


def _end_children():
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    try:
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        end = time.monotonic() + _CHILD_GRACE
        for child in children:
            child.join(max(end - time.monotonic(), 0))
            if child.is_alive():
                child.kill()
    except Exception:
        # The launcher ends what is left of the process tree.
        return
