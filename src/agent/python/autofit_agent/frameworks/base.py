"""What the files about frameworks share: versions, and watching how an object is built."""

import inspect

from .. import patches


class Known:
    """The versions of a framework whose switches are known: from `oldest` up to, not including, `below`."""

    def __init__(self, name, oldest, below):
        self.name = name
        self.oldest = oldest
        self.below = below

    def stands_against(self, version):
        """None, or the sentence about a version that is not known."""
        numbers = _numbers(version)
        if numbers is not None and self.oldest <= numbers < self.below:
            return None
        return "%s %s is not known to this version (known: %s to %d.x)" % (
            self.name,
            version or "without a version",
            ".".join(map(str, self.oldest)),
            self.below[0] - 1,
        )


def _numbers(version):
    """`5.23.0.dev0` as (5, 23)."""
    parts = str(version).split(".")[:2]
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        return None


def watch_building(frameworks, cls, name, before, after):
    """`before(arguments)` may change the arguments (a dict by name) of `cls(...)`; then `after(built)`.

    Of an object that another framework's object builds for itself neither is called.
    """
    session = frameworks.session
    before, after = session.guard(name + " building")(before), session.guard(name + " built")(after)

    def make(original):
        signature = inspect.signature(original)

        def __init__(built, *args, **kwargs):
            inner = frameworks.building
            bound = None
            if not inner:
                bound = _bind(signature, built, args, kwargs)
                if bound is not None:
                    before(built, bound.arguments)
                    args, kwargs = bound.args[1:], bound.kwargs
            frameworks.building += 1
            try:
                original(built, *args, **kwargs)
            finally:
                frameworks.building -= 1
            if not inner:
                after(built)

        return __init__

    patches.replace(cls, "__init__", make)


def _bind(signature, built, args, kwargs):
    try:
        return signature.bind(built, *args, **kwargs)
    except TypeError:
        return None  # the script's own mistake: the framework says so itself
