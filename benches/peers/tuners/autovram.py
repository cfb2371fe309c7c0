"""autovram: launches the edited script with sizes in its environment, and ranks them by what it prints."""

import json
import os
import re
import shlex
import sys

import finding
import place as places

# As long as a trial of the others takes, and more.
SECONDS = "120"


def find(scenario, bench):
    edits = [f"{scenario.script}-autovram.patch"]
    place = places.Place(edits)
    script = [sys.executable, scenario.script + ".py"]
    # The limit is around each trial, not around the tool.
    trial = [sys.executable, os.path.join(places.HERE, "limit.py"), scenario.cap, "--"]
    trial += [*script, *scenario.short(steps=5)]
    words = ["autovram", "tune", "--cmd", shlex.join(trial), "--timeout", SECONDS]
    words += ["--metric", "samples_per_s"]
    launch = place.launch(words, timeout=1200.0)
    found = finding.Finding("autovram", finding.version("autovram"), edits, launch.seconds, 0)
    found.attempts = [{**launch.record(), "output": launch.rows()}]
    found.trials = len(re.findall(r"^Trial ", launch.output, re.MULTILINE))
    path = os.path.join(place.folder, ".autovram", "config.json")
    if not launch.ok or not os.path.exists(path):
        found.note = " ".join(launch.tail()[-2:])
        place.close()
        return found
    with open(path, encoding="utf-8") as file:
        best = json.load(file)
    size, precision = best["batch_size"], best["precision"]
    found.found = f"batch {size}, {precision}"
    found.candidate = finding.Candidate(
        place,
        [*script, *scenario.production(size)],
        size,
        {"AUTOVRAM_BATCH_SIZE": str(size), "AUTOVRAM_PRECISION": precision},
    )
    bench.say(f"autovram: {found.found}, {found.trials} trials, {launch.seconds:.0f} s")
    return found
