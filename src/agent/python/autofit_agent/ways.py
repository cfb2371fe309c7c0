"""How the outputs for some samples follow from the outputs for some of them and for the others.

A loss is compared by its gradient too: two samples may have nearly the same loss, so that a wrong weight
hardly shows in the value, while their gradients differ.
"""

from . import splitting, tree

# Relative differences that rounding explains: of values and of gradients, in single and in lower precision.
# A GPU may multiply in TF32, which rounds the gradients more.
CLOSE = {"values": 1e-4, "gradients": 1e-3}
CLOSE_TF32 = {"values": 2e-3, "gradients": 2e-2}
CLOSE_LOW = {"values": 2e-2, "gradients": 0.1}
# A way whose difference is below this share of the tolerance is as good as any.
PERFECT = 0.01


class Refused(Exception):
    """The batch cannot be split; the text says why."""

    def __init__(self, text, failed=False):
        super().__init__(text)
        self.failed = failed  # a call failed; nothing was compared


class Seen:
    """The outputs of one call, and the gradients of its scalars."""

    def __init__(self, output, gradients):
        self.output = output
        self.gradients = gradients


class Ways:
    """The ways that hold for one output so far, and how far off each was at worst (1: too far)."""

    def __init__(self, kind, errors, numbers=None):
        self.kind = kind  # `batch`, `scalar` or `thing`
        self.errors = errors
        self.numbers = numbers

    def joined(self, other):
        """Those that hold in both comparisons."""
        if self.kind != other.kind:
            return Ways("batch", {}, "it depends on the number of samples")
        errors = {
            name: max(error, other.errors[name])
            for name, error in self.errors.items()
            if name in other.errors
        }
        return Ways(self.kind, errors, (self.numbers if not self.errors else other.numbers) or self.numbers)

    def best(self):
        """The first, in the order of trust, of those that are no worse than the best."""
        if not self.errors:
            return None
        enough = max(10 * min(self.errors.values()), PERFECT)
        return next(name for name, error in self.errors.items() if error <= enough)


def compare(whole, one, two, counts, close, torch):
    """{path: Ways} for the outputs of a call with some samples and of two calls with a part of them each."""
    if not (tree.same_shape(whole.output, one.output) and tree.same_shape(whole.output, two.output)):
        raise Refused("it returns other things for other numbers of samples")
    found = {}
    for (path, w), (_, a), (_, b) in zip(
        tree.leaves(whole.output), tree.leaves(one.output), tree.leaves(two.output)
    ):
        gradients = [seen.gradients.get(path) for seen in (whole, one, two)]
        found[path] = _leaf(w, a, b, gradients, counts, close, torch)
    return found


def _leaf(w, a, b, gradients, counts, close, torch):
    kinds = [isinstance(x, torch.Tensor) for x in (w, a, b)]
    if not all(kinds):
        return Ways("thing", {"same": 0.0} if not any(kinds) and _equal(w, a, b) else {})
    if w.dim() > 0 and a.dim() == w.dim() and a.shape[0] + b.shape[0] == w.shape[0] and w.shape[0] > 1:
        if a.shape[1:] != w.shape[1:] or b.shape[1:] != w.shape[1:]:
            return Ways("batch", {}, "its shape depends on the other samples")
        off = _off(w, torch.cat([a, b]), torch) / close["values"]
        return Ways("batch", {"cat": off} if off <= 1 else {}, "they differ by %.3g" % _gap(w, a, b, torch))
    if w.shape != a.shape or w.shape != b.shape:
        return Ways("batch", {}, "its dimension 0 is not the batch")
    same = max(_off(w, a, torch), _off(w, b, torch)) / close["values"]
    errors = {}
    if w.numel() == 1 and w.dim() < 2:
        errors = _scalar(w, a, b, gradients, counts, close)
    if same <= 1:
        errors["same"] = same
    if w.numel() != 1 or w.dim() > 1 or (not w.is_floating_point() and not errors):
        return Ways("thing", errors)
    return Ways("scalar", errors, "%.6g together, %.6g and %.6g apart" % (float(w), float(a), float(b)))


def _scalar(w, a, b, gradients, counts, close):
    x, y, z = float(w), float(a), float(b)
    scale = max(abs(x), abs(y), abs(z), 1e-6)
    if not w.is_floating_point():
        return {"sum": 0.0} if x == y + z else {}
    weights = {"mean": (0.5, 0.5)}
    for counter, (m, n) in counts.items():
        if m + n:
            weights[counter] = (m / (m + n), n / (m + n))
    weights["sum"] = (1.0, 1.0)
    errors = {}
    for name, (p, q) in weights.items():
        # A mean over no labels is not a number; it must not count.
        off = abs(x - (p * y if p else 0.0) - (q * z if q else 0.0)) / scale / close["values"]
        error = max(off, _off_gradient(gradients, p, q) / close["gradients"])
        if error <= 1:
            errors[name] = error
    return errors


def _off_gradient(gradients, p, q):
    g, h, k = gradients
    if g is None or (h is None and p) or (k is None and q):
        return 0.0
    size = float(g.norm())
    expected = g * 0.0
    for weight, part in ((p, h), (q, k)):
        if weight:
            expected = expected + weight * part
    size = max(size, float(expected.norm()))
    return float((g - expected).norm()) / size if size > 0 else 0.0


def _equal(w, a, b):
    try:
        return w is a is b or bool(type(w) is type(a) is type(b) and w == a == b)
    except Exception:
        return False  # its own idea of equality fails


def _gap(w, a, b, torch):
    joined = torch.cat([a, b])
    if not w.is_floating_point():
        return float((w != joined).any())
    return float((w.double() - joined.double()).abs().max())


def _off(one, other, torch):
    """The largest difference relative to the largest value; infinite where they cannot be compared."""
    if not one.is_floating_point():
        return 0.0 if torch.equal(one, other) else float("inf")
    one, other = one.double(), other.double()
    both = torch.isfinite(one) & torch.isfinite(other)
    if not bool((torch.isfinite(one) == torch.isfinite(other)).all()):
        return float("inf")
    one, other = one[both], other[both]
    if not one.numel():
        return 0.0
    return float((one - other).abs().max()) / max(float(one.abs().max()), 1e-6)


def choose(found, paths, tested):
    """The rule; raises `Refused` where an output cannot be put together."""
    outputs, counter = {}, None
    for path, ways in found.items():
        name, best = tree.path_text(path), ways.best()
        if best is None and ways.kind == "scalar":
            raise Refused("%s of two samples is neither mean nor sum of theirs: %s" % (name, ways.numbers))
        if best is None and ways.kind == "batch":
            raise Refused("%s of two samples is not theirs side by side: %s" % (name, ways.numbers))
        if isinstance(best, splitting.Counter):
            outputs[path], counter = "valid", counter or best
        else:
            outputs[path] = best or "other"
    return splitting.Rule(paths, outputs, counter, tested)
