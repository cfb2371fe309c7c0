"""Composer's `device_train_microbatch_size="auto"`: can its newest release be had beside this PyTorch?

It cannot run on a processor in any case: `_is_auto_microbatching` of its composer/trainer/trainer.py raises
"Can only use adaptive device_train_microbatch_size on GPU".
"""

import sys

import finding

RELEASE = "0.32.1"


def find(_scenario, bench):
    torch = finding.version("torch").split("+")[0]
    words = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-input", "--disable-pip-version-check"]
    launch = bench.plain.launch([*words, f"mosaicml=={RELEASE}", f"torch=={torch}"], timeout=300.0)
    rows = [row.strip() for row in launch.output.splitlines() if "depends on torch" in row]
    why = rows[0] if rows else launch.tail()[-1]
    note = f'for GPUs only ("Can only use adaptive device_train_microbatch_size on GPU"); pip says: {why}'
    bench.say(f"Composer: {note}")
    return finding.Finding("Composer", RELEASE, [], launch.seconds, 0, note=note, attempts=[launch.record()])
