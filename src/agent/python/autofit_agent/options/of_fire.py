"""python-fire: words become arguments of any function or attribute, so none of them has a list."""

from .. import patches
from . import records


def watch(module, options):
    """Says that the command line is read, and by whom."""

    def make(original):
        tell = options.guard(_tell)

        def Fire(*args, **kwargs):
            tell(options)
            return original(*args, **kwargs)

        return Fire

    patches.replace(module, "Fire", make)


def _tell(options):
    options.offer("fire", records.command_words(None), [])
