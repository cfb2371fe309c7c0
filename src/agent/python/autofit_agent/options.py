"""The options of the script's own argument parser (argparse, and what is built on it)."""

import sys

from . import imports

_HELP = 200  # characters of a help text


def install(session):
    """Only where the plan asks for inspection."""
    if not session.plan.inspect:
        return
    watch = Options(session)
    imports.on_import("argparse", watch.patch)


class Options:
    """Tells the options of the largest parser that reads the command line."""

    def __init__(self, session):
        self.session = session
        self._depth = 0
        self._told = -1
        self._argparse = None

    def patch(self, argparse):
        """Wraps the method that every way of parsing goes through."""
        from . import patches

        self._argparse = argparse
        patches.replace(argparse.ArgumentParser, "parse_known_args", self._make)

    def _make(self, original):
        tell = self.session.guard("options")(self._tell)

        def parse_known_args(parser, args=None, namespace=None, *more, **kwargs):
            self._depth += 1
            try:
                result = original(parser, args, namespace, *more, **kwargs)
            finally:
                self._depth -= 1
            if self._depth == 0 and (args is None or list(args) == sys.argv[1:]):
                tell(parser, result[0])
            return result

        return parse_known_args

    def _tell(self, parser, namespace):
        options = list(self._options(parser, namespace, []))
        if len(options) > self._told:
            self._told = len(options)
            self.session.emit("options", parser="argparse", options=options)

    def _options(self, parser, namespace, under):
        argparse = self._argparse
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = getattr(namespace, action.dest, None)
                for name, below in action.choices.items():
                    if chosen == name or chosen not in action.choices:
                        yield from self._options(below, namespace, [*under, name])
            elif not isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
                yield describe(action, namespace, under, argparse)


def describe(action, namespace, under, argparse):
    """`ScriptOption` of the contract."""
    value = getattr(namespace, action.dest, None)
    return {
        "flags": list(action.option_strings),
        "dest": action.dest,
        "kind": _kind(action),
        "default": None if action.default in (None, argparse.SUPPRESS) else _text(action.default),
        "value": None if value is None else _text(value),
        "choices": [_text(c) for c in action.choices] if action.choices is not None else [],
        "under": under,
        "help": (action.help or "")[:_HELP] if action.help != argparse.SUPPRESS else "",
    }


def _kind(action):
    """`int`, `float`, `str`, `bool` for a switch, `list` where it takes several values."""
    if action.nargs == 0 or type(action).__name__ == "BooleanOptionalAction":
        return "bool"
    if action.nargs in ("*", "+", "...", "A...") or isinstance(action.nargs, int):
        return "list"
    if action.type is None:
        return "str"
    return getattr(action.type, "__name__", type(action.type).__name__)


def _text(value):
    return str(value)
