"""One call of a root in parts, and the two functions by which its gradient reaches autograd.

The root returns a loss (`Taken`): each part's gradient is taken as soon as its loss is there, weighted and
summed, so that only one part's activations exist at a time and nothing is computed twice.  When the
script's backward arrives, the sum is scaled by what arrives; gradients are linear in it.  Other outputs
(`Later`) are computed when they are looked at, and their gradient by computing the parts again, so whatever
the script does with them is right.
"""

import contextlib
import weakref

from . import late, splitting, tree


class Outside(Exception):
    """The loss depends on something that is neither a parameter nor an argument of the root."""


class Call:
    """What is needed to compute a call of a root in parts, now and again later."""

    def __init__(self, root, call, rule, args, kwargs, count, torch):
        self.torch = torch
        self.call = call
        self.rule = rule
        self.module = root.module
        self.sizes = splitting.part_sizes(rule.batch(args, kwargs), count)
        self.inputs = [
            leaf
            for _, leaf in tree.leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad
        ]
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.leaves = [*self.parameters, *self.inputs]
        self.args, self.kwargs = args, kwargs
        self.parts = [self._part(start, size) for start, size in self._spans()]
        self.random = []
        self.autocast = _autocast(torch)
        self.versions = [t._version for t in self.leaves]
        self.training = [(m, m.training) for m in self.module.modules()]

    def _spans(self):
        start = 0
        for size in self.sizes:
            yield start, size
            start += size

    def _part(self, start, size):
        return splitting.pick(
            self.args, self.kwargs, self.rule.paths, lambda leaf: leaf.narrow(0, start, size)
        )

    @property
    def changed(self):
        """Whether parameters are other than they were at the call."""
        return [t._version for t in self.leaves] != self.versions

    def detached(self, index):
        """The arguments of a part, and those of them that need a gradient, cut from what made them."""
        mine = {}

        def cut(_, leaf):
            if not isinstance(leaf, self.torch.Tensor) or not leaf.requires_grad:
                return leaf
            if id(leaf) not in mine:
                mine[id(leaf)] = leaf.detach().requires_grad_()
            return mine[id(leaf)]

        part = self.parts[index]
        args, kwargs = tree.rebuild(part, cut)
        order = [
            mine[id(leaf)]
            for _, leaf in tree.leaves(part)
            if isinstance(leaf, self.torch.Tensor) and leaf.requires_grad
        ]
        return args, kwargs, order

    def again(self, index):
        """The random state, autocast and mode of a part as they were when it was computed first."""
        return _Again(self, index)

    def joins(self):
        """For each input: whether its parts lie side by side (else they are the same tensor each time)."""
        wanted = set(self.rule.paths)
        return [
            path in wanted
            for path, leaf in tree.leaves((self.args, self.kwargs))
            if isinstance(leaf, self.torch.Tensor) and leaf.requires_grad
        ]

    def gradients(self, index, outputs, upstream, inputs, retain=False):
        """Gradients of outputs of one part; the parameters' hooks are held off and come once, at the end."""
        hooked = [(p, p._backward_hooks) for p in self.parameters if p._backward_hooks]
        for p, _ in hooked:
            p._backward_hooks = None
        try:
            return self.torch.autograd.grad(
                outputs, [*self.parameters, *inputs], upstream, allow_unused=True, retain_graph=retain
            )
        finally:
            for p, hooks in hooked:
                p._backward_hooks = hooks


