"""What the acceptance suite does with knobs on a GPU, on the processor: launching, reading and judging."""

import copy
import os
import subprocess
import sys
import tempfile
import time
import unittest

from support import PYTHON, ROOT

sys.path.insert(0, os.path.join(ROOT, "tests", "gpu"))
import knobs  # noqa: E402

OPTIONS = {"steps": 60, "batch-size": 4, "block-size": 16, "n-layer": 2, "n-embd": 16, "device": "cpu"}
GPT = [f"--{name}={value}" for name, value in OPTIONS.items()]


def call(argv, seconds, **more):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AUTOFIT", "PYTHON"))}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            argv,
            cwd=folder,
            env={**env, **more},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    return done.returncode, done.stdout, done.stderr, 0, round(time.monotonic() - began, 1)


def launch(settings):
    argv = [PYTHON, os.path.join(ROOT, "examples", "gpt.py"), *GPT]
    with tempfile.TemporaryDirectory() as folder:
        return knobs.launch(call, folder, argv, settings, "cpu", 120)


class Judging(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.settings = {"optimizer": "foreach", "checkpoint": "selective"}
        cls.plain, cls.found = launch({}), launch(cls.settings)

    def failed(self, plain, found, settings=None, lower=False):
        settings = settings or self.settings
        judged = knobs.judge(plain, found, settings, knobs.EXACT, lower)
        return [what for what, holds, _ in judged if not holds]

    def test_what_is_in_force_and_trains_alike_passes(self):
        self.assertEqual(self.failed(self.plain, self.found), [], self.found)

    def test_a_knob_that_is_refused_does_not(self):
        settings = {"optimizer": "foreach", "offload": "activations"}
        found = launch(settings)
        self.assertEqual(self.failed(self.plain, found, settings), ["offload=activations in force"])
        self.assertIn("in host memory already", found["knobs"]["offload"]["reason"])

    def test_a_knob_that_nothing_was_said_of_does_not(self):
        settings = {**self.settings, "tf32": True}
        self.assertEqual(self.failed(self.plain, self.found, settings), ["tf32=true in force"])

    def test_other_losses_do_not(self):
        for losses in ([], [None] * 3, [a * 1.01 for a in self.plain["losses"]]):
            found = {**copy.deepcopy(self.found), "losses": losses}
            self.assertEqual(self.failed(self.plain, found), ["losses as without"])

    def test_a_launch_that_did_not_come_to_its_end_does_not(self):
        for change in ({"status": 1}, {"end": "script_ended"}, {"faults": ["a hook"]}):
            self.assertEqual(self.failed(self.plain, {**self.found, **change}), ["measured"])

    def test_the_peak_must_be_lower_where_it_is_asked_for(self):
        for ours, lower in ((None, False), (99, False), (90, True)):
            failed = self.failed({**self.plain, "peak": 100}, {**self.found, "peak": ours}, lower=True)
            self.assertEqual(failed, [] if lower else ["a lower peak"])

    def test_the_launches_name_examples_and_knobs_that_there_are(self):
        sys.path.insert(0, knobs.AGENT)
        from autofit_agent.knobs import KINDS

        for _, example, settings, *_ in knobs.LAUNCHES:
            self.assertTrue(os.path.exists(os.path.join(ROOT, "examples", example + ".py")))
            self.assertLessEqual(set(settings), set(KINDS))


if __name__ == "__main__":
    unittest.main()
