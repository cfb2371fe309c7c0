"""Calls of `torch.utils.checkpoint`: the script's told from the agent's."""

import contextlib
import importlib

from . import patches


class Checkpoints:
    """Watches below the function that scripts and the compiler hold, which stays as it is."""

    def __init__(self, torch):
        self.torch = torch
        self.theirs = 0  # calls that the script made
        self.inside_theirs = 0
        self._ours_begins = False

    def watch(self):
        """Puts the watchers in place."""
        module = importlib.import_module("torch.utils.checkpoint")
        name = "_checkpoint_without_reentrant_generator"
        if hasattr(
            module, name + "_impl"
        ):  # from PyTorch 2.15 on, behind the old name and behind `checkpoint`
            name += "_impl"
        patches.replace(module, name, self._without_reentrant)
        patches.replace(module.CheckpointFunction, "forward", self._reentrant)

    def run(self, function, args, kwargs, context_fn):
        """The agent's own use, always exact: without reentrant autograd, with the random state restored."""
        self._ours_begins = True
        return self.torch.utils.checkpoint.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=True, context_fn=context_fn, **kwargs
        )

    def run_any(self, function, args, kwargs):
        """The same for keyword arguments of any name; all are passed by position."""
        names = list(kwargs)

        def run(*values):
            return function(*values[len(names) :], **dict(zip(names, values)))

        return self.run(run, [*kwargs.values(), *args], {}, _nothing)

    def _without_reentrant(self, original):
        def generator(*args, **kwargs):
            inner = original(*args, **kwargs)
            if self._ours_begins:
                self._ours_begins = False
                return inner
            return self._watched(inner)

        return generator

    def _watched(self, inner):
        self.theirs += 1
        next(inner)
        self.inside_theirs += 1
        try:
            yield
        except BaseException as error:
            inner.throw(error)
            raise
        finally:
            self.inside_theirs -= 1
        next(inner, None)

    def _reentrant(self, original):
        def forward(*args, **kwargs):
            self.theirs += 1
            return original(*args, **kwargs)

        return staticmethod(forward)


def _nothing():
    return contextlib.nullcontext(), contextlib.nullcontext()
