"""DeepSpeed's autotuning: `deepspeed --autotuning tune`, its defaults (fast mode), on the processor."""

import json
import os
import re
import sys

import finding
import place as places

# The limit is around the script, not around the tool: DeepSpeed launches this in the place of the script.
WRAPPER = """
import os, sys
python = sys.executable
os.execv(python, [python, {limit!r}, {cap!r}, "--", python, {script!r}, *sys.argv[1:]])
"""
SECONDS = 900.0
BUILD = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()"


def find(scenario, bench):
    edits = [f"{scenario.script}-deepspeed.patch", "deepspeed.json"]
    place = places.Place(edits)
    script = scenario.script + ".py"
    with open(os.path.join(place.folder, "limited.py"), "w", encoding="utf-8") as file:
        file.write(
            WRAPPER.format(limit=os.path.join(places.HERE, "limit.py"), cap=scenario.cap, script=script)
        )
    env = {"DS_ACCELERATOR": "cpu"}
    # Its own operators are compiled at their first use; not under the limit, and not counted.
    built = place.launch([sys.executable, "-c", BUILD], env=env)
    options = ["--deepspeed_config", "deepspeed.json"]
    words = ["deepspeed", "--autotuning", "tune", "limited.py", *scenario.short(steps=8), *options]
    launch = place.launch(words, env=env, timeout=SECONDS)
    found = finding.Finding("DeepSpeed", finding.version("deepspeed"), edits, launch.seconds, 0)
    found.trials = len(re.findall(r"Launching exp_id", launch.output))
    found.attempts = [{**launch.record(), "output": launch.rows(), **logs(place.folder)}]
    found.attempts[0]["operators_built_before"] = built.record()
    path = os.path.join(place.folder, "autotuning_results", "ds_config_optimal.json")
    if not os.path.exists(path):
        found.note = refusal(launch, found.attempts[0])
        bench.say(f"DeepSpeed: {found.note}")
        place.close()
        return found
    with open(path, encoding="utf-8") as file:
        best = json.load(file)
    size, parts = best["train_micro_batch_size_per_gpu"], best.get("gradient_accumulation_steps", 1)
    stage = best.get("zero_optimization", {}).get("stage", 0)
    found.found = f"micro-batch {size}, accumulation {parts}, ZeRO {stage}"
    options = ["--deepspeed_config", path]
    command = ["deepspeed", "limited.py", *scenario.production(size), *options]
    found.candidate = finding.Candidate(place, command, size * parts, env, limited=True)
    bench.say(f"DeepSpeed: {found.found}, {found.trials} experiments, {launch.seconds:.0f} s")
    return found


def logs(folder):
    """The last words of each experiment."""
    found = {}
    for base, _, files in os.walk(os.path.join(folder, "autotuning_results")):
        if "stderr.log" in files:
            with open(os.path.join(base, "stderr.log"), encoding="utf-8", errors="replace") as file:
                found[os.path.basename(base)] = places.shown(file.read()).splitlines()[-10:]
    return {"experiments": found}


def refusal(launch, attempt):
    """The line that says why: the last error, of the tuner or of an experiment."""
    rows = [row for name in attempt["experiments"].values() for row in name] + launch.tail()
    errors = [row for row in rows if re.search(r"Error|error|not runnable|not supported", row)]
    return (errors or rows or ["no output"])[-1].strip()
