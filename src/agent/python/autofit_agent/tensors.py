"""What this process holds in tensors: storages, and the part that each plays in training."""

import gc

from .updates import parameters_of


class Held:
    """One storage: its size, its part, its name there, and one of the tensors in it."""

    __slots__ = ("computed", "dtype", "name", "role", "shape", "size")

    def __init__(self, role, name, size, tensor):
        self.role = role
        self.name = name
        self.size = size
        self.computed = tensor.grad_fn is not None  # by an operator that gradients go through
        self.shape = list(tensor.shape)
        self.dtype = str(tensor.dtype)[6:]


def plainly(torch):
    """A context in which looking at a tensor asks no subclass of it: some compute, or ask other ranks."""
    return torch._C.DisableTorchFunctionSubclass()


def storage(tensor):
    """(bytes, key) of a tensor's storage; no key where it has none of its own (meta, fake, sparse)."""
    try:
        if hasattr(type(tensor), "_local_tensor"):
            tensor = tensor._local_tensor  # this rank's part of a DTensor
        held = tensor.untyped_storage()
        return held.nbytes(), (held.device.type, held.data_ptr()) if held.data_ptr() else None
    except (RuntimeError, NotImplementedError, AttributeError):
        return 0, None


def held(session, torch, device):
    """{address: Held} of every storage on a kind of device that Python code refers to.

    It counts for the first part that has it; `kept` are tensors without any.
    """
    with plainly(torch):
        return _held(session, torch, device)


def _held(session, torch, device):
    found = {}

    def take(role, named):
        for name, tensor in named:
            size, key = storage(tensor)
            if key is not None and key[0] == device and key[1] not in found:
                found[key[1]] = Held(role, name, size, tensor)

    modules = [root.module for root in session.roots.roots if root.module is not None]
    optimizers = [o for o in (reference() for reference in session.optimizers) if o is not None]
    parameters = [pair for m in modules for pair in m.named_parameters()]
    parameters += [(None, p) for o in optimizers for p in parameters_of(o)]
    take("parameters", parameters)
    take("buffers", (pair for m in modules for pair in m.named_buffers()))
    take("optimizer_state", (pair for o in optimizers for pair in _state(o, torch)))
    take("gradients", ((n, p.grad) for n, p in parameters if p.grad is not None))
    take("gradients", ((None, tensor) for tensor in _other_gradients(torch)))
    take("kept", ((None, tensor) for tensor in referred(torch)))
    return found


def referred(torch):
    """Every tensor object that the garbage collector knows."""
    kind = torch.Tensor
    # By the type alone: objects may pretend to be of another class, and run code when they are asked.
    return (thing for thing in gc.get_objects() if issubclass(type(thing), kind))


def _state(optimizer, torch):
    """(name, tensor); LBFGS keeps lists of them."""
    for values in optimizer.state.values():
        for name, value in values.items() if hasattr(values, "items") else ():
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, torch.Tensor):
                    yield name, tensor


def _other_gradients(torch):
    """Of tensors that are no parameters; of results (no leaves) asking for it is warned of."""
    for tensor in referred(torch):
        try:
            gradient = tensor.grad if tensor.requires_grad and tensor.is_leaf else None
        except RuntimeError:
            continue  # of a kind that has none
        if gradient is not None:
            yield gradient
