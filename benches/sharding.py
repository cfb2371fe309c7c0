"""Memory of each rank where a plain script of 200 M parameters runs in several processes, against arithmetic.

    python3 benches/sharding.py [--binary FILE] [--out FILE] [--only SETTINGS]

One script, which knows nothing of it, under `strategy` in two and four processes (gloo), looked at by
`autofit profile` as a user types it.  Of each layout two figures are taken:

- what the first rank holds in tensors at the peak of a steady step, by category, and the highest count of
  PyTorch's allocator, which are compared with the arithmetic below;
- the peak of every rank by the kernel's books (VmHWM), from the interpreter's start to the end, the
  libraries' pages included, and of the first rank also what the profiler itself keeps.

Only memory is measured, so other load on the machine does not matter.  A layout for which there is not enough
memory is left out and named.  Needs torch, uses the CPU; a quarter of an hour.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import overhead

MIB = 1 << 20
WIDTH, BLOCKS, VOCABULARY, LENGTH, BATCH = 1024, 16, 8192, 8, 4
CLOSE = 0.05  # the allocator's peak and the arithmetic may differ by this part of the latter

# A batch of four short sentences: what a step keeps for the backward pass is little beside the model.
SCRIPT = f"""
import torch
from torch import nn
from torch.nn import functional as F

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        heads = self.attend(self.before(x)).view(batch, length, 3, 16, width // 16).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.join(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.after(x))))

class Language(nn.Module):
    def __init__(self, width, blocks, vocabulary, length):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, x, y):
        h = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        logits = self.norm(h) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

