"""Accelerate: `Accelerator(mixed_precision=...)`, and loaders that are copies of the script's.

Micro-batches are made by the agent: with `gradient_accumulation_steps` the script's own counters would see as
many times the batches, and `Accelerator.backward` weighs an epoch's uneven end like the rest.
"""

import os
import sys

from .. import patches
from . import ranks
from .base import Known, watch_building

KNOWN = Known("accelerate", (0, 26), (2, 0))
AMP = "Accelerator(mixed_precision)"
VALUES = ["off", "bf16"]  # fp16 wants unscaling before clipping, which a script has not been written for


def ready(frameworks, module):
    """`accelerate.accelerator` or `accelerate.data_loader` was imported."""
    if hasattr(module, "DataLoaderShard") and not hasattr(module, "Accelerator"):
        patches.replace(module.DataLoaderShard, "__iter__", _one_ahead(frameworks.session))
        return
    watch = Watch(frameworks)
    watch_building(frameworks, module.Accelerator, "Accelerator", watch.before, watch.after)
    patches.replace(module.Accelerator, "prepare_data_loader", _copies(frameworks.session))
    ranks.accelerator(frameworks, module.Accelerator)


class Watch:
    """Sets the switch of each Accelerator that the script builds."""

    def __init__(self, frameworks):
        self.frameworks = frameworks
        version = str(getattr(sys.modules.get("accelerate"), "__version__", ""))
        self.unknown = KNOWN.stands_against(version)
        self.accelerator = None
        self.own = "no"

    def before(self, _accelerator, arguments):
        given = arguments.get("mixed_precision")
        self.own = str(given) if given is not None else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        wanted = self.frameworks.wanted("amp")
        if wanted is None:
            return
        why_not = self.unknown or self.stands_against()
        if why_not is None and wanted not in VALUES:
            why_not = "%s is not set to %s: the script would have to unscale gradients before it clips them"
            why_not %= (AMP, wanted)
        if why_not is not None:
            self.frameworks.refuse("amp", why_not)
        elif wanted != "off":
            arguments["mixed_precision"] = wanted

    def stands_against(self):
        if self.own not in ("no", "None"):
            return "the script sets %s to %s by itself" % (AMP, self.own)
        return None

    def after(self, accelerator):
        self.accelerator = accelerator
        self.frameworks.reads("amp", self.read)
        own = self.own if self.stands_against() else "off"
        why_not = self.unknown or self.stands_against()
        self.frameworks.tell("amp", AMP, own, values=VALUES, why_not=why_not)
        ranks.tell(self.frameworks, "Accelerator")

    def read(self):
        precision = self.accelerator.mixed_precision
        if precision not in ("no", self.frameworks.wanted("amp")):
            return None, AMP, "%s is %s" % (AMP, precision)
        return ("off" if precision == "no" else precision), AMP, None


def _copies(session):
    """A prepared loader is a copy of the script's: it goes by the script's loader's number."""

    def make(original):
        def prepare_data_loader(accelerator, loader, *args, **kwargs):
            with session.loaders.copying(loader):
                return original(accelerator, loader, *args, **kwargs)

        return prepare_data_loader

    return make


def _one_ahead(session):
    """It draws one batch ahead: samples count when the script is handed them."""

    def make(original):
        def __iter__(shard):
            handed = session.samples.hold(shard) if hasattr(session, "samples") else None
            for batch in original(shard):
                if handed is not None:
                    handed()
                yield batch

        return __iter__

    return make
