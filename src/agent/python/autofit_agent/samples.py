"""Samples: what the training loader handed out since the last step, else the batch dimension of root calls.

The count follows the indices that the sampler drew for a batch, since a batch of dicts, graphs or detections
has no honest first dimension.  Batches count once a root has been called with gradients after them; what a
root saw without gradients is evaluation.
"""

import time
from collections import deque
from itertools import chain

from . import imports, patches


def install(session):
    """Watches loaders and root calls."""
    session.samples = Samples(session)
    session.root_calls.append(session.samples)
    session.stepper.take.append(session.samples.take)
    imports.on_import("torch.utils.data.dataloader", session.samples.patch)


class Samples:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.source = "unknown"  # "loader", "dim0", "dim1" (see sequence.py)
        self.last = 0  # samples of the latest step
        self.training = set()  # keys of loaders that training draws from
        self.on_batch = []  # functions(iterator, loader key) after each batch
        self.instead = None  # coverage: function(iterator, fetch) in place of fetch()
        self._pending = {}  # loader key -> [samples, seconds, with gradients on] since the last root call
        self._held = {}  # loader key -> samples of batches that a framework has drawn ahead
        self._counted = [0, 0.0]  # samples and seconds since the last step
        # Of the first root's arguments since the last step: their dimensions 0 and 1, added up.
        self._dims = [0, 0]
        self._elements = 0
        self._first_root = None
        self._in_step = False  # a call inside the step that an optimizer is making was counted
        self._trained = False  # a root was called in training mode

    # The loader

    def patch(self, module):
        """Wraps the base class of all loader iterators."""
        base = module._BaseDataLoaderIter
        patches.replace(base, "_next_index", self._make_next_index)
        patches.replace(base, "_reset", self._make_reset)
        patches.replace(base, "__next__", self._make_next)
        patches.replace(base, "__init__", self._make_init)

    def _make_init(self, original):
        guard = self.session.guard("loader iterator")

        @guard
        def remember(iterator, loader):
            iterator._autofit_key = self.session.loaders.index_of(loader)
            iterator._autofit_loader = loader

        def __init__(iterator, loader, *args, **kwargs):
            iterator._autofit_counts = deque()
            remember(iterator, loader)
            original(iterator, loader, *args, **kwargs)

        return __init__

    def _make_reset(self, original):
        def _reset(iterator, *args, **kwargs):
            iterator._autofit_counts = deque()
            iterator._autofit_yielded = 0
            return original(iterator, *args, **kwargs)

        return _reset

    def _make_next_index(self, original):
        def _next_index(iterator):
            index = original(iterator)
            counts = getattr(iterator, "_autofit_counts", None)
            if counts is not None:
                counts.append(_length(index))
            return index

        return _next_index

    def _make_next(self, original):
        session = self.session
        begin = session.guard("loader batch")(session.stepper.begun)
        end = session.guard("loader batch")(self._end_batch)

        def __next__(iterator):
            if session.state == "silent":
                return original(iterator)
            if not session.stepper.has_begun:
                begin()
            start = time.perf_counter()
            try:
                fetch = self.instead
                batch = original(iterator) if fetch is None else fetch(iterator, original)
            except StopIteration:
                raise
            except BaseException as error:
                session.ooms.seen(error)
                raise
            end(iterator, batch, time.perf_counter() - start)
            return batch

        return __next__

    def _end_batch(self, iterator, batch, seconds):
        iterator._autofit_yielded = getattr(iterator, "_autofit_yielded", 0) + 1
        counts = getattr(iterator, "_autofit_counts", None)
        count = counts.popleft() if counts else None
        kind = getattr(iterator, "_dataset_kind", 0)
        if count is None or kind == 1 or not getattr(iterator, "_auto_collation", True):
            # An iterable dataset may end early, and an index without collation may stand for a whole batch.
            count = first_dimension(batch) or count or 0
        key = getattr(iterator, "_autofit_key", None)
        held = self._held.get(key)
        if held is not None:
            held.append(count)
            count = 0
        self._waits(key, count, seconds)
        for function in self.on_batch:
            function(iterator, key)

    def _waits(self, key, count, seconds):
        """Samples that the next root call may consume."""
        entry = self._pending.setdefault(key, [0, 0.0, False])
        entry[0] += count
        entry[1] += seconds
        entry[2] |= self.session.torch.is_grad_enabled()

    def hold(self, loader):
        """A framework draws ahead of what it hands out; call what this returns for each batch handed out."""
        key = self.session.loaders.index_of(loader)
        held = self._held[key] = deque()

        def handed():
            if held:
                self._waits(key, held.popleft(), 0.0)

        return self.session.guard("batch drawn ahead")(handed)

    # Root calls

    def before(self, root, args, kwargs):
        """Batches since the last root call are training's if gradients are on."""
        if self.session.roots.serving:
            return  # see `inferred`
        if not self.session.torch.is_grad_enabled():
            for key in list(self._pending):
                if key not in self.training:
                    del self._pending[key]
            return
        self.session.stepper.begun()
        if self._pending:
            with_gradients = any(entry[2] for entry in self._pending.values())
            for key, (count, seconds, training) in self._pending.items():
                if with_gradients and not training:
                    continue  # evaluation before the first step, of a root that was not known yet
                self._trains(key)
                self._counted[0] += count
                self._counted[1] += seconds
            self._pending.clear()
        if not self._counts(root):
            return
        sizes, largest = look(args, kwargs)
        self._elements += largest
        if self._first_root is None:
            self._first_root = id(root)
        if id(root) == self._first_root:
            self._dims = [self._dims[0] + sizes[0], self._dims[1] + sizes[1]]

    def _counts(self, root):
        """Not: an evaluation that leaves gradients on, and the same batch again in a closure (LBFGS)."""
        self._trained = self._trained or root.training
        if self._trained and not root.training:
            return False
        if self.session.stepper.in_step():
            again, self._in_step = self._in_step, True
            return not again
        return True

    def inferred(self, size, elements):
        """A call of a script that never trains: what it draws from is what training draws from elsewhere."""
        for key, (count, seconds, _) in self._pending.items():
            self._trains(key)
            self._counted[0] += count
            self._counted[1] += seconds
        if not self._pending:
            self._dims[0] += size
        self._pending.clear()
        self._elements += elements

    def forget(self):
        """What was drawn so far belongs to no step."""
        self._pending.clear()

    def _trains(self, key):
        if key not in self.training:
            self.training.add(key)
            self.session.loaders.trains(key)

    # The step

    def take(self, fields):
        """Adds samples, elements and loader_wait to a step's record, and starts anew."""
        if self.training:
            self.source, samples = "loader", self._counted[0]
        else:
            self.source, samples = self._by_dimension()
        if self.session.part_of is not None:
            samples = self.session.part_of(samples)
        fields["samples"] = self.last = samples
        fields["elements"] = self._elements
        fields["loader_wait"] = round(self._counted[1], 6)
        self._counted = [0, 0.0]
        self._dims, self._elements = [0, 0], 0
        self._in_step = False

    def _by_dimension(self):
        """(source, samples) where no loader tells."""
        roots = self.session.roots.roots
        dimension = roots[0].batch_dim if roots else 0
        samples = self._dims[dimension] if dimension is not None else 0
        if not samples:
            return ("unknown" if dimension is None else self.source), 0
        return "dim%d" % dimension, samples


