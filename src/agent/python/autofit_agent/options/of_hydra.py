"""hydra: the composed configuration, each literal value of which is overridden by `key=value`.

A value that follows another one by interpolation is not told: whoever sets the other sets it, too.  Of a
multirun nothing is told, since one command line then stands for several runs.
"""

import re
import sys

from .. import patches
from . import records

_KEY = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def watch(module, options):
    """Wraps what runs the script's function with the configuration."""

    def make(original):
        tell = options.guard(_tell)

        def run_job(*args, **kwargs):
            config = kwargs.get("config")
            if config is not None:
                tell(options, config)
            return original(*args, **kwargs)

        return run_job

    patches.replace(module, "run_job", make)


def _tell(options, config):
    words = list(sys.argv[1:])
    container = sys.modules["omegaconf"].OmegaConf.to_container(config, resolve=False)
    container.pop("hydra", None)
    span = (0, len(words))
    options.offer("hydra", words, [_option(key, value, span) for key, value in _literals(container, "")])


def _literals(node, path):
    for key, value in node.items():
        full = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            yield from _literals(value, full)
        elif _KEY.fullmatch(full) and not (isinstance(value, str) and ("${" in value or value == "???")):
            yield full, value


def _option(key, value, span):
    kind = records.kind_of(value) or "str"
    writing = {"write": records.set_by(key)}
    if kind == "bool":
        writing = {"on": [key + "=true"], "off": [key + "=false"]}
    elif kind == "list":
        writing = {}
    return records.option(key, [key], kind, value, span, **writing)
