"""Optuna over the switches of a script: python optuna_study.py NAME TRIALS COMMAND..."""

import json
import os
import re
import subprocess
import sys
import time

import optuna

KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
MALLOC = {"default": {}, "retain": KEEP, "pages": {"THP_MEM_ALLOC_ENABLE": "1"}}
MALLOC["huge"] = {**MALLOC["retain"], **MALLOC["pages"]}
LINE = re.compile(r"\b(?:batch|step) (\d+)(?:/\d+)?: loss ")


def configuration(trial, name):
    malloc = trial.suggest_categorical("malloc", list(MALLOC))
    threads = trial.suggest_int("omp_threads", 1, os.cpu_count())
    options = ["--amp"] if trial.suggest_categorical("amp", ["off", "bf16"]) == "bf16" else []
    if name == "gpt":
        options += ["--accumulation", str(trial.suggest_categorical("accumulation", [1, 2, 4, 8]))]
        options += ["--checkpoint", trial.suggest_categorical("checkpoint", ["none", "alternate", "all"])]
    else:
        options += ["--num-workers", str(trial.suggest_int("num_workers", 0, 2))]
        options += ["--channels-last"] if trial.suggest_categorical("channels_last", [False, True]) else []
    return options, {**MALLOC[malloc], "OMP_NUM_THREADS": str(threads)}


def objective(trial):
    options, environment = configuration(trial, sys.argv[1])
    process = subprocess.Popen(
        [*sys.argv[3:], *options], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    first, rate = None, 0.0
    try:
        for row in process.stdout:
            found = LINE.search(row)
            if not found or found[1] == "0":
                continue
            step, now = int(found[1]), time.monotonic()
            if first is None:
                first = (step, now)
                continue
            rate = (step - first[0]) / (now - first[1])
            trial.report(rate, step)
            if trial.should_prune():
                raise optuna.TrialPruned()
    finally:
        process.terminate()
        status = process.wait()
    return rate if status == 0 else 0.0


study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=4),
)
study.optimize(objective, n_trials=int(sys.argv[2]))
options, environment = configuration(study.best_trial, sys.argv[1])
best = {"value": study.best_value, "parameters": study.best_params}
print(json.dumps({**best, "options": options, "environment": environment}))
