"""absl flags: `--batch_size=32`, `--amp=true`."""

from .. import patches
from . import records

_KINDS = {"string": "str", "string enum": "str", "enum class": "str"}


def watch(module, options):
    """Wraps the call that parses the command line."""

    def make(original):
        tell = options.guard(_tell)

        def __call__(flags, argv, *more, **kwargs):
            given = list(argv)  # absl may consume it
            rest = original(flags, argv, *more, **kwargs)
            tell(options, flags, given[1:])
            return rest

        return __call__

    patches.replace(module.FlagValues, "__call__", make)


def _tell(options, flags, given):
    words = records.command_words(given)
    if words is None:
        return
    span, seen, found = (0, len(words)), set(), []
    if "--" in words:
        span = (0, words.index("--"))
    for module, defined in flags.flags_by_module_dict().items():
        # absl's own flags say how to log and to debug.
        if module.split(".")[0] == "absl":
            continue
        for flag in defined:
            if flag.name not in seen:
                seen.add(flag.name)
                found.append(_option(flag, span))
    options.offer("absl", words, found)


def _option(flag, span):
    value = flag.value
    kind = flag.flag_type()
    kind = "list" if isinstance(value, (list, tuple)) else _KINDS.get(kind, kind)
    names = [flag.name] + ([flag.short_name] if flag.short_name else [])
    if flag.boolean:
        kind = "bool"
        names += ["no" + flag.name]
    spelled = [dashes + name for name in names for dashes in ("--", "-")]
    writing = {"write": ["--" + flag.name + "={value}"]}
    if kind == "bool":
        writing = {"on": [f"--{flag.name}=true"], "off": [f"--{flag.name}=false"]}
    elif kind == "list":
        writing = {}
    return records.option(
        flag.name,
        spelled,
        kind,
        value,
        span,
        default=flag.default,
        choices=getattr(flag.parser, "enum_values", None),
        help=flag.help,
        **writing,
    )
