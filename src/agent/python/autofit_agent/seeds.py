"""Seeds for a trial: each generator as soon as its module is there, so that the script's own seeds come
later."""

from . import imports


def install(session):
    """Does nothing without a seed in the plan."""
    seed = session.plan.seed
    if seed is None:
        return
    imports.on_import("random", lambda module: module.seed(seed))
    imports.on_import("numpy", lambda module: module.random.seed(seed % (1 << 32)))
    imports.on_import("torch", lambda module: module.manual_seed(seed))
