"""The process group, and what goes through it.

`Joined` and `Summed` are what autograd sees where the parts of a call are put together.  Their backward gives
each rank the gradient of its own part, times the number of ranks: gradients of parameters are averaged over
the ranks later on, and the sum of the parts' is wanted.  Neither saves a tensor: where a part is computed
again in backward, that begins with the first saved tensor, and all ranks must come to it at the same place,
for they send in the same order.
"""

import atexit
import contextlib
import datetime
import os
import sys

from .. import ending

_started = []
CHECKED = 4096  # elements of an argument that ranks compare
_OTHERS = datetime.timedelta(seconds=300)  # for which the others are waited for; a launcher ends them sooner


def start(place, device, torch):
    """Joins the group that the launcher has prepared."""
    distributed = torch.distributed
    if _started:
        return
    if distributed.is_initialized():
        raise RuntimeError("the script has a process group of its own")
    _started.append(place)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    with place.in_environment():
        distributed.init_process_group(backend, rank=place.rank, world_size=place.world_size)
    atexit.register(_leave, os.getpid(), place, distributed)


def _leave(pid, place, distributed):
    """A rank goes when all of them have come to the end of the script.

    One that goes closes its connections, and what another has not read yet is lost with them: that one would
    fail in a collective ("Connection reset by peer") which the first has come through.
    """
    if os.getpid() != pid or not distributed.is_initialized():
        return
    if ending.last_error() is None:  # else the others may wait for this rank in a collective
        # Through the store: a barrier would be one more collective.
        store = distributed.distributed_c10d._get_default_store()
        with contextlib.suppress(RuntimeError):  # whoever keeps the store has gone, or there was no end
            store.set("autofit over %d" % place.rank, "")
            store.wait(["autofit over %d" % rank for rank in range(place.world_size)], _OTHERS)
    distributed.destroy_process_group()


def meet():
    """Waits until all ranks are here; at once where they have not joined yet."""
    if _started:
        torch = sys.modules["torch"]
        torch.distributed.all_reduce(torch.zeros(1))  # on the host: nothing waits for a device


def gather(tensor, sizes, torch):
    """The ranks' tensors side by side; `sizes` are their first dimensions."""
    most = max(sizes)
    flags = tensor.dtype == torch.bool
    mine = (tensor.to(torch.uint8) if flags else tensor.detach()).contiguous()
    if mine.shape[0] < most:
        rest = mine.new_zeros((most - mine.shape[0], *mine.shape[1:]))
        mine = torch.cat([mine, rest])
    parts = [torch.empty_like(mine) for _ in sizes]
    torch.distributed.all_gather(parts, mine)
    whole = torch.cat([part[:size] for part, size in zip(parts, sizes)])
    return whole.to(torch.bool) if flags else whole


def add(tensor, torch):
    """The sum over the ranks."""
    total = tensor.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def agree(tensors, torch):
    """Whether all ranks were given the same tensors, as far as a few figures of each tell."""
    figures = []
    for tensor in tensors:
        flat = tensor.detach().flatten()[:CHECKED].double()
        order = torch.arange(1, flat.numel() + 1, dtype=torch.float64, device=flat.device)
        figures += [flat.new_tensor(float(tensor.shape[0])), flat.sum(), torch.dot(flat, order)]
    mine = torch.nan_to_num(torch.stack([f.cpu() for f in figures]))
    parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, mine)
    return all(torch.equal(part, parts[0]) for part in parts)


def make_functions(torch):
    """(Joined, Summed), the two classes."""

    class Joined(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tensor, sizes, rank):
            ctx.place = (sum(sizes[:rank]), sizes[rank], len(sizes))
            return gather(tensor, sizes, torch)

        @staticmethod
        def backward(ctx, gradient):
            start, size, ranks = ctx.place
            return gradient.narrow(0, start, size) * ranks, None, None

    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tensor, weight, ranks):
            ctx.factor = weight * ranks
            # A mean over no labels is not a number.
            return add(tensor * weight if weight else torch.zeros_like(tensor), torch)

        @staticmethod
        def backward(ctx, gradient):
            return gradient * ctx.factor, None, None

    return Joined, Summed
