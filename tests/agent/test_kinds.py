"""Every knob on every kind of script: applied and right, refused with the reason, or not applicable.

A kind is a script in `kinds/`, as a user would write it. The outcomes are the table of docs/kinds.md;
AUTOFIT_WRITE_KINDS=1 writes it anew, and without it a table that differs is a failure. One process imports torch,
and each cell is a fork of it.
"""

import glob
import os
import pickle
import runpy
import sys
import tempfile
import unittest

import torch
import torch._dynamo  # every optimizer imports it: once here, not in every fork
from support_knobs import agent, distance

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = os.path.join(HERE, "..", "..", "docs", "kinds.md")
BEGIN, END = "<!-- written by tests/agent/test_kinds.py -->\n", "<!-- end -->\n"
STEPS = 12  # after which an endless script is stopped
LIMIT = 60  # seconds a cell

# knob, value, and the largest distance of the parameters from those of the script as it is (None: not compared).
KNOBS = [
    ("accumulation", 2, 1e-5),
    ("checkpoint", "all", 1e-6),
    ("amp", "bf16", 0.3),
    ("num_workers", 1, 1e-6),
    ("batch_size", 4, None),
]

# Reasons that mean: this script has nothing that the knob could act on.
NOTHING_THERE = (
    "no DataLoader was seen",
    "applied to 0 objects",
    "no call of a module",
    "no batch was split",
)


class Enough(BaseException):
    """Ends a script that would go on for ever."""


def kinds():
    paths = glob.glob(os.path.join(HERE, "kinds", "*.py"))
    return {os.path.splitext(os.path.basename(path))[0]: path for path in sorted(paths)}


def run(path, settings, loader=None):
    """Runs the script in a fork: {`knobs`, `loader`, `faults`, `parameters`, `error`}."""
    with tempfile.TemporaryFile() as answer:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                pickle.dump(_run_here(path, settings, loader), answer)
                answer.flush()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status != 0:
            return {"error": f"status {os.waitstatus_to_exitcode(status)}", "knobs": {}, "faults": []}
        answer.seek(0)
        return pickle.load(answer)


def _run_here(path, settings, loader):
    import signal

    from torch.optim.optimizer import register_optimizer_step_post_hook

    signal.alarm(LIMIT)
    steps = [0]

    def count(*_):
        steps[0] += 1
        if steps[0] == STEPS:
            raise Enough

    if os.path.basename(path) == "endless.py":
        register_optimizer_step_post_hook(count)
    kept, error = {}, None
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    frame_of = {}

    def keep(frame, event, _argument):
        if event == "return" and frame.f_code.co_filename == path and frame.f_code.co_name == "<module>":
            frame_of.update(frame.f_globals)

    with agent(settings, training_loader=loader) as tuned:
        sys.setprofile(keep)
        try:
            runpy.run_path(path, run_name="__main__")
        except Enough:
            pass
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        sys.setprofile(None)
    modules = [value for value in frame_of.values() if isinstance(value, torch.nn.Module)]
    kept["parameters"] = [p.detach().clone() for m in modules for p in m.parameters()]
    kept["knobs"] = dict(tuned.session.knob_reports)
    kept["loader"] = next(iter(sorted(tuned.session.loaders.training)), None)
    kept["faults"], kept["error"] = tuned.session.faults, error
    return kept


class Kinds(unittest.TestCase):
    maxDiff = None

    def test_every_knob_on_every_kind(self):
        rows, notes = [], []
        for kind, path in kinds().items():
            bare = run(path, {})
            self.assertIsNone(bare["error"], kind)
            self.assertEqual(bare["faults"], [], kind)
            self.assertTrue(bare["parameters"], kind)
            cells = []
            for knob, value, close in KNOBS:
                with self.subTest(kind=kind, knob=knob):
                    cells.append(self.cell(kind, knob, value, close, bare, notes))
            rows.append(f"| {kind.replace('_', ' ')} | {' | '.join(cells)} |\n")
        self.compare(rows, notes)

    def cell(self, kind, knob, value, close, bare, notes):
        found = run(kinds()[kind], {knob: value}, bare["loader"])
        self.assertIsNone(found["error"])
        self.assertEqual(found["faults"], [])
        report = found["knobs"].get(knob)
        if report is None:
            # Nothing was trained, so nothing was reported.
            return "not applicable"
        applied = report["effective"] == value
        if close is not None:
            # Also where it was refused: then the script must have trained as without it.
            # (A refusal may come after the first call, by then in parts: equal within rounding.)
            limit = close if applied else 1e-6
            if applied and kind == "mixed_precision":
                limit = max(limit, 0.01)  # parts round otherwise under the script's own autocast
            self.assertLessEqual(distance(bare["parameters"], found["parameters"]), limit)
        if applied:
            return "applied"
        reason = report["reason"]
        self.assertTrue(reason)
        if reason.startswith(NOTHING_THERE):
            return "not applicable"
        if reason not in notes:
            notes.append(reason)
        return f"refused [{notes.index(reason) + 1}]"

    def compare(self, rows, notes):
        head = "".join(f" {knob}={value} |" for knob, value, _ in KNOBS)
        table = f"| kind |{head}\n| --- |{' --- |' * len(KNOBS)}\n" + "".join(rows)
        table += "\n" + "".join(f"{i + 1}. {reason}\n" for i, reason in enumerate(notes))
        with open(TABLE, encoding="utf-8") as file:
            text = file.read()
        before, rest = text.split(BEGIN)
        committed, after = rest.split(END)
        if os.environ.get("AUTOFIT_WRITE_KINDS") == "1":
            with open(TABLE, "w", encoding="utf-8") as file:
                file.write(before + BEGIN + table + END + after)
        else:
            self.assertEqual(committed, table)


if __name__ == "__main__":
    unittest.main()
