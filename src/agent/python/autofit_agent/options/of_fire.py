"""python-fire: the parameters of the function that is called, `--batch_size=32`, `--amp=True`.

Words become arguments of any function or attribute, so there is a list only once a function is about to be
called. Parameters that were given by their position are left out: setting them by name would give them twice.
"""

import inspect

from .. import patches
from . import records

_NATIVE = {int: "int", float: "float", bool: "bool", str: "str"}


def watch(module, options):
    """Says that the command line is read, and by whom; then what each function is called with."""

    def make(original):
        tell = options.guard(_tell_name)

        def Fire(*args, **kwargs):
            tell(options)
            return original(*args, **kwargs)

        return Fire

    def make_parser(original):
        tell = options.guard(_tell)

        def _MakeParseFn(function, *more, **kwargs):
            parse = original(function, *more, **kwargs)

            def parsed(args):
                given = list(args)  # fire may consume it
                result = parse(args)
                tell(options, function, given, result)
                return result

            return parsed

        return _MakeParseFn

    patches.replace(module, "Fire", make)
    if hasattr(module, "_MakeParseFn"):
        patches.replace(module, "_MakeParseFn", make_parser)


def _tell_name(options):
    options.offer("fire", records.command_words(None), [])


def _tell(options, function, given, result):
    (positional, named), _, rest, _ = result
    words = records.command_words(None)
    first = len(words) - len(given)
    # What is left over is for another function, and where words are missing they are fire's own.
    if rest or words[first:] != given:
        return
    signature = inspect.signature(function)
    bound = signature.bind(*positional, **named)
    bound.apply_defaults()
    flags = {word.lstrip("-").split("=")[0].replace("-", "_") for word in given if word.startswith("-")}
    initials = [name[0] for name in signature.parameters]
    found = []
    for name, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        names = {name, "no" + name} | ({name[0]} if initials.count(name[0]) == 1 else set())
        value = bound.arguments[name]
        if names & flags or value == parameter.default:
            found.append(_option(parameter, value, names, (first, len(words)), words[:first]))
    options.offer("fire", words, found)


def _option(parameter, value, names, span, under):
    default = None if parameter.default is parameter.empty else parameter.default
    kind = records.kind_of(default, value) or _NATIVE.get(parameter.annotation) or "str"
    flag = "--" + parameter.name
    writing = {"write": records.set_by(flag)}
    if kind == "bool":
        writing = {word: [flag + text] for word, text in (("on", "=True"), ("off", "=False"))}
    elif kind == "list":
        writing = {}
    spelled = sorted(names | {name.replace("_", "-") for name in names})
    return records.option(
        parameter.name,
        [flag, *(dashes + name for name in spelled for dashes in ("--", "-") if dashes + name != flag)],
        kind,
        value,
        span,
        default=default if isinstance(default, (bool, int, float, str)) else None,
        under=[word for word in under if not word.startswith("-")],
        **writing,
    )
