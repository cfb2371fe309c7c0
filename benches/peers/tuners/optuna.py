"""Optuna: TPE with a median pruner over a script that was given switches, at the script's own batch size."""

import json
import os
import sys

import finding
import place as places


def find(scenario, bench):
    edits = [f"{scenario.script}-switches.patch", "optuna_study.py"]
    place = places.Place(edits)
    script = [sys.executable, scenario.script + ".py"]
    trial = [sys.executable, os.path.join(places.HERE, "limit.py"), scenario.cap, "--"]
    trial += [*script, *scenario.short(steps=10)]
    words = [sys.executable, "optuna_study.py", scenario.script, str(bench.trials), *trial]
    launch = place.launch(words, timeout=1200.0)
    found = finding.Finding("Optuna", finding.version("optuna"), edits, launch.seconds, bench.trials)
    found.attempts = [{**launch.record(), "output": launch.rows()}]
    if not launch.ok:
        found.note = launch.tail()[-1]
        place.close()
        return found
    best = json.loads(launch.output.splitlines()[-1])
    if not best["value"]:
        found.note = "no trial fits"
        place.close()
        return found
    env = best["environment"]
    found.found = ", ".join(f"{k}={v}" for k, v in best["parameters"].items())
    found.candidate = finding.Candidate(
        place, [*script, *scenario.production(), *best["options"]], scenario.batch, env
    )
    bench.say(f"Optuna: {found.found}, {launch.seconds:.0f} s")
    return found
