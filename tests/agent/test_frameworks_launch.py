"""Scripts of frameworks in a process of their own: steps, samples, phases, switches and the trial's end."""

import os
import tempfile
import unittest

from support import AgentTest

TRAINER = """
import torch
torch.set_num_threads(1)
from models_frameworks import Text, Trainer, TrainingArguments, bert, gpt2
args = TrainingArguments(output_dir="out", per_device_train_batch_size=8, num_train_epochs=30, use_cpu=True,
                         eval_strategy="epoch", save_strategy="epoch", report_to=[], disable_tqdm=True)
Trainer(model=gpt2(), args=args, train_dataset=Text(40), eval_dataset=Text(20)).train()
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
data = TensorDataset(torch.randn(40, 4), torch.randint(0, 2, (40,)))
loader = DataLoader(data, batch_size=8, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for epoch in range(30):
    for x, y in loader:
        with accelerator.accumulate(model):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        for x, y in data:
            accelerator.unwrap_model(model).eval()(x[None])
    model.train()
    accelerator.save(model.state_dict(), "model.pt")
"""

LIGHTNING = """
import torch
torch.set_num_threads(1)
import PACKAGE as pl
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

data = TensorDataset(torch.randn(40, 4), torch.randint(0, 2, (40,)))
trainer = pl.Trainer(accelerator="cpu", max_epochs=30, logger=False, enable_progress_bar=False,
                     gradient_clip_val=1.0, enable_model_summary=False EXTRA)
trainer.fit(Net(), DataLoader(data, batch_size=8, shuffle=True), DataLoader(data, batch_size=4))
"""

FABRIC = """
import torch
torch.set_num_threads(1)
from lightning.fabric import Fabric
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
fabric = Fabric(accelerator="cpu" EXTRA)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = fabric.setup(model, optimizer)
data = TensorDataset(torch.randn(40, 4), torch.randint(0, 2, (40,)))
loader = fabric.setup_dataloaders(DataLoader(data, batch_size=8, shuffle=True))
for epoch in range(30):
    for x, y in loader:
        optimizer.zero_grad()
        fabric.backward(torch.nn.functional.cross_entropy(model(x), y))
        optimizer.step()
"""

COVERAGE = {"end_loader_after": 3, "look_batches": 2, "look_seconds": 5.0, "phase_seconds": 30.0}


def lightning(package="lightning.pytorch", extra=""):
    return LIGHTNING.replace("PACKAGE", package).replace(" EXTRA", extra)


def fabric(extra=""):
    return FABRIC.replace(" EXTRA", extra)


class Launch(AgentTest):
    def go(self, script, settings=None, way="framework", **changes):
        settings = settings or {}
        here = os.path.dirname(os.path.abspath(__file__))
        ways = {name: way for name in settings}
        return self.launch(script, extra_path=here, settings=settings, ways=ways, **changes)

    def measured(self, script, samples=8, **changes):
        result = self.go(script, **changes)
        self.assert_measured(result)
        self.assertEqual({s["samples"] for s in result.all("step")}, {samples}, result.describe())
        self.assertEqual([r["index"] for r in result.all("loader") if r["training"]][-1], 0)
        self.assertNotIn(None, [s["grad_norm"] for s in result.all("step")[:3]])
        return result

    def switch(self, result, knob):
        return [r for r in result.all("switch") if r["knob"] == knob][-1]

    def applied(self, result, knob, value, how):
        report = [r for r in result.all("knob") if r["knob"] == knob][-1]
        self.assertEqual(report["effective"], value, report)
        self.assertIn(how, report["how"])

    def refused(self, result, knob, reason):
        report = [r for r in result.all("knob") if r["knob"] == knob][-1]
        self.assertIsNone(report["effective"], report)
        self.assertIn(reason, report["reason"])

    def covered(self, script, saves=True):
        result = self.go(script, coverage=COVERAGE, training_loader=0)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        self.assertEqual(result.last("end")["reason"], "covered", result.describe())
        phases = {p["phase"] for p in result.all("phase") if p["seconds"] is not None}
        self.assertEqual(phases, {"eval", "save"}, result.describe())
        self.assertEqual(result.one("look")["batches"], 2)


