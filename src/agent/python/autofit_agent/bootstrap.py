"""Puts the parts together: a few before the script's first line, the rest once torch is there.

What runs before the script's first line imports next to nothing that an interpreter has not loaded already,
and reads one small file: many Python processes may inherit the agent, few of them train.
"""

import os
import sys

from . import imports, plan, roles, session

# The oldest PyTorch that is tuned: before it autocast's state could not be asked for by device.
_OLDEST_TORCH = (2, 4)

# In the order in which they are installed.  `root`, `detect` and `knobs` turn the knobs; the rest measures.
_EARLY = {
    "trial": ("ranks.entry", "ending", "seeds", "options"),
    "run": ("ranks.entry", "options"),
    "watch": (),
}
_WITH_TORCH = {
    "trial": (
        "gloo",
        "steps",
        "oom",
        "phases",
        "loaders",
        "samples",
        "losses",
        "norms",
        "memory",
        "inference",
        "device_cap",
        "coverage",
        "heartbeat",
        "frameworks",
        "root",
        "detect",
        "knobs",
        "fingerprints",
        "quiet",
        "profile",
        "windows",
    ),
    "run": ("gloo", "inference", "loaders", "frameworks", "root", "detect", "knobs", "run"),
    # Turns nothing and ends nothing.
    "watch": (
        "steps",
        "oom",
        "phases",
        "loaders",
        "samples",
        "norms",
        "inference",
        "frameworks",
        "root",
        "watching",
    ),
}


def start():
    """Does nothing in a process that cannot train."""
    mode = os.environ["AUTOFIT_MODE"]
    if mode not in _EARLY:
        raise plan.PlanError(f"AUTOFIT_MODE is {mode}, none of {', '.join(_EARLY)}")
    try:
        the_plan = plan.load(mode)
    except plan.PlanError as error:
        if mode == "watch":
            raise  # nothing depends on it: the script goes on without
        _refuse(error)
    role = roles.role(the_plan.argv)
    if role == roles.EXCLUDED:
        return
    here = session.Session(the_plan, role)
    imports.install(here.fault)
    here.hello()
    for part in _EARLY[mode]:
        _install(part, here)

    def with_torch(torch):
        if _is_old(torch):
            if mode == "watch":
                return  # it is the script's own run
            oldest = ".".join(str(n) for n in _OLDEST_TORCH)
            _refuse(f"PyTorch {torch.__version__} is older than {oldest}, the oldest that can be tuned")
        for part in _WITH_TORCH[mode]:
            _install(part, here)

    imports.on_import("torch", with_torch)


def _install(part, here):
    """A part that cannot start is a fault like any other."""
    name = f"{__package__}.{part}"
    try:
        # By the package's own path: the script may have changed sys.path.
        __import__(name)
        module = sys.modules[name]
    except Exception as error:
        here.fault(part, error)
        return
    here.guard(part)(module.install)(here)


def _is_old(torch):
    return tuple(int(n) for n in str(torch.__version__).split(".")[:2]) < _OLDEST_TORCH


def _refuse(error):
    """Going on would measure or train something else than what was asked for."""
    sys.stderr.write(f"autofit: {error}\n")
    sys.stderr.flush()
    os._exit(125)
