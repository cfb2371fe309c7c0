"""What is saved is saved by the first rank, and is there when any rank goes on, which may load it again."""

import functools

from .. import imports, patches

_SAVERS = (
    ("torch.serialization", "save"),
    ("torch", "save"),
    ("safetensors.torch", "save_file"),
    ("safetensors.torch", "save_model"),
)
_inside = []


def install(place):
    """Watches the functions that save, in every rank."""
    for module, name in _SAVERS:
        imports.on_import(module, functools.partial(_patch, place, name))


def _patch(place, name, module):
    def make(original):
        def save(*args, **kwargs):
            if _inside:  # one function under two names, or one that calls another
                return original(*args, **kwargs)
            # Every rank has come here: the values that are saved may be put together from all of them.
            _inside.append(True)
            try:
                result = original(*args, **kwargs) if place.rank == 0 else None
            finally:
                _inside.pop()
            from . import group

            group.meet()
            return result

        return save

    if hasattr(module, name):
        patches.replace(module, name, make)
