"""autofit beside the tools that people use today: the same scripts, limits and machine.

    python benches/peers [--only gpt-900MiB,...] [--tools NAME,...] [--rounds N] [--trials N] [--bin FILE]
    python benches/peers --write      # the tables of README.md, from the file of results
    python benches/peers --check      # are they what the file says, and do the edits still apply?

For each script: each tool searches, with the edit that it needs; then the script as it is and all that was
found train in turns, each in a process of its own, under the limit that it was found for, through evaluation
and saving.  Speed is read from outside by the lines that the script prints.  Needs the packages of
benches/peers/requirements.txt, a memory cgroup that may be written (root, or a delegated one), and
`target/release/autofit`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import finding  # noqa: E402
import limit  # noqa: E402
import place  # noqa: E402
import production  # noqa: E402
import table  # noqa: E402
import tuners  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402

PACKAGES = ("torch", "accelerate", "lightning", "autovram", "optuna", "deepspeed")

# What a process has mapped beyond what it has touched, after PyTorch has done everything once.
MAPPED = """
import torch
layer = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 30 * 30, 8))
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.randn(32, 3, 32, 32)).sum().backward()
optimizer.step()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print((int(status["VmData"].split()[0]) - int(status["RssAnon"].split()[0])) * 1024)
"""


class Bench:
    """What tools share while one script is looked at."""

    def __init__(self, args, plain):
        self.binary = args.bin
        self.trials = args.trials
        self.plain = plain
        self.as_is_runs = None
        self.mapped = None

    def say(self, text):
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def output(self, command):
        done = subprocess.run(command, env=place.environment(), capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def data_limit(self, scenario):
        """RLIMIT_DATA counts what is mapped, a cgroup what is touched: the difference is given on top."""
        if self.mapped is None:
            self.mapped = int(self.output([sys.executable, "-c", MAPPED]))
        return scenario.cap_bytes + self.mapped


def compare(scenario, args):
    """All of one script."""
    began, findings = time.time(), []
    load = os.getloadavg()[0]
    with place.Place() as plain:
        bench = Bench(args, plain)
        bench.say(f"{scenario.name}")
        chosen = dict(tuners.ALWAYS)
        if scenario.tools:
            chosen.update({k: v for k, v in tuners.TOOLS.items() if wanted(k, args)})
        for name, tuner in chosen.items():
            bench.say(f"{name}: searching")
            findings.append(tuner.find(scenario, bench))
            if name == "by hand":
                bench.as_is_runs = findings[0].attempts[0]["status"] == 0
        command = [sys.executable, scenario.script + ".py", *scenario.production()]
        candidates = {"as it is": finding.Candidate(plain, command, scenario.batch)}
        candidates.update({one.tool: one.candidate for one in findings if one.candidate})
        runs = production.measure(scenario, candidates, args.rounds, bench.say)
        for candidate in candidates.values():
            candidate.place.close()
    return {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "minutes": round((time.time() - began) / 60, 1),
        "load_average": load,
        "machine": machine(),
        "script": scenario.script,
        "cap": scenario.cap,
        "limit": "cgroup v2" if limit.parent_group()[1] else "cgroup v1",
        "data_limit_on_top": bench.mapped,
        "batch": scenario.batch,
        "tools": [one.record() for one in findings],
        "production": runs,
    }


def wanted(name, args):
    return not args.tools or name in args.tools.split(",")


def machine():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        cpu = next((r.split(":", 1)[1].strip() for r in file if r.startswith("model name")), "unknown")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "packages": {name: finding.version(name) for name in PACKAGES if finding.version(name)},
    }


def read(path):
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def tables(args):
    """Writes the tables, or says whether they are what the file says and can be measured again."""
    now, right = table.readme(read(args.out))
    for name in sorted(os.listdir(place.EDITS)):
        with place.Place([name]):
            pass
    if args.write and now != right:
        with open(table.README, "w", encoding="utf-8") as file:
            file.write(right)
    elif now != right:
        print(f"README.md is not what {args.out} says: python benches/peers --write", file=sys.stderr)
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--only", help=f"of {', '.join(names)}; what the file has of the others is kept")
    parser.add_argument("--tools", help=f"of {', '.join(tuners.TOOLS)}")
    parser.add_argument("--rounds", type=int, default=4, choices=range(2, 11))
    parser.add_argument("--trials", type=int, default=12, help="of Optuna (default: %(default)s)")
    parser.add_argument("--bin", default=os.path.join(place.ROOT, "target", "release", "autofit"))
    results = os.environ.get("OUT") or os.path.join(place.ROOT, "benches", "results")
    parser.add_argument("--out", default=os.path.join(results, "peers.json"))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.write or args.check:
        return tables(args)
    args.bin = os.path.abspath(args.bin)
    # Whoever ends this process means its children, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    only = args.only.split(",") if args.only else names
    if args.tools and set(args.tools.split(",")) - set(tuners.TOOLS):
        parser.error(f"--tools is of {', '.join(tuners.TOOLS)}")
    if set(only) - set(names):
        parser.error(f"--only is of {', '.join(names)}")
    try:
        limit.Group(1 << 30).close()
    except limit.NoGroup as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    body = read(args.out) or {"version": 1, "kind": "peers", "scenarios": {}}
    for scenario in SCENARIOS:
        if scenario.name not in only:
            continue
        body["scenarios"][scenario.name] = compare(scenario, args)
        # In the order of the list.  After each, so that a run that is cut short keeps what it saw.
        body["scenarios"] = {n: body["scenarios"][n] for n in names if n in body["scenarios"]}
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(body, file, indent=1)
            file.write("\n")
    print(table.render(body))
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
