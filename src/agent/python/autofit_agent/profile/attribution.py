"""Blocks of an allocator, and what was noted of tensors -> what the memory at the peak was for.  Pure.

Two figures are told that come by different ways: `traced`, what the allocator itself has counted at its
highest (and what was there before it was traced), and the sum of the categories, to which each block that was
alive then is given by what was noted of its address while it lived.  `other` are blocks that nothing is known
of.
"""

CATEGORIES = (
    "parameters",
    "buffers",
    "optimizer_state",
    "gradients",
    "activations",
    "temporaries",
    "inputs",
    "kept",
    "other",
)
ROWS = 40  # of the table of blocks that is told
NAME = 120  # characters of a place or an operator


class Facts:
    """What is known of a step: when it began and ended, and what Python referred to then."""

    def __init__(self, begin, end, before, after, notes, shapes):
        self.begin = begin
        self.end = end
        self.before = before  # {address: tensors.Held}
        self.after = after
        self.notes = notes
        self.shapes = _by_address([*shapes, *notes.shapes])
        self.marks = _by_address(notes.marks)
        self.saved = _by_address([(s.since, s.address, s) for s in notes.saved])


class Entry:
    """A block with its part."""

    __slots__ = ("category", "dtype", "place", "shape", "size", "what")

    def __init__(self, size, category, what, place, shape, dtype):
        self.size = size
        self.category = category
        self.what = what
        self.place = place
        self.shape = shape
        self.dtype = dtype


def entries(alive, untold, moment, facts):
    """An entry for each block that was traced, and for each storage of which the allocator has not told."""
    return [_entry(block, moment, facts) for block in alive] + [of_held(held) for held in untold]


def untraced(blocks, moment, facts):
    """What was there when the step began and is older than the trace."""
    # An address that was handed out again was given back before, of which the allocator does not tell.
    traced = {block.address for block in blocks if block.born <= moment and block.died > facts.begin}
    return [held for address, held in facts.before.items() if address not in traced]


def categories(found):
    """{category: bytes}, all of them."""
    sums = dict.fromkeys(CATEGORIES, 0)
    for entry in found:
        sums[entry.category] += entry.size
    return sums


def rows(found, most=ROWS):
    """The largest blocks; those alike (category, place, operator, shape) are one row."""
    alike = {}
    for entry in found:
        named = None if entry.category in ("parameters", "buffers", "optimizer_state") else entry.what
        key = (entry.category, entry.place, named, tuple(entry.shape or ()), entry.dtype)
        alike.setdefault(key, []).append(entry)
    merged = sorted(alike.values(), key=lambda group: -sum(entry.size for entry in group))
    return [
        {
            "category": group[0].category,
            "bytes": sum(entry.size for entry in group),
            "count": len(group),
            "place": (group[0].place or "")[:NAME] or None,
            "what": (group[0].what or "")[:NAME] or None,
            "shape": group[0].shape,
            "dtype": group[0].dtype,
        }
        for group in merged[:most]
    ]


def of_held(held):
    """An entry for a storage that was looked up."""
    return Entry(held.size, held.role, held.name, None, held.shape, held.dtype)


def _entry(block, moment, facts):
    known = facts.before.get(block.address) if block.born <= facts.begin else None
    if known is None and block.died > facts.end:
        known = facts.after.get(block.address)
    backward = facts.notes.backward_at(block.born)
    computed_again = facts.notes.line_at(block.born) if backward is not None else None
    category = _category(block, moment, facts, known, backward, computed_again)
    shape, dtype = _shape(block, facts, known)
    what = block.operator
    if known is not None and known.role in ("parameters", "buffers", "optimizer_state", "gradients"):
        what = known.name or what
    return Entry(block.size, category, what, _place(block, facts, backward, computed_again), shape, dtype)


def _category(block, moment, facts, known, backward, computed_again):
    if known is not None and known.role != "kept":
        return known.role
    marks = {mark[2] for mark in _within(facts.marks, block)}
    for role in ("gradients", "inputs"):
        if role in marks:
            return role
    if any(saved.let_go > moment for _, _, saved in _within(facts.saved, block)):
        return "activations"
    if block.loading:
        return "inputs"
    # Compiled code saves without telling: what the backward pass lets go and has not made was saved for it.
    saved = backward is None and facts.notes.backward_at(block.died) is not None
    if computed_again or saved and block.born < moment:
        return "activations"
    if known is not None:
        return "kept"
    if facts.begin < block.born and block.died <= facts.end:
        return "temporaries"
    return "other"


def _place(block, facts, backward, computed_again):
    if block.place is not None or computed_again:
        return block.place or computed_again
    if backward is not None:
        # The forward operator of it says more than the call of `backward`.
        return (facts.notes.line_at(block.of) if block.of is not None else None) or backward
    return facts.notes.line_at(block.born)


def _shape(block, facts, known):
    """Of the largest tensor in it that was seen; views may show less of it."""
    seen = _within(facts.shapes, block)
    if seen:
        best = max(seen, key=lambda row: _elements(row[2]))
        return best[2], best[3]
    return (known.shape, known.dtype) if known is not None else (None, None)


def _elements(sizes):
    product = 1
    for size in sizes:
        product *= size
    return product


def _by_address(rows):
    found = {}
    for row in rows:
        found.setdefault(row[1], []).append(row)
    return found


def _within(by_address, block):
    """What was noted of a block's address while it lived."""
    return [row for row in by_address.get(block.address, ()) if block.born <= row[0] <= block.died]
