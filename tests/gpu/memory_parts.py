"""What memory was for: a profile's categories, and what was alive at an out-of-memory error."""

import glob
import json
import os
import pickle
import sys

# Of the allocator's highest figure; it hands out a little more than it is asked for.
TOLERANCE = 0.02


def judge(memory, tolerance=TOLERANCE):
    """(what, holds, numbers) of a profile's memory: blocks with a part against the allocator's own count."""
    parts, counted = memory["categories"], memory["counted"]
    explained = memory["peak"] - parts["other"]
    numbers = {"peak": memory["peak"], "counted": counted, "explained": explained, "parts": parts}
    yield (
        "the categories add up to the allocator's own peak",
        counted > 0 and abs(memory["peak"] - counted) <= tolerance * counted,
        numbers,
    )
    yield (
        "what is not explained is small",
        abs(explained - counted) <= tolerance * counted and min(parts.values()) >= 0,
        numbers,
    )
    placed = [row for row in memory["blocks"] if row["category"] == "activations"]
    yield (
        "the largest activations have the line that made them",
        bool(placed) and all(row["place"] and row["shape"] for row in placed[:3]),
        {"rows": placed[:3]},
    )


def profiled(bench, name, arguments):
    """`autofit profile` of an example on the device."""
    before = bench.tree()
    out = os.path.join(bench.work, "out-profile")
    words = ["profile", "--device", "cuda", "--json", "-q", "--out", out]
    status, text, err, _, took = bench.autofit([*words, "--", sys.executable, name + ".py", *arguments], 60)
    try:
        found = json.loads(text)
    except ValueError:
        found = {}
    memory = found.get("memory")
    bench.evidence.check(
        f"{name}: a profile is told",
        status == 0 and bool(memory),
        status=status,
        seconds=took,
        files=found.get("files"),
        notes=found.get("notes"),
        err=None if memory else err[-600:],
    )
    for what, holds, numbers in judge(memory) if memory else ():
        bench.evidence.check(f"{name}: {what}", holds, **numbers)
    if memory:
        pieces = memory["pieces"]
        bench.evidence.check(
            f"{name}: the allocator's memory is cut up into what is used and what is free",
            pieces["reserved"] == pieces["allocated"] + pieces["free_segments"] + pieces["free_parts"],
            **pieces,
        )
    bench.leaves_nothing(f"profile of {name}", before)


def told_at_oom(bench, name, run):
    """What was alive when the first trial ran out: the table in the result, the snapshot in the journal."""
    trials = (run["result"] or {}).get("trials") or [{}]
    filled = (trials[0].get("oom") or {}).get("filled") or {}
    kept = sorted(glob.glob(os.path.join(run["out"], ".autofit", "*", "oom-*.pickle")))
    document = {}
    if kept:
        with open(kept[0], "rb") as file:
            document = pickle.load(file)
    held = sum(segment["allocated_size"] for segment in document.get("segments", ()))
    # The table is made a little later than the snapshot, when the request has failed for good.
    bench.evidence.check(
        f"{name}: what was alive when memory ran out is told, and the snapshot is kept",
        bool(kept) and held > 0 and abs(filled.get("bytes", 0) - held) <= 0.25 * held,
        snapshots=len(kept),
        in_snapshot=held,
        told=filled.get("bytes"),
        categories=filled.get("categories"),
        pieces=filled.get("pieces"),
    )
