"""What was alive when memory ran out: the `filled` record.

The look comes when the error passes a frame of ours, while the frames of the script and the graph of the step
are still there; nothing is done before, so that steps cost nothing.  What Python refers to comes from the
garbage collector, what autograd holds from the graph behind it.  Which line made a block is not known then:
seeing that costs every call of every step, which is what `autofit profile` is for.

Memory is short at this moment and the script may go on: the look is bounded in time and number, takes no
tensor anywhere, and gives up silently.
"""

import os
import time

from . import memory, tensors
from .profile import attribution, snapshot

SECONDS = 2.0  # that the look may take
NODES = 20000  # of the graph
ROWS = 12
SNAPSHOT = "oom_snapshot.pickle"
_SAVED = "_raw_saved_"


class Filled:
    """Tells it once: a script that catches the error and tries again does not pay again and again."""

    def __init__(self, session):
        self.session = session
        self._told = False
        self._snapped = False

    def tell(self, device):
        """`device` is `cpu` or `cuda:0`."""
        if self._told:
            return
        self._told = True
        try:
            with tensors.plainly(self.session.torch):
                told = self._look(device)
            self.session.emit("filled", **told)
        except Exception:
            # It is short of memory; the record of the error itself is written already.
            self.session.emit("filled", device=device, bytes=0, categories={}, blocks=[], partial=True)

    def _look(self, device):
        torch = self.session.torch
        kind = device.split(":")[0]
        deadline = time.monotonic() + SECONDS
        found = tensors.held(self.session, torch, kind)
        partial = not _graph(torch, kind, found, deadline)
        rows = [attribution.of_held(held) for held in found.values()]
        sums = {name: size for name, size in attribution.categories(rows).items() if size}
        return {
            "device": device,
            "bytes": sum(sums.values()),
            "categories": sums,
            "blocks": attribution.rows(rows)[:ROWS],
            "pieces": self._pieces(device),
            "partial": partial,
        }

    def snapshot(self):
        """At the moment of the failed request: the caching allocator's state, for PyTorch's viewer."""
        if self._snapped:
            return
        self._snapped = True
        try:
            snapshot.save(memory.cuda(), os.path.join(self.session.plan.trial_dir, SNAPSHOT))
        except Exception:
            return  # the table comes all the same

    def _pieces(self, device):
        cuda = memory.cuda()
        if cuda is None or not device.startswith("cuda"):
            return None
        return snapshot.pieces(cuda.memory._snapshot(), int(device.split(":")[1]))


def _graph(torch, kind, found, deadline):
    """Adds what autograd holds behind the tensors that are referred to; false where that was cut short."""
    stack = [t.grad_fn for t in tensors.referred(torch) if t.grad_fn is not None]
    seen = set()
    names = {}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        if len(seen) >= NODES or time.monotonic() > deadline:
            return False
        seen.add(node)
        for tensor in _saved(node, names):
            size, key = tensors.storage(tensor)
            if key is None or key[0] != kind:
                continue
            known = found.get(key[1])
            if known is None or (known.role == "kept" and known.computed):
                found[key[1]] = tensors.Held("activations", node.name(), size, tensor)
        stack.extend(following for following, _ in node.next_functions if following is not None)
    return True


def _saved(node, names):
    """What a node holds, less what its holder would have to compute or to fetch first."""
    kind = type(node)
    if kind not in names:
        names[kind] = [name for name in dir(kind) if name.startswith(_SAVED)]
    for name in names[kind]:
        try:
            many = getattr(node, name)
        except RuntimeError:
            continue  # let go already
        for saved in many if isinstance(many, (list, tuple)) else (many,):
            tensor = _plain(saved)
            if tensor is not None:
                yield tensor


def _plain(saved):
    """The tensor, None where somebody's hooks stand in between (checkpoints, offload)."""
    seen = []

    def pack(tensor):
        seen.append(tensor)
        return tensor

    try:
        saved.register_hooks(pack, _same)
    except RuntimeError:
        return None  # it has hooks, or holds nothing any more
    return seen[0] if seen else None


def _same(tensor):
    return tensor
