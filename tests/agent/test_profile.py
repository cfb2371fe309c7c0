"""A profile: operators, and what the memory at the peak of a steady step was for."""

import gzip
import json
import os
import sys
import unittest

from support import ROOT, AgentTest

sys.path.insert(0, os.path.join(ROOT, "tests", "gpu"))
import memory_parts  # noqa: E402

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
        y = self.up(self.norm(x))
        y = torch.relu(y)  # wide
        return x + self.down(y)

model = nn.Sequential(*[Block(64) for _ in range(4)], nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters())
x, y = torch.randn(2048, 64), torch.randint(0, 10, (2048,))
told = [sum(p.numel() * 4 for p in model.parameters())]
told += [sum(b.numel() * b.element_size() for b in model.buffers()), x.numel() * 4 + y.numel() * 8]
print(*told, flush=True)
while True:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
# Keeps a data set and the last results, makes a large block that nobody needs, and has a tensor that says so
# when it is asked anything: such a class may compute, or wait for other ranks.
WASTEFUL = """
import torch
from torch import nn
torch.set_num_threads(1)

class Loud(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        print("asked", flush=True)
        return super().__torch_function__(func, types, args, kwargs or {})

loud = torch.ones(3).as_subclass(Loud)
data = torch.randn(1 << 20)
model = nn.Linear(256, 256)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
while True:
    x = data.view(4096, 256)
    optimizer.zero_grad(set_to_none=False)
    result = model(x)
    waste = torch.zeros(4 << 20)  # not used
    loss = result.square().mean()
    loss.backward()
    optimizer.step()
"""
EXAMPLES = {
    "gpt": "--batch-size 16 --n-layer 4",
    "cnn": "--batch-size 64",
    "text_classifier": "--batch-size 16",
    "gan": "--batch-size 32",
}
MIB = 1 << 20


class Profile(AgentTest):
    def profile(self, script=SCRIPT, *args, **changes):
        result = self.launch(script, *args, profile=True, parity_steps=0, **changes)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        self.assertEqual(result.last("end")["reason"], "measured", result.describe())
        self.assertEqual(result.all("filled"), [], "nothing ran out")
        return result, result.one("profile")

    def line(self, text, script=SCRIPT):
        """Where this stands in the script, as the table names it."""
        rows = script.splitlines()
        found = [i for i, row in enumerate(rows, 1) if text in row]
        self.assertEqual(len(found), 1, text)
        return f"script.py:{found[0]}"

    def rows(self, profile, **fields):
        table = profile["memory"]["blocks"]
        return [row for row in table if all(row[name] == value for name, value in fields.items())]

    def assert_adds_up(self, profile):
        """The blocks that were given a part, and what the allocator counted by itself, within 5 %."""
        memory = profile["memory"]
        self.assertEqual(sum(memory["categories"].values()), memory["peak"], memory)
        for what, holds, numbers in memory_parts.judge(memory, 0.05):
            self.assertTrue(holds, f"{what}: {numbers}")

    def test_the_categories_add_up_to_what_the_allocator_counted(self):
        result, profile = self.profile()
        self.assert_adds_up(profile)
        parts = profile["memory"]["categories"]
        parameters, buffers, inputs = map(int, result.out.split())
        self.assertEqual((parts["parameters"], parts["buffers"]), (parameters, buffers), profile)
        # Two moments of each parameter, and a count of steps.
        self.assertAlmostEqual(parts["optimizer_state"] / (2 * parameters), 1, delta=0.01)
        # Of each block: what the normalisation is given and gives, and what the second layer is given, 4x
        # as wide (the sum is the next block's input); 2048 samples of 64 floats are half a MiB.
        self.assertAlmostEqual(parts["activations"] / MIB, 4 * (0.5 + 0.5 + 2), delta=1.0)
        # The batch is the same in all steps.
        self.assertEqual(parts["inputs"] + parts["kept"], inputs, parts)
        self.assertEqual(profile["notes"], [])

    def test_blocks_have_the_line_that_made_them(self):
        _, profile = self.profile()
        wide = self.rows(profile, category="activations", place=self.line("# wide"))
        self.assertEqual([(r["shape"], r["dtype"], r["count"]) for r in wide], [([2048, 256], "float32", 4)])
        self.assertEqual(wide[0]["bytes"], 4 * 2 * MIB)
        self.assertEqual(wide[0]["what"], "aten::relu")
        moments = self.rows(profile, category="optimizer_state", shape=[256, 64])
        self.assertEqual(sum(row["count"] for row in moments), 2 * 4, profile["memory"]["blocks"])
        named = self.rows(profile, category="parameters", shape=[256, 64])
        self.assertEqual([(row["what"], row["count"]) for row in named], [("0.up.weight", 4)])

    def test_what_a_script_keeps_for_itself(self):
        result, profile = self.profile(WASTEFUL)
        self.assertNotIn("asked", result.out)
        self.assert_adds_up(profile)
        parts = profile["memory"]["categories"]
        # In the second half of a step: the new block, and that of the step before was let go at its line.
        waste = self.rows(profile, place=self.line("# not used", WASTEFUL))
        self.assertTrue(waste, profile["memory"])
        self.assertEqual({(row["category"], row["bytes"]) for row in waste}, {("kept", 16 * MIB)})
        # The data set is also what the model is called with.
        self.assertGreaterEqual(parts["inputs"] + parts["kept"], 4 * MIB + 16 * MIB)
        # Kept from step to step, as the script wants it.
        self.assertEqual(parts["gradients"], 4 * (256 * 256 + 256))

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
        self.assert_adds_up(less)

    def test_every_example_adds_up(self):
        for number, (name, options) in enumerate(EXAMPLES.items()):
            with self.subTest(example=name):
                self.new_trial(f"example-{number}")
                with open(os.path.join(ROOT, "examples", name + ".py"), encoding="utf-8") as file:
                    _, profile = self.profile(file.read(), *options.split(), "--device", "cpu")
                self.assert_adds_up(profile)
                memory = profile["memory"]
                self.assertLess(memory["categories"]["other"], 0.02 * memory["peak"], memory)
                placed = [row for row in memory["blocks"] if row["category"] == "activations"]
                self.assertTrue(placed, memory)
                unplaced = [row for row in placed if not (row["place"] or "").startswith("script.py:")]
                self.assertEqual(unplaced, [], "each activation has a line of the script")


if __name__ == "__main__":
    unittest.main()