class Sum:
    """Gradients of all parts, added up as they come."""

    def __init__(self, call):
        self.call = call
        self.joins = call.joins()
        self.totals = [None] * len(call.parameters)
        self.pieces = [[] for _ in call.inputs]

    def add(self, gradients):
        seen = set()
        count = len(self.totals)
        for i, gradient in enumerate(gradients[:count]):
            if gradient is None:
                continue
            if self.totals[i] is not None:
                self.totals[i] = self.totals[i].add_(gradient)
                continue
            # Autograd may hand out one tensor twice, or a view that repeats one number: what is added to
            # must be ours.
            if not gradient.is_sparse:
                key = gradient.untyped_storage().data_ptr()
                size = gradient.untyped_storage().nbytes()
                shared = key in seen or gradient.numel() * gradient.element_size() != size
                seen.add(key)
                self.totals[i] = gradient.clone() if shared else gradient
            else:
                self.totals[i] = gradient
        for pieces, gradient in zip(self.pieces, gradients[count:]):
            pieces.append(gradient)

    def all(self):
        """One gradient for each leaf of the call."""
        torch = self.call.torch
        inputs = []
        for joined, pieces, leaf in zip(self.joins, self.pieces, self.call.inputs):
            if all(piece is None for piece in pieces):
                inputs.append(None)
            elif joined:
                filled = [
                    torch.zeros((size, *leaf.shape[1:]), dtype=leaf.dtype, device=leaf.device)
                    if p is None
                    else p
                    for p, size in zip(pieces, self.call.sizes)
                ]
                inputs.append(torch.cat(filled))
            else:
                inputs.append(sum(p for p in pieces if p is not None))
        return [*self.totals, *inputs]


