"""jsonargparse and LightningCLI: nested names (`--trainer.precision`), subcommands, classes by name.

jsonargparse inherits from argparse, but parses by a way of its own.
"""

import typing

from .. import patches
from . import records


def watch(module, options):
    """Wraps `parse_args`, which subcommands are parsed by as well."""
    patches.replace(module.ArgumentParser, "parse_args", Watch(options).make)


class Watch:
    """Tells the options of the outermost parser and of the subcommand chosen."""

    def __init__(self, options):
        self.options = options
        self._depth = 0
        self._given = {}  # id of a subcommand's parser -> number of words that it was given

    def make(self, original):
        tell = self.options.guard(self._tell)

        def parse_args(parser, args=None, *more, **kwargs):
            if self._depth and args is not None:
                self._given[id(parser)] = len(args)
            self._depth += 1
            try:
                result = original(parser, args, *more, **kwargs)
            finally:
                self._depth -= 1
            if self._depth == 0:
                tell(parser, args, result)
            return result

        return parse_args

    def _tell(self, parser, args, values):
        words = records.command_words(args)
        if words is not None:
            span = (0, len(words))
            self.options.offer("jsonargparse", words, list(self._of(parser, values, span, [])))
        self._given.clear()

    def _of(self, parser, values, span, under):
        commands = parser._subcommands_action
        name = values.get(commands.dest) if commands is not None else None
        below = commands.choices.get(name) if name is not None else None
        if below is not None:
            given = self._given.get(id(below), 0)
            inside = (span[1] - given, span[1])
            yield from self._of(below, values.get(name), inside, [*under, name])
            span = (span[0], inside[0] - 1)
        for action in parser._actions:
            if action is not commands and action.option_strings and action.dest in values:
                yield from self._option(action, values.get(action.dest), span, under)

    def _option(self, action, value, span, under):
        init_args = getattr(value, "init_args", None)
        if init_args is not None and hasattr(value, "class_path"):
            # A class that was chosen by name: its arguments have flags that no action tells of.
            for key, argument in init_args.items():
                yield _record(f"{action.dest}.init_args.{key}", argument, None, None, "", span, under)
            return
        hint = getattr(action, "_typehint", None) or action.type
        choices = _literals(hint) or action.choices
        yield _record(action.dest, value, hint, choices, action.help, span, under, action)


def _record(dest, value, hint, choices, help_text, span, under, action=None):
    flags = action.option_strings if action is not None else ["--" + dest]
    flag = records.long_flag(flags)
    kind = _kind(value, hint)
    writing = {"write": records.set_by(flag)}
    if kind == "bool":
        writing = {
            "on": records.filled(records.set_by(flag), "true"),
            "off": records.filled(records.set_by(flag), "false"),
        }
    elif kind == "list":
        writing = {}
    default = getattr(action, "default", None)
    if not isinstance(default, (bool, int, float, str)):
        default = None
    return records.option(
        dest,
        flags,
        kind,
        value,
        span,
        default=default,
        choices=choices,
        under=under,
        help=help_text,
        **writing,
    )


def _kind(value, hint):
    by_hint = {int: "int", float: "float", bool: "bool", str: "str"}
    inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    if hint in by_hint:
        return by_hint[hint]
    if len(inner) == 1 and inner[0] in by_hint:  # Optional
        return by_hint[inner[0]]
    if _literals(hint):
        return "str"
    return records.kind_of(value) or "str"


def _literals(hint):
    """The words that a type allows, through Optional and Union."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    found = []
    for inner in typing.get_args(hint):
        found += [word for word in _literals(inner) if word not in found]
    return found
