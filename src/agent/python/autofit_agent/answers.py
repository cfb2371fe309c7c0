"""What a model that only serves returns in its first calls, for the launcher to compare with the baseline's.

It is the counterpart of `fingerprints.py`: where nothing is trained, the outputs are what must not change.
The data are those of the script, in their order; what was given is sketched as well, so that outputs for
other samples are not compared.
"""

from . import tree
from .sketch import Sketch

MOST_OUTPUTS = 2  # of one call: what comes behind them are caches


class Answers:
    """Of the first `parity_steps` calls of roots."""

    def __init__(self, session):
        self.session = session
        self._calls = 0
        self._inputs = None
        self._outputs = {}

    def more(self, args, kwargs, output):
        """One call; says whether it looked at it."""
        wanted = self.session.plan.parity_steps
        if self._calls >= wanted:
            return False
        torch = self.session.torch
        if self._inputs is None:
            self._inputs = Sketch(torch)
        for _, leaf in tree.leaves((args, kwargs)):
            if _is_dense(leaf, torch):
                self._inputs.add(leaf)
        told = 0
        for path, leaf in tree.leaves(output):
            if told < MOST_OUTPUTS and _is_dense(leaf, torch) and leaf.is_floating_point():
                sketch = Sketch(torch)
                sketch.add(leaf)
                self._outputs["call %d: %s" % (self._calls, tree.path_text(path))] = sketch.numbers()
                told += 1
        self._calls += 1
        if self._calls == wanted:
            self.session.emit(
                "parity",
                steps=self._calls,
                parameters=None,
                update=[],
                buffers=None,
                inputs=self._inputs.numbers(),
                outputs=self._outputs,
                without=None if self._outputs else "the model returns no tensors",
            )
            self._outputs = {}
        return True


def _is_dense(leaf, torch):
    return isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided
