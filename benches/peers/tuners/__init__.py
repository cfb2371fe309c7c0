"""One file a tool: `find(scenario, bench)` gives a Finding, and closes the places that nothing runs in later.

The names of tools are those of the table; the order is that of its rows.
"""

from . import accelerate, autofit, autovram, by_hand, composer, deepspeed, lightning, optuna

#: For every scenario, those that need no other package first.
ALWAYS = {"by hand": by_hand, "autofit": autofit}
TOOLS = {
    "accelerate": accelerate,
    "Lightning (power)": lightning.Mode("power"),
    "Lightning (binsearch)": lightning.Mode("binsearch"),
    "autovram": autovram,
    "Optuna": optuna,
    "DeepSpeed": deepspeed,
    "Composer": composer,
}
