"""The script's own options that need no package: argparse in its forms, and constants at the top."""

from support import HEAD
from support_options import TRAIN, OptionsTest

PARSER = """
import argparse
parser = argparse.ArgumentParser()
"""


class Argparse(OptionsTest):
    def test_how_each_form_is_written(self):
        info, options = self.told(
            PARSER
            + """
def str2bool(text):
    return text.lower() in ("yes", "true", "1")

parser.add_argument("-b", "--batch-size", type=int, default=64, help="samples of a step")
parser.add_argument("-j", type=int, default=0)
parser.add_argument("-batch", type=int, default=1)
parser.add_argument("--amp", action="store_true")
parser.add_argument("--pin_mem", action="store_true")
parser.add_argument("--no_pin_mem", action="store_false", dest="pin_mem")
parser.set_defaults(pin_mem=True)
parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
parser.add_argument("--fp16", type=str2bool, nargs="?", const=True, default=False)
parser.add_argument("--tags", nargs="*")
parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
parser.parse_args()
""",
            "-b32",
            "--amp",
        )
        self.assertEqual((info["parser"], info["words"]), ("argparse", ["-b32", "--amp"]))
        self.assert_written(options["batch_size"], "int", "32", ["--batch-size={value}"])
        self.assertEqual(options["batch_size"]["flags"], ["-b", "--batch-size"])
        self.assertEqual(options["batch_size"]["help"], "samples of a step")
        self.assert_written(options["j"], "int", "0", ["-j", "{value}"])
        self.assert_written(options["batch"], "int", "1", ["-batch", "{value}"])
        self.assert_written(options["amp"], "bool", "True", [["--amp"], []])
        self.assert_written(options["pin_mem"], "bool", "True", [["--pin_mem"], ["--no_pin_mem"]])
        self.assert_written(options["compile"], "bool", "False", [["--compile"], ["--no-compile"]])
        self.assert_written(options["fp16"], "bool", "False", [["--fp16=True"], ["--fp16=False"]])
        self.assert_written(options["tags"], "list", None, [[], []])
        self.assertEqual(options["precision"]["choices"], ["fp32", "bf16"])

    def test_each_parser_has_its_part_of_the_words(self):
        _, options = self.told(
            PARSER
            + """
parser.add_argument("--seed", type=int)
commands = parser.add_subparsers()
train = commands.add_parser("train")
train.add_argument("--batch-size", type=int)
commands.add_parser("test").add_argument("--batch-size-of-test", type=int)
parser.parse_args()
""",
            *["--seed", "3", "train", "--batch-size", "8"],
        )
        self.assertEqual(sorted(options), ["batch_size", "seed"])
        spans = {name: (o["first"], o["after"]) for name, o in options.items()}
        self.assertEqual(spans, {"seed": (0, 2), "batch_size": (3, 5)})
        self.assertEqual(options["batch_size"]["under"], ["train"])

    def test_what_follows_for_another_program_is_left_alone(self):
        _, options = self.told(
            PARSER
            + """
parser.add_argument("--batch-size", type=int)
parser.add_argument("script")
parser.add_argument("rest", nargs=argparse.REMAINDER)
parser.parse_args()
""",
            *["--batch-size", "8", "other.py", "--batch-size", "9"],
        )
        self.assertEqual((options["batch_size"]["first"], options["batch_size"]["after"]), (0, 3))

    def test_a_parser_before_the_parser(self):
        # A first parser takes --config, a second one the words that are left.
        info, options = self.told(
            PARSER
            + """
parser.add_argument("--config")
_, rest = parser.parse_known_args()
second = argparse.ArgumentParser()
second.add_argument("--batch-size", type=int)
second.add_argument("--lr", type=float)
second.parse_args(rest)
second.parse_args(["--lr", "1"])  # not the command line
""",
            *["--config", "a.yaml", "--batch-size", "8"],
        )
        self.assertEqual(sorted(options), ["batch_size", "lr"])
        self.assertEqual(options["batch_size"]["value"], "8")
        self.assertEqual(info["words"], ["--config", "a.yaml", "--batch-size", "8"])