class TrainerLaunch(Launch):
    def test_steps_samples_and_switches(self):
        result = self.measured(TRAINER)
        for knob in ("batch_size", "accumulation", "amp", "checkpoint", "num_workers"):
            self.assertIsNone(self.switch(result, knob)["why_not"], knob)
            self.assertIn("TrainingArguments.", self.switch(result, knob)["how"])

    def test_a_confirm_trial_comes_to_evaluation_and_saving(self):
        self.covered(TRAINER)

    def test_production_goes_on_with_the_switches(self):
        script = TRAINER.replace("num_train_epochs=30", "num_train_epochs=3")
        settings = {"accumulation": 2, "checkpoint": "all"}
        result = self.go(script, settings, mode="run", required=list(settings))
        self.assertEqual(result.code, 0, result.describe())
        self.assertNotIn("autofit", result.err)
        self.assertIn("'epoch': '3'", result.out)

    def test_production_stops_where_a_switch_does_not_take(self):
        script = TRAINER.replace("model=gpt2()", "model=bert()").replace("Text(40)", "Text(40, classes=3)")
        result = self.go(script, {"accumulation": 2}, mode="run", required=["accumulation"])
        self.assertEqual(result.code, 125, result.describe())
        self.assertIn("ignores num_items_in_batch", result.err)


class AccelerateLaunch(Launch):
    def test_steps_samples_and_switch(self):
        result = self.measured(ACCELERATE)
        self.assertEqual(self.switch(result, "amp")["how"], "Accelerator(mixed_precision)")

    def test_precision(self):
        result = self.measured(ACCELERATE, settings={"amp": "bf16"})
        self.applied(result, "amp", "bf16", "Accelerator(mixed_precision)")

    def test_precision_of_a_model_that_is_not_prepared(self):
        script = ACCELERATE.replace(
            "model, optimizer, loader = accelerator.prepare(model, optimizer, loader)", ""
        )
        script = script.replace("with accelerator.accumulate(model):", "if True:")
        self.refused(self.go(script, {"amp": "bf16"}), "amp", "no layer computes in lower precision")

    def test_precision_of_the_scripts_own(self):
        script = ACCELERATE.replace("cpu=True", "cpu=True, mixed_precision='bf16'")
        self.assertEqual(self.switch(self.go(script), "amp")["current"], "bf16")
        self.assertIn("by itself", self.switch(self.go_again(ACCELERATE), "amp")["why_not"])

    def go_again(self, script):
        self.trial = tempfile.mkdtemp(dir=self.folder)
        return self.go(script, env={"ACCELERATE_MIXED_PRECISION": "bf16"})

    def test_another_batch_through_the_scripts_loader(self):
        result = self.measured(
            ACCELERATE, samples=4, settings={"batch_size": 4}, way="agent", training_loader=0
        )
        self.applied(result, "batch_size", 4, "DataLoader.__init__ (1 of 1 loaders)")

    def test_a_split_by_the_agent(self):
        result = self.measured(ACCELERATE, settings={"accumulation": 4}, way="agent")
        self.applied(result, "accumulation", 4, "4 micro-batches")

    def test_a_confirm_trial_comes_to_evaluation_and_saving(self):
        self.covered(ACCELERATE)


class LightningLaunch(Launch):
    def test_steps_samples_and_switch(self):
        for package in ("lightning.pytorch", "pytorch_lightning"):
            self.trial = tempfile.mkdtemp(dir=self.folder)
            result = self.measured(lightning(package))
            self.assertEqual(self.switch(result, "amp")["how"], "Trainer(precision)")

    def test_precision(self):
        for package in ("lightning.pytorch", "pytorch_lightning"):
            self.trial = tempfile.mkdtemp(dir=self.folder)
            result = self.measured(lightning(package), settings={"amp": "bf16"})
            self.applied(result, "amp", "bf16", "Trainer(precision)")

    def test_precision_of_the_scripts_own(self):
        result = self.go(lightning(extra=", precision='bf16-mixed'"))
        self.assertEqual(
            self.switch(result, "amp")["why_not"],
            "the script sets Trainer(precision) to bf16-mixed by itself",
        )

    def test_a_split_by_the_agent(self):
        result = self.measured(lightning(), settings={"accumulation": 4}, way="agent")
        self.applied(result, "accumulation", 4, "4 micro-batches")

    def test_a_confirm_trial_comes_to_evaluation_and_saving(self):
        self.covered(lightning())

    def test_fabric(self):
        result = self.measured(fabric())
        self.assertEqual(self.switch(result, "amp")["how"], "Fabric(precision)")

    def test_precision_of_fabric(self):
        result = self.measured(fabric(), settings={"amp": "bf16"})
        self.applied(result, "amp", "bf16", "Fabric(precision)")
        self.trial = tempfile.mkdtemp(dir=self.folder)
        own = self.go(fabric(", precision='bf16-mixed'"), {"amp": "bf16"})
        self.refused(own, "amp", "by itself")


if __name__ == "__main__":
    unittest.main()
