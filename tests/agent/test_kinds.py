"""Every knob on every kind of script: applied and right, refused with the reason, or nothing to act on.

A kind is a script in `kinds/`, as a user would write it. The outcomes are the tables of docs/kinds.md and of the
README; AUTOFIT_WRITE_KINDS=1 writes them anew, and without it a table that differs is a failure.
"""

import collections
import glob
import importlib
import os
import re
import unittest

from support_kinds import run
from support_knobs import distance

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
BEGIN, END = "<!-- written by tests/agent/test_kinds.py -->\n", "<!-- end -->\n"

# Rounding of Trainer's AdamW, which divides small gradients by small roots.
ROUNDS = 3e-5
# Knob, value, and the largest distance of the parameters from those of the script as it is (None: not compared).
KNOBS = [
    ("accumulation", 2, 1e-5),
    ("checkpoint", "selective", 1e-6),
    ("checkpoint", "all", 1e-6),
    ("amp", "bf16", 0.3),
    ("amp", "fp16", 0.1),
    ("optimizer", "foreach", ROUNDS),
    ("set_to_none", True, 1e-6),
    ("channels_last", True, 1e-5),
    ("compile", "default", 1e-5),
    ("inplace", True, 0.0),
    ("num_workers", 1, 1e-6),
    ("batch_size", 4, None),
    ("activation_memory_budget", "0.5", 1e-5),
    ("gradient_as_bucket_view", True, 0.0),
]
# What a knob means nothing without.
BESIDE = {"activation_memory_budget": {"compile": "default"}}
# What only a GPU has: refused on the processor, all together in one run.
OF_GPUS = {
    "allocator": "expandable_segments:True",
    "offload": "activations",
    "idle_models": "host",
    "tf32": True,
    "cudnn_benchmark": True,
    "empty_cache": True,
}
OF_THE_PROCESSOR = "nothing is trained|GPU|in host memory already|on cpu|no call of a module"

# Reasons that mean: this script has nothing that the knob could act on.
NOTHING_THERE = re.compile(
    "no DataLoader was seen|applied to 0 objects|no call of a module|no batch was split"
    "|has no convolution|has no repeated blocks|no optimizer of torch.optim|no training call of a module"
    "|no DistributedDataParallel was built|the script was not seen to pass set_to_none=False|has no ReLU behind"
)
# What was measured on this machine is no part of a reason.
MEASURED = re.compile(r"\d+\.\d+(e-?\d+)?")

# The frameworks of `kinds/frameworks/`: imported once, before the first of their scripts.
FRAMEWORKS = ("transformers.trainer", "accelerate", "lightning.pytorch")


def kinds(folder):
    paths = glob.glob(os.path.join(HERE, folder, "*.py"))
    return {os.path.splitext(os.path.basename(path))[0]: path for path in sorted(paths)}


def words(knob, value):
    return f"{knob}={str(value).lower()}"


