"""accelerate's `find_executable_batch_size`: from a first size downwards, by a tenth, until one runs.

Where the script runs as it is, the first size is eight times its own, so that there is something to find.
"""

from . import in_process

ROOM = 8


def find(scenario, bench):
    first = scenario.batch * (ROOM if bench.as_is_runs else 1)
    edits = [f"{scenario.script}-accelerate.patch"]
    words = [scenario.script + ".py", *scenario.short(first)]
    tries = in_process.SIZE.findall
    return in_process.find(
        "accelerate", "accelerate", edits, words, scenario, bench, lambda output: len(tries(output))
    )
