"""What was measured is what runs: production computes the very numbers that a trial with the settings did."""

import sys
import unittest

import torch.utils.checkpoint
from support import AgentTest

SCRIPT = """
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.dropout = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.1)

    def forward(self, x):
        return x + self.dropout(torch.relu(self.convolution(x)))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.blocks = nn.Sequential(*[Block() for _ in range(4)])

    def forward(self, x):
        return self.last(self.blocks(self.first(x)).mean((2, 3)))

model = Net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
draws = torch.Generator().manual_seed(1)
for step in range(40):
    images = torch.randn(8, 3, 8, 8, generator=draws)
    labels = torch.randint(0, 4, (8,), generator=draws)
    optimizer.zero_grad(set_to_none=False)
    nn.functional.cross_entropy(model(images), labels).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    if step == 5:
        with torch.no_grad():
            print(sum(p.double().abs().sum() for p in model.parameters()).item().hex(), flush=True)
"""
# Before PyTorch 2.5 there is no `selective`.
SELECTIVE = "selective" if hasattr(torch.utils.checkpoint, "CheckpointPolicy") else "alternate"
SETTINGS = (
    {"amp": "fp16", "accumulation": 2},
    {"amp": "bf16", "checkpoint": "all", "optimizer": "fused"},
    {"checkpoint": SELECTIVE, "optimizer": "foreach", "set_to_none": True},
    {"channels_last": True},
    {"compile": "default"},
)


class Production(AgentTest):
    def test_computes_what_the_trial_did(self):
        for number, settings in enumerate(SETTINGS):
            with self.subTest(settings):
                self.new_trial(number)
                changes = {"settings": settings, "ways": dict.fromkeys(settings, "agent")}
                trial = self.launch(SCRIPT, **changes)
                self.assert_measured(trial)
                reports = {report["knob"]: report["effective"] for report in trial.all("knob")}
                self.assertEqual(reports, settings)
                changes |= {"mode": "run", "trial_dir": None, "inspect": False, "parity_steps": 0}
                run = self.launch(SCRIPT, required=list(settings), **changes)
                # Nothing of ours; older versions of PyTorch warn of themselves.
                self.assertEqual((run.code, run.err), (0, trial.err), run.describe())
                self.assertNotIn("autofit: ", run.err)
                self.assertEqual(run.out, trial.out)
                self.assertTrue(run.out.startswith("0x"), run.describe())


if __name__ == "__main__":
    sys.exit(unittest.main())
