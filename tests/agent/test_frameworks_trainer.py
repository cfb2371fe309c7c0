"""Hugging Face's Trainer: knobs through TrainingArguments, read back; the same training, or a reason."""

import contextlib
import os
import sys
import tempfile
import unittest
from unittest import mock

from models_frameworks import Text, arguments, bert, gpt2, train
from support_knobs import agent, distance
from transformers import HfArgumentParser, Trainer, TrainingArguments

ROUNDING = 2e-5
STEPS = 12


def tuned(settings, make, data, change=None, before=None, inspect=False, cls=Trainer, ways=None, **fields):
    """(parameters, losses, what the agent said) of a run with these settings."""
    ways = ways or {name: "framework" for name in settings}
    with agent(settings, ways, inspect=inspect) as said, arguments(**fields) as args:
        if before is not None:
            before(args)
        parameters, losses = train(make(), data, args, change, cls)
        said.session.stepper.settle(wait=True)
        said.session.flush()
        said.kept = said.records
        said.reports = {r["knob"]: r for r in said.kept if r["t"] == "knob"}
        said.switches = {r["knob"]: r for r in said.kept if r["t"] == "switch"}
        said.steps = [r for r in said.kept if r["t"] == "step"]
    return parameters, losses, said


@contextlib.contextmanager
def _inside(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Case(unittest.TestCase):
    def plain(self, make, data, **fields):
        with arguments(**fields) as args:
            return train(make(), data, args)

    def same(self, settings, make, data, how, **more):
        """As without the agent, to rounding, over all steps."""
        plain, losses = self.plain(make, data)
        ours, our_losses, said = tuned(settings, make, data, **more)
        self.assertEqual([r for r in said.kept if r["t"] == "fault"], [])
        for name, value in settings.items():
            self.assertEqual(said.reports[name]["effective"], value, said.reports[name])
        self.assertIn(how, "; ".join(r["how"] for r in said.reports.values()))
        self.assertEqual(len(said.steps), STEPS)
        self.assertEqual([s["samples"] for s in said.steps], [16, 16, 13] * 4)
        self.assertLess(distance(plain, ours), ROUNDING)
        self.assertGreater(distance(plain, list(make().parameters())), 1e-2, "it did train")
        self.assertEqual(len(losses), len(our_losses))
        self.assertLess(distance(losses, our_losses), 1e-4)
        return said

    def refused(self, said, knob, *words):
        report = said.reports[knob]
        self.assertIsNone(report["effective"], report)
        for word in words:
            self.assertIn(word, report["reason"])


class Accumulation(Case):
    def test_micro_batches_of_padded_text_with_an_uneven_end(self):
        how = "TrainingArguments.gradient_accumulation_steps"
        said = self.same({"accumulation": 4}, gpt2, Text(45, padded=True), how)
        self.assertGreater(said.session.losses.backwards, 3 * STEPS)

    def test_a_loss_that_ignores_the_number_of_items_is_refused(self):
        _, _, said = tuned({"accumulation": 4}, bert, Text(45, classes=3))
        self.refused(said, "accumulation", "BertForSequenceClassification ignores num_items_in_batch")

    def test_without_the_refusal_that_loss_would_train_otherwise(self):
        plain, _ = self.plain(bert, Text(48, classes=3), max_grad_norm=0.0)
        with arguments(
            per_device_train_batch_size=4, gradient_accumulation_steps=4, max_grad_norm=0.0
        ) as args:
            trapped, _ = train(bert(), Text(48, classes=3), args)
        self.assertGreater(distance(plain, trapped), 100 * ROUNDING)

    def test_an_inspection_leaves_that_loss_to_the_agent(self):
        _, _, said = tuned({}, bert, Text(45, classes=3), inspect=True)
        switch = said.switches["accumulation"]
        self.assertIn("ignores num_items_in_batch", switch["why_not"])
        self.assertTrue(switch["agent"])
        _, _, said = tuned({}, gpt2, Text(45), inspect=True)
        self.assertIsNone(said.switches["accumulation"]["why_not"])
        self.assertEqual(said.switches["accumulation"]["values"], [1, 2, 4, 8, 16])

    def test_the_agent_splits_batches_of_that_loss(self):
        ways = {"accumulation": "agent"}
        self.same({"accumulation": 4}, bert, Text(45, classes=3), "taken at once", ways=ways)

    def test_the_scripts_own_accumulation_is_multiplied(self):
        own = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
        plain, _ = self.plain(gpt2, Text(45), **own)
        ours, _, said = tuned({"accumulation": 2}, gpt2, Text(45), **own)
        self.assertEqual(said.reports["accumulation"]["effective"], 2)
        self.assertLess(distance(plain, ours), ROUNDING)

    def test_arguments_that_were_changed_after_they_were_made(self):
        def before(args):
            args.per_device_train_batch_size = 16

        how = "batch 16 / micro-batches"
        self.same({"accumulation": 2}, gpt2, Text(45), how, before=before, per_device_train_batch_size=64)

    def test_changed_by_the_script_after_the_trainer_was_built(self):
        def change(trainer):
            trainer.args.gradient_accumulation_steps = 1

        _, _, said = tuned({"accumulation": 4}, gpt2, Text(45), change)
        self.refused(said, "accumulation", "gradient_accumulation_steps is 1")

    def test_a_batch_that_does_not_divide(self):
        _, _, said = tuned({"accumulation": 3}, gpt2, Text(45))
        self.refused(said, "accumulation", "a batch of 16 is not a multiple of 3")

    def test_a_trainer_that_makes_its_own_batches(self):
        class Own(Trainer):
            def get_train_dataloader(self):
                return super().get_train_dataloader()

        _, _, said = tuned({"accumulation": 4}, gpt2, Text(45), cls=Own)
        self.refused(said, "accumulation", "Own replaces get_train_dataloader")

    def test_a_trainer_with_a_loss_of_its_own(self):
        class Mean(Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                return model(**inputs).loss

        _, _, said = tuned({"accumulation": 4}, gpt2, Text(45), cls=Mean)
        self.refused(said, "accumulation", "ignores num_items_in_batch")


class Others(Case):
    def test_checkpointing_of_all_and_of_every_second_block(self):
        for value in ("all", "alternate"):
            plain, _ = self.plain(gpt2, Text(45))
            ours, _, said = tuned({"checkpoint": value}, gpt2, Text(45))
            report = said.reports["checkpoint"]
            self.assertEqual(report["effective"], value, report)
            self.assertIn("TrainingArguments.activation_checkpointing", report["how"])
            self.assertEqual(distance(plain, ours), 0.0)

    def test_checkpointing_that_the_model_switches_off_again(self):
        def make():
            model = gpt2()
            model.activation_checkpointing_enable = lambda **_: None
            model.activation_checkpointing_enable.__wrapped__ = type(model).activation_checkpointing_enable
            return model

        _, _, said = tuned({"checkpoint": "all"}, make, Text(45))
        self.refused(said, "checkpoint", "activation_checkpointing is all, but None is in force")

    def test_autocast(self):
        plain, _ = self.plain(gpt2, Text(45))
        ours, _, said = tuned({"amp": "bf16"}, gpt2, Text(45))
        report = said.reports["amp"]
        self.assertEqual(report["effective"], "bf16", report)
        self.assertIn("TrainingArguments.bf16", report["how"])
        self.assertGreater(distance(plain, ours), 0.0)

    def test_fp16_does_nothing_on_the_processor(self):
        _, _, said = tuned({"amp": "fp16"}, gpt2, Text(45))
        self.refused(said, "amp", "does nothing for fp16 on this device")

    def test_autocast_of_the_scripts_own_is_not_changed(self):
        _, _, said = tuned({}, gpt2, Text(45), inspect=True, bf16=True)
        self.assertEqual(said.switches["amp"]["current"], "bf16")
        self.assertEqual(said.switches["amp"]["why_not"], "the script sets TrainingArguments.bf16 by itself")

    def test_all_together(self):
        settings = {"accumulation": 2, "checkpoint": "all", "num_workers": 1, "prefetch_factor": 3}
        self.same(settings, gpt2, Text(45), "TrainingArguments.dataloader_num_workers")

    def test_a_split_by_the_agent_with_checkpointing_by_the_trainer(self):
        ways = {"accumulation": "agent", "checkpoint": "framework"}
        self.same(
            {"accumulation": 2, "checkpoint": "all"}, bert, Text(45, classes=3), "taken at once", ways=ways
        )

    def test_prefetching_without_workers(self):
        _, _, said = tuned({"prefetch_factor": 4}, gpt2, Text(45))
        self.refused(said, "prefetch_factor", "no worker processes")

    def test_another_batch(self):
        plain, _ = self.plain(gpt2, Text(45), per_device_train_batch_size=8)
        ours, _, said = tuned({"batch_size": 8, "accumulation": 2}, gpt2, Text(45))
        self.assertEqual(
            [said.reports[k]["effective"] for k in ("batch_size", "accumulation")], [8, 2], said.reports
        )
        self.assertLess(distance(plain, ours), 5 * ROUNDING)  # twice as many steps

    def test_arguments_from_the_command_line(self):
        words = [
            "--output_dir",
            "x",
            "--use_cpu",
            "--per_device_train_batch_size",
            "16",
            "--report_to",
            "none",
        ]

        def make(**_):
            (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(words)
            return args

        with agent({"accumulation": 4}, {"accumulation": "framework"}):
            trainer = Trainer(model=gpt2(), args=make(), train_dataset=Text(45))
        self.assertEqual(trainer.args.per_device_train_batch_size, 4)
        self.assertEqual(trainer.args.gradient_accumulation_steps, 4)

    def test_a_trainer_without_arguments(self):
        with tempfile.TemporaryDirectory() as folder, _inside(folder), agent({}, inspect=True) as said:
            Trainer(model=gpt2(), train_dataset=Text(45))
            said.session.claim()
            self.assertEqual(said.of("fault"), [])
            batches = [r["current"] for r in said.of("switch") if r["knob"] == "batch_size"]
            self.assertEqual(batches, ["8"])

    def test_a_version_that_is_not_known_is_refused_by_name(self):
        with mock.patch.object(sys.modules["transformers"], "__version__", "9.1.0"):
            _, _, said = tuned({"amp": "bf16"}, gpt2, Text(45), inspect=True)
        sentence = "transformers 9.1.0 is not known to this version (known: 4.46 to 5.x)"
        self.refused(said, "amp", sentence)
        self.assertEqual({s["why_not"] for s in said.switches.values()}, {sentence})


if __name__ == "__main__":
    unittest.main()
