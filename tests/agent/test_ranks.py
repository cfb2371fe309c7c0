"""A plain script in several processes (gloo): what it learns, saves and prints is what one process does."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import unittest

from support import AGENT, PYTHON, TIMEOUT, AgentTest
from support_ranks import NEEDED, TwoRanks

sys.path.insert(0, AGENT)
from autofit_agent.ranks import hybrid  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def ranks(count, *cases):
    """What the ranks say of these cases of ranks_worker.py, or of all of them."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("AUTOFIT_")}
    env.update(PYTHONPATH=os.pathsep.join([HERE, AGENT]), OMP_NUM_THREADS="1")
    command = [PYTHON, os.path.join(HERE, "ranks_worker.py"), str(count), *cases]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr[-30000:]
    return json.loads(done.stdout)


# What four ranks are asked as well: ragged and whole batches, workers, and each strategy beside other knobs.
FOUR = [
    "logits",
    "workers",
    "clip",
    "the script accumulates",
    "tied, labels left out",
    "logits beside a loss",
    "loaded between two steps",
    "parts, logits",
    "parts, loss inside",
    "parts and checkpoint",
    "lerp_",
    "copied while it trains",
    "masks",
    "dropout",
]


# How parameters lie on the mesh, and how many copies of them all ranks together hold.
PLACED = {
    "ddp": ([], 0),
    "fsdp": ([["S(0)"]], 1),
    "fsdp_offload": ([["S(0)"]], 1),
    "hybrid": ([["R", "S(0)"]], 2),
}


@NEEDED
class Equality(unittest.TestCase):
    """Losses, norms, parameters, optimizer state and averages are those of one process."""

    def check(self, count, lines):
        seen = {}
        for line in lines:
            if "masks" in line:
                self.check_masks(line)
            elif "dropout" in line:
                self.check_dropout(line)
            else:
                with self.subTest(case=line["case"], strategy=line["strategy"], rank=line["rank"]):
                    self.check_case(line)
                seen.setdefault((line["case"], line["strategy"]), {})[line["rank"]] = line
        self.assertEqual({frozenset(lines) for lines in seen.values()}, {frozenset(range(count))})
        for (case, strategy), found in seen.items():
            with self.subTest(case=case, strategy=strategy):
                placed, copies = PLACED[strategy]
                for line in found.values():
                    self.assertEqual(line["placed"], placed)
                self.assertEqual(sum(line["held"] for line in found.values()), copies * found[0]["of"])
        return len(seen)

    def check_case(self, line):
        self.assertEqual(line["faults"], [])
        for knob, report in line["reports"].items():
            self.assertEqual(report["effective"], line["wanted"][knob], report)
        if line["strategy"] == "hybrid":
            self.assertIn("sharded in each of 2 groups of 2 processes", line["reports"]["strategy"]["how"])
        self.assertTrue(line["whole"], "what is saved is sharded")
        self.assertTrue(line["finite"])
        if "list taken early" not in line["case"]:
            self.assertEqual(line["old"], 0, "whole parameters are kept beside the sharded ones")
        self.assertGreater(line["steps"], 6)
        for figure, most in line["most"].items():
            self.assertLess(line["gaps"][figure], most, figure)

    def check_masks(self, line):
        with self.subTest(**line):
            self.assertTrue(line["same"], "a part that is computed again draws other masks")
            self.assertTrue(line["different"], "two rows have the same mask")
            self.assertEqual(line["rows"], 24)

    def check_dropout(self, line):
        with self.subTest(**line):
            mean, spread = statistics.mean(line["plain"]), statistics.stdev(line["plain"])
            self.assertGreater(spread, 0)
            self.assertNotIn(line["found"], line["plain"])
            self.assertLess(abs(line["found"] - mean), 3 * spread)

    def test_two_ranks(self):
        self.assertEqual(self.check(2, ranks(2)), 63)

    def test_four_ranks(self):
        self.assertEqual(self.check(4, ranks(4, *FOUR)), 43)

    def test_groups_are_nodes_or_halves_of_one(self):
        self.assertEqual(hybrid.group_of(4, 4), (2, None))
        self.assertEqual(hybrid.group_of(16, 8), (8, None))
        self.assertEqual(hybrid.group_of(6, 3), (3, None))
        for ranks_of, words in {(2, 2): "not two", (5, 5): "not two", (3, 1): "as with ddp"}.items():
            size, why = hybrid.group_of(*ranks_of)
            self.assertIsNone(size)
            self.assertIn(words, why)


