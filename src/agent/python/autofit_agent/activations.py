"""Activations that may overwrite what they are given, because nobody else needs it.

In the forward of a plain `Sequential` what one layer returns goes to the next one alone.  Linear layers,
convolutions and normalisation do not keep what they return for the backward pass, and the activations below
take their gradient from their result: so the values are the same bit for bit, whatever path a model takes.
Anything else (residual connections, a model that calls its layers one by one) is left alone.
"""


def pairs(module, torch):
    """{Sequential: [(layer, activation behind it)]} of what is below and not in place by itself."""
    nn = torch.nn
    layers = (
        nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
        nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
        nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm,
    )  # fmt: skip
    found = {}
    for sequential in module.modules():
        # Another class may hand the values around otherwise; so may a forward of the instance's own.
        if type(sequential) is not nn.Sequential or "forward" in sequential.__dict__:
            continue
        children = list(sequential.children())
        behind = [
            (layer, activation)
            for layer, activation in zip(children, children[1:])
            if type(layer) in layers and not activation_is_in_place(activation) and keeps(activation, nn)
        ]
        if behind:
            found[sequential] = behind
    return found


def keeps(activation, nn):
    """Whether its gradient can be taken from its result alone, bit for bit."""
    if type(activation) in (nn.ReLU, nn.ReLU6):
        return True
    return type(activation) is nn.LeakyReLU and activation.negative_slope > 0


def activation_is_in_place(activation):
    """The script's own choice."""
    return bool(activation.__dict__.get("inplace"))
