"""Which process reports, and what the agent leaves alone."""

import os
import unittest

from support import AGENT, HEAD, PYTHON, AgentTest

TRAIN = """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    model(torch.randn(4, 8)).mean().backward()
    optimizer.step()
"""


class Processes(AgentTest):
    def test_isolated_interpreter_is_not_replaced_by_a_child(self):
        child = HEAD + "\nimport sys\nmodel = Net()\no = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        child += "for i in range(30):\n    model(torch.randn(4, 8)).mean().backward()\n    o.step()\n"
        for option in ("-I", "-E", "-S"):
            with self.subTest(option=option):
                script = (
                    f"import subprocess, sys\nsubprocess.run([{PYTHON!r}, '-c', {child!r}], check=True)\n"
                )
                result = self.launch(script, python=[option])
                self.assertEqual(result.code, 0, result.describe())
                self.assertEqual(result.all("hello"), [], result.describe())
                self.assertEqual(result.all("step"), [])

    def test_child_pythons_do_not_report(self):
        child = "import torch; m = torch.nn.Linear(2, 2); o = torch.optim.SGD(m.parameters(), lr=1.0)\n"
        child += "for i in range(20): m(torch.ones(1, 2)).sum().backward(); o.step()\nprint('child done')"
        result = self.launch(
            HEAD
            + f"""
import subprocess, sys
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
print(subprocess.run([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE).stdout)
while True:
    model(torch.randn(4, 8)).mean().backward()
    optimizer.step()
"""
        )
        self.assert_measured(result)
        self.assertIn("child done", result.out)
        self.assertEqual(len({e["pid"] for e in result.events}), 1)

    def test_shell_script(self):
        self.write("train.py", HEAD + TRAIN)
        shell = self.write("train.sh", f"{PYTHON} -c 'import json; print(json)'\nexec {PYTHON} train.py\n")
        result = self.launch(["bash", shell])
        self.assert_measured(result)
        hello = result.one("hello")
        self.assertEqual((hello["training"], hello["argv"][1:]), (True, ["train.py"]))

    def test_module(self):
        os.mkdir(os.path.join(self.folder, "package"))
        self.write("package/__init__.py", "")
        self.write("package/train.py", HEAD + TRAIN)
        result = self.launch([PYTHON, "-m", "package.train"])
        self.assert_measured(result)

    def test_two_ranks_of_torchrun_end_together(self):
        script = self.write(
            "ddp.py",
            HEAD
            + """
import torch.distributed as dist
dist.init_process_group("gloo")
model = nn.parallel.DistributedDataParallel(Net())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    model(torch.randn(4, 8)).mean().backward()
    optimizer.step()
""",
        )
        torchrun = os.path.join(os.path.dirname(PYTHON), "torchrun")
        launch = [torchrun] if os.path.exists(torchrun) else [PYTHON, "-m", "torch.distributed.run"]
        result = self.launch([*launch, "--standalone", "--nproc-per-node", "2", script])
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        trained = {e["rank"]: e["world_size"] for e in result.all("hello") if e["training"]}
        self.assertEqual(trained, {0: 2, 1: 2}, result.describe())
        self.assertEqual([e["reason"] for e in result.all("end")], ["measured", "measured"])
        last = {e["pid"]: e["index"] for e in result.all("step")}
        self.assertEqual(len(set(last.values())), 1, last)

    def test_spawned_training(self):
        result = self.launch(
            HEAD
            + """
import torch.multiprocessing as mp

def train(rank):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i in range(40):
        model(torch.randn(4, 8)).mean().backward()
        optimizer.step()

if __name__ == "__main__":
    mp.spawn(train, nprocs=1)
"""
        )
        self.assertEqual(result.code, 0, result.describe())
        early, training = result.all("hello")
        self.assertEqual((early["training"], training["training"]), (False, True))
        self.assertNotEqual(early["pid"], training["pid"])
        self.assertEqual(result.last("end")["reason"], "measured")

    def test_loader_workers(self):
        for method in ("fork", "spawn", "forkserver"):
            with self.subTest(method=method):
                self.setUp()
                result = self.launch(
                    HEAD
                    + f"""
import os

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4000
    def __getitem__(self, i):
        return torch.ones(8)

if __name__ == "__main__":
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(Data(), batch_size=4, num_workers=2, multiprocessing_context={method!r})
    iterator = iter(loader)
    print("workers", *[w.pid for w in iterator._workers], flush=True)
    for x in iterator:
        model(x).mean().backward()
        optimizer.step()
"""
                )
                self.assert_measured(result)
                self.assertEqual(len({e["pid"] for e in result.events}), 1)
                self.assertEqual({e["samples"] for e in result.all("step")}, {4})
                for pid in result.out.split()[1:]:
                    self.assert_gone(pid)

    def test_users_own_sitecustomize(self):
        own = os.path.join(self.folder, "own")
        os.mkdir(own)
        self.write("own/sitecustomize.py", "import builtins\nbuiltins.mine = __file__\n")
        result = self.launch(
            "import sitecustomize\nprint(mine == sitecustomize.__file__, sitecustomize.__spec__.name)\n",
            extra_path=own,
        )
        self.assertEqual(result.out, "True sitecustomize\n", result.describe())
        self.assertEqual(len(result.all("hello")), 2)

    def test_users_own_sitecustomize_that_fails(self):
        own = os.path.join(self.folder, "own")
        os.mkdir(own)
        self.write("own/sitecustomize.py", "import a_module_that_is_missing\n")
        result = self.launch("print('went on')\n", extra_path=own)
        # What Python itself says without the agent: a line on stderr, and the script runs.
        self.assertIn("a_module_that_is_missing", result.err, result.describe())
        self.assertEqual(result.out, "went on\n")

    def test_inert_without_a_mode(self):
        env = {"PYTHONPATH": AGENT, "PATH": os.environ["PATH"]}
        import subprocess

        code = "import sys; print([m for m in sys.modules if 'autofit' in m])"
        done = subprocess.run([PYTHON, "-c", code], env=env, capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "[]\n")

    def test_a_broken_plan_stops_with_a_sentence(self):
        result = self.launch("print('ran')\n", version=99)
        self.assertEqual(result.code, 125)
        self.assertEqual(result.out, "")
        self.assertIn("autofit: the plan has version 99", result.err)

    def test_a_fault_does_not_reach_the_script(self):
        result = self.launch(
            HEAD
            + """
from autofit_agent import session
def broken(index):
    raise RuntimeError("hook is broken")
session.current().on_step(broken)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i in range(100):
    model(torch.randn(4, 8)).mean().backward()
    optimizer.step()
"""
        )
        self.assertEqual(result.code, 0, result.describe())
        fault = result.one("fault")
        self.assertIn("hook is broken", fault["error"])
        self.assertEqual(result.last("end")["reason"], "measured")


if __name__ == "__main__":
    unittest.main()
