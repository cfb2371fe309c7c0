"""DataLoaders: counted as they are built, and their arguments shown to those who may change them."""

import contextlib
import inspect
import os
import sys
import weakref

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
        self.training = set()
        self.sites = {}  # index -> where in the script it was built
        self._loaders = {}  # index -> weak reference
        self._copied = None  # the loader that a framework is making a copy of

    def patch(self, module):
        patches.replace(module.DataLoader, "__init__", self._make)

    def index_of(self, loader):
        """The loader's number, or None."""
        return getattr(loader, "_autofit_index", None)

    @contextlib.contextmanager
    def copying(self, loader):
        """What is built meanwhile stands for this loader: it takes its number, and is not changed."""
        before, self._copied = self._copied, loader if self.index_of(loader) is not None else None
        try:
            yield
        finally:
            self._copied = before

    def get(self, index):
        """The loader with this number, while it lives."""
        reference = self._loaders.get(index)
        return reference() if reference is not None else None

    def trains(self, index):
        """Training draws from this loader."""
        self.training.add(index)
        loader = self.get(index)
        if loader is not None:
            self.tell(loader)

    def tell(self, loader):
        """Emits the `loader` record."""
        if self.session.mode == "trial":
            self.session.emit("loader", **info(loader, self.index_of(loader) in self.training))

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
        if self._copied is not None:
            return self.index_of(self._copied), self._copied._autofit_site, bound.args[1:], bound.kwargs
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
        self._loaders[index] = weakref.ref(loader)
        self.sites[index] = site
        if self._copied is not None:
            return
        self.tell(loader)
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


def info(loader, training):
    """`LoaderInfo` of the contract."""
    iterable = getattr(loader, "_dataset_kind", 0) == 1
    batch_size = loader.batch_size
    if batch_size is None:
        batch_size = _whole(getattr(getattr(loader, "batch_sampler", None), "batch_size", None))
    return {
        "index": getattr(loader, "_autofit_index", 0),
        "site": getattr(loader, "_autofit_site", ""),
        "training": training,
        "batch_size": _whole(batch_size),
        "num_workers": loader.num_workers,
        "pin_memory": bool(loader.pin_memory),
        "prefetch_factor": getattr(loader, "prefetch_factor", None),
        "persistent_workers": bool(getattr(loader, "persistent_workers", False)),
        "batches": None if iterable else _length(loader),
        "dataset_length": None if iterable else _length(loader.dataset),
        "sampler": type(loader.sampler if loader.batch_size is not None else loader.batch_sampler).__name__,
        "drop_last": bool(getattr(loader, "drop_last", False)),
        "iterable": iterable,
    }


def _whole(value):
    return int(value) if isinstance(value, int) and value >= 0 else None


def _length(thing):
    # A length is the script's own code: whatever it raises means that there is none.
    try:
        return _whole(len(thing))
    except Exception:
        return None
