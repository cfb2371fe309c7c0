"""One call of a root in parts: its arguments cut, and what is needed to compute a part again."""

import contextlib

from . import splitting, tree

_again = [0]  # parts that are being computed again, one inside another


def computing_again():
    """Whether what runs now is a part of a training call, whatever the gradient mode says."""
    return _again[0] > 0


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

    def known(self, inputs):
        """The tensors at which the graph of a part may end, by their ids."""
        return {id(t) for t in (*self.parameters, *inputs)}

    def handed(self, gradients):
        """Gradients of `leaves` as autograd takes them."""
        return gradients

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
        _again[0] += 1
        self.stack.callback(_over)
        now = [m.training for m, _ in self.call.training]
        for m, mode in self.call.training:
            m.training = mode
        self.stack.callback(
            lambda: [setattr(m, "training", mode) for (m, _), mode in zip(self.call.training, now)]
        )

    def __exit__(self, *_):
        self.stack.close()


def _over():
    _again[0] -= 1


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
