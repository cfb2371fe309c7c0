"""Does what a search promises hold in production?

    python3 benches/production.py [--runs N] [--caps SHARE,...] [--examples gpt,cnn] [--keep DIR] [--bin FILE]
    python3 benches/production.py --agreement [--runs N] [--examples gpt,cnn] ...

For each script of examples/ a search under limits that are shares of the script's own peak (1.0: it fits only
just), then `autofit run` with the winner under the very same limit, with another seed, and so another order
of the data, in each run: N runs over all, and what became of them.  The runs evaluate and save; the texts of
text_classifier.py differ in length, and each of its epochs has one batch with the longest.  These figures
need no quiet machine.

With `--agreement` the search has no limit, and N runs of each winner tell whether the throughput that was
reported, with its interval, is the one of production.  A run in which other programs used more than half a
core is marked as disturbed; so is the figure that has one.

`--keep DIR` keeps the searches there, and goes on from those that it finds.  Needs torch and
`target/release/autofit`; uses the processor.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time

import measured
import pairs

# What the production runs are, and so what is searched: an evaluation and a checkpoint in each.
EXAMPLES = {
    "gpt": "--steps 21 --eval-every 100 --eval-iters 2 --log-every 5",
    "cnn": "--epochs 2 --steps 15 --train-samples 3000 --val-samples 300 --log-every 3",
    # Nobody is cut off at 400 words: the longest text is much longer than most, and it is in one batch.
    "text_classifier": "--epochs 1 --longest 400 --val-samples 320 --log-every 10",
    "gan": "--epochs 2 --steps 25 --log-every 5",
}
# The smallest batch that each can train with: what is left is what does not grow with the batch.
SMALLEST = "--batch-size 2"
SECONDS = 600  # of a run, at most
OTHER_CORES = 0.5  # as in src/verdict/judge.rs
THRASHING = 200  # major page faults a second
MEMORY_RAN_OUT = ("memory ran out", "out of memory", "MemoryError", "can't allocate memory")


class Bench(pairs.Bench):
    """One script in a folder of its own."""

    def __init__(self, args, folder, name):
        super().__init__(args, folder)
        self.name = name

    def command(self, *more):
        words = ["--device", "cpu", *EXAMPLES[self.name].split(), *more]
        return [sys.executable, self.name + ".py", *words]

    def launch(self, argv):
        return measured.launch(argv, self.folder, self.environment(), SECONDS)

    def peak(self, *more):
        run = self.launch(self.command(*more))
        if run["status"] != 0:
            raise SystemExit(f"{self.name} does not run as it is\n{run['error']}")
        return run["peak_bytes"]

    def search(self, cap, *more):
        words = ["tune", "--device", "cpu", "--json", "-q", "--budget", self.args.budget, *more]
        words += ["--memory-cap", str(cap)] if cap else []
        # 3: nothing fits, which is an answer.
        return self.autofit([*words, "--", *self.command()], status=(0, 3))

    def production(self, cap, seed):
        words = [self.args.bin, "run", *(["--memory-cap", str(cap)] if cap else []), "--"]
        run = self.launch([*words, *self.command("--seed", str(seed))])
        row = {"seed": seed, "outcome": outcome(run), **run}
        # What a good run says is of no interest to anybody.
        return {**row, "error": ""} if row["outcome"] == "fine" else row


def outcome(run):
    if run["status"] != 0:
        out = any(words in run["error"] for words in MEMORY_RAN_OUT)
        return "out of memory" if out else "timeout" if run["status"] is None else "failed"
    return "thrash" if run["major_faults"] > THRASHING * run["seconds"] else "fine"


def brief(result):
    """Of a search what the runs are compared with; `predictions.py` reads its trials."""
    keep = ("trial", "purpose", "settings", "verdict", "predicted")
    trials = [
        {
            **{k: t[k] for k in keep},
            "peak_bytes": t["measured"]["peak_host_bytes"],
            "windows": [{"settings": w["settings"], "peak": w.get("peak")} for w in t.get("windows", [])],
        }
        for t in result["trials"]
    ]
    return {
        "status": result["status"],
        "reason": result["reason"],
        "settings": (result["winner"] or {}).get("settings"),
        "cap_bytes": result["cap"]["bytes"],
        "confirmed": result["confirmed"],
        "cost": result["cost"],
        "notes": result["notes"],
        "trials": trials,
    }


def found(case):
    if case["search"]["status"] == "tuned":
        return pairs.spell(case["search"]["settings"]) or "the script as it is"
    return f"no winner: {case['search']['reason']}"


def hold(args, body, save):
    """The searches under limits, then the runs, by turns."""
    body["cases"], open_cases = [], []
    for name in args.examples.split(","):
        probe = Bench(args, os.path.join(args.keep, name + "-probe"), name)
        peak, fixed = probe.peak(), probe.peak(*SMALLEST.split())
        print(f"{name}: {peak >> 20} MiB, {fixed >> 20} MiB of it with the smallest batch", flush=True)
        for share in map(float, args.caps.split(",")):
            cap = int(share * peak)
            bench = Bench(args, os.path.join(args.keep, f"{name}-{share}"), name)
            case = {"example": name, "share": share, "own_peak_bytes": peak, "fixed_bytes": fixed}
            case.update(command=bench.command()[1:], memory_cap=cap, search=brief(bench.search(cap)), runs=[])
            body["cases"].append(case)
            save()
            print(f"{name} under {cap >> 20} MiB ({share}): {found(case)}", flush=True)
            if case["search"]["status"] == "tuned":
                open_cases.append((bench, case))
    for i in range(args.runs if open_cases else 0):
        bench, case = open_cases[i % len(open_cases)]
        run = bench.production(case["memory_cap"], seed=1000 + i)
        case["runs"].append(run)
        save()
        if run["outcome"] != "fine":
            print(f"{bench.name} under {case['memory_cap'] >> 20} MiB: {run['outcome']}", flush=True)
            print(run["error"], flush=True)
    runs = [r for c in body["cases"] for r in c["runs"]]
    every = ("fine", "out of memory", "thrash", "failed", "timeout")
    body["outcomes"] = {word: sum(r["outcome"] == word for r in runs) for word in every}
    body["peak_over_confirmed"] = over_confirmed(body["cases"])
    body["pass"] = bool(runs) and all(r["outcome"] == "fine" for r in runs)
    print(f"{len(runs)} runs of {len(open_cases)} winners: {body['outcomes']}", flush=True)
    print(f"peak over the confirmed one: {body['peak_over_confirmed']}", flush=True)


def over_confirmed(cases):
    """Peaks of production over the one that was confirmed: what a search must leave as room."""
    ratios = [r["peak_bytes"] / c["search"]["confirmed"]["peak_bytes"] for c in cases for r in c["runs"]]
    return {"median": statistics.median(ratios), "highest": max(ratios)} if ratios else None


def samples_per_step(folder, result):
    """Of the confirm trial, as its journal has it."""
    with open(os.path.join(folder, result["files"]["directory"], "journal.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(row) for row in file]
    trial = result["confirmed"]["trial"]
    timing = next(r["timing"] for r in rows if r["t"] == "observation" and r["trial"] == trial)
    return timing["samples_per_step"] or 1.0  # without samples the rate is one of steps


def agree(reported, rates):
    """Whether both are the same within their joint 95 % interval."""
    logs = [math.log(rate / reported["value"]) for rate in rates]
    production = pairs.interval(logs)
    low, high = (math.log(production["interval"][i] / production["ratio"]) for i in (0, 1))
    own = math.log(reported["interval"][1] / reported["interval"][0]) / 2
    half = math.hypot((high - low) / 2, own)
    off = math.log(production["ratio"])
    return {
        "production_over_reported": production["ratio"],
        "joint_interval": [math.exp(off - half), math.exp(off + half)],
        "agrees": abs(off) <= half,
        "within_3_percent": abs(off) <= math.log(1.03),
    }


def agreement(args, body, save):
    """Reported and seen throughput of each winner."""
    body["cases"] = []
    for name in args.examples.split(","):
        bench = Bench(args, os.path.join(args.keep, name + "-agreement"), name)
        result = bench.search(None)
        case = {"example": name, "command": bench.command()[1:], "search": brief(result), "runs": []}
        body["cases"].append(case)
        print(f"{name}: {found(case)}", flush=True)
        if case["search"]["status"] != "tuned":
            continue
        size, confirmed = samples_per_step(bench.folder, result), result["confirmed"]
        for i in range(args.runs):
            run = bench.production(None, seed=2000 + i)
            if run["outcome"] != "fine":
                raise SystemExit(f"{name}: {run['outcome']}\n{run['error']}")
            run["samples_per_second"] = size * run["steps_per_second"]
            case["runs"].append(run)
            save()
        verdicts = [t["verdict"] for t in case["search"]["trials"] if t["trial"] == confirmed["trial"]]
        busy = [r["other_cores"] for r in case["runs"]]
        case["disturbed"] = "disturbed" in verdicts or max(busy) > OTHER_CORES
        case["reported"] = confirmed["samples_per_second"]
        case.update(agree(case["reported"], [r["samples_per_second"] for r in case["runs"]]))
        save()
        told = f"production over reported {case['production_over_reported']:.3f} {case['joint_interval']}"
        print(f"{name}: {told}{' (disturbed)' if case['disturbed'] else ''}", flush=True)
    body["pass"] = all(c.get("agrees", False) for c in body["cases"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--runs", type=int, help="of all winners together [100], or of each [5]")
    parser.add_argument("--caps", default="1.0,0.9,0.75")
    parser.add_argument("--examples", default=",".join(EXAMPLES))
    parser.add_argument("--budget", default="4m", help="of a search")
    parser.add_argument("--keep", metavar="DIR")
    parser.add_argument("--bin", default=os.path.join(pairs.ROOT, "target", "release", "autofit"))
    parser.add_argument("--out")
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    kind = "agreement" if args.agreement else "production"
    args.runs = args.runs or (5 if args.agreement else 100)
    if args.agreement and not 2 <= args.runs <= len(pairs.T95) + 1:
        parser.error(f"--agreement takes 2 to {len(pairs.T95) + 1} runs of each")
    out = args.out or os.path.join(measured.results(), kind + ".json")
    body = {"version": 1, "kind": kind, **measured.machine()}
    kept, began = args.keep, time.monotonic()
    args.keep = os.path.abspath(kept) if kept else tempfile.mkdtemp(prefix="autofit-production-")

    def save():
        # After each run: what is cut short keeps what it saw.
        body["seconds"] = round(time.monotonic() - began, 1)
        measured.write(out, body)

    try:
        (agreement if args.agreement else hold)(args, body, save)
        save()
    finally:
        if not kept:
            shutil.rmtree(args.keep)
    print(out)
    return 0 if body["pass"] else 1


if __name__ == "__main__":
    sys.exit(main())
