"""Trains small models as they are, then shared out among several ranks; prints a JSON list of what differs.

Called by test_ranks.py with the number of ranks and the cases of `CASES` (all of them without).  The ranks
are children of one process that has imported torch; each runs all cases, in one order.
"""

import json
import math
import sys

import torch
from autofit_agent.ranks import layout
from ranks_fork import fork
from ranks_scripts import (
    Blocks,
    Dropping,
    Language,
    Masks,
    Unused,
    classify,
    contrast,
    language,
    looks_at_logits,
    moments,
    pictures,
    plain_average,
    sentences,
    train,
)
from support_knobs import agent

SEEDS = 8
ALL = ("ddp", "fsdp", "fsdp_offload")
SHARDED = ("fsdp", "fsdp_offload")
COPIES = ("ddp", "fsdp")
HALVES = 4  # ranks, of which two share one copy of the model
ROUNDING = {"losses": 2e-6, "norms": 1e-6, "parameters": 1e-4, "moments": 2e-6, "average": 1e-4}
# bf16 rounds where the parts of a batch are added up.
COARSE = {"losses": 0.03, "norms": 0.1, "parameters": math.inf, "moments": math.inf}


class Case:
    """A script, and what is turned beside the strategy."""

    def __init__(self, make, loader, loss_of, strategies=COPIES, most=ROUNDING, own=None, **settings):
        self.make, self.loader, self.loss_of = make, loader, loss_of
        self.strategies, self.most, self.settings = strategies, most, settings
        self.options = own or {}

    def train(self):
        if self.options.get("resume") is True:
            self.options["resume"] = train(self.make, self.loader(), self.loss_of)
        return train(self.make, self.loader(), self.loss_of, **self.options)


def batches(count=24):
    return lambda: pictures(count)


def texts():
    return sentences(24)


def wide(count=35):
    """Batches whose halves are enough for four ranks; the last one is not."""
    return lambda: pictures(count, batch=8)


def wide_texts():
    return sentences(40, batch=8)


CASES = {
    "logits": Case(Blocks, batches(27), classify, ALL),  # the last batch has 3 samples
    "one left": Case(Blocks, batches(25), classify),
    "workers": Case(Blocks, lambda: pictures(24, 1), classify),
    "clip": Case(Blocks, batches(), classify, ALL, own={"clip": 0.3}),
    "clip of a list taken early": Case(Blocks, batches(), classify, own={"clip": 0.3, "kept": True}),
    "the script accumulates": Case(Blocks, batches(), classify, own={"accumulate": 2, "clip": 0.3}),
    "contrastive": Case(Blocks, batches(), contrast),
    "tied, labels left out": Case(Language, texts, language, ALL),
    "logits beside a loss": Case(Language, texts, looks_at_logits),
    "loaded before the first step": Case(Blocks, batches(), classify, own={"resume": True}),
    "loaded between two steps": Case(Blocks, batches(), classify, ALL, own={"again": True}),
    "unused parameters": Case(Unused, batches(), classify, ("ddp",)),
    # The knobs beside it.
    "parts, logits": Case(Blocks, wide(), classify, ALL, own={"clip": 0.3}, accumulation=2),
    "parts, one left": Case(Blocks, batches(25), classify, accumulation=3),
    "parts, loss inside": Case(Language, wide_texts, language, ALL, own={"clip": 0.3}, accumulation=2),
    "parts, logits beside a loss": Case(Language, texts, looks_at_logits, accumulation=2),
    "parts, the script accumulates": Case(Language, texts, language, own={"accumulate": 2}, accumulation=3),
    "checkpoint": Case(Blocks, batches(), classify, checkpoint="all"),
    "parts and checkpoint": Case(Language, wide_texts, language, accumulation=2, checkpoint="alternate"),
    "bf16": Case(Blocks, batches(), classify, most=COARSE, amp="bf16"),
    "fp16": Case(Blocks, batches(), classify, most=COARSE, own={"clip": 0.3}, amp="fp16"),
    "parts, bf16 and checkpoint": Case(
        Language, texts, language, most=COARSE, accumulation=2, checkpoint="all", amp="bf16"
    ),
    # Averages of the weights.
    "lerp_": Case(Blocks, batches(), classify, ALL, own={"average": "lerp_"}),
    "mul_ and add_": Case(Language, texts, language, SHARDED, own={"average": "mul_"}),
    "through state_dict": Case(Blocks, batches(), classify, SHARDED, own={"average": "state_dict"}),
    "AveragedModel": Case(Blocks, batches(), classify, own={"average": "swa"}),
    "AveragedModel, exponential": Case(Language, texts, language, SHARDED, own={"average": "ema"}),
    "copied while it trains": Case(Language, texts, language, own={"average": "late"}),
    "lerp_ in parts": Case(Language, texts, language, ("fsdp",), own={"average": "lerp_"}, accumulation=2),
}


