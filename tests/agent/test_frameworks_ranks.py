"""Frameworks in several ranks (gloo) whose model is sharded: the same training, or the true reason."""

import json
import os
import subprocess
import unittest

import torch
from models_frameworks import Text, bert, gpt2
from support import AGENT, PYTHON, TIMEOUT, AgentTest
from support_ranks import TWO
from test_frameworks_launch import lightning
from transformers import BertForSequenceClassification, GPT2LMHeadModel

HERE = os.path.dirname(os.path.abspath(__file__))
MOST = {"losses": 5e-6, "norms": 1e-5}
SAVED = 2e-4  # of parameters after steps of 0.01 whose gradients differ by rounding
ARCHITECTURES = {"GPT2LMHeadModel", "BertForSequenceClassification"}


class Equality(unittest.TestCase):
    """All cases of frameworks_ranks_worker.py."""

    def test_two_ranks(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("AUTOFIT_")}
        env.update(PYTHONPATH=os.pathsep.join([HERE, AGENT]), OMP_NUM_THREADS="1")
        command = [PYTHON, os.path.join(HERE, "frameworks_ranks_worker.py"), "2"]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr[-30000:])
        lines = json.loads(done.stdout)
        self.assertEqual(len(lines), 2 * 10)
        for line in lines:
            with self.subTest(**{k: line.get(k) for k in ("case", "strategy", "rank")}):
                (self.check_resumed if line["case"] == "resumed" else self.check)(line)

    def check(self, line):
        self.assertEqual(line["faults"], [])
        self.assertEqual(line["report"]["effective"], line["strategy"], line["report"])
        self.assertGreaterEqual(line["count"][0], 13)
        self.assertGreaterEqual(line["count"][1], 6)
        for figure, most in MOST.items():
            self.assertLess(line[figure], most, figure)
        theirs, ours = line["files"]
        self.assertEqual(theirs, ours)
        self.assertEqual(len(line["saved"]) + len(line["classes"]), len(theirs))
        self.assertTrue(line["saved"])
        for name, gap in line["saved"].items():
            self.assertLess(gap, SAVED, name)
        for mine, yours in line["classes"]:
            self.assertEqual(mine, yours)
            self.assertLess({*mine}, ARCHITECTURES)
        if line["strategy"] == "ddp":
            self.assertIsNone(line["held"])
        else:
            self.assertLess(line["held"], 0.6 * line["of"])

    def check_resumed(self, line):
        """Sharded from what the plain script has saved, and the plain script from what was sharded."""
        self.assertEqual(line["effective"], "fsdp")
        for figure, most in MOST.items():
            self.assertEqual(len(line[figure]), 2)
            self.assertLess(max(line[figure]), most, figure)


TRAINER = """
import torch
torch.set_num_threads(1)
from models_frameworks import Text, Trainer, TrainingArguments, bert, gpt2
args = TrainingArguments(output_dir="out", per_device_train_batch_size=4, num_train_epochs=2, use_cpu=True,
                         report_to=[], disable_tqdm=True)
trainer = Trainer(model=gpt2(), args=args, train_dataset=Text(80))
trainer.train()
trainer.save_model("final")
"""

UNUSED = """
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.spare = gpt2(), nn.Linear(3, 3)

    def forward(self, input_ids, labels):
        return self.inner(input_ids=input_ids, labels=labels)
"""

ACCELERATE = """
import torch
torch.set_num_threads(1)
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = TensorDataset(torch.randn(400, 4), torch.randint(0, 2, (400,)))
loader = DataLoader(data, batch_size=8, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for x, y in loader:
    loss = torch.nn.functional.cross_entropy(model(x), y)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
"""