WRITES = """
import os, shutil, sys, tempfile
from pathlib import Path
os.makedirs("out/deep")
with open("out/deep/log.txt", "a") as log:
    log.write("x")
Path("out/note.txt").write_text("x")
open("kept.txt", "w").close()
os.remove("kept.txt")
os.rename("kept.txt", "moved.txt")
shutil.copy("kept.txt", "copy.txt")
shutil.rmtree("folder", True)
shutil.rmtree("folder", ignore_errors=True)
os.symlink("kept.txt", "link")
try:
    open("missing.txt")
except FileNotFoundError:
    pass
assert Path("kept.txt").read_text() == "mine"
with tempfile.TemporaryDirectory(dir=os.environ["TMPDIR"]) as private:
    os.makedirs(private + "/a")
    with open(private + "/a/b", "w") as file:
        file.write("x")
    assert Path(private, "a", "b").read_text() == "x"
assert not os.path.exists(private)
print("nobody sees this")
print("nor this", file=sys.stderr)
raise KeyError("but this")
"""


@NEEDED
class Followers(AgentTest):
    """Ranks other than the first."""

    def test_nothing_of_the_users_is_written_or_printed(self):
        self.write("kept.txt", "mine")
        os.mkdir(os.path.join(self.folder, "folder"))
        private = tempfile.mkdtemp(prefix="autofit-private-")
        self.addCleanup(os.rmdir, private)
        settings = {"settings": {"strategy": "ddp"}, "ways": {"strategy": "agent"}}
        place = {"RANK": "1", "WORLD_SIZE": "2", "TMPDIR": private}
        result = self.launch(WRITES, mode="run", env=place, **settings)
        self.assertEqual(sorted(os.listdir(self.folder)), ["folder", "kept.txt", "script.py", "trial"])
        self.assertEqual(result.out, "")
        self.assertTrue(result.err.startswith("Traceback"), result.err)
        self.assertTrue(result.err.rstrip().endswith("KeyError: 'but this'"), result.err)


SCRIPT = """
import os, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

assert "RANK" not in os.environ and "WORLD_SIZE" not in os.environ
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,))), batch_size=8, shuffle=True)
os.makedirs("out")
for epoch in range(3):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("epoch", epoch, loss.item(), flush=True)
    with open("out/log.txt", "a") as log:
        log.write(f"{epoch}\\n")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "out/new.pt")
    os.replace("out/new.pt", "out/last.pt")
    if epoch == 2:
        torch.save(model.state_dict(), "out/best.pt")
        model.load_state_dict(torch.load("out/best.pt"))
print("END", file=sys.stderr)
"""


@NEEDED
class Launches(TwoRanks):
    """The whole agent, as the launcher starts it."""

    def test_production_prints_and_writes_once(self):
        result = self.launch_two(SCRIPT, mode="run", required=["strategy"], seed=None)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual([row.split()[1] for row in result.out.splitlines()], ["0", "1", "2"])
        self.assertEqual(result.err.count("END"), 1, result.err)
        with open(os.path.join(self.folder, "out", "log.txt"), encoding="utf-8") as log:
            self.assertEqual(log.read(), "0\n1\n2\n")
        check = (
            "import torch; from torch import nn; c = torch.load('out/last.pt')\n"
            "m = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))\n"
            "m.load_state_dict(c['model']); o = torch.optim.AdamW(m.parameters(), lr=0.01)\n"
            "o.load_state_dict(c['optimizer']); m(torch.ones(1, 8)).sum().backward(); o.step()\n"
        )
        subprocess.run([PYTHON, "-c", check], cwd=self.folder, check=True, timeout=TIMEOUT)

    def test_a_trial_counts_each_sample_once(self):
        result = self.launch_two(SCRIPT.replace("range(3)", "range(300)"))
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [])
        self.assertEqual({(e["rank"], e["world_size"]) for e in result.all("hello")}, {(0, 2), (1, 2)})
        self.assertEqual({e["samples"] for e in result.all("step")}, {4})
        for report in result.all("knob"):
            self.assertEqual(report["effective"], "fsdp", report)
        self.assertEqual([e["reason"] for e in result.all("end")], ["measured", "measured"])
        parity = [{k: e[k] for k in ("parameters", "inputs")} for e in result.all("parity")]
        self.assertEqual(parity[0], parity[1])

    def test_refused_with_the_reason(self):
        normed = SCRIPT.replace("nn.ReLU()", "nn.BatchNorm1d(32)")
        result = self.launch_two(normed, mode="run", required=["strategy"], seed=None)
        self.assertNotEqual(result.code, 0)
        self.assertIn("BatchNorm in training mode would normalise with a part of the batch", result.err)
        again = SCRIPT.replace('os.makedirs("out")', "")
        self.new_trial(1)
        halves = {"settings": {"strategy": "hybrid"}, "required": ["strategy"]}
        result = self.launch_two(again, mode="run", seed=None, **halves)
        self.assertNotEqual(result.code, 0)
        self.assertIn("2 processes on one node are not two groups", result.err)
        # Each rank draws from the system: nothing makes their batches the same.
        drawn = again.replace("model(x)", "model(x + int.from_bytes(os.urandom(2), 'big') / 1e5)")
        self.new_trial(2)
        result = self.launch_two(drawn)
        reasons = {e["reason"] for e in result.all("knob")}
        self.assertTrue(any("were given different batches" in (r or "") for r in reasons), result.describe())


if __name__ == "__main__":
    unittest.main()
