"""One launch of a script or of `autofit run`, looked at from outside; and the machine that it ran on."""

import json
import os
import subprocess
import sys
import threading
import time

import pairs

LOOK = 0.02  # seconds between two looks at memory
TAIL = 1500  # characters of what it wrote to stderr that are kept
_TICK = os.sysconf("SC_CLK_TCK")


def tree(pid):
    """A process and its descendants."""
    found = [pid]
    for one in found:
        try:
            threads = os.listdir(f"/proc/{one}/task")
            for thread in threads:
                with open(f"/proc/{one}/task/{thread}/children", encoding="ascii") as file:
                    found += map(int, file.read().split())
        except OSError:
            continue  # it has ended meanwhile
    return found


def memory(pid):
    """Anonymous and shared memory of one process, bytes: what a limit is about; autofit itself is outside."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            rows = dict(row.split(":", 1) for row in file if ":" in row)
    except OSError:
        return 0
    if rows.get("Name", "").strip() == "autofit":
        return 0
    return sum(int(rows[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem") if name in rows)


class Peak(threading.Thread):
    """The highest memory of a process tree, as far as it is seen in looks."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.bytes, self.over = pid, 0, threading.Event()

    def run(self):
        while not self.over.wait(LOOK):
            self.bytes = max(self.bytes, sum(map(memory, tree(self.pid))))


def busy():
    """CPU seconds that all processes of the machine have used."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def launch(argv, folder, environment, seconds):
    """Runs it to its end, or for so many seconds.

    `status` is None when it had to be ended; `steps_per_second` is from the lines that the script prints;
    `other_cores` is what others used meanwhile.
    """
    before, begun = busy(), time.monotonic()
    with open(os.path.join(folder, "stderr.txt"), "w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            argv, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        peak = Peak(process.pid)
        peak.start()
        late = threading.Timer(seconds, process.terminate)
        late.start()
        marks = pairs.marks(process.stdout)
        _, status, used = os.wait4(process.pid, 0)
        late.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        peak.over.set()
        peak.join()
        errors.seek(0)
        error = errors.read()[-TAIL:]
    took = time.monotonic() - begun
    others = busy() - before - used.ru_utime - used.ru_stime
    return {
        "status": None if took >= seconds else process.returncode,
        "seconds": round(took, 2),
        "peak_bytes": peak.bytes,
        "major_faults": used.ru_majflt,
        "steps_per_second": pairs.rate_of(marks),
        "other_cores": round(max(others, 0.0) / took, 2),
        "error": error,
    }


def machine():
    """What a figure was measured with."""
    import torch

    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        cpu = next((r.split(":", 1)[1].strip() for r in file if r.startswith("model name")), "unknown")
    return {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


def results():
    return os.environ.get("OUT") or os.path.join(pairs.ROOT, "benches", "results")


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write(path, body):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(body, file, indent=1)
        file.write("\n")
