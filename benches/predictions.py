"""How near the peak that a search predicts for its next launch comes to the one that is measured.

    python3 benches/predictions.py [--examples gpt,cnn] [--keep DIR] [--bin FILE] [--out FILE] [FILE...]

For each script of examples/ a search that may enlarge the batch and one that may lower it, so that settings
are met with several batches; and the searches that each FILE tells of (a file of `production.py`, which has
those under limits; production.json unless others are named).  Every launch with a predicted and a
measured peak counts, but the first, sweeps and comparisons of losses, for which nothing is predicted.

An error is |predicted - measured|, relative to the measured peak, and to its activation part: the peak less
what the script needs with the smallest batch (interpreter, libraries, parameters, gradients, the optimizer's
state, its data).  A launch is within a rung where one with the same settings of knobs that lower memory, the
size of a batch and of its parts left out, was measured before it; else it is across rungs.  Needs torch and
`target/release/autofit`; uses the processor, and needs no quiet machine.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile

import measured
import pairs
import production

# What makes a rung; batch_size and accumulation are how far one goes on it.
RUNG = (
    "allocator",
    "checkpoint",
    "offload",
    "amp",
    "malloc",
    "activation_memory_budget",
    "strategy",
    "compile",
)
# Within a rung: median and worst of the error relative to the peak, median relative to the activation part.
GOALS = {"median": 0.02, "worst": 0.05, "activation_median": 0.10}
# Searches that change the batch: the limit as a share of the script's own peak.
BATCHES = {"lower": 0.8, "max": 1.5}
# Less than this part of the peak is no activation part to compare with: the peak is reached before training.
LEAST_ACTIVATIONS = 0.05
RAN = ("fit", "disturbed")


def rung(settings):
    return tuple((k, settings[k]) for k in RUNG if k in settings)


def predictions(case):
    """Each launch of a search with both figures."""
    met, fixed = set(), case["fixed_bytes"]
    for trial in case["search"]["trials"]:
        expected = (trial["predicted"] or {}).get("peak_bytes")
        if expected and trial["peak_bytes"] and trial["verdict"] in RAN:
            off, grown = abs(expected - trial["peak_bytes"]), trial["peak_bytes"] - fixed
            yield {
                "example": case["example"],
                "settings": trial["settings"],
                "purpose": trial["purpose"],
                "predicted": expected,
                "measured": trial["peak_bytes"],
                "within_rung": rung(trial["settings"]) in met,
                "of_peak": off / trial["peak_bytes"],
                "of_activations": off / grown if grown > LEAST_ACTIVATIONS * trial["peak_bytes"] else None,
            }
        if trial["verdict"] in RAN:
            met.add(rung(trial["settings"]))
        met.update(rung(w["settings"]) for w in trial.get("windows", []) if w.get("peak"))


def surprises(case):
    """Confirm trials that were predicted to fit and ran out of memory."""
    cap = case["search"]["cap_bytes"]
    for trial in case["search"]["trials"]:
        expected = (trial["predicted"] or {}).get("peak_bytes")
        if trial["purpose"] == "confirm" and trial["verdict"] in ("oom", "thrash") and expected:
            yield from [{"example": case["example"], **trial}] if expected <= cap else []


def summary(rows):
    if not rows:
        return {"launches": 0}
    peak = [r["of_peak"] for r in rows]
    activations = [r["of_activations"] for r in rows if r["of_activations"] is not None]
    return {
        "launches": len(rows),
        "median": statistics.median(peak),
        "worst": max(peak),
        "activation_launches": len(activations),
        "activation_median": statistics.median(activations) if activations else None,
        "activation_worst": max(activations, default=None),
    }


def search(args, name):
    """Two searches, one for smaller and one for larger batches."""
    probe = production.Bench(args, os.path.join(args.keep, name + "-probe"), name)
    peak, fixed = probe.peak(), probe.peak(*production.SMALLEST.split())
    for batch, share in BATCHES.items():
        cap = int(share * peak)
        bench = production.Bench(args, os.path.join(args.keep, f"{name}-batch-{batch}"), name)
        found = production.brief(bench.search(cap, "--batch", batch))
        case = {
            "example": name,
            "own_peak_bytes": peak,
            "fixed_bytes": fixed,
            "batch": batch,
            "memory_cap": cap,
        }
        yield {**case, "search": found}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--examples", default=",".join(production.EXAMPLES), help="empty: FILEs alone")
    parser.add_argument("--budget", default="4m", help="of a search")
    parser.add_argument("--keep", metavar="DIR")
    parser.add_argument("--bin", default=os.path.join(pairs.ROOT, "target", "release", "autofit"))
    parser.add_argument("--out", default=os.path.join(measured.results(), "predictions.json"))
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    kept = args.keep
    args.keep = os.path.abspath(kept) if kept else tempfile.mkdtemp(prefix="autofit-predictions-")
    cases = []
    published = os.path.join(measured.results(), "production.json")
    for path in args.files or ([published] if os.path.exists(published) else []):
        cases += measured.read(path)["cases"]
    body = {"version": 1, "kind": "predictions", **measured.machine(), "goals": GOALS, "searches": []}
    try:
        for name in filter(None, args.examples.split(",")):
            for case in search(args, name):
                body["searches"].append(case)
                measured.write(args.out, body)
                print(f"{name}, batch {case['batch']}: {production.found(case)}", flush=True)
    finally:
        if not kept:
            shutil.rmtree(args.keep)
    cases += body["searches"]
    rows = [row for case in cases for row in predictions(case)]
    body["predictions"] = rows
    body["within_rung"] = summary([r for r in rows if r["within_rung"]])
    body["across_rungs"] = summary([r for r in rows if not r["within_rung"]])
    body["surprises"] = [s for case in cases for s in surprises(case)]
    seen = body["within_rung"]
    body["met"] = {goal: seen.get(goal) is not None and seen[goal] <= most for goal, most in GOALS.items()}
    body["pass"] = all(body["met"].values()) and not body["surprises"]
    measured.write(args.out, body)
    for part in ("within_rung", "across_rungs"):
        print(part, {k: v if v is None else round(v, 4) for k, v in body[part].items()})
    print("goals met:", body["met"], "; predicted to fit and did not:", len(body["surprises"]))
    print(args.out)
    return 0 if body["pass"] else 1


if __name__ == "__main__":
    sys.exit(main())
