"""One training call of the root, shared out: each rank's part of the batch, and the outputs put together.

What the script gets is what a call with the whole batch returns.  A scalar is the sum of the parts', weighted
as the rule says; what has the batch in dimension 0 is gathered, at once or, beside a loss, when the script
looks at it.  A batch that cannot be shared out (fewer samples than ranks, arguments of another kind) is
computed whole by every rank, which is right, if slow.

Random numbers: the script's own stream is the same in all ranks and must stay so, whatever the call draws.
So the stream is given back after the call; a model that draws is given another stream in each rank and call,
whose seed comes from the script's, so that a call which is computed again draws what it drew before.
"""

from .. import describe, late, parts, splitting, tree
from . import group

# Arguments are compared among the ranks in the first calls, and then now and then: it waits for the device.
FIRST = 3
EVERY = 64


class Disagree(Exception):
    """The ranks were given different batches."""


class Sharing:
    """See the head of this file."""

    def __init__(self, root, rule, place, torch):
        self.root = root
        self.rule = rule
        self.place = place
        self.torch = torch
        self.shared = 0  # calls
        self.whole = 0
        self._calls = 0
        self._draws = describe.has_dropout(root.module, torch)
        self._joined, self._summed = group.make_functions(torch)
        self._late = late.make_tensor_class(torch)

    def part(self, samples):
        """This rank's share of so many samples."""
        rank, ranks = self.place.rank, self.place.world_size
        return samples * (rank + 1) // ranks - samples * rank // ranks

    def call(self, call, args, kwargs):
        """The root's call with gradients on."""
        torch, ranks = self.torch, self.place.world_size
        leaves = splitting.tensor_leaves(args, kwargs, torch)
        look = self._calls < FIRST or self._calls % EVERY == 0
        if look and not group.agree([leaf for _, leaf in leaves], torch):
            raise Disagree
        self._calls += 1
        known = {path for path, _ in leaves}
        batch = self.rule.batch(args, kwargs) if known.issuperset(self.rule.paths) else None
        if batch is None or batch < ranks:
            return self._all(call, args, kwargs)
        sizes = [batch * (r + 1) // ranks - batch * r // ranks for r in range(ranks)]
        cut = self._cut(args, kwargs, sizes)
        if self.rule.untested(cut):
            return self._all(call, args, kwargs)
        mine = cut[self.place.rank]
        output = self._drawing(call, *mine)
        words = [self.rule.outputs.get(path) for path, _ in tree.leaves(output)]
        if None in words or "other" in words:
            raise Unjoinable(self.root.name)
        self.shared += 1
        return self._join(output, cut, sizes)

    def _all(self, call, args, kwargs):
        self.whole += 1
        return self._drawing(call, args, kwargs)

    def _cut(self, args, kwargs, sizes):
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [
            splitting.pick(args, kwargs, self.rule.paths, lambda leaf, s=start, n=size: leaf.narrow(0, s, n))
            for start, size in zip(starts, sizes)
        ]

    # Putting together

    def _join(self, output, cut, sizes):
        rule, torch = self.rule, self.torch
        weights = {path: rule.weights(rule.outputs[path], cut, sizes) for path in rule.scalars()}
        rank = self.place.rank
        # What is computed again is wanted now.
        has_loss = not parts.computing_again() and any(
            path in weights and describe.is_loss(leaf, torch) for path, leaf in tree.leaves(output)
        )

        def join(path, leaf):
            word = rule.outputs[path]
            if path in weights:
                return self._sum(leaf, weights[path][rank])
            if word != "cat":
                return leaf
            if has_loss:
                source = _Part(self, leaf, sizes)
                return self._late((sum(sizes), *leaf.shape[1:]), leaf.dtype, leaf.device, source)
            return self.gathered(leaf, sizes)

        return tree.rebuild(output, join)

    def _sum(self, leaf, weight):
        torch = self.torch
        if not leaf.is_floating_point():
            return group.add(leaf, torch)
        return self._summed.apply(leaf, weight, self.place.world_size)

    def gathered(self, leaf, sizes):
        """An output of the whole batch."""
        if leaf.requires_grad:
            return self._joined.apply(leaf, sizes, self.place.rank)
        return group.gather(leaf, sizes, self.torch)

    # Random numbers

    def _drawing(self, call, args, kwargs):
        torch = self.torch
        if self._draws:
            seed = int(torch.randint(1 << 62, (1,)))
            before = _states(torch)
            torch.manual_seed(seed + self.place.rank)
            try:
                return call(*args, **kwargs)
            finally:
                _restore(before, torch)
        before = _states(torch)
        output = call(*args, **kwargs)
        if any(not torch.equal(a, b) for a, b in zip(before, _states(torch))):
            self._draws = True
            _restore(before, torch)
        return output


class Unjoinable(Exception):
    """The call returned something that the rule does not know."""


class _Part:
    """Where a late output comes from."""

    def __init__(self, sharing, leaf, sizes):
        self.requires_grad = leaf.requires_grad
        self._sharing, self._leaf, self._sizes = sharing, leaf, sizes
        self._value = None

    def value(self):
        if self._value is None:
            self._value = self._sharing.gathered(self._leaf, self._sizes)
            self._leaf = None
        return self._value


def _states(torch):
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def _restore(states, torch):
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
