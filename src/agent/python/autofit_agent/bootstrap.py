"""Puts the parts together, once, before the script's first line."""

import importlib
import os
import sys

from . import imports, plan, roles, session

# In the order in which they are installed.  `root`, `detect` and `knobs` turn the knobs; the rest measures.
_PARTS = {
    "trial": (
        "steps",
        "oom",
        "phases",
        "loaders",
        "samples",
        "losses",
        "memory",
        "inference",
        "device_cap",
        "coverage",
        "ending",
        "heartbeat",
        "frameworks",
        "seeds",
        "options",
        "root",
        "detect",
        "knobs",
    ),
    "run": ("loaders", "root", "detect", "knobs", "run"),
}


def start():
    """Does nothing in a process that cannot train."""
    mode = os.environ["AUTOFIT_MODE"]
    if mode not in ("trial", "run"):
        raise plan.PlanError(f"AUTOFIT_MODE is {mode}, neither trial nor run")
    try:
        the_plan = plan.load(mode)
    except plan.PlanError as error:
        _refuse(error)
    role = roles.role(the_plan.argv)
    if role == roles.EXCLUDED:
        return
    here = session.Session(the_plan, role)
    imports.install(here.fault)
    here.hello()
    for part in _PARTS[mode]:
        _install(part, here)


def _install(part, here):
    """A part that cannot start is a fault like any other."""
    try:
        module = importlib.import_module(f"autofit_agent.{part}")
    except ModuleNotFoundError as error:
        if error.name == f"autofit_agent.{part}":
            return
        here.fault(part, error)
        return
    except Exception as error:
        here.fault(part, error)
        return
    here.guard(part)(module.install)(here)


def _refuse(error):
    """No plan, no run: going on would measure or train something else than what was asked for."""
    sys.stderr.write(f"autofit: {error}\n")
    sys.stderr.flush()
    os._exit(125)
