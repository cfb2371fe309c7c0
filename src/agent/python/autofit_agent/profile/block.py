"""A block of memory as an allocator has seen it: where, how large, when, and for which operator."""


class Block:
    """Times are nanoseconds of the Unix epoch; `born` is 0 and `died` infinite where they were not seen."""

    __slots__ = ("address", "born", "died", "loading", "of", "operator", "place", "size")

    def __init__(self, address, size, born=0, died=float("inf")):
        self.address = address
        self.size = size
        self.born = born
        self.died = died
        self.operator = None  # the outermost operator that ran when it was made
        self.of = None  # of one in the backward pass: when its forward operator ran
        self.loading = False  # whether a DataLoader was asked for a batch
        self.place = None  # the user's line, where the allocator itself tells

    def lives(self, moment):
        """Whether it was there."""
        return self.born <= moment < self.died


def peak(blocks, begin, end):
    """(moment, blocks that were there) when most of their bytes were there between two moments."""
    changes = []
    now = 0
    for block in blocks:
        if block.born <= begin:
            now += block.size if block.died > begin else 0
        elif block.born <= end:
            changes.append((block.born, 1, block.size))
        if begin < block.died <= end:
            changes.append((block.died, 0, -block.size))
    changes.sort()  # what is given back in the same nanosecond comes first
    best, moment = now, begin
    for when, _, size in changes:
        now += size
        if now > best:
            best, moment = now, when
    return moment, [block for block in blocks if block.lives(moment)]
