"""Attributes that the agent has replaced, so that each can be given back."""

import functools

_MISSING = object()
_done = []


def replace(owner, name, make):
    """Puts `make(original)` in place of `owner.name`; returns a function that gives the original back.

    The original comes back only where nobody has replaced ours in the meantime.
    """
    own = vars(owner).get(name, _MISSING) if hasattr(owner, "__dict__") else _MISSING
    original = getattr(owner, name)
    ours = make(original)
    try:
        functools.update_wrapper(ours, original)
    except (AttributeError, TypeError):
        pass
    setattr(owner, name, ours)
    entry = [owner, name, own, ours]
    _done.append(entry)

    def undo():
        _undo(entry)

    return undo


def undo_all():
    """Gives everything back, latest first."""
    while _done:
        _undo(_done[-1])


def _undo(entry):
    if entry not in _done:
        return
    _done.remove(entry)
    owner, name, own, ours = entry
    if getattr(owner, "__dict__", {}).get(name, _MISSING) is not ours:
        return
    if own is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, own)