class Outcome:
    """A call in parts whose losses' gradients were taken: what the script gets and may still ask for."""

    def __init__(self, call, losses, scale, kept):
        self.call = call
        self.losses = losses  # paths whose gradient is taken at once
        self.scale = scale  # what the script is expected to multiply the loss by
        self.kept = kept  # paths of other outputs that the script is known to look at
        self.sums = {path: Sum(call) for path in losses}
        self.values = {}
        self.shapes = {}
        self.skeleton = None
        self.late = {}
        self.looked_at = None  # called with a path when the script looks at it
        self.asked_gradient = None  # ... when a gradient goes through it

    def run(self, start_node):
        """All parts, forward and gradient."""
        call, rule, torch = self.call, self.call.rule, self.call.torch
        weights = {path: rule.weights(rule.outputs[path], call.parts, call.sizes) for path in rule.scalars()}
        for index, size in enumerate(call.sizes):
            call.random.append(random_state(torch))
            args, kwargs, inputs = call.detached(index)
            output = call.call(*args, **kwargs)
            leaves = tree.leaves(output)
            if index == 0:
                found = dict(leaves)
                self.losses = [path for path in self.losses if found[path].requires_grad]
                if not self.losses:
                    return False
                if start_node is not None:
                    self._look_outside([found[path] for path in self.losses], inputs, start_node)
            self._note(index, size, output, leaves, weights)
            found = dict(leaves)
            for n, path in enumerate(self.losses):
                weight = weights[path][index]
                if weight == 0.0:
                    continue
                loss = found[path]
                gradients = call.gradients(
                    index,
                    [loss],
                    [torch.full_like(loss, weight * self.scale)],
                    inputs,
                    n + 1 < len(self.losses),
                )
                self.sums[path].add(gradients)
            del output, leaves, found
        return True

    def _note(self, index, size, output, leaves, weights):
        call, torch = self.call, self.call.torch
        batch = sum(call.sizes)
        if index == 0:
            self.skeleton = tree.rebuild(output, lambda path, leaf: None)
        start = sum(call.sizes[:index])
        for path, leaf in leaves:
            word = call.rule.outputs.get(path, "other")
            if word in ("mean", "valid", "sum"):
                value = leaf.detach() * weights[path][index]
                if weights[path][index] == 0.0:
                    value = torch.zeros_like(value)  # a mean over no labels is not a number
                self.values[path] = value if index == 0 else self.values[path] + value
                self.shapes[path] = leaf.requires_grad
            elif word == "same" and not (isinstance(leaf, torch.Tensor) and leaf.requires_grad):
                self.values[path] = leaf
            elif word == "cat":
                self.shapes[path] = ((batch, *leaf.shape[1:]), leaf.dtype, leaf.device, leaf.requires_grad)
                if path in self.kept:
                    if index == 0:
                        self.values[path] = torch.empty(
                            self.shapes[path][0], dtype=leaf.dtype, device=leaf.device
                        )
                    self.values[path][start : start + size] = leaf.detach()
            else:
                needs = isinstance(leaf, torch.Tensor) and leaf.requires_grad
                self.shapes[path] = (type(leaf), needs)

    def _look_outside(self, losses, inputs, start_node):
        """The graph of the losses must end at the root's parameters and arguments."""
        known = {id(t) for t in (*self.call.parameters, *inputs)}
        begun = start_node._sequence_nr()
        seen, stack = set(), [loss.grad_fn for loss in losses if loss.grad_fn is not None]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None:
                if id(variable) not in known:
                    raise Outside("a tensor that is no parameter of it")
                continue
            if node._sequence_nr() < begun:
                raise Outside("a tensor computed before its call")
            stack.extend(following for following, _ in node.next_functions)

    def output(self, classes):
        """What the script gets: the losses with their gradient, the rest in waiting."""
        handed = dict(zip(self.losses, classes.taken(self)))

        def fill(path, _):
            if path in handed:
                return handed[path]
            word = self.call.rule.outputs.get(path, "other")
            if word in ("mean", "valid", "sum"):
                return (
                    classes.later(self, path, self.values[path]) if self.shapes[path] else self.values[path]
                )
            if path in self.values:
                if word == "cat" and self.shapes[path][3]:
                    return classes.later(self, path, self.values[path])
                return self.values[path]
            source = _Source(self, path, classes)
            if word == "cat":
                shape, dtype, device, _ = self.shapes[path]
                made = classes.late_tensor(shape, dtype, device, source)
                self.late[path] = weakref.ref(made)  # weak: what the script drops is gone, without a cycle
                return made
            return late.LateObject(self.shapes[path][0], source)

        output = tree.rebuild(self.skeleton, fill)
        for path in self.kept:
            self.values.pop(path, None)
        return output

    def unlooked(self):
        """Sources of the outputs that the script still holds and has not looked at."""
        held = [(path, ref()) for path, ref in self.late.items()]
        return [late.source_of(made) for _, made in held if made is not None]

    def scaled(self, upstream):
        """The gradients of all leaves, given what arrived at each loss."""
        wanted = {path: up for path, up in zip(self.losses, upstream) if up is not None}
        if any(self.sums[path] is None for path in wanted):
            return self.once_more(wanted)  # backward for the second time on the same graph
        result = [None] * len(self.call.leaves)
        for path, up in wanted.items():
            gradients, self.sums[path] = self.sums[path].all(), None
            factor = up if self.scale == 1.0 else up / self.scale
            for i, gradient in enumerate(gradients):
                if gradient is None:
                    continue
                mine = gradient.mul_(factor.to(gradient.dtype))
                result[i] = mine if result[i] is None else result[i].add_(mine)
        return result

    def once_more(self, wanted):
        """Gradients by computing the parts again: {path of an output: what arrived at it}."""
        call, rule, torch = self.call, self.call.rule, self.call.torch
        if call.changed:
            raise RuntimeError(
                "autofit: a gradient was asked of an output of %s after its parameters had changed"
                % type(call.module).__name__
            )
        total = Sum(call)
        start = 0
        for index, size in enumerate(call.sizes):
            with call.again(index), torch.enable_grad():
                args, kwargs, inputs = call.detached(index)
                found = dict(tree.leaves(call.call(*args, **kwargs)))
            outputs, arrived = [], []
            for path, up in wanted.items():
                word = rule.outputs.get(path, "other")
                if word == "cat":
                    arrived.append(up.narrow(0, start, size))
                elif word in ("mean", "valid", "sum"):
                    arrived.append(up * rule.weights(word, call.parts, call.sizes)[index])
                else:
                    raise RuntimeError("autofit: no gradient can be given through %s" % tree.path_text(path))
                outputs.append(found[path])
            total.add(call.gradients(index, outputs, arrived, inputs))
            start += size
        return total.all()

    def value_again(self, path):
        """An output that was not kept, computed again without gradients."""
        call, torch = self.call, self.call.torch
        word = call.rule.outputs.get(path, "other")
        if word != "cat":
            with call.again(0), torch.no_grad():
                return dict(tree.leaves(call.call(*call.args, **call.kwargs)))[path]
        shape, dtype, device, _ = self.shapes[path]
        made, start = torch.empty(shape, dtype=dtype, device=device), 0
        for index, size in enumerate(call.sizes):
            with call.again(index), torch.no_grad():
                args, kwargs = call.parts[index]
                made[start : start + size] = dict(tree.leaves(call.call(*args, **kwargs)))[path]
            start += size
        return made


