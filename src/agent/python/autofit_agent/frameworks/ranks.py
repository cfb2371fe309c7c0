"""`strategy` of a framework's script that starts several processes.

What Accelerate, the Trainer of transformers and Fabric wrap in DistributedDataParallel is sharded as in a
script that does so by itself (`knobs/wrapped.py`); what they do otherwise than such a script is looked after
here.  Their own switches for it are not used: off a GPU they leave DistributedDataParallel in force without a
word, or raise; and where a script lets one rank save, it would be given parts of tensors, or wait for ever.
"""

import os

from .. import patches
from ..knobs.strategy import SHARDED

OWN = {
    "Accelerator": "Accelerator(fsdp_plugin)",
    "Trainer of transformers": "TrainingArguments.fsdp",
    "Fabric": "Fabric(strategy)",
}
_NOT_USED = "it shards on GPUs only, and no rank could save by itself then"
_LIGHTNING = "Lightning's Trainer wraps the model by a strategy of its own, which also saves and loads it"
_BY_HAND = "the script exchanges gradients in a backward pass alone (trigger_sync_in_backward)"
_UNUSED = "%d parameters had no gradient in the first step, and what is sharded must all be used"


def tell(frameworks, name):
    """The `switch` record of a framework that wraps a model for several ranks, built by the script."""
    if several():
        frameworks.tell("strategy", OWN[name], why_not=_NOT_USED, agent=True)


def several():
    """Whether this process is one of several that the command has started."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def sharding(frameworks):
    """The knob that shards what the framework wraps, or None."""
    plan = frameworks.session.plan
    asked = plan.script_ranks > 1 and plan.settings.get("strategy") in SHARDED
    knob = frameworks.session.knobs.get("strategy") if asked else None
    return knob if knob is not None and knob.acts else None


def trainer(frameworks, args):
    """Arguments of the Trainer, which looks for unused parameters where nobody has said whether it should.

    The first step must then show that there are none.
    """
    knob = sharding(frameworks)
    if knob is not None and args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False
        knob.expect_gradients(_UNUSED)


def accelerator(frameworks, cls):
    """`Accelerator`'s way of exchanging gradients late, which needs DistributedDataParallel's reducer."""

    def make(original):
        def trigger_sync_in_backward(built, model):
            knob = sharding(frameworks)
            if knob is not None:
                knob.stop(_BY_HAND)
            return original(built, model)

        return trigger_sync_in_backward

    if hasattr(cls, "trigger_sync_in_backward"):
        patches.replace(cls, "trigger_sync_in_backward", make)


def lightning(frameworks):
    """Lightning's Trainer is left alone."""
    if not several():
        return
    frameworks.tell("strategy", "Trainer(strategy)", why_not=_LIGHTNING)
    knob = sharding(frameworks)
    if knob is not None:
        knob.refuse(_LIGHTNING)
