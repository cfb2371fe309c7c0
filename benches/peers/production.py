"""What was found, in production: each configuration in turns, under the limit that it was found for."""

import math

from pairs import interval
from scenarios import rate


def measure(scenario, candidates, rounds, say):
    """`candidates` is name -> Candidate.  Those that are the same run are run once a round."""
    order = list(dict.fromkeys(candidate.key for candidate in candidates.values()))
    by_key = {candidate.key: candidate for candidate in candidates.values()}
    runs = {key: [] for key in order}
    for i in range(rounds):
        turn = order[i % len(order) :] + order[: i % len(order)]
        for key in turn if i % 2 == 0 else reversed(turn):
            candidate = by_key[key]
            cap = None if candidate.limited else scenario.cap_bytes
            launch = candidate.place.launch(candidate.command, cap=cap, env=candidate.env)
            speed = scenario_rate(launch, candidate)
            runs[key].append({**launch.record(), "evaluated": launch.evaluated, "samples_per_second": speed})
            names = [name for name, one in candidates.items() if one.key == key]
            say(f"  {', '.join(names)}: {'failed' if speed is None else f'{speed:.1f} samples/s'}")
    return {name: {"runs": runs[candidate.key]} for name, candidate in candidates.items()}


def scenario_rate(launch, candidate):
    """None for a run that did not come to its end: half a run has no throughput."""
    return rate(launch.marks, candidate.batch) if launch.ok else None


def ratio(runs, others):
    """Speed of one over another, round by round, with its 95 % interval; None where too few have both."""
    rates = [(a["samples_per_second"], b["samples_per_second"]) for a, b in zip(runs, others)]
    logs = [math.log(a / b) for a, b in rates if a and b]
    return interval(logs) if len(logs) >= 2 else None


def geometric_mean(ratios):
    """Of ratios that were measured apart from each other, with its 95 % interval."""
    logs = [math.log(one["ratio"]) for one in ratios]
    halves = [(math.log(one["interval"][1]) - math.log(one["interval"][0])) / 2 for one in ratios]
    middle, half = sum(logs) / len(logs), math.sqrt(sum(h * h for h in halves)) / len(logs)
    return {
        "scripts": len(logs),
        "ratio": math.exp(middle),
        "interval": [math.exp(middle - half), math.exp(middle + half)],
    }
