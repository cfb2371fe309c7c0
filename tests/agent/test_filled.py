"""What was alive when memory ran out: told once, in the script's way nowhere, and right."""

import unittest

from support import AgentTest

GIB = 1 << 30
MIB = 1 << 20
SCRIPT = """
import gc
import torch
from torch import nn
torch.set_num_threads(1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(512, 512) for _ in range(8)])
        self.hungry = False

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        if self.hungry:
            x = x + torch.zeros(1 << 36)  # a quarter of a TiB
        return x

class Loud(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        print("asked", flush=True)
        return super().__torch_function__(func, types, args, kwargs or {})

loud = torch.ones(3).as_subclass(Loud)

data = torch.randn(8192, 512)
model = Net()
optimizer = torch.optim.AdamW(model.parameters())

def step():
    optimizer.zero_grad()
    model(data).square().mean().backward()
    optimizer.step()

step()
step()
model.hungry = True
"""
FATAL = SCRIPT + "step()\n"
CAUGHT = (
    SCRIPT
    + """
for _ in range(3):
    try:
        step()
    except RuntimeError as error:
        assert "memory" in str(error), error
model.hungry = False
for _ in range(2):
    step()
print("went on", flush=True)
"""
)
CHECKPOINTED = FATAL.replace(
    "x = torch.relu(layer(x))",
    "x = torch.utils.checkpoint.checkpoint(lambda x: torch.relu(layer(x)), x, use_reentrant=False)",
).replace("import torch\n", "import torch\nimport torch.utils.checkpoint\n")


class Filled(AgentTest):
    limit = {"rlimit_data": 4 * GIB}

    def filled(self, script, code):
        result = self.launch(script, **self.limit)
        self.assertEqual(result.code, code, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        return result, result.one("filled")

    def test_what_the_graph_and_the_script_hold_is_told(self):
        result, filled = self.filled(FATAL, 1)
        self.assertNotIn("asked", result.out, "a class of tensors that may compute, or wait for other ranks")
        self.assertIn("DefaultCPUAllocator", result.last("oom")["message"])
        self.assertEqual(filled["device"], "cpu")
        parts = filled["categories"]
        weights = 8 * 4 * (512 * 512 + 512)
        self.assertEqual(parts["parameters"], weights)
        self.assertAlmostEqual(parts["optimizer_state"] / (2 * weights), 1, delta=0.01)
        # Each layer's result after the activation function, 16 MiB; the last one also has a name.
        self.assertAlmostEqual(parts["activations"] / MIB, 8 * 16, delta=17)
        self.assertAlmostEqual(parts["kept"] / MIB, 16, delta=1)  # the data
        self.assertEqual(sum(parts.values()), filled["bytes"])
        self.assertFalse(filled["partial"])
        first = filled["blocks"][0]
        self.assertEqual(
            (first["category"], first["shape"], first["dtype"]), ("activations", [8192, 512], "float32")
        )

    def test_a_script_that_catches_it_goes_on_and_is_asked_once(self):
        result, filled = self.filled(CAUGHT, 0)
        self.assertIn("went on", result.out)
        self.assertEqual(len(result.all("oom")), 3, result.describe())
        self.assertGreater(filled["categories"]["activations"], 100 * MIB)

    def test_what_a_checkpoint_would_compute_again_is_not_computed_now(self):
        _, filled = self.filled(CHECKPOINTED, 1)
        # Inputs of the checkpoints: what goes from layer to layer.
        self.assertLess(filled["categories"].get("activations", 0), 9 * 16 * MIB)
        self.assertFalse(filled["partial"])


if __name__ == "__main__":
    unittest.main()
