"""`gradient_as_bucket_view` and `bucket_cap_mb`: applied where the script leaves them open, exactly."""

import json
import os
import subprocess
import sys
import unittest

import torch
import torch.distributed as dist
from support import AGENT, PYTHON, TIMEOUT
from support_knobs import agent
from support_ranks import TWO
from torch import nn
from torch.nn.parallel import DistributedDataParallel

HERE = os.path.dirname(os.path.abspath(__file__))
BOTH = {"gradient_as_bucket_view": True, "bucket_cap_mb": 7}


class TwoRanks(unittest.TestCase):
    """All cases of buckets_worker.py, in one launch."""

    @unittest.skipUnless(sys.version_info >= (3, 11), "several processes of a plain script need Python 3.11")
    def test_training_is_the_same_to_the_last_bit_and_gradients_lie_in_the_buckets(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("AUTOFIT_")}
        env.update(PYTHONPATH=os.pathsep.join([HERE, AGENT]), OMP_NUM_THREADS="1")
        command = [PYTHON, *TWO, os.path.join(HERE, "buckets_worker.py")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        # Two ranks write into one pipe: a line may come behind the end of another.
        decode = json.JSONDecoder().raw_decode
        cases = [decode(part)[0] for part in done.stdout.split("CASE ")[1:]]
        self.assertEqual(len(cases), 14)
        for case in cases:
            with self.subTest(case=case["case"], rank=case["rank"]):
                self.assertEqual(case["faults"], [])
                self.assertEqual(case["same"], [True] * 4)
                self.assertGreaterEqual(case["steps"], 8)
                self.assertEqual(case["of"][0], case["of"][1])
                self.assertEqual(case["inside"][0], 0)
                self.assertEqual(case["inside"][1], case["of"][1])
                reports = case["knobs"]
                self.assertEqual(reports["gradient_as_bucket_view"]["effective"], True, reports)
                self.assertEqual(reports["bucket_cap_mb"]["effective"], 1, reports)


class OneProcess(unittest.TestCase):
    """What is read back, what the script passes by itself, and where there is nothing to turn."""

    @classmethod
    def setUpClass(cls):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        cls.addClassCleanup(dist.destroy_process_group)

    def reports(self, wrap, settings):
        with agent(settings) as tuned:
            model = wrap(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(3):
                model(torch.randn(2, 4)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            tuned.session.flush()
            self.assertEqual(tuned.of("fault"), [])
            exchange = tuned.of("detected")[-1]["exchange"]
            return {name: tuned.knob(name) for name in settings}, exchange, model

    def test_both_are_added_and_read_back(self):
        reports, exchange, model = self.reports(DistributedDataParallel, BOTH)
        self.assertEqual({name: report["effective"] for name, report in reports.items()}, BOTH)
        self.assertEqual(
            reports["bucket_cap_mb"]["how"], "DistributedDataParallel(bucket_cap_mb) of Sequential"
        )
        self.assertEqual(exchange, {**BOTH, "passed": []})
        self.assertEqual((model.gradient_as_bucket_view, model.bucket_bytes_cap), (True, 7 << 20))

    def test_what_the_script_passes_stays(self):
        def wrap(module):
            return DistributedDataParallel(module, bucket_cap_mb=0.5, gradient_as_bucket_view=False)

        reports, exchange, model = self.reports(wrap, BOTH)
        for name, own in (("gradient_as_bucket_view", "False"), ("bucket_cap_mb", "0.5")):
            self.assertIsNone(reports[name]["effective"])
            self.assertEqual(reports[name]["reason"], f"the script passes {name}={own} by itself")
        passed = ["gradient_as_bucket_view", "bucket_cap_mb"]
        self.assertEqual(exchange, {"gradient_as_bucket_view": False, "bucket_cap_mb": 0.5, "passed": passed})
        self.assertEqual((model.gradient_as_bucket_view, model.bucket_bytes_cap), (False, 1 << 19))

    def test_arguments_by_position_are_the_scripts_too(self):
        def wrap(module):
            return DistributedDataParallel(module, None, None, 0, True, True, None, 3)

        reports, exchange, _ = self.reports(wrap, BOTH)
        self.assertEqual(reports["bucket_cap_mb"]["reason"], "the script passes bucket_cap_mb=3 by itself")
        self.assertTrue(reports["gradient_as_bucket_view"]["effective"])
        self.assertEqual(exchange["passed"], ["bucket_cap_mb"])

    def test_a_subclass_is_wrapped_all_the_same(self):
        class Mine(DistributedDataParallel):
            def __init__(self, module):
                super().__init__(module, bucket_cap_mb=9)

        reports, _, model = self.reports(Mine, BOTH)
        self.assertTrue(reports["gradient_as_bucket_view"]["effective"])
        self.assertEqual(model.bucket_bytes_cap, 9 << 20)

    def test_without_copies_there_is_nothing_to_turn(self):
        reports, exchange, _ = self.reports(lambda module: module, BOTH)
        for name in BOTH:
            self.assertIsNone(reports[name]["effective"])
            self.assertEqual(reports[name]["reason"], "no DistributedDataParallel was built")
        self.assertIsNone(exchange)

    def test_what_is_built_afterwards_is_as_it_would_be(self):
        self.reports(DistributedDataParallel, BOTH)
        model = DistributedDataParallel(nn.Linear(2, 2))
        self.assertEqual((model.gradient_as_bucket_view, model.bucket_bytes_cap), (False, 25 << 20))


if __name__ == "__main__":
    unittest.main()
