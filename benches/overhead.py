"""What the agent costs a script: CPU seconds at start, CPU microseconds and percent of a step.

    python3 benches/overhead.py [--pairs N] [--steps N] [--out FILE]

The same small script runs bare and with the agent, by turns, on one thread.  CPU time of the process is
compared, not time, so that other load on the machine matters less.  Each figure is the median difference of a
pair with its 95 % interval (bootstrap); what counts is the interval's upper end.  Freed memory stays with the
process, bare or not: where glibc gives it back and takes it again, a step's page faults hang on luck in the
heap's layout, and that luck is larger than what is measured.  Needs torch, uses the CPU.

A step's cost hardly depends on the step, so its share is stated of the 3 ms step and of the steps that
`examples/` take: in production the former is the goal's, in a trial (whose records are the measurement, and
which every configuration pays alike) the latter.
"""

import argparse
import base64
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START_GOAL = 0.005  # seconds
STEP_GOAL = 0.5  # percent
EXAMPLES = ("gpt", "cnn", "text_classifier", "gan")
QUIET_HEAP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
WARMUP = 100  # steps: the agent looks closely at the first ones, and takes hooks away again

# What the agent imports of the standard library and `import torch` imports too is no cost of the agent's.
LIBRARY = """
import ast, base64, collections, contextlib, ctypes, dis, enum, functools, importlib.machinery, importlib.util
import inspect, json, random, re, signal, threading, time, tokenize, traceback, types, warnings, weakref
print(json.dumps({'start': time.process_time()}))
"""
TORCH = "import json, time\nimport torch\nprint(json.dumps({'start': time.process_time()}))\n"

# A step of about 3 ms (width 512) or as little as a step can be (width 1).
STEPS = """
import json, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
width, batch, steps, warmup = map(int, sys.argv[1:])
torch.set_num_threads(1)
torch.manual_seed(0)
layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)]
model = nn.Sequential(*layers) if width > 1 else nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
x = torch.randn(batch * 100, width)
loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=batch)
done, begun = 0, None
while done < steps + warmup:
    for a, b in loader:
        loss = (model(a) - b).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
        if done == warmup:
            begun = time.process_time()
        if done == steps + warmup:
            break
print(json.dumps({"step": (time.process_time() - begun) / steps}))
"""


