"""autofit: `autofit --memory-cap SIZE -- COMMAND`, then `autofit run -- COMMAND`; the script as it is."""

import json
import re
import sys

import finding
from place import Place


def find(scenario, bench):
    place = Place()
    script = [sys.executable, scenario.script + ".py", *scenario.production()]
    words = [bench.binary, "tune", "--device", "cpu", "--memory-cap", scenario.cap, "--json", "-q", "--fresh"]
    launch = place.launch([*words, "--", *script], timeout=1200.0)
    version = bench.output([bench.binary, "--version"]).split()[-1]
    found = finding.Finding("autofit", version, [], launch.seconds, 0, attempts=[launch.record()])
    if not launch.ok:
        found.note = " ".join(launch.tail()[-2:])
        place.close()
        return found
    # Warnings may stand before and behind the document.
    start = re.search(r"^\{", launch.output, re.MULTILINE).start()
    result, _ = json.JSONDecoder().raw_decode(launch.output, start)
    settings = result["winner"]["settings"]
    found.trials = result["cost"]["launches"]
    found.found = ", ".join(f"{k}={str(v).lower()}" for k, v in settings.items()) or "the script as it is"
    found.candidate = finding.Candidate(
        place, [bench.binary, "run", "--", *script], settings.get("batch_size", scenario.batch)
    )
    bench.say(f"autofit: {found.found}, {found.trials} launches, {launch.seconds:.0f} s")
    return found
