"""What the script already does by itself: the `detected` record."""

import importlib

from . import imports, patches


def install(session):
    """Watches once torch is there."""

    def ready(torch):
        session.detect = Detect(session, torch)
        session.detect.start()

    imports.on_import("torch", ready)


class Detect:
    def __init__(self, session, torch):
        self.session = session
        self.torch = torch
        self.their_checkpoints = 0  # calls of torch.utils.checkpoint that the script made
        self.in_their_checkpoint = 0
        self._ours_begins = False

    def start(self):
        """Watches torch.utils.checkpoint below the function that scripts and the compiler know."""
        module = importlib.import_module("torch.utils.checkpoint")
        patches.replace(module, "_checkpoint_without_reentrant_generator", self._without_reentrant)
        function = module.CheckpointFunction
        patches.replace(function, "forward", self._reentrant)

    def checkpoint(self, function, args, kwargs, context_fn):
        """The agent's own use of torch.utils.checkpoint, not counted as the script's."""
        self._ours_begins = True
        return self.torch.utils.checkpoint.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=True, context_fn=context_fn, **kwargs
        )

    def _without_reentrant(self, original):
        def generator(*args, **kwargs):
            inner = original(*args, **kwargs)
            if self._ours_begins:
                self._ours_begins = False
                return inner
            return self._watched(inner)

        return generator

    def _watched(self, inner):
        self.their_checkpoints += 1
        next(inner)
        self.in_their_checkpoint += 1
        try:
            yield
        finally:
            self.in_their_checkpoint -= 1
        next(inner, None)

    def _reentrant(self, original):
        def forward(*args, **kwargs):
            self.their_checkpoints += 1
            return original(*args, **kwargs)

        return staticmethod(forward)
