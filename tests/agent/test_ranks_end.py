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
COLLECTIVE
"""
OF_A_SHARDED_MODEL = STARVED.replace("COLLECTIVE", 'torch.save(model.state_dict(), "last.pt")')
OF_THE_SCRIPT = STARVED.replace("COLLECTIVE", "torch.distributed.all_reduce(torch.zeros(8))")
LAUNCHES = 2  # of which some may abort where the end does not wait for that thread

# One more thread of that name, that is at work outside the interpreter when the script's last line is over.
WORKING = """
import hashlib, os, sys, threading

names = set()
for thread in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{thread}/comm") as name:
        names.add(name.read().strip())
assert "pt_gloo_runloop" in names, names  # this is what PyTorch calls its own
over = []
begun = threading.Event()

def work():
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as name:
        name.write("pt_gloo_runloop")
    begun.set()
    hashlib.pbkdf2_hmac("sha256", b"any", b"thing", 1_000_000)
    over.append(True)
    threading.Event().wait()

class Last:
    def __del__(self, write=os.write, over=over):
        write(1, b"its work is over" if over else b"its work is not over")

sys.last = Last()  # goes with the interpreter
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


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

    def test_the_end_waits_for_a_thread_that_carries_out_collectives(self):
        result = self.run_two(TRAINING + WORKING)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.out.strip(), "its work is over")

    def test_no_thread_wants_an_interpreter_that_has_ended(self):
        for attempt in range(LAUNCHES):
            self.new_trial(attempt)
            result = self.run_two(TRAINING + OF_A_SHARDED_MODEL)
            self.assertEqual(result.code, 0, result.describe())

    def test_nor_where_the_script_distributes_by_itself(self):
        path = self.write("train.py", OWN + OF_THE_SCRIPT)
        for attempt in range(LAUNCHES):
            self.new_trial(attempt)
            result = self.launch([PYTHON, *TWO, path], mode="run", script_ranks=2)
            self.assertEqual(result.code, 0, result.describe())


if __name__ == "__main__":
    unittest.main()
