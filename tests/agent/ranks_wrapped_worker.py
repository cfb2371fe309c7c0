"""Trains in a script with DistributedDataParallel, then with what it wraps sharded; prints what differs.

Called by test_ranks_wrapped.py with the number of ranks.
"""

import copy
import json
import os
import sys
import time
from unittest import mock

import torch
from autofit_agent.ranks import hybrid
from autofit_agent.ranks.peers import Peers
from ranks_fork import fork
from ranks_scripts import Blocks, Language, classify, language, moments, pictures, sentences
from support_knobs import agent
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

LATE = 1.0  # seconds


class Normed(nn.Module):
    """Buffers, which the wrapper makes those of the first rank in each call; a part that is not trained."""

    def __init__(self):
        super().__init__()
        # A bias before the norm has no gradient but rounding, of which Adam makes whole steps.
        self.stem = nn.Linear(8, 16, bias=False)
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, 5)
        self.stem.weight.requires_grad_(False)

    def forward(self, x):
        return self.head(self.norm(self.stem(x)))


def train(make, data, loss_of, early=False, accumulate=1, by_flag=False, clip=None, average=False):
    """A script: its losses and norms, and what the first rank alone saves and evaluates."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(10 + rank)  # the wrapper gives all of them the first rank's weights
    model = make()
    options = {"lr": 0.01, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW(model.parameters(), **options) if early else None
    model = DistributedDataParallel(model)
    assert isinstance(model.module, make)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), **options)
    averaged = copy.deepcopy(model.module) if average and rank == 0 else None
    loader = DataLoader(
        data.dataset, batch_size=3, sampler=DistributedSampler(data.dataset, ranks, rank, seed=1)
    )
    found = {"losses": [], "norms": [], "saved": []}
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        model.train()
        for step, (x, y) in enumerate(loader, 1):
            last = step % accumulate == 0
            if by_flag:
                model.require_backward_grad_sync = last
                loss = loss_of(model, x, y) / accumulate
                loss.backward()
            elif last:
                loss = loss_of(model, x, y) / accumulate
                loss.backward()
            else:
                with model.no_sync():
                    loss = loss_of(model, x, y) / accumulate
                    loss.backward()
            found["losses"].append(loss.item())
            if not last:
                continue
            if clip:
                found["norms"].append(float(nn.utils.clip_grad_norm_(model.parameters(), clip)))
            optimizer.step()
            optimizer.zero_grad()
            if averaged is not None:
                with torch.no_grad():
                    pairs = zip(averaged.state_dict().values(), model.module.state_dict().values())
                    for mine, theirs in pairs:
                        mine.copy_(0.8 * mine + 0.2 * theirs)
        if rank == 0:
            state = [model.module.state_dict(), model.state_dict(), moments(optimizer.state_dict())]
            if averaged is not None:
                state.append(averaged.state_dict())
            found["saved"] += copy.deepcopy(state)  # as into a file
            model.eval()
            with torch.no_grad():
                found["losses"].append(loss_of(model.module, *next(iter(data))).item())
        if epoch == 0:
            distributed.barrier()
            # What one has saved all of them load.
            state = [model.module.state_dict(), optimizer.state_dict()]
            distributed.broadcast_object_list(state, 0)
            model.load_state_dict({f"module.{name}": 0.9 * value for name, value in state[0].items()})
            optimizer.load_state_dict(state[1])
    return found


CASES = {
    "optimizer after": (Blocks, lambda: pictures(24), classify, {}),
    "optimizer before, clip": (Blocks, lambda: pictures(24), classify, {"early": True, "clip": 0.3}),
    "no_sync": (Blocks, lambda: pictures(24), classify, {"accumulate": 2, "clip": 0.3}),
    "the flag behind no_sync": (
        Language,
        lambda: sentences(24),
        language,
        {"accumulate": 2, "by_flag": True},
    ),
    "buffers and a frozen part": (Normed, lambda: pictures(24), classify, {}),
    "an average in one rank": (Language, lambda: sentences(24), language, {"average": True}),
}


def gap(one, other):
    return max((abs(a - b) / max(1.0, abs(a)) for a, b in zip(one, other, strict=True)), default=0.0)


def tensor_gap(one, other):
    assert list(one) == list(other), (list(one), list(other))
    pairs = [(a.double(), b.double()) for a, b in zip(one.values(), other.values())]
    return max(float((a - b).abs().max()) for a, b in pairs)


def compare(name, strategy):
    """What `strategy` came to, beside DistributedDataParallel."""
    make, loader, loss_of, options = CASES[name]
    plain = train(make, loader(), loss_of, **options)
    ranks = distributed.get_world_size()
    with agent({"strategy": strategy}, script_ranks=ranks) as tuned:
        found = train(make, loader(), loss_of, **options)
        report, faults = tuned.knob("strategy"), tuned.of("fault")
        sharding = tuned.session.knobs.get("strategy").sharding
        parts = sharding.parameters() if sharding is not None else []
    for state in found["saved"][::3][:1]:
        make().load_state_dict(state)
    return {
        "case": name,
        "strategy": strategy,
        "rank": distributed.get_rank(),
        "report": report,
        "faults": faults,
        "losses": gap(plain["losses"], found["losses"]),
        "norms": gap(plain["norms"], found["norms"]),
        "saved": [tensor_gap(a, b) for a, b in zip(plain["saved"], found["saved"], strict=True)],
        "whole": all(type(v) is torch.Tensor for state in found["saved"] for v in state.values()),
        "count": len(found["losses"]),
        "placed": sorted({tuple(map(str, p.placements)) for p in parts}),
        "held": sum(p._local_tensor.numel() for p in parts),
        "of": sum(p.numel() for p in make().parameters()),
    }


def two_nodes():
    """Four ranks, as if two of them were on each of two nodes."""
    rank = distributed.get_rank()
    with mock.patch.dict(os.environ, LOCAL_WORLD_SIZE="2", LOCAL_RANK=str(rank % 2)):
        lines = [compare(name, "hybrid") for name in CASES]
    with mock.patch.dict(os.environ, LOCAL_WORLD_SIZE="31"[rank // 3], LOCAL_RANK=str(rank % 3)):
        lines.append({"uneven": hybrid.agreed(torch)})
    distributed.barrier()
    return lines


def one_is_late():
    """The first rank copies its model while the other one has not come to the end of sharding it."""
    begin = Peers.begin

    def late(*args):
        time.sleep(distributed.get_rank() * LATE)
        begin(*args)

    with mock.patch.object(Peers, "begin", late):
        return {**compare("an average in one rank", "fsdp"), "case": "one is late"}


def run():
    torch.use_deterministic_algorithms(True)
    distributed.init_process_group("gloo")
    if distributed.get_world_size() > 2:
        return two_nodes()
    lines = [compare(name, "fsdp") for name in CASES]
    lines += [compare(name, "fsdp_offload") for name in ("no_sync", "an average in one rank")]
    lines += [compare("optimizer after", "ddp"), one_is_late()]
    distributed.barrier()
    return lines


if __name__ == "__main__":
    print(json.dumps(fork(int(sys.argv[1]), run)))