def gap(one, other):
    return max((abs(a - b) / max(1.0, abs(a)) for a, b in zip(one, other)), default=0.0)


def tensor_gap(one, other):
    assert list(one) == list(other), (list(one), list(other))
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(one.values(), other.values()))


def is_whole(state):
    return all(type(value) is torch.Tensor for value in state.values())


def compare(name, case, strategy, place, alone):
    """What `strategy` came to, beside one process."""
    settings = {"strategy": strategy, **case.settings}
    with agent(settings, ranks=place) as tuned:
        found = case.train()
        tuned.session.flush()
        sharding = tuned.session.knobs.get("strategy").sharding
        parts = sharding.parameters() if sharding is not None else []
        old = [one for one, _ in sharding._new.values() if one() is not None] if sharding is not None else []
        line = {
            "case": name,
            "strategy": strategy,
            "rank": place.rank,
            "steps": found["steps"],
            "reports": {name: tuned.knob(name) for name in settings},
            "wanted": settings,
            "faults": tuned.of("fault"),
            "old": len(old),
            "placed": sorted({tuple(map(str, p.placements)) for p in parts}),
            "held": sum(p.to_local().numel() for p in parts),
        }
    line["of"] = sum(p.numel() for p in case.make().parameters())
    # What was saved loads back into the plain script.
    case.make().load_state_dict(found["model"])
    line["whole"] = is_whole(found["model"]) and is_whole(moments(found["optimizer"]))
    line["gaps"] = {
        "losses": gap(alone["losses"], found["losses"]),
        "norms": gap(alone["norms"], found["norms"]),
        "parameters": tensor_gap(alone["model"], found["model"]),
        "moments": tensor_gap(moments(alone["optimizer"]), moments(found["optimizer"])),
    }
    if "average" in found:
        plain_average(case.make, case.options["average"]).load_state_dict(found["average"])
        line["whole"] = line["whole"] and is_whole(found["average"])
        line["gaps"]["average"] = tensor_gap(alone["average"], found["average"])
    line["most"] = {figure: case.most[figure] for figure in line["gaps"]}
    line["finite"] = all(math.isfinite(v) for v in found["losses"])
    return line


def masks(strategy, place, **settings):
    """Whether each rank draws masks of its own, and a part that is computed again draws the same ones."""
    with agent({"strategy": strategy, **settings}, ranks=place):
        torch.manual_seed(place.rank if strategy == "single" else 0)
        model, same, seen = Masks(), True, []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for _ in range(3):
            out = model(torch.ones(8, 64))
            out.sum().backward()
            gradient = model.weight.grad
            gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            same = same and torch.allclose(gradient, out.detach().sum(0))
            optimizer.step()
            optimizer.zero_grad()
            seen += out.detach().gt(0).int().tolist()
    different = len({tuple(row) for row in seen}) == len(seen)
    return {"masks": strategy, "settings": settings, "same": same, "different": different, "rows": len(seen)}


def dropout(strategy, place, **settings):
    """The loss with dropout, and those of one process with other seeds."""
    case = Case(Dropping, batches(), classify)
    plain = [train(case.make, case.loader(), classify, seed=seed) for seed in range(SEEDS)]
    with agent({"strategy": strategy, **settings}, ranks=place):
        found = train(case.make, case.loader(), classify, seed=0)
    mean = [sum(one["losses"]) / len(one["losses"]) for one in (*plain, found)]
    return {"dropout": strategy, "settings": settings, "plain": mean[:-1], "found": mean[-1]}


def run(names):
    """All of one rank."""
    place = layout.enter()
    more = ("hybrid",) if place.world_size == HALVES else ()
    torch.use_deterministic_algorithms(True)
    lines = []
    for name in names:
        if name in ("masks", "dropout"):
            measure = masks if name == "masks" else dropout
            lines += [measure(strategy, place) for strategy in (*COPIES, *more)]
            lines += [measure(strategy, place, accumulation=2) for strategy in (*COPIES, *more)]
            continue
        case = CASES[name]
        alone = case.train()
        lines += [compare(name, case, strategy, place, alone) for strategy in (*case.strategies, *more)]
    torch.distributed.barrier()
    return lines


if __name__ == "__main__":
    cases = sys.argv[2:] or [*CASES, "masks", "dropout"]
    print(json.dumps(fork(int(sys.argv[1]), lambda: run(cases))))
