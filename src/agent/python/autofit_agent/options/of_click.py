"""click and typer: the command that is invoked, and the groups that lead to it."""

import enum
import typing

from .. import patches
from . import records

_KINDS = {"integer": "int", "integer range": "int", "float": "float", "float range": "float"}
_KINDS.update({"boolean": "bool", "text": "str", "choice": "str"})
_NATIVE = {int: "int", float: "float", bool: "bool", str: "str"}


def watch(module, options):
    """Wraps `Command.make_context`, which is given the words, and `Command.invoke`, which has the values."""
    parser = "typer" if module.__name__.startswith("typer") else "click"
    watcher = Watch(parser, options)
    patches.replace(module.Command, "make_context", watcher.make_context)
    patches.replace(module.Command, "invoke", watcher.make_invoke)


class Watch:
    """Tells the options of each command that is invoked; the innermost one has the most."""

    def __init__(self, parser, options):
        self.parser = parser
        self.options = options

    def make_context(self, original):
        def make_context(command, info_name, args, *more, **kwargs):
            given = list(args)  # click consumes the list
            context = original(command, info_name, args, *more, **kwargs)
            context._autofit_given = given
            return context

        return make_context

    def make_invoke(self, original):
        tell = self.options.guard(self._tell)

        def invoke(command, context, *more, **kwargs):
            tell(context)
            return original(command, context, *more, **kwargs)

        return invoke

    def _tell(self, context):
        chain = []
        while context is not None:
            chain.insert(0, context)
            context = context.parent
        given = [getattr(one, "_autofit_given", None) for one in chain]
        if None in given:
            return
        words = records.command_words(given[0])
        if words is None or any(words[len(words) - len(g) :] != g for g in given):
            return
        found, under = [], []
        for index, one in enumerate(chain):
            if index:
                under.append(one.info_name)
            first = len(words) - len(given[index])
            last = index + 1 == len(chain)
            after = len(words) if last else len(words) - len(given[index + 1]) - 1
            found += self._of(one, (first, after), under)
        parser = self.parser
        if parser == "click" and type(chain[0].command).__module__.startswith("typer."):
            parser = "typer"
        self.options.offer(parser, words, found)

    def _of(self, context, span, under):
        for parameter in context.command.params:
            if parameter.param_type_name == "option" and parameter.name in context.params:
                yield self._option(parameter, context.params[parameter.name], span, under)

    def _option(self, parameter, value, span, under):
        flags = [*parameter.opts, *parameter.secondary_opts]
        flag = records.long_flag(parameter.opts)
        kind, choices = _type(parameter)
        kind = kind or records.kind_of(value) or "str"
        if parameter.multiple or parameter.nargs != 1:
            kind = "list"
        writing = {"write": records.set_by(flag)}
        if parameter.is_flag:
            kind = "bool" if parameter.is_bool_flag else "flag"
            off = records.long_flag(parameter.secondary_opts)
            writing = {"on": [flag], "off": [off] if off else []} if kind == "bool" else {}
        elif kind == "bool":
            writing = {
                "on": records.filled(records.set_by(flag), "true"),
                "off": records.filled(records.set_by(flag), "false"),
            }
        elif kind == "list":
            writing = {}
        default = parameter.default
        return records.option(
            parameter.name,
            flags,
            kind,
            value,
            span,
            default=default if isinstance(default, (bool, int, float, str)) else None,
            choices=choices,
            under=under,
            help=getattr(parameter, "help", None),
            **writing,
        )


def _type(parameter):
    """(kind, choices): from click's type, or from the annotation where typer parses by itself."""
    own = getattr(parameter, "type", None)
    if own is not None:
        return _KINDS.get(own.name), [records.text(choice) for choice in getattr(own, "choices", None) or ()]
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    inner = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
    if len(inner) == 1 and type(None) in typing.get_args(annotation):  # Optional
        annotation = inner[0]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "str", list(annotation)
    return _NATIVE.get(annotation), []
