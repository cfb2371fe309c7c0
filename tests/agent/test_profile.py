"""A profile: operators, and what the memory at the peak of a steady step was for."""

import gzip
import json
import os
import unittest

from support import AgentTest

SCRIPT = """
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))

model = nn.Sequential(*[Block(64) for _ in range(4)], nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters())
x, y = torch.randn(2048, 64), torch.randint(0, 10, (2048,))
print(sum(p.numel() * 4 for p in model.parameters()))
print(sum(b.numel() * b.element_size() for b in model.buffers()), flush=True)
while True:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
MIB = 1 << 20


class Profile(AgentTest):
    def profile(self, script=SCRIPT, **changes):
        result = self.launch(script, profile=True, parity_steps=0, **changes)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        self.assertEqual(result.last("end")["reason"], "measured", result.describe())
        return result, result.one("profile")

    def test_the_categories_add_up_to_what_the_allocator_traced(self):
        result, profile = self.profile()
        memory = profile["memory"]
        parts = memory["categories"]
        self.assertEqual(sum(parts.values()), memory["peak"], profile)
        self.assertTrue(all(size >= 0 for size in parts.values()), profile)
        parameters, buffers = map(int, result.out.split())
        self.assertEqual((parts["parameters"], parts["buffers"]), (parameters, buffers), profile)
        # Two moments of each parameter, and a count of steps.
        self.assertAlmostEqual(parts["optimizer_state"] / (2 * parameters), 1, delta=0.01)
        # Of each block: what the normalisation is given and gives, and what the second layer is given, 4x
        # as wide (the sum is the next block's input); 2048 samples of 64 floats are half a MiB.
        self.assertAlmostEqual(parts["activations"] / MIB, 4 * (0.5 + 0.5 + 2) + 0.5, delta=1.0)
        self.assertLess(parts["other"], 0.35 * memory["peak"], "most of it is explained")
        self.assertEqual(profile["notes"], [])

    def test_operators_and_the_trace(self):
        _, profile = self.profile()
        first = profile["by_time"][0]
        self.assertIn("mm", first["operator"], profile["by_time"])
        self.assertLessEqual(sum(row["share"] for row in profile["by_time"]), 1.0001)
        self.assertGreater(profile["by_memory"][0]["value"], MIB)
        with gzip.open(os.path.join(self.trial, "trace.json.gz"), "rt", encoding="utf-8") as file:
            names = {event.get("name") for event in json.load(file)["traceEvents"]}
        self.assertIn("aten::addmm", names)
        self.assertGreater(profile["host"]["rest"], 50 * MIB, "an interpreter with torch in it")

    def test_recomputed_activations_are_not_held(self):
        _, plain = self.profile()
        self.new_trial(2)
        _, less = self.profile(settings={"checkpoint": "all"}, ways={"checkpoint": "agent"})
        held = [p["memory"]["categories"]["activations"] for p in (plain, less)]
        self.assertLess(held[1], 0.6 * held[0], held)
        self.assertLess(less["memory"]["peak"], plain["memory"]["peak"])


if __name__ == "__main__":
    unittest.main()
