"""What a tool found, and how that is run in production."""

import dataclasses
import importlib.metadata
import sys

import place


@dataclasses.dataclass
class Candidate:
    """A configuration as a user would train with it."""

    place: place.Place
    command: list
    #: The effective batch: samples of one optimizer step.
    batch: int
    env: dict = dataclasses.field(default_factory=dict)
    #: The command sets the limit itself, around a part of it.
    limited: bool = False

    @property
    def key(self):
        """Two findings with the same key are the same run."""
        return (self.place.folder, tuple(self.command), tuple(sorted(self.env.items())))


@dataclasses.dataclass
class Finding:
    """The outcome of one tool for one script."""

    tool: str
    version: str
    edits: list
    #: Wall time until the tool had its result, its own start included.
    seconds: float
    #: Times that training was started, in processes of its own or inside of one.
    trials: int
    #: What was found, in the words of the tool; None where it found nothing.
    found: str = None
    candidate: Candidate = None
    #: What a reader must know, above all why there is no result.
    note: str = ""
    attempts: list = dataclasses.field(default_factory=list)

    def record(self):
        return {
            "tool": self.tool,
            "version": self.version,
            "edits": self.edits,
            "edited_lines": place.lines_of(self.edits),
            "seconds": round(self.seconds, 1),
            "trials": self.trials,
            "found": self.found,
            "effective_batch": self.candidate.batch if self.candidate else None,
            "note": self.note,
            "attempts": self.attempts,
        }


def version(package):
    """Of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def with_batch(plain, scenario, batch):
    """The unedited script with a batch of that size."""
    command = [sys.executable, scenario.script + ".py", *scenario.production(batch)]
    return Candidate(plain, command, batch)
