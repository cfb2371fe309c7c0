"""Smaller batches for a script that goes on as it is: only a measurement, never in production.

Where a DataLoader feeds training, each batch is cut to its first samples as the loader hands it out.  Where
there is none, and the root takes the batch and returns the loss, the root's arguments are cut; the script
does not see it.
"""

import copy
from collections.abc import MutableMapping

from .. import splitting, tree
from ..samples import first_dimension


class Cutter:
    """One size at a time."""

    layer = 0  # outside of all knobs' layers

    def __init__(self, session):
        self.session = session
        self.wanted = None
        self.usual = 0  # samples of a step as the script is
        self.seen = 0  # samples that the root was given in the step under way
        self.reason = None  # why batches were not cut

    def why_not(self, wanted, usual):
        """None, or why steps of that many samples cannot be had here."""
        if not usual:
            return "how many samples a step has is not known"
        if wanted >= usual:
            return "only smaller batches than the script's own (%d) can be cut from it" % usual
        roots = self.session.roots.roots
        if self.session.samples.source == "loader" or self._takes_batch(roots):
            return None
        return "no DataLoader feeds training, and the model does not return the loss"

    def _takes_batch(self, roots):
        return len(roots) == 1 and roots[0].info is not None and roots[0].info["returns_loss"]

    def open(self, wanted, usual):
        """From the next batch on."""
        self.wanted, self.usual, self.reason, self.seen = wanted, usual, None, 0
        samples, layers, take = self.session.samples, self.session.roots.layers, self.session.stepper.take
        if samples.source == "loader":
            samples.instead = self._fetch
            return
        layers.insert(0, self)
        take.append(self._take)

    def close(self):
        """Whole batches again."""
        samples, layers, take = self.session.samples, self.session.roots.layers, self.session.stepper.take
        self.reason = None
        if samples.instead is not None:
            samples.instead = None
        if self in layers:
            layers.remove(self)
            take.remove(self._take)

    def verify(self):
        """None, or why the step that has ended was not cut."""
        if self.reason is None and not 0 < self.session.samples.last <= self.wanted:
            return "a step had %d samples, not %d" % (self.session.samples.last, self.wanted)
        return self.reason

    def _kept(self, size):
        """Of a batch of `size` samples; a step may draw several."""
        batches = max(round(self.usual / size), 1)
        kept, rest = divmod(self.wanted, batches)
        if kept == 0 or rest:
            self.reason = "%d samples cannot be shared out to the %d batches of a step" % (
                self.wanted,
                batches,
            )
            return size
        return min(kept, size)

    # From the loader.

    def _fetch(self, iterator, fetch):
        batch = fetch(iterator)
        if self.reason is not None or not self._trains(iterator):
            return batch
        try:
            counts = iterator._autofit_counts
            size = (counts[0] if counts else None) or first_dimension(batch)
            kept = self._kept(size)
            if kept < size:
                batch = self._cut_batch(batch, size, kept)
                if counts and self.reason is None:
                    counts[0] = kept
        except Exception as error:
            self.reason = "the batch cannot be cut: %s: %s" % (type(error).__name__, error)
        return batch

    def _trains(self, iterator):
        """Training draws from this loader, or from an earlier one that was built in the same place."""
        training, sites = self.session.samples.training, self.session.loaders.sites
        key = iterator._autofit_key
        return key in training or (key in sites and sites[key] in {sites.get(one) for one in training})

    def _cut_batch(self, batch, size, kept):
        torch, done = self.session.torch, []

        def cut(value, depth=0):
            shape = getattr(value, "shape", None)
            if shape is not None:
                if len(shape) == 0 or shape[0] != size:
                    return value
                done.append(value)
                # A copy: what is cut off must not stay in memory.
                return value[:kept].clone() if isinstance(value, torch.Tensor) else value[:kept].copy()
            if isinstance(value, MutableMapping):
                twin = copy.copy(value)
                for key in value:
                    twin[key] = cut(value[key], depth + 1)
                return twin
            if tree.is_namedtuple(value):
                return type(value)(*(cut(child, depth + 1) for child in value))
            if isinstance(value, (list, tuple)):
                before = len(done)
                made = [cut(child, depth + 1) for child in value]
                if len(done) == before and len(value) == size:
                    done.append(value)  # one entry a sample: texts, targets of detection
                    made = made[:kept]
                return made if isinstance(value, list) else tuple(made)
            return value

        made = cut(batch)
        if not done:
            self.reason = "nothing in the loader's batch has its %d samples in dimension 0" % size
            return batch
        return made

    # At the root's call.

    def around(self, root, call, args, kwargs):
        if self.session.torch.is_grad_enabled() and self.reason is None:
            args, kwargs = self._cut_arguments(args, kwargs)
        return call(*args, **kwargs)

    def _cut_arguments(self, args, kwargs):
        try:
            leaves = splitting.tensor_leaves(args, kwargs, self.session.torch)
            size, paths = next(splitting.candidates(leaves), (0, ()))
            kept = self._kept(size) if size else 0
            if not 0 < kept < size or self.reason is not None:
                self.reason = self.reason or "the model's arguments have no batch dimension in common"
                return args, kwargs
            cut = splitting.pick(args, kwargs, paths, lambda leaf: leaf[:kept])
        except Exception as error:
            self.reason = "the batch cannot be cut: %s: %s" % (type(error).__name__, error)
            return args, kwargs
        self.seen += kept
        return cut

    def _take(self, fields):
        """The samples of a step are those that were left."""
        samples = self.session.samples
        if fields["samples"]:
            fields["elements"] = fields["elements"] * self.seen // fields["samples"]
        fields["samples"] = samples.last = self.seen
        self.seen = 0
