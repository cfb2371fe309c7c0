"""How the arguments of a root are cut into micro-batches, and how the parts' outputs make the whole again."""

from . import tree

# Values that mark labels which do not count in a mean (cross_entropy's default, nanoGPT's, a padding token
# of 0).
IGNORED = (-100, -1, 0)
MARKS = (-100, -1)  # those that are nothing else


def is_label(leaf):
    return str(leaf.dtype) in ("torch.int64", "torch.int32")


def tensor_leaves(args, kwargs, torch):
    """(path, tensor) of all arguments that have a dimension 0."""
    return [
        (path, leaf)
        for path, leaf in tree.leaves((args, kwargs))
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 0
    ]


def signature(leaves):
    """What two calls have in common if the same rule serves both."""
    return tuple((path, leaf.dim(), str(leaf.dtype)) for path, leaf in leaves)


def candidates(leaves):
    """Sets of arguments that may be the batch, the likeliest first: those that share a size in dimension 0.

    The size of the first argument goes first unless another is more frequent.  Square matrices are tried
    without too: with T samples of length T, a mask of T x T looks like a batch.
    """
    sizes = [leaf.shape[0] for _, leaf in leaves]
    order = sorted(set(sizes), key=lambda size: (-sizes.count(size), sizes.index(size)))
    for size in order[:2]:
        if size < 2:
            continue
        chosen = [path for path, leaf in leaves if leaf.shape[0] == size]
        yield size, chosen
        plain = [
            path
            for path, leaf in leaves
            if leaf.shape[0] == size and not (leaf.dim() == 2 and leaf.shape[1] == size)
        ]
        if plain and len(plain) < len(chosen):
            yield size, plain


def part_sizes(batch, parts):
    """Samples of each part, as even as can be: 7 in 3 parts is 3, 2, 2."""
    parts = max(1, min(parts, batch))
    small, larger = divmod(batch, parts)
    return [small + 1] * larger + [small] * (parts - larger)


def pick(args, kwargs, paths, choose):
    """The arguments with `choose(tensor)` in place of each batched one."""
    wanted = set(paths)
    return tree.rebuild((args, kwargs), lambda path, leaf: choose(leaf) if path in wanted else leaf)


class Rule:
    """What is cut, and how outputs are put together; found and tested by `checking.py`.

    `outputs` maps the path of each output to a word: `cat` (dimension 0 is the batch), `mean` (weighted by
    samples), `valid` (weighted by the labels that count), `sum`, `same`, `other` (only a call with the
    whole batch can tell).
    """

    def __init__(self, paths, outputs, counter=None, tested=()):
        self.paths = paths
        self.outputs = outputs
        self.counter = counter  # for `valid`
        self.tested = set(tested)  # values of labels that the test met in different numbers

    def batch(self, args, kwargs):
        """Samples in this call; None where the arguments disagree."""
        wanted = set(self.paths)
        sizes = {leaf.shape[0] for path, leaf in tree.leaves((args, kwargs)) if path in wanted}
        return sizes.pop() if len(sizes) == 1 else None

    def scalars(self):
        return [path for path, word in self.outputs.items() if word in ("mean", "valid", "sum")]

    def untested(self, parts):
        """Whether labels that may not count are spread over these parts as the test did not see them."""
        wanted = set(self.paths)
        for value in MARKS:
            if value in self.tested:
                continue
            counts = []
            for args, kwargs in parts:
                labels = [
                    leaf for path, leaf in tree.leaves((args, kwargs)) if path in wanted and is_label(leaf)
                ]
                counts.append([float((leaf == value).float().mean()) for leaf in labels])
            if any(count != counts[0] for count in counts):
                return True
        return False

    def weights(self, word, parts, sizes):
        """The weight of each part's scalar in the whole's."""
        if word == "sum":
            return [1.0] * len(sizes)
        if word == "valid":
            counts = [self.counter.count(args, kwargs) for args, kwargs in parts]
            if sum(counts):
                return [count / sum(counts) for count in counts]
        return [size / sum(sizes) for size in sizes]


class Counter:
    """Counts the labels of one argument that enter a mean: not `ignored`, from column `shift` on."""

    def __init__(self, path, ignored, shift):
        self.path = path
        self.ignored = ignored
        self.shift = shift

    def rows(self, labels):
        """The count of each sample."""
        labels = labels.reshape(labels.shape[0], -1) if self.shift == 0 else labels[:, self.shift :]
        return (labels.reshape(labels.shape[0], -1) != self.ignored).sum(1)

    def count(self, args, kwargs):
        labels = dict(tree.leaves((args, kwargs)))[self.path]
        return int(self.rows(labels).sum())

    def text(self):
        shifted = " after a shift by one" if self.shift else ""
        return "weighted by labels other than %d%s" % (self.ignored, shifted)


def counters(leaves, paths):
    """Ways to count labels in the batched integer arguments."""
    found = []
    for path, leaf in leaves:
        if path not in paths or not is_label(leaf):
            continue
        for rank, ignored in enumerate(IGNORED):
            if not bool((leaf == ignored).any()):
                continue  # nothing to count: as by samples
            for shift in (0, 1) if leaf.dim() == 2 and leaf.shape[1] > 1 else (0,):
                found.append((_unlike_label(path), rank, len(found), Counter(path, ignored, shift)))
    # What is called a label first, then the marks that are nothing else.
    return [counter for _, _, _, counter in sorted(found, key=lambda entry: entry[:3])]


def _unlike_label(path):
    return not any(word in str(path[-1]).lower() for word in ("label", "target"))


def most_uneven(leaves, found):
    """Pairs of samples with few and many labels that count, where a wrong weight shows; what they test."""
    pairs, values = [], []
    by_path = dict(leaves)
    for counter in found:
        counts = counter.rows(by_path[counter.path])
        high = int(counts.argmax())
        low = int(counts.masked_fill(counts == 0, int(counts[high])).argmin())  # a mean over none is none
        if int(counts[low]) == int(counts[high]):
            low = int(counts.argmin())  # one label a sample: where it does not count, neither does the sample
        pair = (min(low, high), max(low, high))
        if int(counts[low]) != int(counts[high]) and pair not in pairs:
            pairs.append(pair)
            values.append(counter.ignored)
    return pairs, values
