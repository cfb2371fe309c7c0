"""Finders that try sizes inside the user's own process, and rely on an error that Python can catch.

Under a cgroup, as under any limit that the kernel enforces on a processor, the finder is killed with the
first size that does not fit.  That is tried first, for it is what its users have.  Where it happened the
finder gets a second chance under the fairest limit there is for it: RLIMIT_DATA, under which PyTorch's
allocator raises the error that these finders look for.
"""

import re
import sys

import finding
from place import Place

SIZE = re.compile(r"^batch size (\d+)$", re.MULTILINE)


def find(tool, package, edits, words, scenario, bench, trials):
    """`trials(output)` counts the sizes that were tried."""
    command = [sys.executable, *words]
    attempts, size, note, tried = [], None, "", 0
    with Place(edits) as place:
        for data in (None, bench.data_limit(scenario)):
            cap = None if data else scenario.cap_bytes
            launch = place.launch(command, cap=cap, data=data)
            attempts.append({"limit": "RLIMIT_DATA" if data else "cgroup", **launch.record()})
            tried += trials(launch.output)
            if launch.ok:
                size = int(SIZE.findall(launch.output)[-1])
                break
            note = "the kernel killed it" if launch.oom_kills else launch.tail()[-1]
            bench.say(f"{tool}: {note}")
    if size and len(attempts) > 1:
        note = "killed by the kernel under the cgroup; found where allocations fail instead (RLIMIT_DATA)"
    bench.say(f"{tool}: {size}")
    return finding.Finding(
        tool=tool,
        version=finding.version(package),
        edits=edits,
        seconds=sum(one["seconds"] for one in attempts),
        trials=tried,
        found=f"batch {size}" if size else None,
        candidate=finding.with_batch(bench.plain, scenario, size) if size else None,
        note=note,
        attempts=attempts,
    )