torch.manual_seed(0)
model = Language({WIDTH}, {BLOCKS}, {VOCABULARY}, {LENGTH})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
text = torch.randint(0, {VOCABULARY}, (1000, {BATCH}, {LENGTH} + 1))
for step, rows in enumerate(text):
    loss = model(rows[:, :-1], rows[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(step, loss.item())
"""

LAYOUTS = (
    (1, {}),
    (2, {"strategy": "ddp"}),
    (2, {"strategy": "ddp", "gradient_as_bucket_view": "true"}),
    (2, {"strategy": "fsdp"}),
    (2, {"strategy": "fsdp", "malloc": "trim"}),  # the C library keeps nothing that is free
    (2, {"strategy": "fsdp_offload"}),
    (4, {"strategy": "ddp", "gradient_as_bucket_view": "true"}),
    (4, {"strategy": "fsdp"}),
)


class Model:
    """Bytes of the script's parameters (float32)."""

    block = 4 * (12 * WIDTH * WIDTH + 13 * WIDTH)
    rest = 4 * (VOCABULARY * WIDTH + LENGTH * WIDTH + 2 * WIDTH)
    all = BLOCKS * block + rest
    largest = 4 * VOCABULARY * WIDTH  # one tensor


def arithmetic(ranks, settings):
    """{part: bytes} of one rank when the backward pass ends, and the parts' sum.

    Of a sharded model that is what must be there; beside it blocks are put together, and whole gradients and
    gloo's copies of them are on their way, as many as are not done with yet (`whole_blocks`).
    """
    word = settings.get("strategy")
    if word in ("fsdp", "fsdp_offload"):
        parts = {
            "parameters, gradients and two moments, a part": 4 * Model.all // ranks,
            "what is in no block, put together, and its gradients": 2 * Model.rest,
        }
    else:
        parts = {"parameters, gradients and two moments": 4 * Model.all}
        if word == "ddp" and settings.get("gradient_as_bucket_view") == "true":
            parts["the largest bucket, filled beside its gradients"] = max(25 * MIB, Model.largest)
        elif word == "ddp":
            parts["gradients in buckets"] = Model.all
    return {**parts, "sum": sum(parts.values())}


class Place:
    """A folder with the script, in which commands are run."""

    def __init__(self, folder, binary):
        self.folder = folder
        self.binary = os.path.abspath(binary)
        with open(os.path.join(folder, "large.py"), "w", encoding="utf-8") as file:
            file.write(SCRIPT)

    def run(self, ranks, settings):
        """What `autofit profile` prints of the script with these settings."""
        words = [self.binary, "profile", "--device", "cpu", "--json", "-q", "--trial-timeout", "20m"]
        words += ["--out", self.folder]
        if settings:
            asked = {**settings, "processes": ranks}
            words += ["--set", ",".join(f"{name}={value}" for name, value in asked.items())]
        argv = [*words, "--", sys.executable, "large.py"]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOFIT_", "PYTHON"))}
        done = subprocess.run(
            argv, env=env, cwd=self.folder, capture_output=True, text=True, timeout=1800, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}")
        return json.loads(done.stdout)


def measure(place, ranks, settings):
    """What one layout needs."""
    profile = place.run(ranks, settings)
    memory = profile["memory"]
    return {
        "name": named(ranks, settings),
        "settings": settings,
        "ranks": ranks,
        "peak": memory["peak"],
        "counted": memory["counted"],
        "categories": memory["categories"],
        "largest_blocks": memory["blocks"][:12],
        "process": profile["host"],
        "kernel_peaks": [rank["peak"] for rank in profile["ranks"]] or [profile["host"]["rss_peak"]],
    }


def judge(found):
    """Puts the arithmetic beside what was measured; whether they agree, or parts take less than copies."""
    wanted = found["arithmetic"] = arithmetic(found["ranks"], found["settings"])
    ratio = found["of_arithmetic"] = found["counted"] / wanted["sum"]
    if found["settings"].get("strategy", "ddp") != "ddp":
        found["whole_blocks"] = round((found["counted"] - wanted["sum"]) / Model.block, 1)
        copies = arithmetic(found["ranks"], {"strategy": "ddp", "gradient_as_bucket_view": "true"})["sum"]
        return {"of_copies": found["counted"] / copies, "met": found["counted"] < copies}
    return {"of_arithmetic": ratio, "within": CLOSE, "met": abs(ratio - 1) <= CLOSE}


def enough_memory(ranks, settings):
    """None, or what is lacking: the arithmetic, and what a process needs besides, for each rank."""
    needed = ranks * (arithmetic(ranks, settings)["sum"] + Model.all // 2 + 600 * MIB)
    with open("/proc/meminfo", encoding="ascii") as file:
        figures = {row.split(":")[0]: int(row.split()[1]) << 10 for row in file}
    if figures["MemAvailable"] >= needed:
        return None
    return f"needs {needed >> 20} MiB, {figures['MemAvailable'] >> 20} MiB are available"


def named(ranks, settings):
    words = ",".join(f"{name}={value}" for name, value in settings.items())
    return f"{words} x{ranks}" if settings else "single"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", default=os.path.join(overhead.ROOT, "target", "release", "autofit"))
    parser.add_argument("--only", help="one layout, by its printed name; others in the file stay")
    folder = os.environ.get("OUT") or os.path.join(overhead.ROOT, "benches", "results")
    parser.add_argument("--out", default=os.path.join(folder, "sharding.json"))
    args = parser.parse_args()
    import torch

    body = {
        "version": 1,
        "kind": "sharding",
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cpu": overhead.cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "parameters": Model.all // 4,
        "bytes": {"all": Model.all, "block": Model.block, "in_no_block": Model.rest},
        "layouts": [],
        "not_run": [],
        "goals": {},
    }
    if args.only and os.path.exists(args.out):
        with open(args.out, encoding="utf-8") as file:
            before = json.load(file)
        body["layouts"] = [one for one in before["layouts"] if one["name"] != args.only]
        body["not_run"] = [one for one in before["not_run"] if one["layout"] != args.only]
    for ranks, settings in LAYOUTS:
        name = named(ranks, settings)
        if args.only not in (None, name):
            continue
        lacking = enough_memory(ranks, settings)
        if lacking:
            body["not_run"].append({"layout": name, "why": lacking})
            print(f"{name:44} {lacking}", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="autofit-sharding-") as folder:
            found = measure(Place(folder, args.binary), ranks, settings)
        body["layouts"].append(found)
        judge(found)
        counted, wanted = (round(n / MIB) for n in (found["counted"], found["arithmetic"]["sum"]))
        kernel = ", ".join(str(peak >> 20) for peak in found["kernel_peaks"])
        print(f"{name:44} {counted:5} MiB, by arithmetic {wanted}; kernel {kernel}", flush=True)
    body["goals"] = {found["name"]: judge(found) for found in body["layouts"]}
    return overhead.write(body, args.out)


if __name__ == "__main__":
    sys.exit(main())
