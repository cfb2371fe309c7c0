"""The evidence file, and running commands while the device is watched."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

import device as gpu

MIB = 1 << 20
MARK = "ACCEPTANCE_MARK"
PROBE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.py")


class Evidence:
    """The file."""

    def __init__(self, path, seconds):
        self.path, self.start, self.deadline = path, time.time(), time.monotonic() + seconds
        self.body = {"version": 1, "kind": "acceptance", "checks": [], "examples": {}, "not_run": []}
        self.body["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.start))

    def left(self):
        return self.deadline - time.monotonic()

    def check(self, name, passed, **numbers):
        self.body["checks"].append({"name": name, "pass": bool(passed), **numbers})
        shown = ", ".join(f"{k}={v}" for k, v in numbers.items() if not isinstance(v, (list, dict)))
        print(f"{'pass' if passed else 'FAIL'}  {name}  {shown}"[:300], flush=True)
        self.write()
        return passed

    def write(self):
        checks = self.body["checks"]
        failed = [c["name"] for c in checks if not c["pass"]]
        whole = self.body.get("complete") and not self.body["not_run"]
        self.body["result"] = "fail" if failed else "pass" if whole else "incomplete"
        self.body["failed"] = failed
        self.body["seconds"] = round(time.time() - self.start, 1)
        with open(self.path + ".tmp", "w", encoding="utf-8") as file:
            json.dump(self.body, file, indent=1)
            file.write("\n")
        os.replace(self.path + ".tmp", self.path)


class Bench:
    """What every check needs."""

    def __init__(self, args, evidence, device):
        self.bin, self.evidence, self.device = args.bin, evidence, device
        self.mark = uuid.uuid4().hex
        self.work = tempfile.mkdtemp(prefix="autofit-acceptance-")
        self.scripts = os.path.join(self.work, "examples")
        shutil.copytree(args.examples, self.scripts)
        self.baseline = device.used()

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith("AUTOFIT_")}
        return {**env, "PYTHONDONTWRITEBYTECODE": "1", MARK: self.mark, **more}

    def call(self, argv, seconds, **more):
        """Runs a command, watched and limited: (status or None, stdout, stderr, peak, seconds)."""
        start = time.monotonic()
        limit = max(1.0, min(seconds, self.evidence.left()))
        with gpu.Peak(self.device) as peak:
            process = subprocess.Popen(
                argv,
                cwd=self.scripts,
                env=self.environment(**more),
                text=True,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            try:
                out, err = process.communicate(timeout=limit)
                status = process.returncode
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=5)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                status = None
        return status, out, err, peak.highest, round(time.monotonic() - start, 1)

    def probe(self, name, arguments, fraction=None):
        """A plain run without autofit that writes the allocator's own figures."""
        path = os.path.join(self.work, f"probe-{name}.json")
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        argv = [sys.executable, PROBE, path]
        argv += ["--fraction", str(fraction)] if fraction else []
        status, out, err, peak, seconds = self.call([*argv, self.script(name), *arguments], 60)
        try:
            with open(path, encoding="utf-8") as file:
                figures = json.load(file)
        except (OSError, ValueError):
            figures = {}
        return {
            "status": status,
            "nvml_peak": peak,
            "seconds": seconds,
            "text": (out + err)[-4000:],
            **figures,
        }

    def script(self, name):
        return os.path.join(self.scripts, name + ".py")

    def autofit(self, words, seconds):
        return self.call([self.bin, *words], seconds)

    def tree(self):
        """Names and contents of the user's folder, autofit's own files left out."""
        found = {}
        for folder, names, files in os.walk(self.scripts):
            names[:] = [n for n in names if n not in (".autofit", "__pycache__")]
            for name in files:
                path = os.path.join(folder, name)
                if name != "autofit.env":
                    with open(path, "rb") as file:
                        found[os.path.relpath(path, self.scripts)] = hashlib.sha256(file.read()).hexdigest()
        return found

    def leaves_nothing(self, name, before):
        over = self.device.settle(self.baseline)
        alive = gpu.marked(MARK, self.mark)
        after = self.tree()
        changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        self.evidence.check(
            f"{name}: leaves no process, no device memory, no file",
            not alive and over <= 48 * MIB and not changed,
            processes=alive,
            device_bytes_over_baseline=over,
            files=changed,
        )
