"""A folder with the scripts as a user has them, edited for one tool, and launches in it."""

import atexit
import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import limit
import scenarios

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
EDITS = os.path.join(HERE, "edits")
TAIL = 30
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":,]+/)+")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclasses.dataclass
class Launch:
    """How a command ended, and what it printed."""

    command: list
    status: int
    seconds: float
    #: Processes that the kernel killed for memory.
    oom_kills: int
    timed_out: bool
    #: (step, time) of the lines that the script prints.
    marks: list
    output: str

    @property
    def ok(self):
        return self.status == 0 and not self.oom_kills and not self.timed_out

    @property
    def evaluated(self):
        return scenarios.EVALUATED.search(self.output) is not None

    def tail(self):
        return [row for row in self.rows() if row.strip()][-TAIL:]

    def rows(self):
        return shown(self.output).splitlines()

    def record(self):
        """As the file of results holds it."""
        return {
            "command": [shown(word) for word in self.command],
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "oom_kills": self.oom_kills,
            **({"timed_out": True} if self.timed_out else {}),
            **({} if self.ok else {"tail": self.tail()}),
        }


def shown(text):
    """Without the paths of this machine: the last part of each."""
    return FOLDERS.sub("", text)


class Place:
    """A copy of examples/ with the edits of a tool applied; deleted in the end."""

    def __init__(self, edits=()):
        self.folder = tempfile.mkdtemp(prefix="autofit-peers-")
        # Some live until production is over, or until the bench is told to stop.
        atexit.register(self.close)
        shutil.copytree(os.path.join(ROOT, "examples"), self.folder, dirs_exist_ok=True)
        for name in edits:
            path = os.path.join(EDITS, name)
            if name.endswith(".patch"):
                # Not as a part of a repository that the temporary folder may lie in.
                alone = {**os.environ, "GIT_CEILING_DIRECTORIES": os.path.dirname(self.folder)}
                subprocess.run(["git", "apply", path], cwd=self.folder, env=alone, check=True)
            else:
                shutil.copy(path, self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def launch(self, command, cap=None, data=None, env=None, timeout=600.0):
        """Runs a command: under a cgroup of `cap` bytes, or where allocations fail beyond `data` bytes."""
        group = limit.Group(cap) if cap else None
        limited = limit.data_around(data, command) if data else command
        began = time.monotonic()
        process = timer = None
        try:
            process = subprocess.Popen(
                group.around(command) if group else limited,
                cwd=self.folder,
                env={**environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
                errors="replace",
            )
            late = threading.Event()
            timer = threading.Timer(timeout, lambda: (late.set(), end(process)))
            timer.daemon = True
            timer.start()
            rows, marks = [], []
            for row in process.stdout:
                rows.append(COLOUR.sub("", row))
                found = scenarios.LINE.search(row)
                if found:
                    marks.append((int(found[1]), time.monotonic() - began))
            status = process.wait()
            seconds = time.monotonic() - began
            # Else a command inside may have brought its own.
            kills = group.kills() if group else sum(row.startswith(limit.KILLED) for row in rows)
        finally:
            if timer:
                timer.cancel()
            if process and process.poll() is None:
                end(process)
            if group:
                group.close()
        return Launch(command, status, seconds, kills, late.is_set(), marks, "".join(rows))


def end(process):
    """The process and all of its session, which it leads; what it started may be in groups of its own."""
    for _ in range(100):
        members = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if leads(process, pid)]
        for pid in [process.pid, *members]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not members:
            break
        time.sleep(0.05)
    process.wait()


def leads(process, pid):
    try:
        # One that has ended and is not waited for yet still has its session.
        return os.getsid(pid) == process.pid and pid != process.pid
    except ProcessLookupError:
        return False


def environment():
    """This process's, less what an autofit around it has set, with the programs of its Python first."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOFIT_", "AUTOVRAM_"))}
    clean["PATH"] = os.path.dirname(sys.executable) + os.pathsep + clean.get("PATH", "")
    return clean


def lines_of(edits):
    """Lines that a user writes or removes: those of patches, and all but blank ones of new files."""
    count = 0
    for name in edits:
        with open(os.path.join(EDITS, name), encoding="utf-8") as file:
            rows = file.read().splitlines()
        if name.endswith(".patch"):
            count += sum(row[:1] in ("+", "-") and not row.startswith(("+++", "---")) for row in rows)
        else:
            count += sum(bool(row.strip()) for row in rows)
    return count
