"""Optuna's TPE over a grid: asks for one configuration after the other, is told the rate of each.

A line of JSON each way.  In: `{"knobs": {NAME: [VALUE, ...]}, "trials": N, "seed": S}` begins a study; then,
after each line out (`{NAME: VALUE}`), the rate of that configuration in samples/s, 0 where memory ran out.
"""

import json
import sys

import optuna


def main():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for line in sys.stdin:
        order = json.loads(line)
        sampler = optuna.samplers.TPESampler(seed=order["seed"])
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(order["trials"]):
            trial = study.ask()
            knobs = {k: trial.suggest_categorical(k, values) for k, values in order["knobs"].items()}
            print(json.dumps(knobs), flush=True)
            study.tell(trial, json.loads(sys.stdin.readline()))


if __name__ == "__main__":
    main()
