"""Runs out of memory in its first step, by a limit of its own: the error can be caught, as under an rlimit.

The file beside its plan stands for the snapshot that the agent writes when a GPU's memory runs out.
"""

import os
import resource

import torch
from torch import nn

torch.set_num_threads(1)
plan = os.environ.get("AUTOFIT_PLAN")
if plan:
    with open(os.path.join(os.path.dirname(plan), "oom_snapshot.pickle"), "w") as file:
        file.write("stands for a snapshot")
with open("/proc/self/status") as status:
    used = next(int(row.split()[1]) << 10 for row in status if row.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + (400 << 20),) * 2)
model = nn.Sequential(*[layer for _ in range(24) for layer in (nn.Linear(512, 512), nn.ReLU())])
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(100):
    x = torch.randn(16384, 512)  # 32 MiB
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
