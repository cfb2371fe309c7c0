"""Double the batch until it fails, and take the last one that ran.

Where the script does not run as it is, it is halved until it does.
"""

import sys

import finding


def find(scenario, bench):
    batch, factor, launches, last = scenario.batch, 2.0, [], None
    while batch >= 1:
        command = [sys.executable, scenario.script + ".py", *scenario.short(batch)]
        launch = bench.plain.launch(command, cap=scenario.cap_bytes)
        launches.append(launch)
        bench.say(f"by hand: {batch} {'runs' if launch.ok else 'fails'}")
        if launch.ok:
            last = batch
        if last is None:
            factor = 0.5
        elif not launch.ok or factor < 1:
            break
        batch = int(batch * factor)
    return finding.Finding(
        tool="by hand",
        version="",
        edits=[],
        seconds=sum(launch.seconds for launch in launches),
        trials=len(launches),
        found=f"batch {last}" if last else None,
        candidate=finding.with_batch(bench.plain, scenario, last) if last else None,
        note="" if last else "nothing runs",
        attempts=[launch.record() for launch in launches],
    )
