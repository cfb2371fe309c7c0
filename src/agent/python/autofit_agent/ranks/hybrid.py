"""`strategy=hybrid`: which ranks share one copy of the model, of which each group of them has one.

On several nodes those of a node, whose links are the faster ones: parameters go round within it, and only
the gradients of a part between nodes.  On one node the halves of its ranks.
"""

import os


def group_of(ranks, on_node):
    """(How many ranks one after the other are a group, None), or (None, why there are no groups)."""
    if on_node < ranks:
        if on_node == 1:
            return None, "each node has one process, which would hold a whole copy, as with ddp"
        return on_node, None
    if ranks < 4 or ranks % 2:
        return None, "%d processes on one node are not two groups of several; fsdp is one group" % ranks
    return ranks // 2, None


def agreed(torch):
    """`group_of` in a script that distributes by itself; all ranks ask.

    There nodes may have different numbers of ranks, or these in another order.
    """
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    on_node = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    found = [None] * ranks
    torch.distributed.all_gather_object(found, (on_node, int(os.environ.get("LOCAL_RANK", rank % on_node))))
    if ranks % on_node or found != [(on_node, rank % on_node) for rank in range(ranks)]:
        return None, "the nodes have different numbers of processes, or these are not one after the other"
    return group_of(ranks, on_node)
