"""argparse, and what parses through it (HfArgumentParser)."""

from .. import patches
from . import records

# Functions for `type=` that make a truth value of a text.
_TRUTH = ("bool", "string_to_bool", "str_to_bool", "str2bool", "strtobool", "boolean")


def watch(module, options):
    """Wraps the method that every way of parsing goes through."""
    patches.replace(module.ArgumentParser, "parse_known_args", Watch(module, options).make)


class Watch:
    """Tells the options of the outermost parser that reads the command line, and of the subcommand chosen."""

    def __init__(self, argparse, options):
        self.argparse = argparse
        self.options = options
        self._depth = 0
        self._given = {}  # id of a subcommand's parser -> number of words that it was given

    def make(self, original):
        tell = self.options.guard(self._tell)

        def parse_known_args(parser, args=None, namespace=None, *more, **kwargs):
            if self._depth and args is not None:
                self._given[id(parser)] = len(args)
            self._depth += 1
            try:
                result = original(parser, args, namespace, *more, **kwargs)
            finally:
                self._depth -= 1
            if self._depth == 0:
                tell(parser, args, result[0])
            return result

        return parse_known_args

    def _tell(self, parser, args, namespace):
        words = records.command_words(args)
        if words is not None:
            found = list(self._of(parser, namespace, len(words), (0, len(words)), []))
            self.options.offer("argparse", words, found)
        self._given.clear()

    def _of(self, parser, namespace, count, span, under):
        argparse = self.argparse
        chosen = None
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                name = getattr(namespace, action.dest, None) if action.dest != argparse.SUPPRESS else None
                for key, below in action.choices.items():
                    if key == name or (name is None and id(below) in self._given):
                        chosen = (key, below)
            elif action.nargs == argparse.REMAINDER:
                # What follows belongs to somebody else.
                span = (span[0], span[1] - len(getattr(namespace, action.dest, None) or ()))
        if chosen is not None:
            given = self._given.get(id(chosen[1]), 0)
            yield from self._own(parser, namespace, (span[0], count - given - 1), under)
            below = (count - given, count)
            yield from self._of(chosen[1], namespace, count, below, [*under, chosen[0]])
        else:
            yield from self._own(parser, namespace, span, under)

    def _own(self, parser, namespace, span, under):
        argparse = self.argparse
        skipped = (argparse._HelpAction, argparse._VersionAction, argparse._SubParsersAction)
        switches = {}  # dest -> switches that set one truth value
        for action in parser._actions:
            if isinstance(action, skipped) or not action.option_strings:
                continue
            if isinstance(action, (argparse._StoreTrueAction, argparse._StoreFalseAction)):
                switches.setdefault(action.dest, []).append(action)
            else:
                yield self._option(action, namespace, span, under)
        for actions in switches.values():
            yield self._switch(actions, namespace, span, under)

    def _switch(self, actions, namespace, span, under):
        """`--amp`, `--no-amp`, or both."""
        first = actions[0]
        on = next((a for a in actions if a.const), None)
        off = next((a for a in actions if not a.const), None)
        return records.option(
            first.dest,
            [flag for action in actions for flag in action.option_strings],
            "bool",
            getattr(namespace, first.dest, None),
            span,
            default=first.default,
            under=under,
            help=self._help(on or off),
            on=[records.long_flag(on.option_strings)] if on else [],
            off=[records.long_flag(off.option_strings)] if off else [],
        )

    def _option(self, action, namespace, span, under):
        flag = records.long_flag(action.option_strings)
        value = getattr(namespace, action.dest, None)
        default = None if action.default is self.argparse.SUPPRESS else action.default
        kind = self._kind(action, value, default)
        writing = {"write": records.set_by(flag)}
        if type(action).__name__ == "BooleanOptionalAction":
            negative = [f for f in action.option_strings if f.startswith("--no-")]
            writing = {"on": [flag], "off": negative[:1]}
        elif kind == "bool" and action.nargs != 0:
            writing = {
                "on": records.filled(records.set_by(flag), "True"),
                "off": [] if action.type is bool else records.filled(records.set_by(flag), "False"),
            }
        elif action.nargs == 0 or kind == "list":
            writing = {}
        return records.option(
            action.dest,
            action.option_strings,
            kind,
            value,
            span,
            default=default,
            choices=action.choices,
            under=under,
            help=self._help(action),
            **writing,
        )

    def _help(self, action):
        return action.help if action.help is not self.argparse.SUPPRESS else ""

    @staticmethod
    def _kind(action, value, default):
        """`list` where it takes several values, `bool` where a text is read as a truth value."""
        if action.nargs == 0 or type(action).__name__ == "BooleanOptionalAction":
            return "bool"
        if action.nargs in ("*", "+", "...", "A...") or isinstance(action.nargs, int):
            return "list"
        name = getattr(action.type, "__name__", type(action.type).__name__) if action.type else "str"
        if name.lower() in _TRUTH or isinstance(default, bool) or isinstance(value, bool):
            return "bool"
        return name
