"""Scripts that never train: their models' calls are the steps, and what knobs do to the outputs is told."""

import unittest

from support import AgentTest

HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.outlet = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.extra = nn.Sequential(nn.Linear(5, 5), nn.ReLU())

    def forward(self, x):
        return self.extra(self.outlet(torch.relu(self.convolution(x)).mean((2, 3))))

model = Net().eval()
loader = DataLoader(TensorDataset(torch.randn(128, 3, 8, 8)), batch_size=4)
"""
LOOP = """
total = 0.0
with torch.{context}():
    for (x,) in loader:
        total += float(model(x).double().abs().sum())
print(total.hex())
"""


def script(context="inference_mode"):
    return HEAD + LOOP.replace("{context}", context)


class Inference(AgentTest):
    def test_calls_are_steps_and_the_model_is_a_root(self):
        result = self.launch(script())
        self.assert_measured(result)
        self.assertEqual({e["samples"] for e in result.all("step")}, {4})
        root = result.last("root")
        self.assertEqual((root["class"], root["serves"]), ("Net", True))
        self.assertTrue(any(e["training"] for e in result.all("loader")))
        told = result.one("parity")
        self.assertEqual(told["steps"], 3)
        self.assertEqual(sorted(told["outputs"]), [f"call {n}: the output" for n in range(3)])
        self.assertEqual(told["inputs"]["count"], 3 * 4 * 3 * 64)

    def test_knobs_are_in_force_and_show_in_the_outputs(self):
        plain = self.launch(script()).one("parity")
        cases = (
            ({"amp": "bf16"}, True),
            ({"amp": "fp16"}, True),
            ({"channels_last": True}, None),
            ({"compile": "default"}, None),
            ({"amp": "bf16", "channels_last": True}, True),
        )
        for number, (settings, differs) in enumerate(cases):
            for context in ("inference_mode", "no_grad"):
                with self.subTest(settings, context=context):
                    self.new_trial(f"{number}-{context}")
                    ways = dict.fromkeys(settings, "agent")
                    result = self.launch(script(context), settings=settings, ways=ways)
                    self.assert_measured(result)
                    reports = {r["knob"]: r["effective"] for r in result.all("knob")}
                    self.assertEqual(reports, settings, result.all("knob"))
                    tuned = result.one("parity")
                    self.assertEqual(tuned["inputs"], plain["inputs"])
                    distance = max(apart(tuned["outputs"][k], plain["outputs"][k]) for k in plain["outputs"])
                    self.assertLess(distance, 0.05)
                    if differs:
                        self.assertGreater(distance, 0.0)

    def test_inference_mode_changes_no_bit_and_nothing_that_the_script_may_do(self):
        """Outputs are changed in place and made leaves of autograd; bit for bit as without."""
        loop = LOOP.replace("{context}", "no_grad").replace(
            "total += float(model(x).double().abs().sum())",
            """out = model(x)
        out += 1
        out.requires_grad_()
        total += float(out.double().abs().sum())""",
        )
        change = {"settings": {"inference_mode": True}, "ways": {"inference_mode": "agent"}}
        result = self.launch(HEAD + loop, **change)
        self.assert_measured(result)
        report = result.last("knob")
        self.assertEqual(report["effective"], True, report)
        self.assertIn("1 of the first one's outputs copied", report["how"])
        told = result.one("parity")["outputs"]
        self.new_trial("plain")
        plain = self.launch(HEAD + loop)
        self.assertFalse(plain.last("root")["inference_mode"])
        self.assertEqual(plain.one("parity")["outputs"], told)
        run = {**change, "mode": "run", "serves": True, "required": ["inference_mode"]}
        run |= {"trial_dir": None, "inspect": False, "parity_steps": 0}
        outputs = []
        for number, more in enumerate(({}, {"settings": {}, "ways": {}, "required": []})):
            self.new_trial(number)
            done = self.launch(HEAD + loop, **{**run, **more})
            self.assertEqual((done.code, done.err), (0, ""), done.describe())
            outputs.append(done.out)
        self.assertEqual(*outputs)

    def test_inference_mode_is_in_force_in_the_calls(self):
        seen = "        print(torch.is_inference_mode_enabled(), x.is_inference())\n        return self.extra"
        noisy = script("no_grad").replace("        return self.extra", seen)
        changes = {"settings": {"inference_mode": True}, "ways": {"inference_mode": "agent"}}
        changes |= {"mode": "run", "serves": True, "trial_dir": None, "inspect": False, "parity_steps": 0}
        lines = self.launch(noisy, **changes).out.split("\n")
        # The first calls show that the script serves.
        self.assertEqual(set(lines[8:32]), {"True False"})

    def test_inference_mode_is_refused_with_the_reason(self):
        keeps = script("no_grad").replace(
            "        return self.extra", "        self.last = [x.mean()]\n        return self.extra"
        )
        keeps += "model.last[0] += 1\n"
        cases = (
            (script(), "the script calls Net in inference mode by itself"),
            (keeps, "Net keeps what it has computed"),
        )
        for number, (text, reason) in enumerate(cases):
            self.new_trial(number)
            change = {"settings": {"inference_mode": True}, "ways": {"inference_mode": "agent"}}
            result = self.launch(text, schedule={"min_steps": 400, "max_steps": 400}, **change)
            self.assertEqual((result.code, result.all("fault")), (0, []), result.describe())
            report = result.last("knob")
            self.assertIsNone(report["effective"], report)
            self.assertIn(reason, report["reason"])

    def test_what_needs_a_backward_pass_is_refused(self):
        for number, settings in enumerate(({"accumulation": 2}, {"checkpoint": "all"}, {"inplace": True})):
            self.new_trial(number)
            result = self.launch(script(), settings=settings, ways=dict.fromkeys(settings, "agent"))
            report = result.last("knob")
            self.assertIsNone(report["effective"], report)
            self.assertEqual(report["reason"], "Net is only called without gradients: nothing is trained")

    def test_production_does_the_same(self):
        settings = {"amp": "bf16", "channels_last": True}
        changes = {"settings": settings, "ways": dict.fromkeys(settings, "agent"), "mode": "run"}
        changes |= {"trial_dir": None, "inspect": False, "parity_steps": 0}
        outputs = []
        for number, more in enumerate(
            ({"serves": True, "required": list(settings)}, {"settings": {}, "ways": {}})
        ):
            self.new_trial(number)
            run = self.launch(script(), **{**changes, **more})
            self.assertEqual((run.code, run.err), (0, ""), run.describe())
            outputs.append(float.fromhex(run.out.strip()))
        self.assertNotEqual(*outputs)
        self.assertLess(abs(outputs[0] - outputs[1]) / outputs[1], 0.02)

    def test_a_script_that_trains_after_all(self):
        """More evaluation than a script that trains is expected to begin with."""
        train = """
with torch.no_grad():
    for _ in range(300):
        model(torch.randn(64, 3, 8, 8))
model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    model(torch.randn(2, 3, 8, 8)).mean().backward()
    optimizer.step()
"""
        result = self.launch(HEAD + train, schedule={"min_steps": 400, "max_steps": 400, "max_seconds": 60.0})
        self.assertEqual(result.all("fault"), [])
        self.assertEqual(result.all("step")[-1]["samples"], 2)


def apart(a, b):
    """The relative distance of two sketches."""
    squares = sum((x - y) ** 2 for x, y in zip(a["sketch"], b["sketch"]))
    return squares**0.5 / b["norm"]


if __name__ == "__main__":
    unittest.main()
