"""What looking costs: a step watched, and a step profiled, as ratios to the bare step.

    python3 benches/looking.py [--pairs N] [--steps N] [--binary FILE] [--out FILE]

The same script runs bare and under `autofit watch`, by turns, through the program as a user types it; the
ratio is that of CPU seconds a step.  `autofit profile` tells the seconds of its two steps, with the operators
and with the memory traced; they are compared with the median step of a bare run beside it.  Each figure is
the median of the pairs' ratios with its 95 % interval (bootstrap).  Needs torch, uses the CPU, and
`target/release/autofit`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import overhead

WATCH_GOAL = 1.005  # of a step: the upper end of the interval

# A transformer of four blocks: some 40 operators a block and step, and steps of some tens of milliseconds.
SCRIPT = """
import json, sys, time
import torch
from torch import nn
steps, warmup = int(sys.argv[1]), 5
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, 0.0, batch_first=True), 4)
head = nn.Linear(64, 1)
optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()])
x, y = torch.randn(16, 64, 64), torch.randn(16, 64, 1)
walls, begun = [], 0.0
for step in range(steps + warmup):
    if step == warmup:
        begun = time.process_time()
    at = time.perf_counter()
    optimizer.zero_grad()
    (head(model(x)) - y).square().mean().backward()
    optimizer.step()
    walls.append(time.perf_counter() - at)
walls = sorted(walls[warmup:])
print(json.dumps({"cpu": (time.process_time() - begun) / steps, "wall": walls[len(walls) // 2]}), flush=True)
"""


class Place:
    """A folder with the script, in which commands are run."""

    def __init__(self, folder, binary):
        self.folder = folder
        self.binary = os.path.abspath(binary)
        with open(os.path.join(folder, "steps.py"), "w", encoding="utf-8") as file:
            file.write(SCRIPT)

    def run(self, words, steps):
        """What the command printed last, as a document."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOFIT_", "PYTHON"))}
        env.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", **overhead.QUIET_HEAP)
        argv = [*words, sys.executable, "steps.py", str(steps)]
        done = subprocess.run(
            argv, env=env, cwd=self.folder, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}")
        return done.stdout

    def bare(self, steps):
        return json.loads(self.run([], steps).splitlines()[-1])

    def watched(self, steps):
        out = self.run([self.binary, "watch", "--plain", "--"], steps)
        return json.loads(next(row for row in out.splitlines() if row.startswith('{"cpu"')))

    def profiled(self):
        """Seconds of the step with operators and of the step with memory."""
        words = [self.binary, "profile", "--device", "cpu", "--json", "-q", "--out", self.folder, "--"]
        profile = json.loads(self.run(words, 10**6))
        return profile["seconds"], profile["memory"]["seconds"]


def ratio(values):
    median, low, high = overhead.interval(values)
    return {"ratio": median, "interval": [low, high], "pairs": len(values)}


def measure(place, args):
    watch, operators, memory = [], [], []
    for i in range(args.pairs + 1):  # the first pair only warms caches
        runs = [("bare", lambda: place.bare(args.steps)), ("watched", lambda: place.watched(args.steps))]
        got = {name: run() for name, run in (runs if i % 2 else runs[::-1])}
        with_operators, with_memory = place.profiled()
        if i:
            watch.append(got["watched"]["cpu"] / got["bare"]["cpu"])
            operators.append(with_operators / got["bare"]["wall"])
            memory.append(with_memory / got["bare"]["wall"])
    return {
        "watch": ratio(watch),
        "profile: step with operators": ratio(operators),
        "profile: step with memory": ratio(memory),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--binary", default=os.path.join(overhead.ROOT, "target", "release", "autofit"))
    folder = os.environ.get("OUT") or os.path.join(overhead.ROOT, "benches", "results")
    parser.add_argument("--out", default=os.path.join(folder, "looking.json"))
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="autofit-looking-") as folder:
        figures = measure(Place(folder, args.binary), args)
    for name, figure in figures.items():
        low, high = figure["interval"]
        print(f"{name:32} {figure['ratio']:.4g}  [{low:.4g}, {high:.4g}] times the bare step", flush=True)
    upper = figures["watch"]["interval"][1]
    body = {
        "version": 1,
        "kind": "looking",
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "cpu": overhead.cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": load,
        "steps": args.steps,
        "figures": figures,
        "goals": {"watch": {"goal_ratio": WATCH_GOAL, "upper": upper, "met": upper <= WATCH_GOAL}},
    }
    return overhead.write(body, args.out)


if __name__ == "__main__":
    sys.exit(main())
