"""The script's own options: which there are, how each is written on the command line, the values in force.

In the first launch of a search all of them are told, so that the launcher can see which of them turn knobs.
In later launches, and in production, the options that it has set are read back: what the script's parser made
of them is compared with what was asked.

One file knows one kind of parser.  It calls `Options.offer` with `option` records; of several parsers that
read the same command line the one that the script means is kept.
"""

import sys

from .. import imports
from . import constants

# The module in which a kind of parser lives, and the file here that knows it.  Only what the script imports
# is loaded.
_KINDS = (
    ("argparse", "of_argparse"),
    ("jsonargparse._core", "of_jsonargparse"),
    ("click.core", "of_click"),
    ("typer._click.core", "of_click"),  # typer's own copy of click
    ("hydra._internal.hydra", "of_hydra"),
    ("absl.flags._flagvalues", "of_absl"),
    ("fire.core", "of_fire"),
)

# Who is believed where several have read the command line; least who found nothing in it.  hydra is built on
# argparse, and a script that changes its globals by hand may parse the rest with it.
RANKS = {
    "argparse": 1,
    "constants": 2,
    "jsonargparse": 2,
    "absl": 3,
    "click": 3,
    "fire": 3,
    "typer": 3,
    "hydra": 3,
}


def install(session):
    """Only where the plan asks for inspection, or has options to read back."""
    if not session.plan.inspect and not session.plan.options:
        return
    options = Options(session)
    session.options = options
    for module, name in _KINDS:
        imports.on_import(module, _watcher(name, options))
    session.on_claim(lambda: constants.tell(options))


def _watcher(name, options):
    def watch(module):
        full = f"{__name__}.{name}"
        __import__(full)
        sys.modules[full].watch(module, options)

    return watch


class Options:
    """What the script's parser knows."""

    def __init__(self, session):
        self.session = session
        self.parser = None
        self.found = {}  # dest -> the option's record
        self._standing = (-1, -1)
        self._told = None

    def guard(self, function):
        """A parser must work as before, whatever happens here."""
        return self.session.guard("options")(function)

    def offer(self, parser, words, options):
        """Takes the options of a parser, unless a better one has read the command line."""
        standing = (RANKS[parser] if options else 0, len(options))
        if standing < self._standing:
            return
        self._standing = standing
        self.parser = parser
        self.found = {option["dest"]: option for option in options}
        record = {"parser": parser, "words": words, "options": options}
        if self.session.plan.inspect and record != self._told:
            self._told = record
            self.session.emit("options", **record)

    def checked(self, report):
        """A knob's report; it is not in force where the parser read another value than was asked for."""
        for asked in self.session.plan.options.get(report["knob"], ()):
            reason = self._mismatch(asked["dest"], asked["value"])
            if reason is not None:
                return dict(report, effective=None, reason=reason)
        return report

    def _mismatch(self, dest, asked):
        found = self.found.get(dest)
        if found is None:
            return f"no parser of the script read {dest}"
        if same(asked, found["value"]):
            return None
        return f"{self.parser} reads {dest}={found['value']}, not {asked}"


def same(asked, value):
    """Whether two texts are the same value: `true` is `True`, `8` is `8.0`."""
    one, other = (str(text).strip().lower() for text in (asked, value))
    if one == other:
        return True
    try:
        return float(one) == float(other)
    except ValueError:
        return False