class Kinds(unittest.TestCase):
    maxDiff = None

    def test_every_knob_on_every_kind(self):
        self.notes, self.counts = [], collections.Counter()
        rows = [self.row(kind, path, {}) for kind, path in kinds("kinds").items()]
        os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
        for module in FRAMEWORKS:
            importlib.import_module(module)
        for kind, path in kinds("kinds/frameworks").items():
            switches = run(path, {}, inspect=True)["switches"]
            self.assertTrue(switches, kind)
            rows.append(self.row(kind, path, switches))
        self.compare(os.path.join(ROOT, "docs", "kinds.md"), self.table(rows))
        self.compare(os.path.join(ROOT, "README.md"), self.summary())

    def row(self, kind, path, switches):
        bare = run(path, {})
        self.assertIsNone(bare["error"], kind)
        self.assertEqual(bare["faults"], [], kind)
        self.assertTrue(bare["parameters"], kind)
        cells = [kind.replace("_", " ")]
        for knob, value, close in KNOBS:
            outcome = "refused [?]"
            with self.subTest(kind=kind, knob=words(knob, value)):
                outcome = self.cell(kind, path, knob, value, close, bare, switches.get(knob))
            cells.append(outcome)
            self.counts[words(knob, value), outcome.split(" [")[0]] += 1
        with self.subTest(kind=kind, knob="of GPUs"):
            self.of_gpus(path, bare)
        return f"| {' | '.join(cells)} |\n"

    def run_with(self, path, settings, bare, ways=None):
        found = run(path, settings, ways=ways, training_loader=bare["loader"])
        self.assertIsNone(found["error"])
        self.assertEqual(found["faults"], [])
        return found

    def cell(self, kind, path, knob, value, close, bare, switch):
        way = "agent"
        if switch is not None:
            # As the launcher chooses: the framework's switch, or the agent where that may do it instead.
            way = "agent" if switch["why_not"] and switch["agent"] else "framework"
            if switch["why_not"] and not switch["agent"]:
                return self.refused(switch["why_not"])
        if knob in ("compile", *BESIDE) and bare["double_backward"]:
            # What is compiled cannot be taken back by the second backward pass: the launcher refuses it.
            return self.refused("the script differentiates through its gradients (seen in the first launch)")
        settings = {**BESIDE.get(knob, {}), knob: value}
        found = self.run_with(path, settings, bare, {**dict.fromkeys(settings, "agent"), knob: way})
        report = found["knobs"].get(knob)
        if report is None:
            return "–"  # nothing was trained, so nothing was reported
        applied = report["effective"] == value
        if close is not None:
            # Also where it was refused: then the script must have trained as without it.
            # (A refusal may come after the first call, by then in parts or in fp16: equal within rounding.)
            limit = close if applied else 1e-4 if knob == "amp" else 1e-6
            if applied and kind == "mixed_precision":
                limit = max(limit, 0.01)  # parts round otherwise under the script's own autocast
            if applied and (kind, knob) == ("trainer", "accumulation"):
                limit = max(limit, ROUNDS)
            self.assertLessEqual(distance(bare["parameters"], found["parameters"]), limit)
        return "applied" if applied else self.refused(report["reason"])

    def refused(self, reason):
        self.assertTrue(reason)
        reason = MEASURED.sub("…", reason)
        if NOTHING_THERE.search(reason):
            return "–"
        if reason not in self.notes:
            self.notes.append(reason)
        return f"refused [{self.notes.index(reason) + 1}]"

    def of_gpus(self, path, bare):
        found = self.run_with(path, OF_GPUS, bare)
        for knob, report in found["knobs"].items():
            self.assertIsNone(report["effective"], report)
            self.assertRegex(report["reason"], OF_THE_PROCESSOR, knob)
        self.assertEqual(distance(bare["parameters"], found["parameters"]), 0.0)

    def table(self, rows):
        head = "".join(f" {words(knob, value)} |" for knob, value, _ in KNOBS)
        table = f"| kind |{head}\n| --- |{' --- |' * len(KNOBS)}\n" + "".join(rows)
        return table + "\n" + "".join(f"{i + 1}. {reason}\n" for i, reason in enumerate(self.notes))

    def summary(self):
        table = "| knob | applied | refused | nothing to act on |\n| --- | --- | --- | --- |\n"
        for knob, value, _ in KNOBS:
            name = words(knob, value)
            counts = [self.counts[name, outcome] for outcome in ("applied", "refused", "–")]
            table += f"| `{name}` | {' | '.join(map(str, counts))} |\n"
        return table

    def compare(self, path, table):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        before, rest = text.split(BEGIN)
        committed, after = rest.split(END, 1)
        if os.environ.get("AUTOFIT_WRITE_KINDS") == "1":
            with open(path, "w", encoding="utf-8") as file:
                file.write(before + BEGIN + table + END + after)
        else:
            self.assertEqual(committed, table)


if __name__ == "__main__":
    unittest.main()
