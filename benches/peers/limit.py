"""A memory limit around a command, as a container or a job of a cluster has one.

    python3 benches/peers/limit.py 900MiB -- COMMAND
    python3 benches/peers/limit.py --data 900MiB -- COMMAND

Without `--data` it is a memory cgroup, v1 or v2, around the command and all of its children, with swap
off: who goes over it is killed by the kernel.  With it, it is RLIMIT_DATA of each process: an allocation
fails, and PyTorch raises an error that a script can catch.  The command's status is passed on; 128 + n after
signal n.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# How long the kernel may take to empty a group whose processes are dead.
EMPTYING = 10.0
# What is said of a command that went over it.
KILLED = "limit: out of memory: the kernel killed the command"
# The limit of memory, and that of memory with swap or of swap alone.
FILES = {
    "v1": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "v2": ("memory.max", "memory.swap.max"),
}


class NoGroup(Exception):
    """Memory cgroups cannot be made here."""


def size(text):
    found = re.fullmatch(r"(\d+)([KMG]iB|)", text)
    if not found:
        raise ValueError(f"{text!r} is no size such as 900MiB")
    return int(found[1]) * UNITS[found[2]]


def parent_group():
    """Where a group can be made, and whether it speaks v2."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    v1 = next((path for _, names, path in lines if "memory" in names.split(",")), None)
    path = v1 if v1 is not None else next((p for number, _, p in lines if number == "0"), None)
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, right = (part.split() for part in line.split(" - "))
            kind, options = right[0], right[2].split(",")
            if kind == ("cgroup2" if v1 is None else "cgroup") and (v1 is None or "memory" in options):
                below = os.path.relpath(path, left[3])
                own = os.path.normpath(os.path.join(left[4], "" if below.startswith("..") else below))
                # v2: a group with processes in it hands no controller down; the new one stands beside it.
                return (own, False) if v1 is not None else (os.path.dirname(own), True)
    raise NoGroup("no memory cgroup is mounted")


class Group:
    """A memory cgroup that exists until it is closed."""

    count = 0

    def __init__(self, limit):
        parent, v2 = parent_group()
        sweep(parent)
        Group.count += 1
        self.folder = os.path.join(parent, f"peers-{os.getpid()}-{Group.count}")
        memory, swap = FILES["v2" if v2 else "v1"]
        self.counter = "memory.events" if v2 else "memory.oom_control"
        try:
            os.mkdir(self.folder)
            self.write(memory, limit)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)
            raise NoGroup(f"no memory cgroup can be made here: {error}") from None
        # Kernels without swap accounting lack this file; there is then nothing to switch off.
        with contextlib.suppress(OSError):
            self.write(swap, 0 if v2 else limit)

    def write(self, file, value):
        with open(os.path.join(self.folder, file), "w", encoding="ascii") as out:
            out.write(str(value))

    def around(self, command):
        """The command, such that it starts inside."""
        return ["sh", "-c", 'echo 0 >"$0" && exec "$@"', os.path.join(self.folder, "cgroup.procs"), *command]

    def kills(self):
        """Processes that the kernel killed for memory."""
        with open(os.path.join(self.folder, self.counter), encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))

    def pids(self):
        with open(os.path.join(self.folder, "cgroup.procs"), encoding="ascii") as file:
            return [int(line) for line in file]

    def close(self):
        """Ends what still lives inside, and removes the group."""
        until = time.monotonic() + EMPTYING
        while time.monotonic() < until:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)
                return
            time.sleep(0.01)
        raise NoGroup(f"{self.folder} cannot be removed")


def sweep(parent):
    """Ends and removes the groups of benches that were killed."""
    for name in os.listdir(parent):
        found = re.fullmatch(r"peers-(\d+)-\d+", name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            stale = Group.__new__(Group)
            stale.folder = os.path.join(parent, name)
            stale.close()


def data_around(limit, command):
    """The command, such that allocations of each of its processes fail beyond the limit."""
    return ["sh", "-c", 'ulimit -d "$0" && exec "$@"', str(limit // 1024), *command]


def main(words):
    data = words[:1] == ["--data"]
    if len(words) < 3 + data or words[1 + data] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    limit, command = size(words[data]), words[2 + data :]
    group = None if data else Group(limit)
    try:
        process = subprocess.Popen(data_around(limit, command) if data else group.around(command))
        # Whoever ends this process means the command.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: process.send_signal(number))
        status = process.wait()
        if group and group.kills():
            print(f"{KILLED} at {words[0]}", file=sys.stderr)
    finally:
        if group:
            group.close()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
