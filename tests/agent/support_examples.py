"""Runs the examples, bare or under the agent in production mode, and compares what they saved and said."""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile

import torch
from support import AGENT, PYTHON, ROOT, TIMEOUT, AgentTest

sys.path.insert(0, AGENT)

from autofit_agent.knobs.environment import MALLOC  # noqa: E402

WITNESS = os.path.join(ROOT, "tests", "agent", "witness")

# Options that make the scripts small, and what each saves.  The text classifier's last batch has 6 samples.
BATCH = 8
STEPS = {"gpt": 6, "text_classifier": 8, "cnn": 6, "gan": 6}
EXAMPLES = {
    "gpt": (
        "--steps 6 --batch-size 8 --block-size 32 --n-layer 4 --n-embd 32 --eval-iters 2 --log-every 1",
        "out-gpt/ckpt.pt",
    ),
    "text_classifier": (
        "--epochs 2 --batch-size 8 --train-samples 30 --val-samples 32 --vocab 300 --width 32 --longest 48"
        " --log-every 1",
        "text-classifier.pt",
    ),
    "cnn": (
        "--epochs 1 --batch-size 8 --train-samples 48 --val-samples 32 --width 4 --image-size 16"
        " --log-every 1",
        "cnn-best.pt",
    ),
    "gan": ("--epochs 2 --batch-size 8 --train-samples 24 --width 4 --log-every 1", "out-gan/gan.pt"),
}

# Rounding, where sums are made in another order.  Seen: 2e-6 in parameters and 5e-6 in moments; the bare
# scripts on PyTorch's unvectorised kernels differ from themselves on the AVX2 ones by 8e-6 and 4e-5.
#
# A parameter may be off by this much.  Adam's steps are as long for small gradients as for large ones, some
# 2e-3 here, so that the rounding of a small gradient shows magnified; it stays below a hundredth of a step.
PARAMETERS = 2e-5
# The optimizer's moments are sums of gradients and of their squares, which nothing magnifies: relative to the
# largest in the tensor.
MOMENTS = 1e-4
# Printed figures have four digits behind the point, of which rounding may tip the last.
PRINTED = 1.5e-4

# What the witness sees of a host allocator: is a large tensor from mmap, is a small one after another was
# freed, are there huge pages.
ALLOCATORS = {
    "default": (1, 0, False),
    "retain": (0, 0, False),
    "huge": (0, 0, True),
    "pages": (1, 0, True),
    "trim": (1, 1, False),
}

# Softmax does not see the bias of attention's keys: its gradient is zero but for rounding, of which Adam
# makes a step of any length.  The moments of these are compared; their values mean nothing.
KEY_BIAS = re.compile(r"\.(c_attn\.bias|self_attn\.in_proj_bias)$")


class Run:
    """What a script saved and said, and what the witness saw of it (under the agent)."""

    def __init__(self, name, folder, done, witness=None):
        assert done.returncode == 0, f"{name}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        self.name = name
        # The speed differs from run to run.
        self.said = re.sub(r", [0-9.]+ ([a-z]+/s|s/step)", "", done.stdout)
        self.err = done.stderr
        self.saved = dict(leaves(torch.load(os.path.join(folder, EXAMPLES[name][1]))))
        self.witness = witness

    def evaluations(self):
        """Lines that tell how good the model is, each as numbers; the GPT's sample text is none."""
        rows = [line for line in self.said.splitlines() if re.search("val|distance", line)]
        return [[float(x) for x in re.findall(r"\d+\.\d+", row)] for row in rows]


def leaves(value, path=""):
    """(path, leaf) of everything in a checkpoint."""
    if isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{path}.{key}")
    else:
        yield path, value


def command(name, options):
    script = os.path.join(ROOT, "examples", name + ".py")
    return [PYTHON, script, *EXAMPLES[name][0].split(), "--device", "cpu", *options]


