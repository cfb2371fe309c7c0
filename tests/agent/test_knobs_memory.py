"""Checkpointing and micro-batches lower the peak of host memory, measured in processes of their own."""

import json
import os
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


def peak(returns, **settings):
    """KiB above the start of training, with these settings read back as in force."""
    env = dict(
        os.environ, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="131072", MALLOC_TRIM_THRESHOLD_="131072"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "memory_knobs.py", returns, json.dumps(settings)],
        capture_output=True, text=True, check=False, env=env, cwd=HERE, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.strip().split("\n")[-1])
    assert said["effective"] == settings, said
    return said["peak"]


class Memory(unittest.TestCase):
    def test_peaks_fall(self):
        plain = peak("both")
        self.assertLess(peak("both", checkpoint="all"), 0.8 * plain)
        self.assertLess(peak("both", accumulation=4), 0.65 * plain)
        self.assertLess(peak("both", accumulation=4, checkpoint="all"), 0.6 * plain)

    def test_peak_falls_where_the_loss_is_outside(self):
        self.assertLess(peak("logits", accumulation=4), 0.8 * peak("logits"))


if __name__ == "__main__":
    unittest.main()
