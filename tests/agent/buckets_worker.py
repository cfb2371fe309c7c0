"""Trains copies of small models with the buckets as they are, then turned; prints a JSON line a case.

Started by test_knobs_buckets.py through torch.distributed.run: each rank runs all cases, in one order.
"""

import contextlib
import json
import os

import torch
from autofit_agent.ranks import layout
from ranks_scripts import Blocks, Unused, classify, moments, pictures, train
from support_knobs import agent
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, DistributedSampler

PLACE = layout.enter()
TURNED = {"gradient_as_bucket_view": True, "bucket_cap_mb": 1}


class Wide(nn.Module):
    """More than one bucket of a MiB."""

    def __init__(self):
        super().__init__()
        hidden = [nn.Linear(480, 480), nn.ReLU(), nn.Linear(480, 480)]
        self.layers = nn.Sequential(nn.Linear(8, 480), nn.ReLU(), *hidden, nn.Linear(480, 5))

    def forward(self, x):
        return self.layers(x)


class Gradients:
    """What optimizers are given: how many gradients lie in the memory of something larger."""

    def __init__(self):
        self.inside = self.all = 0

    def __call__(self, optimizer, *_):
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.all += 1
                    self.inside += p.grad.untyped_storage().nbytes() > p.grad.nbytes


@contextlib.contextmanager
def gradients():
    seen = Gradients()
    handle = register_optimizer_step_pre_hook(seen)
    yield seen
    handle.remove()


def copied(make, settings, options):
    """A plain script, copied by `strategy=ddp`."""
    with agent({"strategy": "ddp", **settings}, ranks=PLACE) as tuned, gradients() as seen:
        found = train(make, pictures(24), classify, **options)
        tuned.session.flush()
        knobs = {name: tuned.knob(name) for name in settings}
        state = [found["losses"], found["norms"], found["model"], moments(found["optimizer"])]
        return state, seen, knobs, tuned.of("fault")


def wrapped(make, settings, options):
    """A script that wraps its model by itself, and accumulates gradients without exchanging them."""
    accumulate = options.pop("accumulate", 1)
    zeros = options.pop("zeros", False)
    with agent(settings) as tuned, gradients() as seen:
        torch.manual_seed(1)
        model = DistributedDataParallel(make(), **options)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        data = pictures(24).dataset
        loader = DataLoader(data, batch_size=3, sampler=DistributedSampler(data, seed=5))
        losses, norms = [], []
        for step, (x, y) in enumerate([*loader, *loader], 1):
            last = step % accumulate == 0
            with contextlib.nullcontext() if last else model.no_sync():
                loss = classify(model, x, y)
                losses.append(loss.item())
                loss.backward()
            if last:
                norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.3)))
                optimizer.step()
                optimizer.zero_grad(set_to_none=not zeros)
        tuned.session.flush()
        knobs = {name: tuned.knob(name) for name in settings}
        state = [losses, norms, model.state_dict(), moments(optimizer.state_dict())]
        return state, seen, knobs, tuned.of("fault")


CASES = {
    "copied": (copied, Wide, {}),
    "copied, accumulation": (copied, Wide, {"accumulate": 2, "clip": 0.3}),
    "copied, unused parameters": (copied, Unused, {}),
    "wrapped": (wrapped, Wide, {}),
    "wrapped, accumulation": (wrapped, Wide, {"accumulate": 2}),
    "wrapped, zeros": (wrapped, Blocks, {"zeros": True}),
    "wrapped, unused parameters": (wrapped, Unused, {"find_unused_parameters": True}),
}


def same(one, other):
    """Equal to the last bit."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)
    return one == other


def main():
    torch.use_deterministic_algorithms(True)
    for name, (run, make, options) in CASES.items():
        bare, before, _, _ = run(make, {}, dict(options))
        turned, after, knobs, faults = run(make, TURNED, dict(options))
        line = {
            "case": name,
            "rank": PLACE.rank,
            "steps": len(bare[0]),
            "same": [same(one, other) for one, other in zip(bare, turned)],
            "inside": [before.inside, after.inside],
            "of": [before.all, after.all],
            "knobs": knobs,
            "faults": faults,
        }
        print("CASE " + json.dumps(line), flush=True)
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
