"""DataLoaders: counted as they are built, and their arguments shown to those who may change them."""

import inspect
import os
import sys

from . import imports, patches


def install(session):
    """Wraps `DataLoader.__init__` once torch is there."""
    registry = Loaders(session)
    session.loaders = registry
    imports.on_import("torch.utils.data.dataloader", registry.patch)


class Loaders:
    """Numbers DataLoaders in the order of construction."""

    def __init__(self, session):
        self.session = session
        self.built = 0
        self._depth = 0

    def patch(self, module):
        patches.replace(module.DataLoader, "__init__", self._make)

    def index_of(self, loader):
        """The loader's number, or None."""
        return getattr(loader, "_autofit_index", None)

    def _make(self, original):
        signature = inspect.signature(original)
        building = self.session.guard("loader building")(self._building)
        finished = self.session.guard("loader built")(self._built)

        def __init__(loader, *args, **kwargs):
            ready = building(signature, loader, args, kwargs)
            if ready is None:
                original(loader, *args, **kwargs)
                return
            index, site, args, kwargs = ready
            original(loader, *args, **kwargs)
            finished(index, site, loader)

        return __init__

    def _building(self, signature, loader, args, kwargs):
        try:
            bound = signature.bind(loader, *args, **kwargs)
        except TypeError:
            return None  # The script's own mistake: DataLoader says so itself.
        index, site = self.built, call_site(3)
        self.built += 1
        for hook in self.session.loader_hooks:
            if hasattr(hook, "building"):
                hook.building(index, site, bound.arguments)
        return index, site, bound.args[1:], bound.kwargs

    def _built(self, index, site, loader):
        # DataLoader refuses some attributes after construction, not this one.
        object.__setattr__(loader, "_autofit_index", index)
        object.__setattr__(loader, "_autofit_site", site)
        for hook in self.session.loader_hooks:
            if hasattr(hook, "built"):
                hook.built(index, site, loader)


def call_site(depth):
    """`train.py:41`, the nearest frame outside the agent and torch."""
    frame = sys._getframe(depth)
    here = os.path.dirname(__file__)
    first = None
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(here) and "functools" not in name:
            place = f"{os.path.basename(name)}:{frame.f_lineno}"
            if f"{os.sep}torch{os.sep}" not in name and "site-packages" not in name:
                return place
            first = first or place
        frame = frame.f_back
    return first or "?"
