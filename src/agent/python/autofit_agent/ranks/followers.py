"""Ranks other than the first run the whole script, but nobody sees or finds anything of it.

Output goes nowhere, and files are not written: what the script opens for writing is the null device, and what
makes, moves or deletes files does nothing.  Left alone are places that programs keep for themselves
(temporary files, caches).  Not covered: libraries that write from native code, and effects over the network;
known experiment trackers are switched off.

An exception that ends the script is still printed: which rank had it may be what matters.
"""

import builtins
import io
import os
import shutil
import sys
import tempfile
import time

from .. import imports, patches

_TRACKERS = {"WANDB_MODE": "disabled", "COMET_MODE": "disabled", "NEPTUNE_MODE": "debug"}
FIRST_SPEAKS = 3.0  # seconds
_kept = []  # the descriptor of standard error
_CACHES = ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR")
# Of os: what changes files, and what of shutil does more than call these.
_OS = ("mkdir", "remove", "unlink", "rmdir", "rename", "replace", "symlink", "link", "truncate", "chmod")
_SHUTIL = ("rmtree", "copyfile", "copymode", "copystat", "copy", "copy2", "copytree", "move")
_SAVERS = (
    ("torch.serialization", "save"),
    ("torch", "save"),
    ("safetensors.torch", "save_file"),
    ("safetensors.torch", "save_model"),
)


def install(session):
    """Makes this rank quiet, from the script's first line on."""
    os.environ.update(_TRACKERS)
    _hush()
    private = _private_places()

    def is_private(path):
        try:
            path = os.path.abspath(os.fspath(path))
        except TypeError:
            return True  # a descriptor: whoever opened it was asked
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        return path.startswith(private)

    for owner in (builtins, io):
        patches.replace(owner, "open", lambda original: _opening(original, is_private))
    for name in _OS:
        patches.replace(os, name, lambda original: _unless_private(original, is_private))
    for name in _SHUTIL:
        patches.replace(shutil, name, lambda original: _unless_private(original, is_private, -1))
    for module, name in _SAVERS:
        imports.on_import(module, lambda found, name=name: _no_save(found, name))


def stop(place, status, text):
    """Ends this process, whichever rank it is, with a sentence.

    What one rank finds all of them find, as a rule: the others give the first the time to say it, for the
    launcher ends all of them when it sees the first one end.
    """
    if place is not None and place.rank > 0:
        time.sleep(FIRST_SPEAKS)
        os.dup2(_kept[0], 2)
    try:
        sys.stderr.write(f"autofit: {text}\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


def _hush():
    kept = os.dup(2)
    _kept.append(kept)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    previous = sys.excepthook

    def excepthook(*error):
        os.dup2(kept, 2)
        previous(*error)

    sys.excepthook = excepthook


def _private_places():
    places = [tempfile.gettempdir(), os.path.expanduser("~/.cache"), os.path.expanduser("~/.triton")]
    places += [os.environ[name] for name in _CACHES if os.environ.get(name)]
    places += ["/dev/", "/proc/", sys.prefix, sys.base_prefix]
    # The script's own folder may lie in a temporary one: there it writes what the user wants.
    here = os.getcwd()
    return tuple(p for p in places if not here.startswith(os.path.join(p, "")))


def _opening(original, is_private):
    def open(file, mode="r", *args, **kwargs):
        if isinstance(mode, str) and set(mode) & set("wax+") and not is_private(file):
            file, mode = os.devnull, mode.replace("x", "w")
        return original(file, mode, *args, **kwargs)

    return open


def _unless_private(original, is_private, place=0):
    """`original` where the path at this place of the arguments is private, else nothing."""

    def quiet(*args, **kwargs):
        if args and not is_private(args[place]):
            return args[-1] if place else None
        return original(*args, **kwargs)

    return quiet


def _no_save(module, name):
    if hasattr(module, name):
        patches.replace(module, name, lambda _original: lambda *args, **kwargs: None)
