"""Finds the rule by which a root's batch may be split, by trying: two samples against one and one.

Nothing is offered that was not tried.  The test runs without gradients on a few samples, in evaluation
mode, so that dropout does not blur it, and leaves the module and the random states as they were.
"""

import contextlib
import random
import sys

from . import describe, splitting, tree

MORE_PAIRS = 4  # pairs of samples looked at besides the first two
CLOSE = 1e-4  # relative; rounding of float32 stays 50 times below
CLOSE_LOW = 2e-2  # the same where a module computes in lower precision


class Refused(Exception):
    """The batch cannot be split; the text says why."""


def find_rule(module, args, kwargs, parts, torch):
    """The rule for a call with these arguments; raises `Refused`."""
    leaves = splitting.tensor_leaves(args, kwargs, torch)
    tried = []
    for size, paths in splitting.candidates(leaves):
        try:
            return _try(module, args, kwargs, size, paths, parts, torch)
        except Refused as why:
            tried.append(str(why))
    if not tried:
        raise Refused("no tensor argument has a batch in dimension 0")
    raise Refused(tried[0])


def _try(module, args, kwargs, size, paths, parts, torch):
    least = splitting.part_sizes(size, parts)[-1]
    try:
        return _compare(module, args, kwargs, paths, size, 1, torch)
    except Refused:
        # A model may want more than one sample at a time; then parts of one are not made either.
        if least < 2 or size < 4:
            raise
        return _compare(module, args, kwargs, paths, size, 2, torch)


def _compare(module, args, kwargs, paths, size, each, torch):
    """Tries groups of `2 * each` samples against two groups of `each`."""
    leaves = splitting.tensor_leaves(args, kwargs, torch)
    with _untouched(module, torch) as watch:
        first = list(range(2 * each))
        trained = _rows(module, args, kwargs, paths, first, torch)
        watch.look_at_buffers()
        quiet = not describe.has_dropout(module, torch)
        watch.set_training(False)
        evaluated = _rows(module, args, kwargs, paths, first, torch)
        if not tree.same_shape(trained, evaluated):
            if not quiet:
                raise Refused(
                    "it returns other things in training than in evaluation, and dropout blurs the test"
                )
            watch.set_training(None)
        found = splitting.counters(leaves, paths)
        uneven, values = splitting.most_uneven(leaves, found) if each == 1 else ([], [])
        uneven, values = uneven[:MORE_PAIRS], values[:MORE_PAIRS]
        groups = [first, list(range(size - 2 * each, size))]
        groups += [list(pair) for pair in uneven]
        words = None
        for group in {tuple(g): g for g in groups}.values():
            whole = _rows(module, args, kwargs, paths, group, torch)
            one = _rows(module, args, kwargs, paths, group[:each], torch)
            watch.mark()
            two = _rows(module, args, kwargs, paths, group[each:], torch)
            watch.look_for_state()
            counts = {
                c: [c.rows(dict(leaves)[c.path][part]).sum().item() for part in (group[:each], group[each:])]
                for c in found
            }
            words = _merge(words, whole, one, two, counts, module, torch)
    return _choose(words, paths, values)


def _rows(module, args, kwargs, paths, rows, torch):
    """Calls the module with these samples alone."""
    inner_args, inner_kwargs = splitting.pick(args, kwargs, paths, lambda leaf: leaf.detach()[rows])
    try:
        return module(*inner_args, **inner_kwargs)
    except Exception as error:
        if (
            isinstance(error, MemoryError)
            or "out of memory" in str(error)
            or "can't allocate memory" in str(error)
        ):
            raise
        raise Refused(
            "a call with %d of the samples fails: %s: %s"
            % (len(rows), type(error).__name__, str(error).strip().split("\n")[0][:200])
        ) from error


def _merge(words, whole, one, two, counts, module, torch):
    """For each output, the ways to get the whole from the parts that hold here and held before."""
    if not (tree.same_shape(whole, one) and tree.same_shape(whole, two)):
        raise Refused("it returns other things for other numbers of samples")
    low = any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters())
    low = low or any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    close = CLOSE_LOW if low else CLOSE
    now = {}
    for (path, w), (_, a), (_, b) in zip(tree.leaves(whole), tree.leaves(one), tree.leaves(two)):
        now[path] = _ways(w, a, b, counts, close, torch)
    if words is None:
        return now
    return {
        path: _Ways(
            ways.kind, [w for w in words[path].names if w in ways.names], words[path].numbers or ways.numbers
        )
        for path, ways in now.items()
    }


class _Ways:
    def __init__(self, kind, names, numbers=None):
        self.kind = kind  # `batch`, `scalar` or `thing`
        self.names = names
        self.numbers = numbers


def _ways(w, a, b, counts, close, torch):
    if not isinstance(w, torch.Tensor):
        try:
            same = w is a is b or bool(type(w) is type(a) is type(b) and w == a == b)
        except Exception:
            same = False
        return _Ways("thing", ["same"] if same else [])
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return _Ways("thing", [])
    if w.dim() > 0 and a.dim() == w.dim() and a.shape[0] + b.shape[0] == w.shape[0] and w.shape[0] > 1:
        if a.shape[1:] != w.shape[1:] or b.shape[1:] != w.shape[1:]:
            return _Ways("batch", [])
        joined = torch.cat([a, b])
        return _Ways(
            "batch",
            ["cat"] if _near(w, joined, close, torch) else [],
            "they differ by %.3g" % _gap(w, joined),
        )
    if w.shape != a.shape or w.shape != b.shape:
        return _Ways("batch" if w.dim() else "thing", [])
    same = ["same"] if _near(w, a, close, torch) and _near(w, b, close, torch) else []
    if w.numel() != 1 or w.dim() > 1 or not w.is_floating_point():
        return _Ways("thing", same)
    x, y, z = float(w), float(a), float(b)
    scale = max(abs(x), abs(y), abs(z), 1e-6)
    ways = []
    if abs(x - (y + z) / 2) <= close * scale:
        ways.append("mean")
    for counter, (m, n) in counts.items():
        if m + n and abs(x - _mean(y, m, z, n)) <= close * scale:
            ways.append(counter)
    if abs(x - y - z) <= close * scale:
        ways.append("sum")
    return _Ways("scalar", ways + same, "%.6g together, %.6g and %.6g apart" % (x, y, z))


