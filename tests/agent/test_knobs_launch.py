"""Settings turned in a process of its own, as the launcher does it; and what the script does by itself."""

import os
import sys
import tempfile
import unittest

from support import AgentTest

HERE = os.path.dirname(os.path.abspath(__file__))

GPT = """
import torch
from models_knobs import GPT, tokens
torch.set_num_threads(1)
model = GPT("both")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for i, batch in enumerate(tokens(40)):
    logits, loss = model(batch[:, :-1], batch[:, 1:])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print("saw", i, flush=True)
"""

OWN = """
import torch
from torch.utils.checkpoint import checkpoint
torch.set_num_threads(1)
body, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False))

model = Model()
scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
optimizer = torch.optim.Adam(model.parameters())
for i in range(60):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.randn(6, 4)).float().square().mean()
    scaler.scale(loss / 3).backward()
    if i % 3 == 2:
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
"""


class Launch(AgentTest):
    def gpt(self, **changes):
        self.trial = tempfile.mkdtemp(dir=self.folder)  # one launch a folder: the first process claims it
        settings = changes.get("settings", {})
        return self.launch(GPT, extra_path=HERE, ways={name: "agent" for name in settings}, **changes)

    def losses(self, settings):
        result = self.gpt(settings=settings)
        self.assert_measured(result)
        reports = {r["knob"]: r["effective"] for r in result.all("knob")}
        self.assertEqual(reports, settings, result.describe())
        steps = result.all("step")[:3]
        return [s["loss"] for s in steps], [s["grad_norm"] for s in steps]

    def test_exact_knobs_leave_losses_and_gradient_norms(self):
        losses, norms = self.losses({})
        for settings in (
            {"accumulation": 4},
            {"checkpoint": "all"},
            {"accumulation": 2, "checkpoint": "alternate"},
        ):
            ours, our_norms = self.losses(settings)
            for a, b in zip(losses + norms, ours + our_norms):
                self.assertAlmostEqual(a, b, delta=2e-6 * abs(a), msg=settings)

    def test_autocast_rounds(self):
        losses, _ = self.losses({})
        ours, _ = self.losses({"amp": "bf16", "accumulation": 2})
        self.assertNotEqual(losses, ours)
        for a, b in zip(losses, ours):
            self.assertAlmostEqual(a, b, delta=0.02 * a)

    def test_production_goes_on_with_the_settings(self):
        result = self.gpt(
            mode="run", settings={"accumulation": 2, "checkpoint": "all"}, required=["checkpoint"]
        )
        self.assertEqual(result.code, 0, result.describe())
        self.assertIn("saw 39", result.out)
        self.assertNotIn("autofit: ", result.err)

    def test_production_stops_before_the_first_step(self):
        script = GPT.replace("GPT(", "CNN(").replace("import GPT", "import CNN")
        script = script.replace('CNN("both")', "CNN()").replace(
            "logits, loss = model(batch[:, :-1], batch[:, 1:])",
            "loss = model(torch.randn(4, 3, 8, 8)).square().mean()",
        )
        changes = {"mode": "run", "settings": {"accumulation": 2}, "ways": {"accumulation": "agent"}}
        result = self.launch(script, extra_path=HERE, required=["accumulation"], **changes)
        self.assertEqual(result.code, 125, result.describe())
        self.assertIn("BatchNorm", result.err)
        self.assertNotIn("saw 0", result.out)

    def test_what_the_script_does_by_itself(self):
        result = self.launch(OWN)
        self.assert_measured(result)
        found = result.last("detected")
        self.assertEqual(found["amp"], "bf16")
        self.assertTrue(found["checkpointing"])
        self.assertTrue(found["grad_scaler"])
        self.assertEqual(found["accumulation"], 3)
        self.assertEqual(found["optimizers"], ["Adam"])
        self.assertEqual((found["roots"], found["compile"], found["double_backward"]), (1, False, False))
        self.assertEqual((found["samples_per_step"], found["samples_from"]), (18, "dim0"))
        self.assertIsNone(found["distributed"])

    def test_the_first_call_runs_out_of_memory(self):
        """The baseline may die in its first forward: what is known then must have been told."""
        script = """
            import os, signal, torch
            from models_knobs import GPT, tokens
            class Model(GPT):
                def forward(self, *args):
                    super().forward(*args)
                    os.kill(os.getpid(), signal.SIGKILL)
            batch = tokens(1)[0]
            Model()(batch[:, :-1], batch[:, 1:])
        """
        result = self.launch(script, extra_path=HERE)
        self.assertEqual(result.code, -9)
        root = result.last("root")
        self.assertEqual((root["class"], root["blocks"]["count"], root["batch"]), ("Model", 4, 8))
        self.assertEqual(result.last("detected")["roots"], 1)


if __name__ == "__main__":
    sys.exit(unittest.main())
