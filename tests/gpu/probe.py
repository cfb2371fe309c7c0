"""Runs a script as python would, without autofit, and writes the allocator's own figures at its end.

    python3 probe.py FIGURES [--fraction F] SCRIPT [ARGUMENT ...]

Also after an out-of-memory error.  With a fraction, the allocator may take that share of the device.
"""

import json
import os
import runpy
import sys


def main(argv):
    import torch

    path = argv.pop(0)
    if argv[0] == "--fraction":
        torch.cuda.set_per_process_memory_fraction(float(argv[1]))
        del argv[:2]
    sys.argv = argv
    sys.path[0] = os.path.dirname(os.path.abspath(argv[0]))
    try:
        runpy.run_path(argv[0], run_name="__main__")
    finally:
        stats = torch.cuda.memory_stats()
        figures = {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "num_ooms": stats.get("num_ooms"),
            "num_alloc_retries": stats.get("num_alloc_retries"),
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(figures, file)


if __name__ == "__main__":
    main(sys.argv[1:])
