"""A launch without random draws: dropout is off, and a loader's random transforms depend on the samples.

Where a knob makes dropout or transforms draw other numbers (a split, other workers), two runs cannot be
compared step by step.  The launcher then runs both once more with this part on: the same draws in either.
"""

import random
import sys
import zlib

from . import imports, patches
from .untouched import numpy_state, restore_numpy

# All dropout of torch.nn goes through these, recurrent layers apart.
_FUNCTIONS = (
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
)


def install(session):
    """Does nothing in other launches."""
    if not session.plan.quiet:
        return
    imports.on_import("torch", lambda torch: _silence(session, torch))
    imports.on_import("torch.utils.data._utils.fetch", lambda module: _seed_fetches(session, module))


def _silence(session, torch):
    functional = torch.nn.functional
    for name in _FUNCTIONS:
        patches.replace(functional, name, lambda _original: lambda input, *args, **kwargs: input)
    patches.replace(functional, "scaled_dot_product_attention", _without_dropout)
    patches.replace(torch, "dropout", lambda _original: lambda input, *args, **kwargs: input)
    recurrent = torch.nn.RNNBase

    def found(root, _args, _kwargs):
        for module in root.module.modules():
            if isinstance(module, recurrent):
                module.dropout = 0.0  # handed to the kernel

    session.roots.on_found.append(found)


def _without_dropout(original):
    def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, *args, **kwargs):
        return original(query, key, value, attn_mask, 0.0, *args, **kwargs)

    return scaled_dot_product_attention


def _seed_fetches(session, module):
    """Each fetch draws from a state made of its indices, in whichever process it runs."""
    seed = session.plan.seed or 0

    def make(original):
        def fetch(fetcher, indices):
            torch = sys.modules["torch"]
            generator = torch.random.default_generator
            states = random.getstate(), numpy_state(), generator.get_state()
            mine = (zlib.crc32(repr(indices).encode()) ^ seed) & 0xFFFFFFFF
            random.seed(mine)
            if states[1] is not None:
                sys.modules["numpy"].random.seed(mine)
            generator.manual_seed(mine)
            try:
                return original(fetcher, indices)
            finally:
                random.setstate(states[0])
                restore_numpy(states[1])
                generator.set_state(states[2])

        return fetch

    patches.replace(module._MapDatasetFetcher, "fetch", make)
