"""`framework` records: what was imported, in which version."""

from . import imports

_NAMES = ("torch", "transformers", "accelerate", "lightning", "pytorch_lightning")


def install(session):
    """Watches for the frameworks that matter."""
    for name in _NAMES:
        imports.on_import(name, _teller(session, name))


def _teller(session, name):
    def tell(module):
        devices = 0
        if name == "torch" and (session.device == "cuda" or session.plan.inspect):
            # Counts without initialising CUDA, so that the script may still fork.
            devices = module.cuda.device_count()
        version = str(getattr(module, "__version__", ""))
        session.emit("framework", name=name, version=version, cuda_devices=devices)

    return tell
