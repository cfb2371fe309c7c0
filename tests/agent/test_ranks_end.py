"""Two ranks at the end of the script: neither goes while the other needs it, and none aborts."""

import os
import tempfile
import unittest

from support import PYTHON
from support_ranks import NEEDED, TWO, TwoRanks

TRAINING = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for _ in range(4):
    loss = nn.functional.cross_entropy(model(torch.randn(8, 8)), torch.randint(0, 3, (8,)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

OWN = TRAINING.replace(
    "optimizer =",
    """
torch.distributed.init_process_group("gloo")
model = nn.parallel.DistributedDataParallel(model)
optimizer =""",
)

# What is registered first comes last: behind what the agent does at the end.
LATE = """
import atexit, os, time
if os.environ["AUTOFIT_RANK"] == "0":
    atexit.register(lambda: print("the other one is over:", os.path.exists(os.environ["FLAG"])))
"""
SLOW = """
if os.environ["AUTOFIT_RANK"] == "1":
    time.sleep(1.5)
    with open(os.environ["FLAG"], "w"):
        pass
"""

# The thread that carries out a collective stands behind everything else on one processor: whoever waited for
# the collective goes on before that thread has let go of its tensors.
STARVED = """
import os
one = min(os.sched_getaffinity(0))
for thread in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{thread}/comm") as name:
        if "gloo_run" in name.read():
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
    os.sched_setaffinity(int(thread), {one})
with torch.no_grad():
    model(torch.randn(8, 8))
torch.save(model.state_dict(), "last.pt")
"""
LAUNCHES = 4  # of which half and more abort where the end does not wait for that thread


@NEEDED
class Ends(TwoRanks):
    """Of production runs."""

    def run_two(self, script, **env):
        return self.launch_two(script, mode="run", required=["strategy"], seed=None, env=env)

    def test_the_first_rank_waits_for_the_other(self):
        with tempfile.TemporaryDirectory() as private:
            result = self.run_two(LATE + TRAINING + SLOW, FLAG=os.path.join(private, "flag"), TMPDIR=private)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.out.strip(), "the other one is over: True")

    def test_no_thread_wants_an_interpreter_that_has_ended(self):
        for attempt in range(LAUNCHES):
            self.new_trial(attempt)
            result = self.run_two(TRAINING + STARVED)
            self.assertEqual(result.code, 0, result.describe())

    def test_nor_where_the_script_distributes_by_itself(self):
        path = self.write("train.py", OWN + STARVED)
        for attempt in range(LAUNCHES):
            self.new_trial(attempt)
            result = self.launch([PYTHON, *TWO, path], mode="run", script_ranks=2)
            self.assertEqual(result.code, 0, result.describe())


if __name__ == "__main__":
    unittest.main()
