"""Production: the settings are read back once, compared with what was confirmed, then the agent is quiet.

A knob that the fit depends on and that is not in force stops the run before the first update of a parameter.
 All other differences are one line on stderr.
"""

import sys

from . import imports, memory, roles

_PEAK_AFTER = 2  # steps: the first one creates the optimizer's state, the second one runs with it
_PEAK_MARGIN = 1.05
# Training calls of a root without any optimizer step after which the check is made all the same.
_WITHOUT_OPTIMIZER = 64
# The same in a script that does not train: the first call reads the knobs back.
_SERVING = 1
EXIT_STATUS = 125


def install(session):
    """Watches the first steps."""
    run = Run(session)
    session.root_calls.append(run)
    imports.on_import("torch.optim.optimizer", run.ready)


class Run:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self._calls = 0
        self._differences = []
        self._checked = False
        self._compared = False
        self._resting = False

    def ready(self, module):
        """Registers the global optimizer hooks.

        They stay: torch must not lose a hook while it goes through them, and afterwards the two of them cost
        less than a microsecond a step.
        """
        guard = self.session.guard("run")
        module.register_optimizer_step_pre_hook(guard(self._before))
        module.register_optimizer_step_post_hook(guard(self._after))

    def before(self, _root, _args, _kwargs):
        """A script without torch.optim is checked after its first calls."""
        if not self._checked and self.session.roots.at_work():
            self._calls += 1
            if self._calls > (_SERVING if self.session.roots.serving else _WITHOUT_OPTIMIZER):
                self._check()

    def _before(self, _optimizer, _args, _kwargs):
        if not self._checked:
            self.session.claim()
            self._check()

    def _after(self, _optimizer, _args, _kwargs):
        session = self.session
        if self._resting and not session.roots.detecting:
            return
        session.steps += 1
        session.step_ended(session.steps - 1)
        if session.steps >= _PEAK_AFTER and not self._compared:
            self._compared = True
            self._compare_peak()
            self._tell()
        if self._compared and not session.roots.detecting:
            self._rest()

    def _rest(self):
        """Everything is known: what is only there to find it out is taken away."""
        session = self.session
        self._resting = True
        # Another list, not a shorter one: somebody may be going through it.
        session.root_calls = [hook for hook in session.root_calls if hook is not self]
        session.detect.rest()
        session.roots.release()

    # The comparison

    def _check(self):
        """Before the first update: which knobs are in force."""
        self._checked = True
        session = self.session
        knobs = getattr(session, "knobs", None)
        if knobs is not None:
            # Those that were not read back yet are now.
            session.guard("read back")(knobs.stepped)(0)
        for name, wanted in session.settings.items():
            report = session.knob_reports.get(name)
            effective = report["effective"] if report else None
            if effective == wanted:
                continue
            reason = (report or {}).get("reason") or "it was not read back"
            now = f"is {effective}" if effective is not None else "is not in force"
            text = f"{name} {now}, not {_plain(wanted)}: {reason}"
            if name in session.plan.required:
                from .ranks import followers

                text = f"stopped before the first step, since the fit depends on it: {text}"
                followers.stop(session.rank_layout, EXIT_STATUS, text)
            self._differences.append(text)

    def _compare_peak(self):
        confirmed = self.session.plan.confirmed.get("peak_bytes")
        if not confirmed:
            return
        cuda = memory.cuda() if self.session.device == "cuda" else None
        if cuda is not None:
            now = memory.device_figures(cuda)["reserved_peak"]
        else:
            figures = memory.host()
            now = figures.get("anonymous", 0) + figures.get("shared", 0)
        if now > confirmed * _PEAK_MARGIN:
            self._differences.append(
                f"memory is {now >> 20} MiB after {_PEAK_AFTER} steps, the peak was {confirmed >> 20} MiB"
            )

    def _tell(self):
        if self._differences and roles.rank() == 0:
            _say("not as confirmed: " + "; ".join(self._differences))


def _plain(value):
    return str(value).lower() if isinstance(value, bool) else value


def _say(text):
    try:
        sys.stderr.write(f"autofit: {text}\n")
        sys.stderr.flush()
    except Exception:
        return  # no stderr: nobody to tell
