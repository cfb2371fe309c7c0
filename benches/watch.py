"""What watching costs: the agent in the script, and the program beside it.

    python3 benches/watch.py [--pairs N] [--steps N] [--seconds S] [--out FILE]

The agent is measured as `overhead.py` measures it: the same script bare and watched, by turns, CPU time
compared, medians with their 95 % intervals.  The program is measured by its own CPU time while it watches an
idle process (memory as large as that of a small training) for some seconds, in lines and with records.  Needs
torch, uses the CPU, and `target/release/autofit`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import overhead

GOAL_STEP_PERCENT = 0.5  # of the steps that `examples/` take
GOAL_CORE_PERCENT = 3.0  # two for the sampler's thread, one for records and lines
IDLE = "import time\nheld = bytearray(300 << 20)\nprint('ready', flush=True)\ntime.sleep(600)\n"
ENOUGH = 1  # steps: nothing is measured to an end while watching


class Watched(overhead.Agent):
    """The agent as `autofit watch` starts it."""

    def environment(self, mode, steps=ENOUGH):
        return super().environment(mode, steps)

    def pulses(self):
        """Pulses of the latest launch: without any the agent was not there."""
        path = os.path.join(self.folder, f"trial-{self.launches}", "events.0.jsonl")
        with open(path, encoding="utf-8") as file:
            return [r for r in map(json.loads, file) if r["t"] == "pulse"]


def agent(folder, args):
    watched = Watched(folder)
    found = {
        "step_microseconds": overhead.figure(
            overhead.pairs(watched, overhead.STEPS, (1, 1, args.steps, overhead.WARMUP), "watch", args.pairs),
            unit=1e6,
        ),
        "step_percent": overhead.figure(
            overhead.pairs(
                watched, overhead.STEPS, (512, 64, args.steps, overhead.WARMUP), "watch", args.pairs
            ),
            relative=True,
        ),
    }
    watched.launch(overhead.STEPS, (1, 1, args.steps, overhead.WARMUP), "watch")
    steps = watched.pulses()[-1]["steps"]
    if steps != args.steps + overhead.WARMUP:
        raise SystemExit(f"the agent counted {steps} steps of {args.steps + overhead.WARMUP}")
    return found


def program(binary, options, seconds):
    """Percent of a core that the program itself takes while it watches."""
    idle = subprocess.Popen([sys.executable, "-c", IDLE], stdout=subprocess.PIPE)
    try:
        idle.stdout.readline()
        argv = [binary, "watch", *options, "--pid", str(idle.pid)]
        watch = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        time.sleep(seconds)
        watch.send_signal(signal.SIGINT)
        _, status, used = os.wait4(watch.pid, 0)
        took = time.monotonic() - began
    finally:
        idle.kill()
        idle.wait()
    if os.waitstatus_to_exitcode(status) != 130:
        raise SystemExit(f"autofit watch ended with {status}")
    return (used.ru_utime + used.ru_stime) / took * 100


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--binary", default=os.path.join(overhead.ROOT, "target", "release", "autofit"))
    folder = os.environ.get("OUT") or os.path.join(overhead.ROOT, "benches", "results")
    parser.add_argument("--out", default=os.path.join(folder, "watch.json"))
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="autofit-overhead-") as folder:
        figures = agent(folder, args)
        plain = overhead.Agent(os.path.join(folder, "examples"))
        examples = {name: plain.example_step(name) for name in overhead.EXAMPLES}
    core = {
        "lines": program(args.binary, ["--plain"], args.seconds),
        "records": program(args.binary, ["--json"], args.seconds),
    }
    small_ms = figures["step_percent"]["bare_median"] * 1e3
    figures["step_percent"].update(bare_median=small_ms, bare_unit="ms")
    cost = max(figures["step_microseconds"]["interval"][1], 0.0) / 1e6
    shares = {name: cost / seconds * 100 for name, seconds in examples.items()}
    goals = {
        "step": {
            "goal_percent": GOAL_STEP_PERCENT,
            "upper_percent_of_examples": shares,
            "upper_percent_of_small_step": cost * 1e3 / small_ms * 100,
            "met": max(shares.values()) <= GOAL_STEP_PERCENT,
        },
        "program": {
            "goal_percent_of_a_core": GOAL_CORE_PERCENT,
            "upper": max(core.values()),
            "met": max(core.values()) <= GOAL_CORE_PERCENT,
        },
    }
    body = {
        "version": 1,
        "kind": "watch",
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "cpu": overhead.cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": load,
        "steps": args.steps,
        "agent": figures,
        "example_step_cpu_seconds": examples,
        "program_percent_of_a_core": core,
        "goals": goals,
    }
    return overhead.write(body, args.out)


if __name__ == "__main__":
    sys.exit(main())
