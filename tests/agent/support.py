"""Launches small scripts under the agent, the way the launcher does, and reads what the agent wrote."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AGENT = os.environ.get("AUTOFIT_AGENT_DIR") or os.path.join(ROOT, "src", "agent", "python")
PYTHON = os.environ.get("AUTOFIT_TEST_PYTHON") or sys.executable
TIMEOUT = 240

SCHEDULE = {"warmup_steps": 2, "min_steps": 4, "max_steps": 6, "max_seconds": 5.0, "relative_error": 0.0}

# The head of most scripts: one thread, and a model that takes no time.
HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x):
        return self.body(x)

"""


class Result:
    """One launch: its end, its output and the agent's records."""

    def __init__(self, folder, code, out, err):
        self.folder = folder
        self.code = code
        self.out = out
        self.err = err
        self.events = []
        for name in sorted(os.listdir(folder)):
            if name.startswith("events."):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    self.events += [json.loads(row) for row in file]

    def all(self, kind):
        return [e for e in self.events if e["t"] == kind]

    def one(self, kind):
        found = self.all(kind)
        assert len(found) == 1, f"{len(found)} records `{kind}` in {self.describe()}"
        return found[0]

    def last(self, kind):
        found = self.all(kind)
        assert found, f"no record `{kind}` in {self.describe()}"
        return found[-1]

    def describe(self):
        kinds = [e["t"] for e in self.events]
        return f"status {self.code}\n--- out\n{self.out}\n--- err\n{self.err}\n--- records {kinds}"


class AgentTest(unittest.TestCase):
    """A case with a folder of its own."""

    maxDiff = None

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="autofit-agent-")
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name
        self.trial = os.path.join(self.folder, "trial")
        os.mkdir(self.trial)

    def new_trial(self, number):
        """Another trial folder, for a case with several launches."""
        self.trial = os.path.join(self.folder, f"trial-{number}")
        os.mkdir(self.trial)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(text))
        return path

    def plan(self, argv, **changes):
        plan = {
            "version": 1,
            "nonce": "abc",
            "mode": "trial",
            "trial_dir": self.trial,
            "argv": argv,
            "device": "cpu",
            "settings": {},
            "ways": {},
            "schedule": SCHEDULE,
            "coverage": None,
            "inspect": True,
            "cap_bytes": None,
            "parity_steps": 3,
            "seed": 7,
            "training_loader": None,
            "required": [],
        }
        plan.update(changes)
        return plan

    def environment(self, plan, extra_path=None, **env):
        result = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOFIT", "PYTHON"))}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            result.pop(name, None)
        path = os.path.join(self.trial, "plan.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(plan, file)
        result["AUTOFIT_MODE"] = plan["mode"]
        if plan["mode"] != "run":
            result["AUTOFIT_PLAN"] = path
        else:
            import base64

            text = base64.urlsafe_b64encode(json.dumps(plan).encode()).decode().rstrip("=")
            result["AUTOFIT_CONFIG"] = text
        result["PYTHONPATH"] = os.pathsep.join([AGENT] + ([extra_path] if extra_path else []))
        result["OMP_NUM_THREADS"] = "1"
        result.update(env)
        return result

    def launch(self, script, *args, python=(), rlimit_data=None, extra_path=None, env=None, **changes):
        """Runs `script` (text, or an argv as a list) under a plan with these changes."""
        if isinstance(script, list):
            argv = script
        else:
            argv = [PYTHON, *python, self.write("script.py", script), *args]
        plan = self.plan(argv, **changes)

        def limit():
            if rlimit_data is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (rlimit_data, rlimit_data))

        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environment(plan, extra_path, **(env or {})),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            preexec_fn=limit,
            check=False,
        )
        return Result(self.trial, done.returncode, done.stdout, done.stderr)

    def assert_measured(self, result, steps=None):
        """It ended itself after enough steps, and nothing in the agent failed."""
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        self.assertEqual(result.last("end")["reason"], "measured", result.describe())
        indices = [e["index"] for e in result.all("step")]
        self.assertEqual(indices, list(range(len(indices))), result.describe())
        steady = [e for e in result.all("step") if not e["warmup"]]
        self.assertGreaterEqual(len(steady), SCHEDULE["min_steps"], result.describe())

    def assert_gone(self, pid):
        """The process has ended."""
        end = time.monotonic() + 5
        while os.path.exists(f"/proc/{pid}"):
            if time.monotonic() > end:
                self.fail(f"process {pid} is still there")
            time.sleep(0.05)