class Constants(OptionsTest):
    CONFIGURATOR = """
import sys
from ast import literal_eval
for arg in sys.argv[1:]:
    key, val = arg[2:].split("=")
    try:
        value = literal_eval(val)
    except (SyntaxError, ValueError):
        value = val
    assert type(value) == type(globals()[key])
    globals()[key] = value
"""
    SCRIPT = (
        """
import math
batch_size = 12
gradient_accumulation_steps = 5 * 8
learning_rate = 6e-4
compile = True
dtype = "float32" if math.pi > 3 else "bfloat16"
_private = 1
betas = (0.9, 0.95)
exec(open("configurator.py").read())
iterations = 3
"""
        + TRAIN
        + "train()\n"
    )

    def test_names_before_the_configurator_are_options(self):
        self.write("configurator.py", self.CONFIGURATOR)
        info, options = self.told(self.SCRIPT, "--batch_size=4", "--dtype=bfloat16")
        self.assertEqual(info["parser"], "constants")
        names = ["batch_size", "compile", "dtype", "gradient_accumulation_steps", "learning_rate"]
        self.assertEqual(sorted(options), names)
        self.assert_written(options["batch_size"], "int", "4", ["--batch_size={value}"])
        self.assert_written(options["compile"], "bool", "True", [["--compile=True"], ["--compile=False"]])
        self.assert_written(options["dtype"], "str", "bfloat16", ["--dtype={value}"])
        self.assert_written(options["learning_rate"], "float", "0.0006", ["--learning_rate={value}"])

    def test_the_loop_may_stand_in_the_script(self):
        script = "batch_size = 12\n" + self.CONFIGURATOR + "late = 1\n" + TRAIN + "train()\n"
        _, options = self.told(script, "--batch_size=4")
        self.assertEqual({name: o["value"] for name, o in options.items()}, {"batch_size": "4"})

    def test_constants_that_nobody_overrides_are_none(self):
        script = "import sys\nbatch_size = int(sys.argv[1])\n" + TRAIN + "train()\n"
        result = self.launch(script, "4")
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("options"), [])


class ReadBack(OptionsTest):
    SCRIPT = (
        PARSER
        + """
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--workers", type=int, default=0)
args = parser.parse_args()
"""
        + HEAD
        + """
size = SIZE
data = TensorDataset(torch.randn(64, 8), torch.zeros(64, dtype=torch.long))
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in DataLoader(data, batch_size=size):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
    )

    def read(self, size, *args, dest="batch_size", **changes):
        return self.launch(
            self.SCRIPT.replace("SIZE", size),
            *args,
            inspect=False,
            settings={"batch_size": 8},
            ways={"batch_size": "option"},
            training_loader=0,
            options={"batch_size": [{"dest": dest, "value": "8"}]},
            **changes,
        )

    def test_an_option_that_is_in_force(self):
        self.assert_read(self.read("args.batch_size", "--batch-size=8"), "batch_size", 8)

    def test_an_option_that_the_parser_read_and_the_script_does_not_use(self):
        result = self.read("4", "--batch-size=8")
        self.assert_read(result, "batch_size", None, "the loader has batch_size=4")

    def test_an_option_that_the_parser_read_otherwise(self):
        # The loader happens to have the size that was asked for.
        result = self.read("8", "--batch-size=8", "--batch-size=6")
        self.assert_read(result, "batch_size", None, "argparse reads batch_size=6, not 8")

    def test_an_option_that_no_parser_read(self):
        result = self.read("8", dest="train.batch_size")
        self.assert_read(result, "batch_size", None, "no parser of the script read train.batch_size")

    def test_production_reads_it_back_too(self):
        result = self.read(
            "8", "--batch-size=6", mode="run", trial_dir=None, seed=None, required=["batch_size"]
        )
        self.assertEqual(result.code, 125, result.describe())
        self.assertIn("argparse reads batch_size=6, not 8", result.err)

    def accumulating(self, *args):
        script = PARSER + (
            """
parser.add_argument("--accum", type=int, default=2)
args = parser.parse_args()
"""
            + HEAD
            + """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(12):
    optimizer.zero_grad()
    for _ in range(args.accum):
        model(torch.randn(4, 8)).mean().backward()
    optimizer.step()
"""
        )
        plan = {
            "inspect": False,
            "settings": {"accumulation": 2},
            "ways": {"accumulation": "option"},
            "options": {"accumulation": [{"dest": "accum", "value": "4"}]},
            "script_accumulation": 2,
        }
        return self.launch(script, *args, **plan)

    def test_the_scripts_own_accumulation_is_counted_against_what_it_was(self):
        self.assert_read(self.accumulating("--accum=4"), "accumulation", 2)

    def test_accumulation_that_stayed_as_it_was(self):
        self.assert_read(self.accumulating("--accum=2"), "accumulation", None, "reads accum=2")


if __name__ == "__main__":
    import unittest

    unittest.main()