class Launches(AgentTest):
    """The whole agent, in a script that torchrun starts."""

    def launch_two(self, script, **changes):
        path = self.write("train.py", script)
        settings = {"settings": {"strategy": "fsdp"}, "ways": {"strategy": "agent"}, "script_ranks": 2}
        return self.launch([PYTHON, *TWO, path], extra_path=HERE, **{**settings, **changes})

    def refused(self, script, words):
        """It says so in both ranks, and what was asked for is not reported as in force."""
        result = self.launch_two(script, parity_steps=0)
        reports = [r for r in result.all("knob") if r["knob"] == "strategy"]
        self.assertTrue(reports, result.describe())
        self.assertIsNone(reports[-1]["effective"], result.describe())
        self.assertTrue(any(words in (r["reason"] or "") for r in reports), reports)
        return result

    def test_production_saves_what_the_plain_script_loads(self):
        result = self.launch_two(TRAINER, mode="run", required=["strategy"], seed=None)
        self.assertEqual(result.code, 0, result.describe())
        loaded = GPT2LMHeadModel.from_pretrained(os.path.join(self.folder, "final"))
        self.assertLess(loss(loaded, Text(8)), loss(gpt2(), Text(8)))
        path = os.path.join(self.folder, "out", "checkpoint-20", "optimizer.pt")
        state = torch.load(path, weights_only=True)["state"]
        shapes = [tuple(s["exp_avg"].shape) for s in state.values()]
        self.assertCountEqual(shapes, [tuple(p.shape) for p in gpt2().parameters()])

    def test_production_of_a_classifier(self):
        script = TRAINER.replace("model=gpt2()", "model=bert()").replace("Text(80)", "Text(80, classes=3)")
        result = self.launch_two(script, mode="run", required=["strategy"], seed=None)
        self.assertEqual(result.code, 0, result.describe())
        loaded = BertForSequenceClassification.from_pretrained(os.path.join(self.folder, "final"))
        self.assertLess(loss(loaded, Text(80, classes=3)), loss(bert(), Text(80, classes=3)))

    def test_a_parameter_without_a_gradient(self):
        script = TRAINER.replace("args =", UNUSED + "args =").replace("model=gpt2()", "model=Model()")
        result = self.refused(script, "2 parameters had no gradient in the first step")
        self.assertIn("refused", {e["reason"] for e in result.all("end")}, result.describe())

    def test_production_stops_where_a_parameter_has_no_gradient(self):
        script = TRAINER.replace("args =", UNUSED + "args =").replace("model=gpt2()", "model=Model()")
        result = self.launch_two(script, mode="run", required=["strategy"], seed=None)
        self.assertNotEqual(result.code, 0, result.describe())
        self.assertIn("2 parameters had no gradient in the first step", result.err)

    def test_unused_parameters_that_the_script_has_looked_for(self):
        script = TRAINER.replace("use_cpu=True", "use_cpu=True, ddp_find_unused_parameters=True")
        result = self.refused(script, "it looks for unused parameters")
        self.assertEqual(result.code, 0, result.describe())

    def test_a_model_that_is_not_prepared(self):
        script = ACCELERATE.replace(
            "model, optimizer, loader = accelerator.prepare(model, optimizer, loader)", ""
        )
        self.refused(script, "has not wrapped a model in DistributedDataParallel")

    def test_gradients_that_are_exchanged_late(self):
        script = ACCELERATE.replace(
            "    accelerator.backward(loss)",
            "    with accelerator.trigger_sync_in_backward(model):\n        accelerator.backward(loss)",
        )
        self.refused(script, "trigger_sync_in_backward")

    def test_lightnings_trainer(self):
        script = lightning(extra=', devices=2, strategy="ddp"')
        result = self.refused(script, "Lightning's Trainer wraps the model by a strategy of its own")
        self.assertEqual(result.code, 0, result.describe())

    def test_an_inspection_names_the_switch_that_is_not_used(self):
        for number, (script, how, agent) in enumerate(
            [
                (TRAINER, "TrainingArguments.fsdp", True),
                (ACCELERATE, "Accelerator(fsdp_plugin)", True),
                (lightning(extra=', devices=2, strategy="ddp"'), "Trainer(strategy)", False),
            ]
        ):
            self.new_trial(number)
            result = self.launch_two(script, settings={}, ways={})
            switch = [r for r in result.all("switch") if r["knob"] == "strategy"][-1]
            self.assertEqual((switch["how"], switch["agent"]), (how, agent))
            self.assertTrue(switch["why_not"])
            self.assertEqual(result.last("detected")["distributed"], "DistributedDataParallel")


def loss(model, data):
    rows = [data[i] for i in range(len(data))]
    with torch.no_grad():
        return model.eval()(**{k: torch.stack([row[k] for row in rows]) for k in rows[0]}).loss.item()


if __name__ == "__main__":
    unittest.main()
