# Its processes share memory: the kernel counts it once, a scheduler without cgroups once for each of them.
import os
import time

import torch

shared = torch.ones(60 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
time.sleep(60)