def _length(index):
    if isinstance(index, (list, tuple)):
        return len(index)
    shape = getattr(index, "shape", None)
    if shape is not None and len(shape) > 0:
        return int(shape[0])
    return None


def first_dimension(batch, depth=0):
    """Size of dimension 0 of the first tensor in a batch, else a list's length, else None."""
    shape = getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    if depth > 3:
        return None
    values = batch.values() if hasattr(batch, "values") else batch
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        return None
    for value in values:
        found = first_dimension(value, depth + 1)
        if found is not None:
            return found
    return len(batch) if isinstance(batch, (list, tuple)) else None


def tensors(value, depth=0):
    """The tensors in a call's arguments or in a batch."""
    if hasattr(value, "numel") and hasattr(value, "size"):
        yield value
    elif depth < 4:
        if isinstance(value, (list, tuple)):
            for item in value:
                yield from tensors(item, depth + 1)
        elif hasattr(value, "values") and hasattr(value, "keys"):
            for item in value.values():
                yield from tensors(item, depth + 1)


def look(args, kwargs):
    """(dimensions 0 and 1 of the first tensor argument, elements of the largest one)."""
    sizes, largest = None, 0
    for tensor in chain(tensors(args), tensors(kwargs)) if kwargs else tensors(args):
        shape = tensor.shape
        if sizes is None and len(shape):
            sizes = (int(shape[0]), int(shape[1]) if len(shape) > 1 else 0)
        count = tensor.numel()
        largest = max(largest, count)
    return sizes or (0, 0), largest
