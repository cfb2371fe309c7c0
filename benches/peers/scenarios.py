"""The scripts, their memory limits, and how their speed is read from what they print themselves."""

import dataclasses
import re

import limit

# One line a step; larger sizes take fewer of them.
LINE = re.compile(r"\b(?:batch|step) (\d+)(?:/\d+)?: (?:loss|D) ")
# What each script prints when its evaluation phase has ended.
EVALUATED = re.compile(r"val loss |validation|distance to the mean picture")
FEWEST_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A script of examples/ under a limit."""

    script: str
    cap: str
    #: Samples that a production run trains on, whatever the batch size.
    samples: int
    #: The script's own batch size.
    batch: int
    #: Whether all tools take part, or only autofit and doubling by hand.
    tools: bool

    @property
    def name(self):
        return f"{self.script}-{self.cap}"

    @property
    def cap_bytes(self):
        return limit.size(self.cap)

    def production(self, batch=None):
        """Options of a run that trains, evaluates and saves; without a batch it is the script's own."""
        size = batch or self.batch
        steps = max(FEWEST_STEPS, self.samples // size)
        return [*OPTIONS[self.script](size, steps), *(["--batch-size", str(batch)] if batch else [])]

    def short(self, batch=None, steps=4):
        """Options of a run that shows whether it fits: some steps, then evaluation and saving."""
        words = OPTIONS[self.script](batch or self.batch, steps)
        return [*words, *(["--batch-size", str(batch)] if batch else [])]


def _gpt(_batch, steps):
    return ["--device", "cpu", "--steps", str(steps), "--eval-iters", "1", "--log-every", "1"]


def _epochs(samples, validation):
    """Of a script with a loader: whole epochs where they are needed for that many steps."""

    def options(batch, steps):
        epochs = max(1, round(steps * batch / samples))
        words = ["--device", "cpu", "--epochs", str(epochs), "--steps", str(-(-steps // epochs))]
        words += ["--val-samples", str(validation)] if validation else []
        return [*words, "--log-every", "1"]

    return options


OPTIONS = {
    "gpt": _gpt,
    "cnn": _epochs(6000, 512),
    "text_classifier": _epochs(4800, 256),
    "gan": _epochs(6400, 0),
}

# The first is one in which the script does not run as it is; in the others there is room for larger batches.
SCENARIOS = (
    Scenario("gpt", "900MiB", 2688, 128, tools=True),
    Scenario("cnn", "1GiB", 12000, 128, tools=True),
    Scenario("gpt", "2GiB", 2688, 128, tools=False),
    Scenario("text_classifier", "1GiB", 2400, 32, tools=False),
    Scenario("gan", "1GiB", 12800, 128, tools=False),
)


def rate(marks, batch):
    """Samples a second from `(step, time)` of the lines of a run; None where there are too few of them.

    The first step is warm-up.  A step that is not larger than the last one begins an epoch: evaluation and
    saving lie between.
    """
    stretches = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks[1:], marks[2:]) if b[0] > a[0]]
    if len(stretches) < 2:
        return None
    return batch * sum(steps for steps, _ in stretches) / sum(seconds for _, seconds in stretches)