class _Source:
    """Where a late output comes from."""

    def __init__(self, outcome, path, classes):
        self.outcome = outcome
        self.path = path
        self.classes = classes
        self.plain = None
        self.linked = None

    @property
    def requires_grad(self):
        return bool(self.outcome.shapes[self.path][-1])

    def compute(self):
        """Has the value ready without counting as a look."""
        if self.plain is None:
            self.plain = self.outcome.value_again(self.path)

    def value(self):
        if self.outcome.looked_at is not None:
            self.outcome.looked_at(self.path, self.plain is None and self.outcome.call.changed)
        self.compute()
        torch = self.outcome.call.torch
        if not self.requires_grad or not torch.is_grad_enabled() or not isinstance(self.plain, torch.Tensor):
            return self.plain if self.linked is None else self.linked
        if self.linked is None:
            self.linked = self.classes.later(self.outcome, self.path, self.plain)
        return self.linked


class Classes:
    """The autograd functions and tensor classes; made once torch is there."""

    def __init__(self, torch):
        once_differentiable = torch.autograd.function.once_differentiable

        class Taken(torch.autograd.Function):
            @staticmethod
            def forward(ctx, outcome, *leaves):
                ctx.outcome = outcome
                ctx.set_materialize_grads(False)
                return tuple(outcome.values[path].clone() for path in outcome.losses)

            @staticmethod
            @once_differentiable
            def backward(ctx, *upstream):
                return (None, *ctx.outcome.scaled(upstream))

        class Later(torch.autograd.Function):
            @staticmethod
            def forward(ctx, outcome, path, value, *leaves):
                ctx.outcome, ctx.path = outcome, path
                return value.view_as(value)

            @staticmethod
            @once_differentiable
            def backward(ctx, upstream):
                outcome = ctx.outcome
                if outcome.asked_gradient is not None:
                    outcome.asked_gradient(ctx.path)
                return (None, None, None, *outcome.once_more({ctx.path: upstream}))

        self._taken, self._later = Taken, Later
        self.late_tensor = late.make_tensor_class(torch)

    def taken(self, outcome):
        return self._taken.apply(outcome, *outcome.call.leaves)

    def later(self, outcome, path, value):
        return self._later.apply(outcome, path, value, *outcome.call.leaves)


class _Again(contextlib.AbstractContextManager):
    def __init__(self, call, index):
        self.call = call
        self.index = index
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        torch = self.call.torch
        cpu, cuda = self.call.random[self.index]
        devices = [torch.cuda.current_device()] if cuda is not None else []
        self.stack.enter_context(torch.random.fork_rng(devices=devices))
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        for device, enabled, dtype in self.call.autocast:
            self.stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled))
        now = [m.training for m, _ in self.call.training]
        for m, mode in self.call.training:
            m.training = mode
        self.stack.callback(
            lambda: [setattr(m, "training", mode) for (m, _), mode in zip(self.call.training, now)]
        )

    def __exit__(self, *_):
        self.stack.close()


def random_state(torch):
    """The random states of the CPU and, where CUDA is in use, of its current device."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda


def restore_random_state(torch, state):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def _autocast(torch):
    kinds = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
