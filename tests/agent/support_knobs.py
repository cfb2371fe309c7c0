"""Runs a small training script, as it is or with settings turned from outside, in this process."""

import contextlib
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "src", "agent", "python"))

import torch
from autofit_agent import detect, imports, knobs, loaders, patches, plan, roles, root, session
from torch.optim.optimizer import register_optimizer_step_post_hook

torch.set_num_threads(1)


class Tuned:
    """What the agent said while a script ran."""

    def __init__(self, directory, here):
        self.directory = directory
        self.session = here

    @property
    def records(self):
        path = os.path.join(self.directory, "events.0.jsonl")
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
def agent(settings=None, ways=None, **fields):
    """The agent's knobs in this process while the block runs."""
    settings = settings or {}
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
        imports.install(here.fault)
        for part in (loaders, root, detect, knobs):
            part.install(here)
        count = [0]

        def stepped(*_):
            here.step_ended(count[0])
            count[0] += 1

        handle = register_optimizer_step_post_hook(stepped)
        try:
            yield Tuned(directory, here)
        finally:
            handle.remove()
            here.knobs.undo()
            here.roots.undo()
            patches.undo_all()


def state_of(*modules):
    """Copies of all parameters and buffers."""
    return [t.detach().clone() for m in modules for t in m.state_dict().values()]


def distance(one, other):
    """The largest difference between two lists of tensors."""
    assert len(one) == len(other)
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(one, other) if a.numel()]
    return max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
