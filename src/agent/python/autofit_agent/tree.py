"""A module's arguments or outputs as a tree: tuples, lists, dicts and dataclasses, tensors as leaves."""

import copy
import dataclasses


def is_namedtuple(value):
    return isinstance(value, tuple) and hasattr(value, "_fields")


def children(value):
    """The (key, child) pairs of a container, or None where `value` is a leaf."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return None


def leaves(value, path=()):
    """All (path, leaf) pairs, in order."""
    inner = children(value)
    if inner is None:
        return [(path, value)]
    found = []
    for key, child in inner:
        found.extend(leaves(child, (*path, key)))
    return found


def rebuild(value, replace, path=()):
    """A copy of `value` in which each leaf is `replace(path, leaf)`; containers keep their class."""
    inner = children(value)
    if inner is None:
        return replace(path, value)
    made = [(key, rebuild(child, replace, (*path, key))) for key, child in inner]
    if isinstance(value, dict):
        if type(value) is dict:
            return dict(made)
        # An OrderedDict, a defaultdict or a ModelOutput: a copy keeps the class and whatever else it carries.
        twin = copy.copy(value)
        for key, child in made:
            twin[key] = child
        return twin
    if is_namedtuple(value):
        return type(value)(*(child for _, child in made))
    if isinstance(value, (tuple, list)):
        if type(value) in (tuple, list):
            return type(value)(child for _, child in made)
        try:
            return type(value)([child for _, child in made])
        except TypeError:
            return [child for _, child in made] if isinstance(value, list) else tuple(c for _, c in made)
    twin = copy.copy(value)
    for key, child in made:
        object.__setattr__(twin, key, child)
    return twin


def same_shape(one, other):
    """Whether two trees have the same paths."""
    return [path for path, _ in leaves(one)] == [path for path, _ in leaves(other)]


def path_text(path):
    """`(1, "hidden")` as `[1].hidden`; the whole is `the output`."""
    if not path:
        return "the output"
    return "".join("[%d]" % key if isinstance(key, int) else "." + str(key) for key in path).lstrip(".")
