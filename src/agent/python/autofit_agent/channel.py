"""The way to the launcher: one JSON object a line, appended whole to `events.<rank>.jsonl`."""

import os

_encode = []  # the encoder's method, once there is one


def clean(value):
    """The value with what JSON cannot say replaced by null."""
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def plain_line(record):
    """`line` for texts, numbers, true, false and lists of them, without importing json."""
    try:
        from _json import encode_basestring_ascii as text
    except ImportError:
        return line(record)

    def say(value):
        if isinstance(value, str):
            return text(value)
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list):
            return "[" + ",".join(say(v) for v in value) + "]"
        return repr(value)

    fields = ",".join(f"{text(k)}:{say(v)}" for k, v in record.items())
    return ("{" + fields + "}\n").encode("ascii")


def line(record):
    """One line, newline included."""
    if not _encode:
        import json  # not before it is needed: a script's start would wait for it

        _encode.append(json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode)
    try:
        text = _encode[0](record)
    except (TypeError, ValueError):
        text = _encode[0](clean(record))
    return text.encode("utf-8", "backslashreplace") + b"\n"


class Channel:
    """Appends lines; each `write` is one system call, so that lines of several threads never mix."""

    def __init__(self, trial_dir, rank):
        self.path = os.path.join(trial_dir, f"events.{rank}.jsonl")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._file = os.open(self.path, flags, 0o644)

    def write(self, records):
        self.write_bytes(b"".join(line(r) for r in records))

    def write_bytes(self, data):
        while data:
            data = data[os.write(self._file, data) :]


def take(trial_dir, name):
    """Creates the file `name` if nobody has; false if somebody else has."""
    path = os.path.join(trial_dir, name)
    mine = str(os.getpid()).encode()
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        # A script that replaced itself by execv keeps its pid, and its claim.
        with open(path, "rb") as held:
            return held.read() == mine
    try:
        os.write(file, mine)
    finally:
        os.close(file)
    return True
