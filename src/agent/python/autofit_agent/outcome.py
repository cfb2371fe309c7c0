"""How the gradient of a call in parts reaches autograd.

The root returns a loss (`Taken`): each part's gradient is taken as soon as its loss is there, weighted and
summed, so that only one part's activations exist at a time and nothing is computed twice.  When the script's
backward arrives, the sum is scaled by what arrives; gradients are linear in it.  Other outputs (`Later`) are
computed when they are looked at, and their gradient by computing the parts again, so whatever the script does
with them is right.
"""

import weakref

from . import late, tree
from .parts import Sum, random_state


class Outside(Exception):
    """The loss depends on something that is neither a parameter nor an argument of the root."""


class Unjoinable(Exception):
    """An output that needs a gradient cannot be put together from the parts."""


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
                value = leaf.detach()
                if leaf.is_floating_point():
                    value = value * weights[path][index]
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
            elif not isinstance(leaf, torch.Tensor):
                self.shapes[path] = (type(leaf), False)
            elif leaf.requires_grad:
                raise Unjoinable(tree.path_text(path))
            else:
                self.shapes[path] = (leaf.shape, leaf.dtype, leaf.device, False)

    def _look_outside(self, losses, inputs, start_node):
        """The graph of the losses must end at the root's parameters and arguments."""
        known = self.call.known(inputs)
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
            if len(self.shapes[path]) == 4:
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
                outcome = ctx.outcome
                return (None, *outcome.call.handed(outcome.scaled(upstream)))

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
                again = outcome.once_more({ctx.path: upstream})
                return (None, None, None, *outcome.call.handed(again))

        self._taken, self._later = Taken, Later
        self.late_tensor = late.make_tensor_class(torch)

    def taken(self, outcome):
        return self._taken.apply(outcome, *outcome.call.leaves)

    def later(self, outcome, path, value):
        return self._later.apply(outcome, path, value, *outcome.call.leaves)
