"""How an optimizer of torch.optim updates its parameters: one by one, in lists, or in one kernel.

`foreach` and `fused` in its parameter groups choose; where both are None, PyTorch does.
"""

# The words of the contract and what they stand for in a parameter group.
WORDS = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {"foreach": False, "fused": True},
}
NEITHER_ON = ("cpu", "mps")  # devices on which PyTorch takes no lists by itself


def in_force(group, torch):
    """The word for what a parameter group does."""
    if group.get("fused"):
        return "fused"
    foreach = group.get("foreach")
    if foreach is None and group.get("fused") is None and not group.get("differentiable"):
        plain = (torch.Tensor, torch.nn.Parameter)
        foreach = all(type(p) in plain and p.device.type not in NEITHER_ON for p in group["params"])
    return "foreach" if foreach else "loop"


def why_not(optimizer, word, torch):
    """None, or why this optimizer cannot be told to update its parameters that way."""
    name = type(optimizer).__name__
    if not (getattr(type(optimizer).step, "__module__", None) or "").startswith("torch.optim"):
        return "%s has an update of its own" % name
    if "foreach" not in optimizer.defaults:
        return "%s has one way to update parameters only" % name
    if word == "loop":
        return None
    groups = optimizer.param_groups
    if any(group.get("differentiable") for group in groups):
        return "the update of %s is differentiated through" % name
    if word == "foreach":
        if any(isinstance(group.get("lr"), torch.Tensor) and not group.get("capturable") for group in groups):
            return "the learning rate of %s is a tensor" % name
        return None
    if "fused" not in optimizer.defaults:
        return "%s has no fused update" % name
    devices = fused_devices(torch)
    if name == "Adagrad":
        devices = [device for device in devices if device == "cpu"]
    for group in groups:
        for p in group["params"]:
            if type(p) not in (torch.Tensor, torch.nn.Parameter) and not hasattr(p, "full_tensor"):
                return "%s updates a %s" % (name, type(p).__name__)
            if not p.is_floating_point():
                return "%s updates parameters of type %s" % (name, str(p.dtype)[6:])
            if p.device.type not in devices:
                return "the fused update of %s does not run on %s" % (name, p.device.type)
    return None


def fused_devices(torch):
    """Kinds of device for which this PyTorch has fused updates."""
    from torch.utils import _foreach_utils

    known = getattr(_foreach_utils, "_get_fused_kernels_supported_devices", None)
    return known() if known is not None else ["cuda"]


def describe(optimizers, torch):
    """`UpdateInfo` of the contract; None without an optimizer."""
    if not optimizers:
        return None
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    now = sorted({in_force(group, torch) for group in groups})
    reasons = {word: [why_not(optimizer, word, torch) for optimizer in optimizers] for word in WORDS}
    values = [word for word, why in reasons.items() if None in why]
    return {
        "now": now[0] if len(now) == 1 else "mixed",
        "values": values,
        "why_not": None if values else reasons["loop"][0],
    }


def parameters_of(optimizer):
    """Each parameter once."""
    seen = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter
