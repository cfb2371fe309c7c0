"""Is what autofit finds really faster, and is each of its knobs needed?

    python3 benches/pairs.py [--pairs N] [--examples gpt,cnn] [--cap SIZE] [--bin FILE] [--out FILE]

For each script of examples/: a search with a generous limit; then the script as it is and `autofit run` with
what was found, in turns, each in a process of its own, timed from outside by the lines that the script itself
prints; then `autofit try` with the winner against the winner less one knob, in turns.  Ratios are rates over
rates, pair by pair; the interval is Student's of the logarithms, 95 %.  Needs torch and
`target/release/autofit`; uses the processor.  `--cap` searches under a limit; each `--against SETTINGS` then
compares the winner with that, for a script that does not run there as it is.
"""

import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SLOWDOWN = 0.95  # a winner below this is worse than no winner
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # by degrees of freedom, from 1

# Long enough to time, short enough to be launched dozens of times.
EXAMPLES = {
    "gpt": "--steps 21 --eval-every 100 --eval-iters 1 --log-every 5",
    "cnn": "--epochs 2 --val-samples 100 --log-every 5",
    "text_classifier": "--epochs 1 --steps 75 --val-samples 100 --log-every 5",
    "gan": "--epochs 2 --log-every 5",
}
LINE = re.compile(r"\b(?:batch|step) (\d+)(?:/\d+)?: (?:loss|D) ")


def interval(logs):
    """Ratio and its 95 % interval."""
    middle = statistics.fmean(logs)
    half = T95[len(logs) - 2] * statistics.stdev(logs) / math.sqrt(len(logs))
    return {
        "pairs": len(logs),
        "ratio": math.exp(middle),
        "interval": [math.exp(middle - half), math.exp(middle + half)],
    }


def marks(rows):
    """Steps and when they were told of, as long as the script prints."""
    found = ((LINE.search(row), time.monotonic()) for row in rows)
    return [(int(line[1]), when) for line, when in found if line]


def rate_of(seen):
    """Steps a second, the first lines left out; None where there are too few.

    A step that is not larger than the last one begins an epoch: evaluation and saving lie between.
    """
    stretches = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(seen[1:], seen[2:]) if b[0] > a[0]]
    return sum(s for s, _ in stretches) / sum(t for _, t in stretches) if stretches else None


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        shutil.copytree(os.path.join(ROOT, "examples"), folder, dirs_exist_ok=True)

    def environment(self):
        return {k: v for k, v in os.environ.items() if not k.startswith("AUTOFIT_")}

    def command(self, name):
        return [sys.executable, name + ".py", "--device", "cpu", *EXAMPLES[name].split()]

    def rate(self, argv):
        """Steps a second, by the clock of whoever reads the script's output; its first lines are warm-up."""
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen = marks(process.stdout)
        error = process.stderr.read()
        if process.wait() != 0:
            raise SystemExit(f"{argv} ended with {process.returncode}\n{error[-2000:]}")
        return rate_of(seen)

    def autofit(self, words, status=(0,)):
        argv = [self.args.bin, *words]
        done = subprocess.run(
            argv, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode not in status:
            raise SystemExit(f"{argv} ended with {done.returncode}\n{done.stderr[-3000:]}")
        return json.loads(done.stdout)

    def options(self):
        return [
            "--device",
            "cpu",
            "--json",
            "-q",
            *(["--memory-cap", self.args.cap] if self.args.cap else []),
        ]

    def search(self, name):
        words = [*self.options(), "--fresh", "--budget", self.args.budget, "--", *self.command(name)]
        return self.autofit(["tune", *words])

    def production(self, name):
        """The script as it is against `autofit run`, each order as often as the other."""
        bare, tuned = self.command(name), [self.args.bin, "run", "--", *self.command(name)]
        rows = []
        for i in range(self.args.pairs):
            order = ((0, bare), (1, tuned)) if i % 2 else ((1, tuned), (0, bare))
            got = {which: self.rate(argv) for which, argv in order}
            rows.append((got[0], got[1]))
            print(f"  pair {i + 1}: {got[0]:.3f} and {got[1]:.3f} steps/s", flush=True)
        return {"steps_per_second": rows, **interval([math.log(tuned / bare) for bare, tuned in rows])}

    def against(self, name, settings, other):
        """`settings` against `other`, by the trials' own figures."""
        words = ["try", "--set", spell(settings), "--repeat", str(self.args.pairs)]
        words += [*(["--against", spell(other)] if other else []), *self.options(), "--", *self.command(name)]
        trials = self.autofit(words)["trials"]
        rates = [[], []]
        for trial in trials:
            rate = trial["measured"]["samples_per_second"]
            for i, one in enumerate((settings, other)):
                if trial["settings"] == one and rate:
                    rates[i].append(rate["value"])
        if min(map(len, rates)) < self.args.pairs:
            return {"does_not_fit": spell(other if len(rates[0]) == self.args.pairs else settings)}
        return interval([math.log(a / b) for a, b in zip(*rates)])


def spell(settings):
    return ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in settings.items())


def settings_of(text):
    found = {}
    for word in text.split(","):
        name, value = word.split("=", 1)
        found[name] = int(value) if value.isdigit() else {"true": True, "false": False}.get(value, value)
    return found


def measure(bench, name):
    print(f"{name}: searching", flush=True)
    result = bench.search(name)
    settings = result["winner"]["settings"]
    found = {
        "command": [os.path.basename(sys.executable), *bench.command(name)[1:]],
        "settings": settings,
        "search": {"launches": result["cost"]["launches"], "seconds": round(result["cost"]["seconds"], 1)},
        "relative_in_search": result["winner"]["relative"],
        "leave_one_out": {},
    }
    print(f"{name}: {spell(settings) or 'the script as it is'}, {found['search']}", flush=True)
    checks = []
    if bench.args.against:
        found["against"] = {}
        for other in map(settings_of, bench.args.against):
            same = {"ratio": 1.0, "interval": [1.0, 1.0]}
            compared = bench.against(name, settings, other) if other != settings else same
            found["against"][spell(other)] = compared
            checks.append(compared.get("interval", [1.0])[0] >= SLOWDOWN)
            print(f"{name}: against {spell(other)}: {compared}", flush=True)
    elif settings:
        found["production"] = bench.production(name)
        checks.append(found["production"]["interval"][0] >= SLOWDOWN)
        print(f"{name}: {found['production']['ratio']:.3f}  {found['production']['interval']}", flush=True)
    for knob in settings:
        less = {k: v for k, v in settings.items() if k != knob}
        compared = bench.against(name, settings, less)
        found["leave_one_out"][knob] = compared
        # Faster without it, and surely so: then it should not be there.
        checks.append("does_not_fit" in compared or compared["interval"][1] >= 1.0)
        print(f"{name}: with {knob} over without: {compared}", flush=True)
    found["pass"] = all(checks)
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--examples", default=",".join(EXAMPLES))
    parser.add_argument("--cap")
    parser.add_argument("--against", action="append", metavar="KNOB=VALUE,...")
    parser.add_argument("--budget", default="6m")
    parser.add_argument("--bin", default=os.path.join(ROOT, "target", "release", "autofit"))
    results = os.environ.get("OUT") or os.path.join(ROOT, "benches", "results")
    parser.add_argument("--out", default=os.path.join(results, "pairs.json"))
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    import torch

    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        cpu = next((r.split(":", 1)[1].strip() for r in file if r.startswith("model name")), "unknown")
    body = {
        "version": 1,
        "kind": "pairs",
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "cap": args.cap,
        "load_average": os.getloadavg()[0],
        "examples": {},
    }
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    for name in args.examples.split(","):
        with tempfile.TemporaryDirectory(prefix="autofit-pairs-") as folder:
            body["examples"][name] = measure(Bench(args, folder), name)
        # After each: a run that is cut short keeps what it saw.
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(body, file, indent=1)
            file.write("\n")
    print(args.out)
    return 0 if all(e["pass"] for e in body["examples"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
