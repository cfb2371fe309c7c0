"""The script's own options where a package reads the command line."""

from support_options import TRAIN, OptionsTest


class Click(OptionsTest):
    SCRIPT = (
        TRAIN
        + """
import click

@click.group()
@click.option("--seed", type=int, default=0)
def main(seed): ...

@main.command()
@click.option("-b", "--batch-size", type=int, default=32, help="samples of a step")
@click.option("--amp/--no-amp", default=False)
@click.option("--fast", is_flag=True)
@click.option("--dtype", type=click.Choice(["fp32", "bf16"]), default="fp32")
@click.option("--pin", type=bool, default=False)
@click.option("--tag", multiple=True)
def fit(**options):
    train()

@main.command()
@click.option("--batch-size-of-test", type=int)
def test(**options): ...

main()
"""
    )

    def test_the_invoked_command_and_its_group(self):
        info, options = self.told(self.SCRIPT, *["--seed", "3", "fit", "-b", "8", "--amp"])
        self.assertEqual(info["parser"], "click")
        self.assertEqual(sorted(options), ["amp", "batch_size", "dtype", "fast", "pin", "seed", "tag"])
        self.assert_written(options["batch_size"], "int", "8", ["--batch-size={value}"])
        self.assert_written(options["amp"], "bool", "True", [["--amp"], ["--no-amp"]])
        self.assert_written(options["fast"], "bool", "False", [["--fast"], []])
        self.assert_written(options["pin"], "bool", "False", [["--pin=true"], ["--pin=false"]])
        self.assertEqual(options["dtype"]["choices"], ["fp32", "bf16"])
        self.assertEqual(
            (options["batch_size"]["help"], options["batch_size"]["default"]), ("samples of a step", "32")
        )
        spans = {name: (options[name]["first"], options[name]["after"]) for name in ("seed", "batch_size")}
        self.assertEqual(spans, {"seed": (0, 2), "batch_size": (3, 6)})
        self.assertEqual(options["batch_size"]["under"], ["fit"])

    READ_BACK = {
        "inspect": False,
        "settings": {"batch_size": 2},
        "ways": {"batch_size": "option"},
        "options": {"batch_size": [{"dest": "batch_size", "value": "2"}]},
    }

    def test_it_is_read_back(self):
        result = self.launch(self.SCRIPT, "fit", "--batch-size=2", **self.READ_BACK)
        self.assert_read(result, "batch_size", 2)

    def test_another_value_is_read_back(self):
        result = self.launch(self.SCRIPT, "fit", "-b3", **self.READ_BACK)
        self.assert_read(result, "batch_size", None, "click reads batch_size=3, not 2")


class Typer(OptionsTest):
    def test_one_command(self):
        info, options = self.told(
            TRAIN
            + """
import enum, typer

class Precision(enum.Enum):
    full = "fp32"
    half = "bf16"

def main(name: str, batch_size: int = 32, amp: bool = False, precision: Precision = Precision.full):
    train()

typer.run(main)
""",
            *["x", "--batch-size", "8"],
        )
        self.assertEqual((info["parser"], info["words"]), ("typer", ["x", "--batch-size", "8"]))
        self.assert_written(options["batch_size"], "int", "8", ["--batch-size={value}"])
        self.assert_written(options["amp"], "bool", "False", [["--amp"], ["--no-amp"]])
        self.assert_written(options["precision"], "str", "fp32", ["--precision={value}"])
        self.assertEqual(options["precision"]["choices"], ["fp32", "bf16"])

    def test_subcommands(self):
        _, options = self.told(
            TRAIN
            + """
import typer
app = typer.Typer()

@app.command()
def fit(batch_size: int = 32):
    train()

@app.command()
def test(batch_size_of_test: int = 1): ...

app()
""",
            "fit",
        )
        self.assertEqual(options["batch_size"]["under"], ["fit"])
        self.assertEqual((options["batch_size"]["first"], options["batch_size"]["after"]), (1, 1))


