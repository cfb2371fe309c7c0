"""Accumulation under Lightning and Accelerate: split in the model's call, it trains as the whole batch does.

With clipping, weight decay, a schedule by steps, labels that do not count and an uneven last batch. The
frameworks' own switches (`accumulate_grad_batches`, `gradient_accumulation_steps`) over a divided loader do
not: the last case shows it, and it is why they are not used.
"""

import logging
import unittest
import warnings

import lightning.pytorch as pl
import torch
from accelerate import Accelerator
from support_knobs import agent, distance, state_of
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

ROWS, BATCH, EPOCHS = 45, 16, 4  # 12 steps, every third with 13 rows
TOGETHER = 1e-5
CLIP = 0.5


class Net(nn.Module):
    """Returns scores, or with labels the loss; labels of -100 do not count."""

    def __init__(self):
        super().__init__()
        self.inlet, self.norm, self.outlet = nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 4)

    def forward(self, x, labels=None):
        scores = self.outlet(F.gelu(self.norm(self.inlet(x))))
        return scores if labels is None else F.cross_entropy(scores, labels)


class Task(pl.LightningModule):
    """The Trainer clips, updates and advances the schedule."""

    def __init__(self, inside=False):
        super().__init__()
        self.net, self.inside = Net(), inside
        self.batches = 0

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        self.batches += 1
        x, labels = batch
        return self.net(x, labels) if self.inside else F.cross_entropy(self(x), labels)

    def training_step(self, batch, index):
        return self.loss(batch)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ByHand(Task):
    """The module does so itself."""

    def __init__(self, inside=False):
        super().__init__(inside)
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(optimizer, gradient_clip_val=CLIP, gradient_clip_algorithm="norm")
        optimizer.step()
        schedule.step()


def warm_up(step):
    return min(1.0, (step + 1) / 4)


def loader(batch=BATCH):
    g = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4, (ROWS,), generator=g)
    labels[::5] = -100
    return DataLoader(TensorDataset(torch.randn(ROWS, 8, generator=g), labels), batch_size=batch)


def lightning(kind=Task, inside=False, batch=BATCH, parts=1):
    """The parameters after training, and the batches that the module has seen."""
    torch.manual_seed(0)
    task = kind(inside)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        gradient_clip_val=CLIP if kind is Task else None,
        accumulate_grad_batches=parts,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, loader(batch))
    return state_of(task.net), task.batches


def accelerate(inside=False, batch=BATCH, parts=1):
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)
    prepared = accelerator.prepare(model, optimizer, schedule, loader(batch))
    model, optimizer, schedule, batches = prepared
    seen = 0
    for _ in range(EPOCHS):
        for x, labels in batches:
            seen += 1
            with accelerator.accumulate(model):
                loss = model(x, labels) if inside else F.cross_entropy(model(x), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return state_of(accelerator.unwrap_model(model)), seen


class Split(unittest.TestCase):
    def compare(self, train, split, **how):
        plain, seen = train(**how)
        with agent({"accumulation": split}) as tuned:
            ours, seen_by_ours = train(**how)
            self.assertEqual(tuned.of("fault"), [])
            report = tuned.knob("accumulation")
        self.assertEqual(report["effective"], split, report)
        self.assertLess(distance(plain, ours), TOGETHER)
        # Counters, hooks and callbacks of the framework see what they saw before.
        self.assertEqual(seen, seen_by_ours)

    def test_lightning(self):
        for kind in (Task, ByHand):
            for inside in (False, True):
                with self.subTest(kind=kind.__name__, inside=inside):
                    self.compare(lightning, 4, kind=kind, inside=inside)

    def test_accelerate(self):
        for inside in (False, True):
            with self.subTest(inside=inside):
                self.compare(accelerate, 4, inside=inside)

    def test_scripts_that_use_the_switch_by_themselves(self):
        """Each of their micro-batches is split once more; what they do at an epoch's end stays theirs."""
        for train in (lightning, accelerate):
            with self.subTest(train=train.__name__):
                self.compare(train, 2, batch=8, parts=2)

    def test_a_framework_that_is_told_to_accumulate_trains_otherwise(self):
        """An epoch of 45 rows ends with half an update's micro-batches, which weigh like a whole one's."""
        for train in (lightning, accelerate):
            plain, seen = train()
            switched, seen_then = train(batch=BATCH // 2, parts=2)
            self.assertGreater(distance(plain, switched), 100 * TOGETHER, train.__name__)
            self.assertNotEqual(seen, seen_then)


if __name__ == "__main__":
    unittest.main()
