"""Lightning's Trainer and Fabric: `precision`.

Micro-batches are made by the agent: with `accumulate_grad_batches` the Trainer divides every loss by their
number, so that an epoch's uneven end, or labels that do not count, would weigh otherwise than in the whole
batch; and hooks and schedules that count batches would see as many times more.
"""

import os
import sys

from . import ranks
from .base import Known, watch_building

KNOWN = Known("lightning", (2, 0), (3, 0))
PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "off": "32-true"}
WORDS = {word: knob for knob, word in PRECISION.items()}
FULL = (None, 32, "32", "32-true")  # what the script may leave it at
PACKAGES = ("lightning", "pytorch_lightning", "lightning_fabric")


def ready(frameworks, module):
    """A module with `Trainer` or `Fabric` was imported."""
    cls = getattr(module, "Trainer", None) or module.Fabric
    package = module.__name__.split(".")[0]
    version = str(getattr(sys.modules.get(package), "__version__", ""))
    watch = Watch(frameworks, cls.__name__, KNOWN.stands_against(version))
    watch_building(frameworks, cls, cls.__name__, watch.before, watch.after)


class Watch:
    """Sets the precision of each Trainer or Fabric that is built."""

    def __init__(self, frameworks, name, unknown):
        self.frameworks = frameworks
        self.how = name + "(precision)"
        self.variable = {"Trainer": "PL_TRAINER_PRECISION"}.get(name, "LT_PRECISION")
        self.unknown = unknown
        cuda = frameworks.session.device == "cuda"
        self.values = ["off", "bf16", "fp16"] if cuda else ["off", "bf16"]
        self.built = None
        self.own = None  # what the script has set, in Lightning's words

    def before(self, _built, arguments):
        arguments = arguments.get("kwargs", arguments)
        self.own = arguments.get("precision")
        if self.own in FULL:
            self.own = os.environ.get(self.variable)
        if any("Precision" in type(plugin).__name__ for plugin in _plugins(arguments.get("plugins"))):
            self.own = "a plugin"
        self.shorten(arguments)
        wanted = self.frameworks.wanted("amp")
        if wanted is None:
            return
        why_not = self.stands_against()
        if why_not is None and wanted not in self.values:
            # It would take another type instead, with a warning.
            why_not = "%s does not take %s on %s" % (self.how, wanted, self.frameworks.session.device)
        if why_not is not None:
            self.frameworks.refuse("amp", why_not)
        elif wanted != "off":
            arguments["precision"] = PRECISION[wanted]

    def shorten(self, arguments):
        """A confirm trial: the Trainer counts batches itself, and evaluates where its own count ends."""
        coverage = self.frameworks.session.plan.coverage
        limit = arguments.get("limit_train_batches")
        if coverage is None or not self.how.startswith("Trainer") or arguments.get("overfit_batches"):
            return
        last = coverage.end_loader_after
        if not isinstance(limit, int) or limit > last:
            arguments["limit_train_batches"] = last
        every = arguments.get("val_check_interval")
        if isinstance(every, int) and every > last:
            arguments["val_check_interval"] = last
        if (arguments.get("check_val_every_n_epoch") or 0) > 1:
            arguments["check_val_every_n_epoch"] = 1

    def stands_against(self):
        if self.unknown is not None:
            return self.unknown
        if self.own not in FULL:
            return "the script sets %s to %s by itself" % (self.how, self.own)
        return None

    def after(self, built):
        self.built = built
        self.frameworks.reads("amp", self.read)
        own = "off" if self.own in FULL else WORDS.get(str(self.own), str(self.own))
        self.frameworks.tell("amp", self.how, own, values=self.values, why_not=self.stands_against())
        if self.how.startswith("Trainer"):
            ranks.lightning(self.frameworks)
        else:
            ranks.tell(self.frameworks, "Fabric")

    def read(self):
        found = getattr(self.built, "precision", None)
        if found is None:
            found = getattr(getattr(self.built, "_precision", None), "precision", None)
        value = WORDS.get(str(found))
        if value is None or value != self.frameworks.wanted("amp"):
            return None, self.how, "%s is %s" % (self.how, found)
        return value, self.how, None


def _plugins(given):
    return given if isinstance(given, (list, tuple)) else [given]