class Fire(OptionsTest):
    SCRIPT = (
        TRAIN
        + """
import fire

def main(data, batch_size=32, amp: bool = False, lr=None, layers=(1, 2), *rest, tag="x"):
    train()

fire.Fire(main)
"""
    )

    def test_parameters_of_the_function_that_is_called(self):
        info, options = self.told(self.SCRIPT, "wiki", "--batch-size", "8", "--lr=0.1", "--tag=y")
        self.assertEqual((info["parser"], len(info["words"])), ("fire", 5))
        # `data` was given by its position.
        self.assertEqual(sorted(options), ["amp", "batch_size", "layers", "lr", "tag"])
        self.assert_written(options["batch_size"], "int", "8", ["--batch_size={value}"])
        self.assert_written(options["amp"], "bool", "False", [["--amp=True"], ["--amp=False"]])
        self.assert_written(options["lr"], "float", "0.1", ["--lr={value}"])
        self.assertEqual(options["layers"]["write"], [])
        self.assertEqual(options["batch_size"]["default"], "32")
        self.assertLessEqual({"--batch_size", "--batch-size", "-b"}, set(options["batch_size"]["flags"]))
        self.assertNotIn("-l", options["lr"]["flags"])  # that may be `layers`
        self.assertEqual((options["lr"]["first"], options["lr"]["after"]), (0, 5))

    def test_subcommands(self):
        script = self.SCRIPT.replace("fire.Fire(main)", "fire.Fire({'fit': main, 'test': train})")
        _, options = self.told(script, "fit", "--data=wiki", "--batch_size=8")
        self.assertEqual(options["batch_size"]["under"], ["fit"])
        self.assertEqual((options["batch_size"]["first"], options["batch_size"]["after"]), (1, 3))
        self.assert_written(options["data"], "str", "wiki", ["--data={value}"])

    def test_it_is_read_back(self):
        asked = {
            "inspect": False,
            "settings": {"batch_size": 2},
            "ways": {"batch_size": "option"},
            "options": {"batch_size": [{"dest": "batch_size", "value": "2"}]},
        }
        result = self.launch(self.SCRIPT, "wiki", "--batch_size=2", **asked)
        self.assert_read(result, "batch_size", 2)
        self.new_trial(2)
        other = self.launch(self.SCRIPT, "wiki", "-b", "3", **asked)
        self.assert_read(other, "batch_size", None, "fire reads batch_size=3, not 2")

    def test_a_class_shows_nothing_before_it_is_called(self):
        script = TRAIN + "import fire\nclass A:\n  def go(self, steps=8): train(steps)\nfire.Fire(A)\n"
        info, options = self.told(script, "go", "--steps=5")
        self.assertEqual(info["parser"], "fire")
        self.assert_written(options["steps"], "int", "5", ["--steps={value}"])


class Hydra(OptionsTest):
    SCRIPT = (
        TRAIN
        + """
import hydra

@hydra.main(version_base=None, config_path=".", config_name="config")
def main(config):
    train()

main()
"""
    )

    def setUp(self):
        super().setUp()
        self.write(
            "config.yaml",
            """
            train: {batch_size: 32, amp: false, lr: 0.1, steps: "???", tags: [a, b]}
            val: {batch_size: "${train.batch_size}"}
            hydra: {run: {dir: .}, output_subdir: null}
            """,
        )

    def test_literal_values_are_options_with_keys(self):
        info, options = self.told(self.SCRIPT, "train.batch_size=8", "train.steps=3")
        self.assertEqual((info["parser"], info["words"]), ("hydra", ["train.batch_size=8", "train.steps=3"]))
        names = ["train.amp", "train.batch_size", "train.lr", "train.steps", "train.tags"]
        self.assertEqual(sorted(options), names)
        self.assert_written(options["train.batch_size"], "int", "8", ["train.batch_size={value}"])
        self.assert_written(options["train.amp"], "bool", "False", [["train.amp=true"], ["train.amp=false"]])
        self.assert_written(options["train.tags"], "list", "['a', 'b']", [[], []])

    def test_a_multirun_is_no_single_command_line(self):
        result = self.launch(self.SCRIPT, "-m", "train.steps=1", "hydra.sweep.dir=sweep")
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [])
        self.assertNotIn("hydra", [e["parser"] for e in result.all("options")])