@functools.lru_cache(maxsize=None)
def bare(name, *options):
    """The script without autofit; each is run once."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOFIT", "PYTHON"))}
    env["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="autofit-bare-") as folder:
        done = subprocess.run(
            command(name, options),
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return Run(name, folder, done)


def variables(settings):
    """What the launcher sets in the environment."""
    env = dict(MALLOC[settings.get("malloc", "default")])
    if "omp_threads" in settings:
        env.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(settings["omp_threads"])))
    return env


def distance(one, other):
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def excesses(run, reference):
    """{path: how many times the tolerance it is off} of every tensor that was saved."""
    tensors = {path: leaf for path, leaf in reference.saved.items() if isinstance(leaf, torch.Tensor)}
    return {path: _excess(path, run.saved[path], leaf) for path, leaf in tensors.items()}


def _excess(path, got, expected):
    allowed = PARAMETERS
    if ".exp_avg" in path:
        allowed = MOMENTS * float(expected.abs().max())
    elif KEY_BIAS.search(path):
        (query, _, value), (q, _, v) = expected.chunk(3), got.chunk(3)
        expected, got = torch.cat([query, value]), torch.cat([q, v])
    elif not expected.is_floating_point():
        allowed = 0.0
    off = distance(got, expected)
    return off / allowed if allowed else off and float("inf")


class ExampleTest(AgentTest):
    """Cases that compare a run under settings with the bare script."""

    def tuned(self, name, *options, ways=None, **settings):
        """The script under these settings in production, all of which must be in force."""
        told = os.path.join(self.folder, "witness.json")
        by = dict.fromkeys(settings, "agent")
        by.update({knob: "environment" for knob in ("malloc", "omp_threads") if knob in settings})
        result = self.launch(
            command(name, options),
            mode="run",
            extra_path=WITNESS,
            env={"WITNESS": told, **variables(settings)},
            settings=settings,
            ways={**by, **(ways or {})},
            required=list(settings),
            training_loader=0,
            inspect=False,
            parity_steps=0,
            seed=None,
        )
        self.assertEqual(result.code, 0, result.describe())
        self.assertNotIn("autofit:", result.err)
        with open(told, encoding="utf-8") as file:
            witness = json.load(file)
        self.assertEqual(witness["settings"], settings, "in force")
        self.assertEqual(witness["faults"], [])
        # The process itself.
        *sources, pages = ALLOCATORS[settings.get("malloc", "default")]
        self.assertEqual(witness["mmapped"], sources)
        self.assertIn(witness["huge_pages"], (pages, None))
        if "omp_threads" in settings:
            self.assertGreaterEqual(witness["threads"], settings["omp_threads"])
        done = subprocess.CompletedProcess((), result.code, result.out, result.err)
        return Run(name, self.folder, done, witness)

    def assert_same(self, run, reference):
        """Bit for bit: parameters, buffers, the optimizer's state, and every line but the speeds."""
        self.assertEqual(run.saved.keys(), reference.saved.keys())
        for path, expected in reference.saved.items():
            got = run.saved[path]
            if isinstance(expected, torch.Tensor):
                self.assertTrue(torch.equal(got, expected), f"{path} is off by {distance(got, expected)}")
            else:
                self.assertEqual(got, expected, path)
        self.assertEqual(run.said, reference.said)

    def assert_rounding(self, run, reference):
        """The same but for rounding."""
        self.assertEqual(run.saved.keys(), reference.saved.keys())
        off = {path: times for path, times in excesses(run, reference).items() if times > 1}
        self.assertEqual(off, {}, "times the tolerance")
        for path, expected in reference.saved.items():
            if not isinstance(expected, torch.Tensor):
                self.assertEqual(run.saved[path], expected, path)
        ours, theirs = run.evaluations(), reference.evaluations()
        self.assertEqual([len(row) for row in ours], [len(row) for row in theirs])
        self.assertTrue(theirs, reference.said)
        for got, expected in zip(sum(ours, []), sum(theirs, [])):
            self.assertAlmostEqual(got, expected, delta=PRINTED, msg=run.said)
