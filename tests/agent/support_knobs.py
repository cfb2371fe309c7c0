"""Runs a small training script, as it is or with settings turned from outside, in this process."""

import contextlib
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "src", "agent", "python"))

import importlib

import torch
from autofit_agent import imports, patches, plan, roles, session
from autofit_agent.knobs import idle_models, offload  # noqa: F401 (for tests that reach into them)
from autofit_agent.windows import cutting, turning  # noqa: F401 (the same)

torch.set_num_threads(1)


# Those of a trial, without what ends the process.
PARTS = (
    "steps",
    "oom",
    "phases",
    "loaders",
    "samples",
    "losses",
    "norms",
    "memory",
    "inference",
    "frameworks",
    "root",
    "detect",
    "knobs",
)


class Tuned:
    """What the agent said while a script ran."""

    def __init__(self, directory, here):
        self.directory = directory
        self.session = here

    @property
    def records(self):
        path = os.path.join(self.directory, f"events.{self.session.rank}.jsonl")
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def of(self, kind):
        return [r for r in self.records if r["t"] == kind]

    def knob(self, name):
        """The last report of this knob."""
        found = [r for r in self.of("knob") if r["knob"] == name]
        return found[-1] if found else None


@contextlib.contextmanager
def agent(settings=None, ways=None, ranks=None, **fields):
    """The agent's knobs in this process while the block runs; `ranks`: which of several ranks it is."""
    settings = settings or {}
    fresh_optimizers()
    fields.setdefault("schedule", {"min_steps": 1000, "max_steps": 1000, "max_seconds": 1e9})
    with tempfile.TemporaryDirectory() as directory:
        the_plan = plan.Plan(
            {
                "version": 1,
                "mode": "trial",
                "nonce": "n",
                "trial_dir": directory,
                "argv": [],
                "device": "cpu",
                "settings": settings,
                "ways": ways or {name: "agent" for name in settings},
                **fields,
            }
        )
        here = session.Session(the_plan, roles.CANDIDATE)
        here.rank_layout = ranks
        imports.install(here.fault)
        for part in PARTS:
            importlib.import_module("autofit_agent." + part).install(here)
        try:
            yield Tuned(directory, here)
        finally:
            here.stepper.settle(wait=True)
            here.flush()
            here.inference.stop()
            for handle in here.stepper._handles:
                handle.remove()
            here.detect.stop()
            here.knobs.undo()
            here.roots.undo()
            patches.undo_all()
            fresh_optimizers()


def state_of(*modules):
    """Copies of all parameters and buffers."""
    return [t.detach().clone() for m in modules for t in m.state_dict().values()]


def distance(one, other):
    """The largest difference between two lists of tensors."""
    assert len(one) == len(other)
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(one, other) if a.numel()]
    return max((float((a - b).abs().max()) for a, b in pairs), default=0.0)


def optimizer_state(*optimizers):
    """Copies of all tensors of the optimizers' state."""
    return [
        value.detach().clone()
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]


STEPS = {
    kind: kind.__dict__["step"]
    for kind in vars(torch.optim).values()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and "step" in kind.__dict__
}


def fresh_optimizers():
    """Optimizer classes as in a new process, where torch wraps `step` at the first one of each class."""
    for kind, step in STEPS.items():
        kind.step = step
