"""Calls back when a module has been imported, without importing anything by itself.

A finder at the head of `sys.meta_path` watches for the names that were asked for, lets the other finders find
the module, and puts a loader around theirs that calls back once the module's code has run.  The true loader
is back in the spec before that code runs, so the module sees nothing of us.
"""

import sys

_waiting = {}
_ready = set()  # modules whose code has run, though Python may still call them initializing
_report = [None]


def on_import(name, callback):
    """Calls `callback(module)` once `name` is imported; at once if it already is."""
    module = sys.modules.get(name)
    if module is not None and (name in _ready or not _initializing(module)):
        _call(name, callback, module)
        return
    _waiting.setdefault(name, []).append(callback)


def install(report):
    """Starts watching; `report(hook, exception)` hears of callbacks that raise."""
    _report[0] = report
    if not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _initializing(module):
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _call(name, callback, module):
    try:
        callback(module)
    except Exception as error:
        if _report[0] is None:
            raise
        _report[0](f"import of {name}", error)


class _Finder:
    def __init__(self):
        self._busy = set()

    def find_spec(self, name, path=None, target=None):
        if name not in _waiting or name in self._busy:
            return None
        self._busy.add(name)
        try:
            spec = self._ask_others(name, path, target)
        finally:
            self._busy.discard(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec

    def _ask_others(self, name, path, target):
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec = find(name, path, target)
            if spec is not None:
                return spec
        return None


class _Loader:
    """The true loader, and a call back after it."""

    def __init__(self, loader):
        self._autofit_loader = loader

    def __getattr__(self, name):
        if name == "_autofit_loader":
            raise AttributeError(name)
        return getattr(self._autofit_loader, name)

    def create_module(self, spec):
        return self._autofit_loader.create_module(spec)

    def exec_module(self, module):
        loader = self._autofit_loader
        module.__spec__.loader = loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = loader
        loader.exec_module(module)
        name = module.__spec__.name
        _ready.add(name)
        for callback in _waiting.pop(name, []):
            _call(name, callback, sys.modules.get(name, module))