def _mean(y, m, z, n):
    # A mean over no labels at all is not a number; it must not count.
    return ((y * m if m else 0.0) + (z * n if n else 0.0)) / (m + n)


def _gap(one, other):
    if not one.is_floating_point():
        return float((one != other).any())
    return float((one.double() - other.double()).abs().max())


def _near(one, other, close, torch):
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return bool(torch.equal(one, other))
    one, other = one.double(), other.double()
    both = torch.isfinite(one) & torch.isfinite(other)
    if not bool((torch.isfinite(one) == torch.isfinite(other)).all()):
        return False
    one, other = one[both], other[both]
    if not one.numel():
        return True
    scale = max(float(one.abs().max()), 1e-6)
    return float((one - other).abs().max()) <= close * scale


def _choose(words, paths, tested):
    outputs, counter = {}, None
    for path, ways in words.items():
        name = tree.path_text(path)
        if ways.kind == "scalar":
            if not ways.names:
                raise Refused(
                    "%s of two samples is neither mean nor sum of theirs: %s" % (name, ways.numbers)
                )
            best = next((w for w in ways.names if w in ("mean", "sum")), ways.names[0])
            if best == "mean" or isinstance(best, str):
                outputs[path] = best
            else:
                outputs[path], counter = "valid", counter or best
        elif ways.kind == "batch":
            if not ways.names:
                raise Refused(
                    "%s of two samples is not theirs side by side%s"
                    % (name, ": " + ways.numbers if ways.numbers else "")
                )
            outputs[path] = ways.names[0]
        else:
            outputs[path] = ways.names[0] if ways.names else "other"
    return splitting.Rule(paths, outputs, counter, tested)


class _untouched(contextlib.AbstractContextManager):
    """Calls inside leave the module's attributes and buffers and all random states as they were."""

    def __init__(self, module, torch):
        self.torch = torch
        self.modules = list(module.modules())
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        torch = self.torch
        self.training = [m.training for m in self.modules]
        self.attributes = [dict(m.__dict__) for m in self.modules]
        self.buffers = [
            (m, name, b, b.detach().clone(), b._version)
            for m in self.modules
            for name, b in m._buffers.items()
            if b is not None
        ]
        self.random = (random.getstate(), _numpy_state())
        self.stack.enter_context(_without_global_hooks(torch))
        self.stack.enter_context(torch.random.fork_rng(devices=_devices(torch)))
        self.stack.enter_context(torch.no_grad())
        set_stance = getattr(torch.compiler, "set_stance", None)
        if set_stance is not None and "torch._dynamo" in sys.modules:
            self.stack.enter_context(set_stance("force_eager"))  # odd sizes are not worth compiling for
        return self

    def __exit__(self, *_):
        self.stack.close()
        for m, name, buffer, before, version in self.buffers:
            if buffer._version != version:
                with self.torch.no_grad():
                    buffer.copy_(before)
            if m._buffers.get(name) is not buffer:
                m._buffers[name] = buffer
        for m, before in zip(self.modules, self.attributes):
            now = m.__dict__
            for key in [key for key in now if key not in before]:
                del now[key]
            for key, value in before.items():
                if now.get(key) is not value:
                    now[key] = value
        self.set_training(None)
        random.setstate(self.random[0])
        _restore_numpy(self.random[1])

    def set_training(self, value):
        """For all modules; None for what each had."""
        for m, before in zip(self.modules, self.training):
            m.__dict__["training"] = before if value is None else value

    def look_at_buffers(self):
        for m, name, buffer, _, version in self.buffers:
            if buffer._version != version or m._buffers.get(name) is not buffer:
                raise Refused("%s updates its buffer `%s` at each call" % (type(m).__name__, name))

    def mark(self):
        self.marked = [dict(m.__dict__) for m in self.modules]

    def look_for_state(self):
        """What changes from one call to the next of the same kind is state that later calls may depend on."""
        for m, before in zip(self.modules, self.marked):
            for key, value in m.__dict__.items():
                if before.get(key) is not value and self._holds_tensor(value):
                    raise Refused("%s keeps a tensor from call to call (`%s`)" % (type(m).__name__, key))

    def _holds_tensor(self, value):
        return any(isinstance(leaf, self.torch.Tensor) for _, leaf in tree.leaves(value))


@contextlib.contextmanager
def _without_global_hooks(torch):
    """Whoever watches all modules (the script, or the agent) does not see the test."""
    module = torch.nn.modules.module
    names = [name for name in vars(module) if name.startswith("_global_forward_")]
    held = [
        (hooks, dict(hooks)) for hooks in (getattr(module, name) for name in names) if hasattr(hooks, "clear")
    ]
    for hooks, _ in held:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in held:
            hooks.update(before)


def _devices(torch):
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return [torch.cuda.current_device()]
    return []


def _numpy_state():
    numpy = sys.modules.get("numpy")
    return numpy.random.get_state() if numpy is not None and hasattr(numpy, "random") else None


def _restore_numpy(state):
    if state is not None:
        sys.modules["numpy"].random.set_state(state)
