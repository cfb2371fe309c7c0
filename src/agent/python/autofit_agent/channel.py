"""The way to the launcher: one JSON object a line, appended whole to `events.<rank>.jsonl`."""

import json
import math
import os


def clean(value):
    """The value with what JSON cannot say replaced by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def line(record):
    """One line, newline included."""
    try:
        text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        text = json.dumps(clean(record), separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


class Channel:
    """Appends lines; each `write` is one system call, so that lines of several threads never mix."""

    def __init__(self, trial_dir, rank):
        self.path = os.path.join(trial_dir, f"events.{rank}.jsonl")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._file = os.open(self.path, flags, 0o644)

    def write(self, records):
        data = b"".join(line(r) for r in records)
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
