"""What the script already does by itself: the `detected` record."""

from . import imports


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
        self.checkpoint_calls = 0

    def start(self):
        """Counts the calls of torch.utils.checkpoint, below the name that scripts and the compiler hold."""
        import importlib

        module = importlib.import_module("torch.utils.checkpoint")
        watch = self

        def counted(original):
            def generator(*args, **kwargs):
                watch.checkpoint_calls += 1
                return original(*args, **kwargs)
            return generator
        from . import patches
        patches.replace(module, "_checkpoint_without_reentrant_generator", counted)
