"""Which part this process plays: decided from its command line alone, before anything is imported."""

import os
import sys

# `python -c` one-liners that the standard library starts its helpers with.
_HELPER_CODE = (
    "multiprocessing.resource_tracker",
    "multiprocessing.forkserver",
    "multiprocessing.semaphore_tracker",
)
# Programs that start training processes and never train themselves.
_LAUNCHERS = ("torchrun", "accelerate", "accelerate-launch", "deepspeed", "horovodrun", "mpirun", "srun")
_LAUNCHER_MODULES = (
    "torch.distributed.run",
    "torch.distributed.launch",
    "torch.distributed.launcher",
    "accelerate.commands.launch",
    "accelerate.commands.accelerate_cli",
    "deepspeed.launcher.runner",
    "deepspeed.launcher.launch",
    "torch._inductor.compile_worker",
    "pip",
    "ensurepip",
    "venv",
)
_OPTIONS_WITH_VALUE = "WXc"

LAUNCHED = "launched"
CANDIDATE = "candidate"
EXCLUDED = "excluded"


def command_line():
    """The interpreter and everything after it, as typed."""
    argv = getattr(sys, "orig_argv", None)
    if argv:
        return list(argv)
    # Python 3.8 and 3.9.
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [os.fsdecode(part) for part in file.read().split(b"\0")[:-1]]
    except OSError:
        return [sys.executable] + list(getattr(sys, "argv", []))


def split_interpreter(argv):
    """(interpreter options, the rest): the rest starts with the script, or with `-m` or `-c`."""
    i = 1
    while i < len(argv):
        word = argv[i]
        if word in ("-m", "-c", "-") or not word.startswith("-") or word.startswith(("-m", "-c")):
            break
        if len(word) == 2 and word[1] in _OPTIONS_WITH_VALUE or word == "--check-hash-based-pycs":
            i += 1
        i += 1
    return argv[1:i], argv[i:]


def is_python(word):
    """Whether this is the name of a Python interpreter."""
    return os.path.basename(word).startswith(("python", "pypy"))


def role(launched_argv):
    """LAUNCHED, CANDIDATE or EXCLUDED, given the command that the launcher started."""
    argv = command_line()
    _, rest = split_interpreter(argv)
    if not rest:
        return EXCLUDED
    if rest[0] == "-c" and any(code in " ".join(rest[1:2]) for code in _HELPER_CODE):
        return EXCLUDED
    if rest[0] == "-m" and len(rest) > 1 and rest[1].startswith(_LAUNCHER_MODULES):
        return EXCLUDED
    script = rest[0]
    if os.path.basename(script) in _LAUNCHERS or "compile_worker" in script:
        return EXCLUDED
    return LAUNCHED if is_launched(argv, launched_argv) else CANDIDATE


def is_launched(argv, launched_argv):
    """Whether this command line is what the launcher started, or what a launching program made of it.

    A command that names an interpreter must be met exactly: a child `python -c` is another command.  For
    `torchrun ... train.py --x`, `uv run train.py --x` or `./train.py --x` the script and its arguments are
    the tail of the command.
    """
    if not launched_argv:
        return False
    if is_python(launched_argv[0]):
        options, rest = split_interpreter(list(launched_argv))
        if rest[:1] == ["-m"] and len(rest) > 1 and rest[1].startswith(_LAUNCHER_MODULES):
            return _is_tail(argv, rest)
        return argv[1:] == list(launched_argv[1:])
    return _is_tail(argv, launched_argv)


def starts_with_interpreter(launched_argv):
    """Whether the launched command is an interpreter with a script: then that process itself says hello."""
    if not launched_argv or not is_python(launched_argv[0]):
        return False
    _, rest = split_interpreter(list(launched_argv))
    return not (rest[:1] == ["-m"] and len(rest) > 1 and rest[1].startswith(_LAUNCHER_MODULES))


def _is_tail(argv, launched_argv):
    _, rest = split_interpreter(argv)
    return 0 < len(rest) <= len(launched_argv) and list(launched_argv[-len(rest) :]) == rest


def rank():
    """This process's rank: what torch.distributed says, else RANK, else 0."""
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank()
    except (AttributeError, RuntimeError, ValueError):
        pass
    return _number("AUTOFIT_RANK", _number("RANK", 0))  # see ranks/layout.py


def world_size():
    """Processes that train together: torch.distributed, else WORLD_SIZE, else 1."""
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return distributed.get_world_size()
    except (AttributeError, RuntimeError, ValueError):
        pass
    return _number("AUTOFIT_WORLD_SIZE", _number("WORLD_SIZE", 1))


def in_loader_worker():
    """Whether this is a DataLoader's worker process."""
    worker = sys.modules.get("torch.utils.data._utils.worker")
    return getattr(worker, "_worker_info", None) is not None


def _number(name, otherwise):
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return otherwise
