"""Tensors that wait in host memory and come back as soon as anybody touches them.

A parked tensor keeps its identity, so that modules, optimizers and the script's own lists find it where it
was. Its data are a copy in (page-locked) host memory, and its class is a stand-in: whatever PyTorch function
or attribute is used on it, the group that it was parked with is brought back first. So a script that clips
weights, averages models, saves or copies between its calls finds the right values on the right device.

Moved is only what nobody else looks into: a plain tensor that owns its storage and shares it with no other.
"""

import copy

from . import tree


def available(torch):
    """Whether PyTorch tells how many hold a storage (older ones only where they are built for CUDA)."""
    return hasattr(torch._C, "_storage_Use_Count")


class Parking:
    """The stand-ins, and which group each parked tensor belongs to."""

    def __init__(self, torch, devices, small):
        self.torch = torch
        self.devices = devices  # kinds of device whose tensors are moved
        self.small = small  # bytes of a tensor below which it stays
        self.groups = {}  # id of a parked tensor -> its group
        self.stand_ins = _stand_ins(torch, self.touched)
        self.plain = {ours: plain for plain, ours in self.stand_ins.items()}
        self._alone = self._owners(torch.empty(1))

    def touched(self, tensor):
        """Somebody uses a parked tensor."""
        group = self.groups.get(id(tensor))
        if group is not None:
            group.bring()

    def moves(self, tensor):
        """Whether it may be parked."""
        torch = self.torch
        if type(tensor) not in self.stand_ins or tensor.device.type not in self.devices:
            return False
        size = tensor.numel() * tensor.element_size()
        if tensor.layout is not torch.strided or size < self.small or not tensor.is_leaf:
            return False
        if tensor.is_inference():
            return False
        # A view of something larger, or something that is looked into from elsewhere (an open graph too).
        return tensor.untyped_storage().nbytes() == size and self._owners(tensor) == self._alone

    def _owners(self, tensor):
        """How many hold its storage; the number for a tensor alone depends on the version of PyTorch."""
        return self.torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


class Group:
    """Tensors that are parked and brought back together."""

    def __init__(self, parking):
        self.parking = parking
        self.parked = []  # (tensor, device that it came from)
        self.bytes = 0  # that were moved the last time

    def park(self, tensors):
        """Moves those that may be moved to host memory."""
        parking, torch = self.parking, self.parking.torch
        self.bytes = 0
        for tensor in tensors:
            if id(tensor) in parking.groups or not parking.moves(tensor):
                continue
            device = tensor.device
            # The copy and what comes after it are on one stream, so that nobody has to wait for it.
            with torch.no_grad():
                pinned = device.type == "cuda"
                host = torch.empty_like(tensor, device="cpu", pin_memory=pinned, requires_grad=False)
                host.copy_(tensor, non_blocking=True)
            self.bytes += host.numel() * host.element_size()
            tensor.data = host
            parking.groups[id(tensor)] = self
            self.parked.append((tensor, device))
            tensor.__class__ = parking.stand_ins[type(tensor)]

    def bring(self):
        """Moves them back to where they came from; what memory does not suffice for stays parked."""
        parking = self.parking
        while self.parked:
            tensor, device = self.parked[-1]
            tensor.__class__ = parking.plain[type(tensor)]
            try:
                tensor.data = tensor.data.to(device, non_blocking=True, copy=True)
            except BaseException:
                tensor.__class__ = parking.stand_ins[type(tensor)]
                raise
            del parking.groups[id(tensor)]
            self.parked.pop()


def _stand_ins(torch, touched):
    """{class: its stand-in} for plain tensors and parameters."""

    def function(cls, func, types, args=(), kwargs=None):
        for _, leaf in tree.leaves((args, kwargs or {})):
            if type(leaf) in made:
                touched(leaf)
        return func(*args, **(kwargs or {}))

    def deepcopy(tensor, memo):
        touched(tensor)
        return copy.deepcopy(tensor, memo)

    def reduce(tensor, protocol):
        touched(tensor)
        return tensor.__reduce_ex__(protocol)

    members = {
        "__torch_function__": classmethod(function),
        "__deepcopy__": deepcopy,
        "__reduce_ex__": reduce,
    }
    plain = (torch.Tensor, torch.nn.Parameter)
    found = {cls: type(cls)("Parked" + cls.__name__, (cls,), dict(members)) for cls in plain}
    made = set(found.values())
    return found
