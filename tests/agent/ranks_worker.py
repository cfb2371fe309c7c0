"""Trains small models as they are, then shared out among the ranks that run this; prints a JSON line a case.

Started by test_ranks.py through torch.distributed.run: each rank runs all cases, in one order.
"""

import copy
import json
import math
import os
import sys

import torch
from autofit_agent.ranks import layout
from support_knobs import agent
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

PLACE = layout.enter()
STEPS = 6


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


class Blocks(nn.Module):
    """Returns logits; the script computes the loss."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(Block(16) for _ in range(3))
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))


class Language(nn.Module):
    """Tied weights; returns logits and a loss over the labels that count."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.blocks = nn.ModuleList(Block(16) for _ in range(2))
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens, labels=None):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        if labels is None:
            return logits
        return logits, F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


class Unused(Blocks):
    """A part that only some samples reach, and one that none does."""

    def __init__(self):
        super().__init__()
        self.rare, self.never = nn.Linear(16, 16), nn.Linear(3, 3)

    def forward(self, x):
        h = self.stem(x)
        if bool((x[:, 0] > 1.2).any()):
            h = h + self.rare(h) * (x[:, :1] > 1.2)
        return self.head(h)


def pictures(count, workers=0):
    torch.manual_seed(3)
    data = TensorDataset(torch.randn(count, 8), torch.randint(0, 5, (count,)))
    return DataLoader(data, batch_size=6, shuffle=True, num_workers=workers)


def sentences(count):
    torch.manual_seed(4)
    tokens = torch.randint(0, 11, (count, 7))
    labels = tokens.roll(-1, 1)
    labels[torch.rand(count, 7) < torch.rand(count, 1)] = -100
    return DataLoader(TensorDataset(tokens, labels), batch_size=6, shuffle=True)


def classify(model, x, y):
    return F.cross_entropy(model(x), y)


def contrast(model, x, _y):
    """In-batch negatives: a loss that only the whole batch has."""
    z = F.normalize(model(x), dim=1)
    return F.cross_entropy(z @ z.T / 0.1, torch.arange(len(z)).roll(1))


def language(model, tokens, labels):
    return model(tokens, labels)[1]


def looks_at_logits(model, tokens, labels):
    """Uses an output beside the loss, with a gradient through it."""
    logits, loss = model(tokens, labels)
    return loss + 0.01 * logits.square().mean()


def train(make, loader, loss_of, accumulate=1, clip=None, early=False, kept=False, resume=None, again=False):
    """What a script of two epochs at most does; (losses, model, optimizer, norms that clipping returned)."""
    torch.manual_seed(1)
    model = make()
    held = list(model.parameters()) if kept else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    if resume is not None:
        model.load_state_dict(resume[1])
        optimizer.load_state_dict(copy.deepcopy(resume[2]))
    losses, norms, step = [], [], 0
    for epoch in range(2):
        if again and epoch:
            model.load_state_dict({name: 0.9 * value for name, value in model.state_dict().items()})
            optimizer.load_state_dict(optimizer.state_dict())
        for x, y in loader:
            loss = loss_of(model, x, y) / accumulate
            losses.append(loss.item())
            loss.backward()
            step += 1
            if step % accumulate:
                continue
            if clip:
                norms.append(float(nn.utils.clip_grad_norm_(held or model.parameters(), clip)))
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        losses.append(loss_of(model, *next(iter(loader))).item())
    return losses, model.state_dict(), optimizer.state_dict(), norms


CASES = {
    "logits": (Blocks, lambda: pictures(27), classify, {}),  # the last batch has 3 samples for 2 ranks
    "one left": (Blocks, lambda: pictures(25), classify, {}),  # ... and here 1
    "workers": (Blocks, lambda: pictures(24, 1), classify, {}),
    "clip": (Blocks, lambda: pictures(24), classify, {"clip": 0.3}),
    "clip of a list taken early": (Blocks, lambda: pictures(24), classify, {"clip": 0.3, "kept": True}),
    "accumulation": (Blocks, lambda: pictures(24), classify, {"accumulate": 2, "clip": 0.3}),
    "contrastive": (Blocks, lambda: pictures(24), contrast, {}),
    "tied, labels left out": (Language, lambda: sentences(24), language, {}),
    "logits beside a loss": (Language, lambda: sentences(24), looks_at_logits, {}),
    "loaded before the first step": (Blocks, lambda: pictures(24), classify, {"resume": True}),
    "loaded between two steps": (Blocks, lambda: pictures(24), classify, {"again": True}),
}
ONLY_COPIES = {"unused parameters": (Unused, lambda: pictures(24), classify, {})}


OFFLOADED = ("logits", "clip", "tied, labels left out", "loaded between two steps")


def wanted(name):
    """The strategies of a case."""
    if name in ONLY_COPIES:
        return ["ddp"]
    return ["ddp", "fsdp", "fsdp_offload"] if name in OFFLOADED else ["ddp", "fsdp"]


def gap(one, other):
    return max((abs(a - b) / max(1.0, abs(a)) for a, b in zip(one, other)), default=0.0)


def tensor_gap(one, other):
    assert list(one) == list(other), (list(one), list(other))
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(one.values(), other.values()))


def moments(state):
    return {
        f"{i}.{name}": value
        for i, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def shared(strategy, make, loader, loss_of, options, **settings):
    """(what it came to, the knob's report, its faults)."""
    with agent({"strategy": strategy, **settings}, ranks=PLACE) as tuned:
        result = train(make, loader(), loss_of, **options)
        tuned.session.flush()
        return result, tuned.knob("strategy"), tuned.of("fault")


def main():
    torch.use_deterministic_algorithms(True)
    strategies = sys.argv[1].split(",")
    for name, (make, loader, loss_of, options) in {**CASES, **ONLY_COPIES}.items():
        if "resume" in options:
            options["resume"] = train(make, loader(), loss_of)
        alone = train(make, loader(), loss_of, **options)
        for strategy in strategies:
            if strategy not in wanted(name):
                continue
            found, report, faults = shared(strategy, make, loader, loss_of, options)
            whole = all(type(v) is torch.Tensor for v in found[1].values())
            # What was saved loads back into the plain script.
            plain = make()
            plain.load_state_dict(found[1])
            line = {
                "case": name,
                "strategy": strategy,
                "rank": PLACE.rank,
                "steps": len(found[0]) - 1,
                "losses": gap(alone[0], found[0]),
                "norms": gap(alone[3], found[3]),
                "parameters": tensor_gap(alone[1], found[1]),
                "moments": tensor_gap(moments(alone[2]), moments(found[2])),
                "finite": all(math.isfinite(v) for v in found[0]),
                "whole": whole,
                "report": report,
                "faults": faults,
            }
            print("CASE " + json.dumps(line), flush=True)
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
