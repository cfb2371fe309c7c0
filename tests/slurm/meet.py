# All ranks of all nodes add up to one number.
import os

import torch
from torch import distributed

distributed.init_process_group("gloo")
total = torch.ones(1)
distributed.all_reduce(total)
print("rank", os.environ["RANK"], "of", int(total.item()), "on", os.environ["SLURMD_NODENAME"], flush=True)
distributed.destroy_process_group()
