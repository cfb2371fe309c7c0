"""Knobs that only a GPU can show: one process of an example under the agent for several of them.

Each process ends itself after a few steps.  Its knobs' reports, its losses and its peak are held against a
process of the same example without settings.  tests/agent/test_gpu_knobs.py runs this on the processor.
"""

import json
import os

AGENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src", "agent", "python")
SCHEDULE = {"warmup_steps": 2, "min_steps": 4, "max_steps": 6, "max_seconds": 60.0, "relative_error": 0.0}
COMPARED = 3  # steps whose losses are compared

# Largest relative difference of a loss: other kernels (the order of sums), and other types of numbers.
EXACT, PRECISION = 2e-3, 0.05

# Name, example, settings, seconds at most, largest difference of a loss, must lower the peak.
LAUNCHES = [
    (
        "switches of libraries, loader and optimizer",
        "cnn",
        {
            "allocator": "expandable_segments:True",
            "pin_memory": True,
            "optimizer": "fused",
            "tf32": True,
            "cudnn_benchmark": True,
            "channels_last": True,
            "empty_cache": True,
        },
        30,
        PRECISION,
        False,
    ),
    (
        "fp16",
        "gpt",
        {"amp": "fp16", "allocator": "garbage_collection_threshold:0.8,max_split_size_mb:256"},
        30,
        PRECISION,
        True,
    ),
    ("fp16 in parts", "gpt", {"amp": "fp16", "accumulation": 4}, 30, PRECISION, True),
    (
        "activations in host memory",
        "gpt",
        {"offload": "activations", "allocator": "roundup_power2_divisions:8"},
        30,
        EXACT,
        True,
    ),
    ("selective checkpointing", "gpt", {"checkpoint": "selective", "optimizer": "foreach"}, 30, EXACT, True),
    (
        "the optimizer's state in host memory",
        "gpt",
        {"offload": "optimizer", "allocator": "backend:cudaMallocAsync"},
        30,
        EXACT,
        False,
    ),
    ("the idle model in host memory", "gan", {"idle_models": "host"}, 30, EXACT, False),
    (
        "compiled, a part of the activations kept",
        "gpt",
        {"compile": "default", "activation_memory_budget": "0.5"},
        90,
        PRECISION,
        True,
    ),
    ("compiled", "gpt", {"compile": "default"}, 90, PRECISION, False),
]


def environment(settings, plan_path):
    """What the launcher sets: the agent, its plan, and knobs of the environment."""
    env = {"AUTOFIT_MODE": "trial", "AUTOFIT_PLAN": plan_path, "PYTHONPATH": AGENT}
    env["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(os.path.dirname(plan_path), "inductor")
    if "allocator" in settings:
        env["PYTORCH_CUDA_ALLOC_CONF"] = settings["allocator"]
    return env


def plan(argv, settings, trial, device):
    """The agent's plan for one launch; the first loader that a script builds feeds training."""
    return {
        "version": 1,
        "nonce": "acceptance",
        "mode": "trial",
        "trial_dir": trial,
        "argv": argv,
        "device": device,
        "settings": settings,
        "ways": {knob: "environment" if knob == "allocator" else "agent" for knob in settings},
        "schedule": SCHEDULE,
        "coverage": None,
        "inspect": False,
        "cap_bytes": None,
        "parity_steps": COMPARED,
        "seed": 7,
        "training_loader": 0,
        "required": [],
    }


def launch(call, folder, argv, settings, device, seconds):
    """Runs `argv` by `call(argv, seconds, **environment)`; what the agent wrote, as `read` has it."""
    trial = os.path.join(folder, "trial")
    os.makedirs(trial)
    path = os.path.join(folder, "plan.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(plan(argv, settings, trial, device), file)
    status, _, err, _, took = call(argv, seconds, **environment(settings, path))
    return {"status": status, "seconds": took, "err": err[-600:], **read(trial)}


def read(trial):
    """Knobs' last reports, losses, the allocator's peak and how it ended."""
    path = os.path.join(trial, "events.0.jsonl")
    records = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            records = [json.loads(row) for row in file]
    ends = [r["reason"] for r in records if r["t"] == "end"]
    peaks = [r["bytes"].get("allocated_peak") for r in records if r["t"] == "memory"]
    return {
        "knobs": {r["knob"]: r for r in records if r["t"] == "knob"},
        "losses": [r["loss"] for r in records if r["t"] == "step"][:COMPARED],
        "faults": [r["error"] for r in records if r["t"] == "fault"],
        "peak": peaks[-1] if peaks else None,
        "end": ends[-1] if ends else None,
    }


def judge(plain, found, settings, close, lower):
    """[(what must hold, whether it does, the numbers)] of a launch, beside the one without settings."""
    ended = found["status"] == 0 and found["end"] == "measured" and not found["faults"]
    numbers = {key: found[key] for key in ("status", "end", "faults", "seconds")}
    checks = [("measured", ended, {**numbers, "err": None if ended else found["err"]})]
    for knob, value in settings.items():
        report = found["knobs"].get(knob) or {}
        said = {key: report.get(key) for key in ("effective", "how", "reason")}
        checks.append((f"{knob}={str(value).lower()} in force", report.get("effective") == value, said))
    pairs = list(zip(plain["losses"], found["losses"]))
    near = len(pairs) == COMPARED and all(
        a is not None and b is not None and abs(a - b) <= close * abs(a) for a, b in pairs
    )
    checks.append(("losses as without", near, {"without": plain["losses"], "with": found["losses"]}))
    if lower:
        peaks = (found["peak"], plain["peak"])
        less = all(peaks) and peaks[0] < 0.95 * peaks[1]
        checks.append(("a lower peak", less, {"without": peaks[1], "with": peaks[0]}))
    return checks
