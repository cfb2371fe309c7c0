"""A script with DistributedDataParallel whose model is sharded: the same training, or the true reason."""

import json
import os
import subprocess
import unittest

from support import AGENT, PYTHON, TIMEOUT, AgentTest
from support_ranks import NEEDED, TWO
from test_ranks import HERE, PLACED

MOST = {"losses": 5e-6, "norms": 1e-5}
SAVED = 2e-4  # of parameters after steps of 0.01 whose gradients differ by rounding


@NEEDED
class Equality(unittest.TestCase):
    """All cases of ranks_wrapped_worker.py."""

    def ranks(self, count):
        env = {k: v for k, v in os.environ.items() if not k.startswith("AUTOFIT_")}
        env.update(PYTHONPATH=os.pathsep.join([HERE, AGENT]), OMP_NUM_THREADS="1")
        command = [PYTHON, os.path.join(HERE, "ranks_wrapped_worker.py"), str(count)]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr[-30000:])
        return json.loads(done.stdout)

    def test_two_ranks(self):
        lines = self.ranks(2)
        self.assertEqual(len(lines), 2 * 10)
        self.check_all(lines, 2)

    def test_four_ranks_in_two_groups(self):
        lines = self.ranks(4)
        uneven = [line.pop("uneven") for line in lines if "uneven" in line]
        self.assertEqual([size for size, _ in uneven], [None] * 4)
        self.assertIn("different numbers of processes", uneven[0][1])
        lines = [line for line in lines if line]
        self.assertEqual(len(lines), 4 * 6)
        self.check_all(lines, 4)

    def check_all(self, lines, ranks):
        held = {}
        for line in lines:
            with self.subTest(**{k: line[k] for k in ("case", "strategy", "rank")}):
                self.check(line, ranks)
            case = (line["case"], line["strategy"], line["of"])
            held[case] = held.get(case, 0) + line["held"]
        for (case, strategy, whole), together in held.items():
            with self.subTest(case=case, strategy=strategy):
                self.assertEqual(together, PLACED[strategy][1] * whole)

    def check(self, line, ranks):
        self.assertEqual(line["faults"], [])
        self.assertEqual(line["report"]["effective"], line["strategy"], line["report"])
        self.assertEqual(line["placed"], PLACED[line["strategy"]][0])
        self.assertGreaterEqual(line["count"], 16 // ranks)
        for figure, most in MOST.items():
            self.assertLess(line[figure], most, figure)
        # The first rank alone has saved and evaluated.
        self.assertEqual(bool(line["saved"]), line["rank"] == 0)
        for gap in line["saved"]:
            self.assertLess(gap, SAVED)
        self.assertTrue(line["whole"], "what is saved is sharded")
        self.assertLess(line["held"], 0.7 * line["of"])


HEAD = """
import os, sys, time
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

def step():
    x, y = torch.randn(4, 8), torch.randint(0, 3, (4,))
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    return loss
"""

SAVES = """
for i in range(4):
    step()
    optimizer.step()
distributed.destroy_process_group()
if rank == 0:
    time.sleep(1)  # the other one has come to its end
    with torch.no_grad():
        print("loss", model.module(torch.ones(2, 8)).sum().item())
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    print("saved")
"""

# Batches behind the last update, as an epoch leaves them that does not divide by the batches of a step.
LEFT_OVER = """
with model.no_sync():
    step()
"""

# Memory may run out in the wrapper, which takes room for the gradients; the kernel says nothing of it.
KILLED = """
os.kill(os.getpid(), 9)
"""

BETWEEN = """
for i in range(300):
    step()
    if i == 2 and rank == 0:
        time.sleep(1)
        torch.save(model.state_dict(), "last.pt")
    optimizer.step()
"""

AROUND = """
step()
optimizer.step()
model.module(torch.ones(2, 8)).sum().backward()
"""

MIXED = """
shadow = {name: torch.zeros(p.shape) for name, p in model.named_parameters()}
for i in range(300):
    step()
    optimizer.step()
    with torch.no_grad():
        for name, p in model.named_parameters():
            shadow[name].mul_(0.9).add_(p, alpha=0.1)
"""


JOINED = """
from torch.distributed.algorithms.join import Join
with Join([model]):
    for i in range(300):
        step()
        optimizer.step()
"""


@NEEDED
class Launches(AgentTest):
    """The whole agent, in a script that torchrun starts."""

    def launch_two(self, script, **changes):
        path = self.write("train.py", script)
        settings = {"settings": {"strategy": "fsdp"}, "ways": {"strategy": "agent"}, "script_ranks": 2}
        return self.launch([PYTHON, *TWO, path], **{**settings, **changes})

    def save_after_the_end(self, training):
        script = HEAD + SAVES.replace("distributed.destroy", training + "distributed.destroy")
        result = self.launch_two(script, mode="run", required=["strategy"], seed=None)
        self.assertEqual(result.code, 0, result.describe())
        self.assertIn("saved", result.out)

    def test_one_rank_saves_when_the_other_has_left_batches_over_and_ended(self):
        self.save_after_the_end(LEFT_OVER.lstrip())

    def test_a_wrapper_is_told_of_before_the_model_is_called(self):
        before, _ = HEAD.split("optimizer =")
        result = self.launch_two(before + KILLED, settings={}, ways={})
        self.assertNotEqual(result.code, 0)
        self.assertEqual({e["rank"] for e in result.all("hello")}, {0, 1}, result.describe())
        self.assertEqual(result.all("root"), [])
        self.assertEqual({e["distributed"] for e in result.all("detected")}, {"DistributedDataParallel"})

    def test_one_rank_saves_when_the_other_has_ended(self):
        self.save_after_the_end("")
        script = HEAD + "c = torch.load('last.pt'); model.load_state_dict(c['model'])\n"
        script += "optimizer.load_state_dict(c['optimizer']); step(); optimizer.step(); print('on')\n"
        path = self.write("again.py", script)
        plain = [PYTHON, *TWO, path]
        done = subprocess.run(
            plain, cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
        self.assertEqual(done.stdout.count("on"), 2, done.stderr)

    def refused(self, script, words):
        self.new_trial(words.split()[0])
        # Where gradients are compared the ranks meet before the update.
        result = self.launch_two(HEAD + script, parity_steps=0)
        ends = {e["reason"] for e in result.all("end")}
        self.assertIn("refused", ends, result.describe())
        reasons = [e["reason"] or "" for e in result.all("knob")]
        self.assertTrue(any(words in reason for reason in reasons), result.describe())

    def test_refused_with_the_reason(self):
        self.refused(BETWEEN, "a rank saves or evaluates by itself")
        self.refused(AROUND, "Sequential is called with gradients on, and not through its wrapper")
        self.refused(JOINED, "the script lets ranks have different numbers of batches (join)")
        self.refused(MIXED, "computes with a sharded parameter and a whole tensor of its own (train.py:")

    def test_what_the_wrapper_is_asked_for_beside_is_left_to_it(self):
        asked = HEAD.replace("nn.Linear(32, 3)))", "nn.Linear(32, 3)), find_unused_parameters=True)")
        result = self.launch_two(asked + "for i in range(300):\n    step()\n    optimizer.step()\n")
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [])
        self.assertEqual({e["effective"] for e in result.all("knob")}, {None})
        self.assertIn("unused parameters", result.last("knob")["reason"])
        self.assertEqual([e["reason"] for e in result.all("end")], ["measured", "measured"])


if __name__ == "__main__":
    unittest.main()
