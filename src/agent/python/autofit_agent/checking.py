"""Finds the rule by which a root's batch may be split, by trying: two samples against one and one.

Nothing is offered that was not tried.  The test runs on a few samples, in evaluation mode, so that dropout
does not blur it, and leaves the module and the random states as they were.
"""

import contextlib

from . import describe, splitting, tree, ways
from .untouched import Untouched
from .ways import Refused

MORE_PAIRS = 4  # pairs of samples looked at besides the first two
PROBES = 16  # parameters whose gradient is compared, the smallest ones ...
PROBED = 1 << 16  # ... up to this many elements


def find_rule(module, args, kwargs, parts, torch):
    """The rule for a call with these arguments; raises `Refused`."""
    leaves = splitting.tensor_leaves(args, kwargs, torch)
    tried = []
    for size, paths in splitting.candidates(leaves):
        try:
            return _Trial(module, args, kwargs, paths, size, torch).run(parts)
        except Refused as why:
            tried.append(str(why))
    if not tried:
        raise Refused("no tensor argument has a batch in dimension 0")
    raise Refused(tried[0])


class _Trial:
    """One set of arguments taken for the batch."""

    def __init__(self, module, args, kwargs, paths, size, torch):
        self.module = module
        self.args, self.kwargs = args, kwargs
        self.paths = paths
        self.size = size
        self.torch = torch
        self.leaves = splitting.tensor_leaves(args, kwargs, torch)
        self.probes = self._probes()

    def _probes(self):
        chosen, total = [], 0
        for p in sorted((p for p in self.module.parameters() if p.requires_grad), key=lambda p: p.numel()):
            if chosen and (len(chosen) == PROBES or total + p.numel() > PROBED):
                break
            chosen.append(p)
            total += p.numel()
        return chosen

    def run(self, parts):
        """The rule, tried with single samples, else with two and two."""
        try:
            return self._precisely(1)
        except Refused:
            # A model may want more than one sample at a time; then parts of one are not made either.
            if splitting.part_sizes(self.size, parts)[-1] < 2 or self.size < 4:
                raise
            return self._precisely(2)

    def _precisely(self, each):
        """Without the script's autocast, whose rounding blurs the test, if the module bears it."""
        active = [kind for kind in ("cpu", "cuda") if self.torch.is_autocast_enabled(kind)]
        if active:
            with contextlib.ExitStack() as stack:
                for kind in active:
                    stack.enter_context(self.torch.autocast(kind, enabled=False))
                try:
                    return self._compare(each)
                except Refused as why:
                    if not why.failed:
                        raise
        return self._compare(each)

    def _tolerance(self):
        torch = self.torch
        low = any(p.dtype in (torch.float16, torch.bfloat16) for p in self.module.parameters())
        if low or any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            return ways.CLOSE_LOW
        return ways.CLOSE_TF32 if self.probes[0].device.type == "cuda" else ways.CLOSE

    def _compare(self, each):
        """Groups of `2 * each` samples against two groups of `each`."""
        with Untouched(self.module, self.torch) as watch:
            first = list(range(2 * each))
            trained = self._call(first).output
            watch.look_at_buffers()
            quiet = not describe.has_dropout(self.module, self.torch)
            watch.set_training(False)
            if not tree.same_shape(trained, self._call(first).output):
                if not quiet:
                    raise Refused(
                        "it returns other things in training than in evaluation, and dropout blurs the test"
                    )
                watch.set_training(None)
            counters = splitting.counters(self.leaves, self.paths)
            uneven, values = splitting.most_uneven(self.leaves, counters) if each == 1 else ([], [])
            groups = [first, list(range(self.size - 2 * each, self.size))]
            groups += [list(pair) for pair in uneven[:MORE_PAIRS]]
            found = None
            for group in {tuple(group): group for group in groups}.values():
                now = self._group(group, each, counters, watch)
                found = now if found is None else {path: found[path].joined(now[path]) for path in found}
        return ways.choose(found, self.paths, values[:MORE_PAIRS])

    def _group(self, group, each, counters, watch):
        whole = self._call(group, True)
        one = self._call(group[:each], True)
        watch.mark()
        two = self._call(group[each:], True)
        watch.look_for_state()
        labels = dict(self.leaves)
        counts = {
            c: [int(c.rows(labels[c.path][part]).sum()) for part in (group[:each], group[each:])]
            for c in counters
        }
        return ways.compare(whole, one, two, counts, self._tolerance(), self.torch)

    def _call(self, rows, gradients=False):
        """Calls the module with these samples alone."""
        torch = self.torch
        args, kwargs = splitting.pick(self.args, self.kwargs, self.paths, lambda leaf: leaf.detach()[rows])
        try:
            with torch.enable_grad() if gradients else torch.no_grad():
                output = self.module(*args, **kwargs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise Refused(
                "a call with %d of the samples fails: %s: %s"
                % (len(rows), type(error).__name__, str(error).strip().split("\n")[0][:200]),
                failed=True,
            ) from error
        found = self._gradients(output) if gradients else {}
        return ways.Seen(tree.rebuild(output, self._cut), found)

    def _cut(self, _, leaf):
        return leaf.detach() if isinstance(leaf, self.torch.Tensor) else leaf

    def _gradients(self, output):
        """{path of a scalar: its gradient at the probes, one long vector}."""
        torch, found = self.torch, {}
        hooked = [(p, p._backward_hooks) for p in self.probes if p._backward_hooks]
        for p, _ in hooked:
            p._backward_hooks = None
        try:
            for path, leaf in tree.leaves(output):
                if not describe.is_loss(leaf, torch):
                    continue
                try:
                    got = torch.autograd.grad(leaf.sum(), self.probes, retain_graph=True, allow_unused=True)
                except RuntimeError as error:
                    if is_out_of_memory(error):
                        raise
                    return {}  # cudnn's recurrent layers have no gradient in evaluation mode
                parts = [
                    (torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g)
                    .double()
                    .flatten()
                    for p, g in zip(self.probes, got)
                ]
                found[path] = torch.cat([part.to(parts[0].device) for part in parts])
        finally:
            for p, hooks in hooked:
                p._backward_hooks = hooks
        return found


def is_out_of_memory(error):
    """Such an error is the trial's result, not the test's."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