class Absl(OptionsTest):
    def test_the_flags_of_the_script(self):
        info, options = self.told(
            TRAIN
            + """
from absl import app, flags
flags.DEFINE_integer("batch_size", 32, "samples of a step", short_name="b")
flags.DEFINE_bool("amp", False, "")
flags.DEFINE_enum("precision", "fp32", ["fp32", "bf16"], "")
flags.DEFINE_list("tags", [], "")
app.run(lambda argv: train())
""",
            *["--batch_size=8", "--", "--amp"],
        )
        self.assertEqual(info["parser"], "absl")
        self.assertEqual(sorted(options), ["amp", "batch_size", "precision", "tags"])
        self.assert_written(options["batch_size"], "int", "8", ["--batch_size={value}"])
        self.assert_written(options["amp"], "bool", "False", [["--amp=true"], ["--amp=false"]])
        self.assertEqual(options["precision"]["choices"], ["fp32", "bf16"])
        self.assertEqual((options["batch_size"]["first"], options["batch_size"]["after"]), (0, 1))
        self.assertIn("--noamp", options["amp"]["flags"])


class HuggingFace(OptionsTest):
    def test_training_arguments(self):
        info, options = self.told(
            """
from transformers import HfArgumentParser, TrainingArguments
HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
""",
            *["--output_dir", "out", "--per_device_train_batch_size", "4"],
        )
        self.assertEqual(info["parser"], "argparse")
        batch = options["per_device_train_batch_size"]
        self.assertEqual((batch["kind"], batch["value"]), ("int", "4"))
        self.assertEqual(batch["write"], ["--per_device_train_batch_size={value}"])
        self.assertEqual(options["gradient_accumulation_steps"]["kind"], "int")
        for name, value in (("bf16", "False"), ("fp16", "False"), ("activation_checkpointing", None)):
            self.assert_written(options[name], "bool", value, [[f"--{name}=True"], [f"--{name}=False"]])


class Jsonargparse(OptionsTest):
    def test_nested_names_and_classes_by_name(self):
        self.write(
            "parts.py",
            """
            class Data:
                def __init__(self, batch_size: int = 32, pin: bool = False): ...
            """,
        )
        info, options = self.told(
            TRAIN
            + """
import jsonargparse
from typing import Literal, Optional
from parts import Data

class Trainer:
    def __init__(self, precision: Optional[Literal["32-true", "bf16-mixed"]] = None, steps: int = 1): ...

parser = jsonargparse.ArgumentParser()
parser.add_class_arguments(Trainer, "trainer")
parser.add_argument("--data", type=Data)
parser.parse_args()
train()
""",
            *["--data", "parts.Data", "--data.batch_size", "8"],
        )
        self.assertEqual(info["parser"], "jsonargparse")
        self.assert_written(options["trainer.precision"], "str", None, ["--trainer.precision={value}"])
        self.assertEqual(options["trainer.precision"]["choices"], ["32-true", "bf16-mixed"])
        batch = options["data.init_args.batch_size"]
        self.assert_written(batch, "int", "8", ["--data.init_args.batch_size={value}"])

    def test_lightning_cli(self):
        _, options = self.told(
            """
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

class Model(LightningModule):
    def __init__(self, width: int = 4):
        super().__init__()

class Data(LightningDataModule):
    def __init__(self, batch_size: int = 32):
        super().__init__()

class Cli(LightningCLI):
    def instantiate_trainer(self, **_):
        raise SystemExit(0)

Cli(Model, Data)
""",
            *["fit", "--data.batch_size", "8"],
        )
        self.assert_written(options["data.batch_size"], "int", "8", ["--data.batch_size={value}"])
        self.assertEqual(options["data.batch_size"]["under"], ["fit"])
        self.assertEqual((options["data.batch_size"]["first"], options["data.batch_size"]["after"]), (1, 3))
        self.assertIn("bf16-mixed", options["trainer.precision"]["choices"])
        accumulation = options["trainer.accumulate_grad_batches"]
        self.assertEqual((accumulation["kind"], accumulation["value"]), ("int", "1"))


if __name__ == "__main__":
    import unittest

    unittest.main()