class Agent:
    """The agent as the launcher unpacks it, with a plan under which a trial never ends by itself."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "agent")
        shutil.copytree(os.path.join(ROOT, "src", "agent", "python"), self.path)
        self.folder = folder
        self.launches = 0

    def environment(self, mode, steps=10**9):
        if mode == "bare":
            return {}
        self.launches += 1
        trial = os.path.join(self.folder, f"trial-{self.launches}")
        os.mkdir(trial)
        plan = {
            "version": 1,
            "nonce": "overhead",
            "mode": mode,
            "trial_dir": trial if mode != "run" else None,
            "argv": [],
            "device": "cpu",
            "settings": {},
            "ways": {},
            "schedule": {
                "warmup_steps": 2,
                "min_steps": steps,
                "max_steps": steps,
                "max_seconds": 1e9,
                "relative_error": 0.0,
            },
            "parity_steps": 5 if mode == "trial" else 0,
            "inspect": False,
            "required": [],
        }
        env = {"AUTOFIT_MODE": mode, "PYTHONPATH": self.path}
        if mode == "run":
            env["AUTOFIT_CONFIG"] = base64.urlsafe_b64encode(json.dumps(plan).encode()).decode().rstrip("=")
        else:
            env["AUTOFIT_PLAN"] = os.path.join(trial, "plan.json")
            with open(env["AUTOFIT_PLAN"], "w", encoding="utf-8") as file:
                json.dump(plan, file)
        return env

    def launch(self, script, arguments, mode):
        """Runs the script; what it printed last."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOFIT_", "PYTHON"))}
        env.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONHASHSEED="0")
        env.update(QUIET_HEAP, **self.environment(mode))
        path = os.path.join(self.folder, "script.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(script)
        argv = [sys.executable, path, *map(str, arguments)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{mode}: the script ended with {done.returncode}\n{done.stderr[-2000:]}")
        if mode == "trial":
            self.was_there(script)
        return json.loads(done.stdout.splitlines()[-1])

    def example_step(self, name):
        """CPU seconds of a step of an example as it stands, by a trial's own records."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOFIT_", "PYTHON"))}
        env.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", **self.environment("trial", 8))
        argv = [sys.executable, os.path.join(ROOT, "examples", name + ".py")]
        done = subprocess.run(
            argv, env=env, cwd=self.folder, capture_output=True, text=True, timeout=600, check=False
        )
        trial = os.path.join(self.folder, f"trial-{self.launches}")
        with open(os.path.join(trial, "events.0.jsonl"), encoding="utf-8") as file:
            steps = [r for r in map(json.loads, file) if r["t"] == "step" and not r["warmup"]]
        if done.returncode != 0 or not steps:
            raise SystemExit(f"{name} ended with {done.returncode}\n{done.stderr[-2000:]}")
        return statistics.median(step["cpu_seconds"] for step in steps)

    def was_there(self, script):
        """A cost of nothing is no result when the agent was not in the script at all."""
        events = os.path.join(self.folder, f"trial-{self.launches}", "events.0.jsonl")
        if script is STEPS and not os.path.exists(events):
            raise SystemExit("the agent wrote no records; it was not in the script")


def interval(values, seed=0):
    """The median and its 95 % interval, by resampling."""
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(4000))
    return statistics.median(values), medians[100], medians[-101]


def pairs(agent, script, arguments, mode, count):
    """[(bare, with the agent)], each order as often as the other; the first pair only warms caches."""
    rows = []
    for i in range(count + 1):
        order = ("bare", mode) if i % 2 else (mode, "bare")
        got = {m: next(iter(agent.launch(script, arguments, m).values())) for m in order}
        rows.append((got["bare"], got[mode]))
    return rows[1:]


def figure(rows, *, unit=1.0, relative=False):
    differences = [((a - b) / b * 100) if relative else (a - b) * unit for b, a in rows]
    median, low, high = interval(differences)
    return {
        "median": median,
        "interval": [low, high],
        "bare_median": statistics.median(b for b, _ in rows) * unit,
        "pairs": len(rows),
    }


def measure(agent, args):
    found = {}
    for mode in ("trial", "run"):
        start = pairs(agent, LIBRARY, (), mode, args.pairs * 3)
        torch = pairs(agent, TORCH, (), mode, args.pairs)
        least = pairs(agent, STEPS, (1, 1, args.steps, WARMUP), mode, args.pairs)
        small = pairs(agent, STEPS, (512, 64, args.steps, WARMUP), mode, args.pairs)
        found[mode] = {
            "start_seconds": figure(start),
            "start_with_torch_seconds": figure(torch),
            "step_microseconds": figure(least, unit=1e6),
            "step_percent": figure(small, relative=True),
        }
        found[mode]["step_percent"]["bare_median"] *= 1e3
        found[mode]["step_percent"]["bare_unit"] = "ms"
        for name, f in found[mode].items():
            low, high = f["interval"]
            print(
                f"{mode:5} {name:24} {f['median']:.4g}  [{low:.4g}, {high:.4g}]  bare {f['bare_median']:.4g}",
                flush=True,
            )
    return found


def judge(figures, example_steps):
    """Whether the upper ends are within the goals; of a step by absolute cost, which is less noisy."""
    start = max(f["start_seconds"]["interval"][1] for f in figures.values())
    small_ms = min(f["step_percent"]["bare_median"] for f in figures.values())
    cost_ms = {mode: max(f["step_microseconds"]["interval"][1], 0.0) / 1e3 for mode, f in figures.items()}
    shares = {name: cost_ms["trial"] / (seconds * 1e3) * 100 for name, seconds in example_steps.items()}
    return {
        "start": {"goal_seconds": START_GOAL, "upper": start, "met": start <= START_GOAL},
        "step in production": {
            "goal_percent": STEP_GOAL,
            "upper_percent_of_small_step": cost_ms["run"] / small_ms * 100,
            "small_step_ms": small_ms,
            "met": cost_ms["run"] / small_ms * 100 <= STEP_GOAL,
        },
        "step in a trial": {
            "goal_percent": STEP_GOAL,
            "upper_percent_of_examples": shares,
            "upper_percent_of_small_step": cost_ms["trial"] / small_ms * 100,
            "goal_met_from_step_ms": cost_ms["trial"] / STEP_GOAL * 100,
            "met": max(shares.values()) <= STEP_GOAL,
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000)
    default = os.path.join(os.environ.get("OUT") or os.path.join(ROOT, "benches", "results"), "overhead.json")
    parser.add_argument("--out", default=default)
    args = parser.parse_args()
    versions = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if versions.returncode != 0:
        print("overhead: this python has no torch", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="autofit-overhead-") as folder:
        agent = Agent(folder)
        figures = measure(agent, args)
        example_steps = {name: agent.example_step(name) for name in EXAMPLES}
    verdict = judge(figures, example_steps)
    body = {
        "version": 1,
        "kind": "overhead",
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "torch": versions.stdout.strip(),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "steps": args.steps,
        "figures": figures,
        "example_step_cpu_seconds": example_steps,
        "goals": verdict,
    }
    return write(body, args.out)


def write(body, out):
    """Writes the figures; the exit status says whether all goals are met."""
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(body, file, indent=1)
        file.write("\n")
    print(json.dumps(body["goals"]))
    print(out)
    return 0 if all(g["met"] for g in body["goals"].values()) else 1


def cpu():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        return next((r.split(":", 1)[1].strip() for r in file if r.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
