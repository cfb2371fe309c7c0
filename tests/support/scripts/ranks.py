"""DDP training in which rank 1 does to itself, in its 13th step, what the first argument says."""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from torch import nn

HOW = sys.argv[1]
torch.set_num_threads(1)
dist.init_process_group("gloo")
mine = dist.get_rank() == 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if mine and self.calls == 13 and HOW in ("raises", "catches"):
            torch.empty(1 << 50)
        return self.body(x)


torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(Net())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(100_000):
    if mine and step == 12 and HOW == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mine and step == 12 and HOW == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if mine and step == 12 and HOW == "stalls":
        time.sleep(1000)
    if mine and HOW == "slow":
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass
    x, y = torch.randn(16, 64), torch.randint(0, 10, (16,))
    try:
        loss = nn.functional.cross_entropy(model(x), y)
    except RuntimeError:
        if HOW != "catches":
            raise
        time.sleep(1000)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
