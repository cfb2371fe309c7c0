"""The record of one option (`ScriptOption` of src/model/inspection.rs); what counts as our command line."""

import enum
import sys

_HELP = 200  # characters of a help text
_TYPES = {bool: "bool", int: "int", float: "float", str: "str"}


def command_words(args):
    """The words that the script was started with, if these are what `args` holds; None otherwise.

    `args`: what a parser was given (None: it reads sys.argv by itself).  Words in front may come from a file
    of arguments, and words may be missing that an earlier parser has taken.
    """
    typed = list(sys.argv[1:])
    if args is None:
        return typed
    given = list(args)
    if given[len(given) - len(typed) :] == typed:
        return typed
    rest = iter(typed)
    return typed if given and all(word in rest for word in given) else None


def option(dest, flags, kind, value, span, **more):
    """One option.

    `flags`: all ways to name it on the command line.  `write`: the words that set it, `{value}` being the
    value; `on` and `off`: the words that set a truth value.  `span`: the part of the command's words in which
    its parser looks for it.
    """
    default, choices = more.get("default"), more.get("choices") or ()
    return {
        "dest": dest,
        "flags": list(flags),
        "kind": kind,
        "default": None if default is None else text(default),
        "value": None if value is None else text(value),
        "choices": [text(choice) for choice in choices],
        "under": list(more.get("under", ())),
        "help": " ".join(str(more.get("help") or "").split())[:_HELP],
        "write": list(more.get("write", ())),
        "on": list(more.get("on", ())),
        "off": list(more.get("off", ())),
        "first": span[0],
        "after": span[1],
    }


def text(value):
    """A value as it is written on a command line."""
    if isinstance(value, enum.Enum):
        value = value.value if isinstance(value.value, (str, int)) else value.name
    return str(value)


def kind_of(*values):
    """`int`, `float`, `str`, `bool` by the first value that says it, else None."""
    for value in values:
        kind = _TYPES.get(type(value))
        if kind is not None:
            return kind
        if isinstance(value, enum.Enum):
            return "str"
        if isinstance(value, (list, tuple)):
            return "list"
    return None


def long_flag(flags):
    """The flag to write: the first with two dashes, else the first."""
    return next((flag for flag in flags if flag.startswith("--")), flags[0] if flags else None)


def set_by(flag):
    """The words that give `flag` a value."""
    if flag.startswith("--") or not flag.startswith("-"):
        return [flag + "={value}"]
    return [flag, "{value}"]


def filled(words, value):
    """`words` with the value in its place."""
    return [word.replace("{value}", value) for word in words]
