"""Frameworks: what was imported, in which version, and knobs through a framework's own switches.

Where the plan's way for a knob is `framework`, the file of that framework sets the switch when the
framework's object is built, from the value that the script itself has given it by then, and reads it back
from the built object.  The agent's own patch of the same knob is off then (`Knob.acts`).  A switch is never
set over one that the script has set.

In an inspection the `switch` records say which switches a script's objects have: how a knob would be turned,
the script's own value, or why it is not turned that way, and whether the agent's patch may do it instead.
"""

import sys

from .. import imports

_NAMES = ("torch", "transformers", "accelerate", "lightning", "pytorch_lightning")
# The module in which a framework's object is defined -> our file about it.
_FILES = {
    "transformers.trainer": "trainer",
    "accelerate.accelerator": "accelerate",
    "accelerate.data_loader": "accelerate",
    "lightning.pytorch.trainer.trainer": "lightning",
    "pytorch_lightning.trainer.trainer": "lightning",
    "lightning.fabric.fabric": "lightning",
    "lightning_fabric.fabric": "lightning",
}


def install(session):
    """Watches for the frameworks that matter."""
    session.frameworks = Frameworks(session)
    for name in _NAMES:
        imports.on_import(name, _teller(session, name))
    for name, file in _FILES.items():
        imports.on_import(name, _loader(session, file))


def _teller(session, name):
    def tell(module):
        devices = 0
        if name == "torch" and (session.device == "cuda" or session.plan.inspect):
            # Counts without initialising CUDA, so that the script may still fork.
            devices = module.cuda.device_count()
        version = str(getattr(module, "__version__", ""))
        session.emit("framework", name=name, version=version, cuda_devices=devices)

    return tell


def _loader(session, file):
    """Our file about a framework is read once the framework itself is."""

    def ready(module):
        name = f"{__package__}.{file}"
        __import__(name)
        sys.modules[name].ready(session.frameworks, module)

    return ready


class Frameworks:
    """What the plan wants of frameworks, and what their objects say."""

    def __init__(self, session):
        self.session = session
        self.parts = 1  # micro-batches that a framework makes of a batch because we asked it to
        self.own_accumulation = 1  # ... and those that the script asks it for
        self.building = 0  # > 0 while a framework's object is built, which may build another framework's
        self._told = {}
        self._readers = {}

    def wanted(self, knob):
        """The value that a switch is to be set to, or None."""
        plan = self.session.plan
        return plan.settings.get(knob) if plan.ways.get(knob) == "framework" else None

    def wants(self):
        """Whether any knob goes through a framework."""
        return any(way == "framework" for way in self.session.plan.ways.values())

    def refuse(self, knob, reason):
        """The switch cannot be set."""
        if self.wanted(knob) is not None:
            self.session.knobs.get(knob).refuse(reason)

    def reads(self, knob, reader):
        """`reader()` gives (value in force or None, how, why not) from the framework's built object."""
        self._readers[knob] = reader

    def read(self, knob):
        """See `reads`."""
        reader = self._readers.get(knob)
        if reader is None:
            return None, "", "no object of a framework that has a switch for it was built"
        return reader()

    def tell(self, knob, how, current=None, values=(), why_not=None, agent=False):
        """A `switch` record, in an inspection; a later one on the same knob replaces an earlier one."""
        if not self.session.plan.inspect:
            return
        record = {
            "knob": knob,
            "how": how,
            "current": None if current is None else str(current),
            "values": list(values),
            "why_not": why_not,
            "agent": agent,
        }
        if self._told.get(knob) != record:
            self._told[knob] = record
            self.session.emit("switch", **record)
