"""Lightning's `Tuner.scale_batch_size`: three steps of each size, doubling, bisection after it or not."""

from . import in_process


class Mode:
    """One of the finder's modes; all else is its default."""

    def __init__(self, name):
        self.name = name

    def find(self, scenario, bench):
        module = f"{scenario.script}_lightning.py"
        return in_process.find(
            f"Lightning ({self.name})",
            "lightning",
            [module],
            [module, self.name],
            scenario,
            bench,
            # One line for each size after the first.
            lambda output: 1 + output.count("trying batch size"),
        )
