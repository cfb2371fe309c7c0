"""The field test: public training scripts, unmodified, under `autofit inspect`, `tune` and `run`.

    python tests/field/run.py --clones DIR --autofit target/release/autofit [--only NAME ...] [--write]

DIR holds a folder `owner+name` for each repository of `scripts.yaml` (a clone, or `repo` inside it).  Each script
is unpacked from its commit into a new folder, its made-up data is laid beside it, and the whole folder is compared
before and after inspecting and tuning.  `--write` puts the outcomes into `outcomes.md`; without it they are
printed. The Python that runs this file also runs the scripts: it needs torch, PyYAML and what the scripts import.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import made_up
import outcomes
import yaml

HERE = Path(__file__).resolve().parent
INSPECT_SECONDS = 240
TUNE_SECONDS = 600
RUN_SECONDS = 10  # A script that trains for longer is stopped here, as the bare one is.
GRACE = 20


def main():
    """Runs the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clones", type=Path, required=True)
    parser.add_argument("--autofit", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--results", type=Path, help="where results are kept (JSON, one file a script)")
    parser.add_argument("--write", action="store_true", help="write outcomes.md")
    options = parser.parse_args()
    scripts = yaml.safe_load((HERE / "scripts.yaml").read_text())["scripts"]
    results = options.results or Path(tempfile.mkdtemp(prefix="field-results-"))
    results.mkdir(parents=True, exist_ok=True)
    for script in scripts:
        if not options.only or script["name"] in options.only:
            print(f"== {script['name']}", flush=True)
            outcome = Field(script, options).outcome()
            (results / f"{script['name']}.json").write_text(json.dumps(outcome, indent=1))
            print(outcomes.row(judged(outcome, script)), flush=True)
    made = [(script, results / f"{script['name']}.json") for script in scripts]
    found = [judged(json.loads(path.read_text()), script) for script, path in made if path.exists()]
    if options.write:
        (HERE / "outcomes.md").write_text(outcomes.document(found))
    wrong = [outcome["script"]["name"] for outcome in found if outcome["wrong"]]
    print("wrong: " + (", ".join(wrong) or "nothing"))
    return 1 if wrong else 0


def judged(outcome, script):
    """With what is wrong by the list as it is now; a result may be older."""
    return {**outcome, "wrong": outcomes.wrong(outcome, script)}


class Field:
    """One script of the list."""

    def __init__(self, script, options):
        self.script = script
        self.autofit = str(options.autofit.resolve())
        self.clones = options.clones.resolve()
        self.base = Path(tempfile.mkdtemp(prefix=f"field-{script['name']}-"))
        self.tree = self.base / "tree"
        self.out = self.base / "out"
        self.command = shlex.split(script["command"])

    def outcome(self):
        """Everything that the table tells of."""
        try:
            return self._outcome()
        finally:
            shutil.rmtree(self.base, ignore_errors=True)

    def _outcome(self):
        absent = self._unpack()
        shutil.copytree(self.tree, self.base / "pristine", symlinks=True)
        before = digest(self.tree)
        inspected = self._launch(
            [self.autofit, "inspect", "--json", "--out", str(self.out), "--", *self.command], INSPECT_SECONDS
        )
        tune = ["--budget", "40s", "--max-trials", "6", *shlex.split(self.script.get("options", ""))]
        tuned = self._launch(
            [self.autofit, "tune", "--json", *tune, "--out", str(self.out), "--", *self.command], TUNE_SECONDS
        )
        after, left = digest(self.tree), processes_in(self.base)
        ran, bare = self._trained()
        return {
            "script": {key: self.script[key] for key in ("name", "repository", "commit", "command", "kinds")},
            "date": datetime.date.today().isoformat(),
            "absent": absent,
            "inspect": inspected,
            "tune": tuned,
            "run": ran,
            "bare": bare,
            "changed": changes(before, after),
            "left": left,
        }

    def _trained(self):
        """`autofit run` (None without a result) and the script by itself, each in a copy of its own, at once."""
        seconds, env = self.script.get("seconds", RUN_SECONDS), self.out / "autofit.env"
        with ThreadPoolExecutor() as both:
            run = [self.autofit, "run", "--env", str(env), "--", *self.command]
            ran = both.submit(self._launch, run, seconds, stop=True) if env.exists() else None
            bare = both.submit(self._launch, self.command, seconds, stop=True, tree=self.base / "pristine")
            return ran and ran.result(), bare.result()

    def _unpack(self):
        """The script's part of the repository and its data; names of files that the clone lacks."""
        folder = self.clones / self.script["repository"].replace("/", "+")
        clone = next(
            p for p in (folder / "repo" / ".git", folder / "repo", folder / ".git", folder) if p.exists()
        )
        git = ["git", "--git-dir", str(clone)]
        commit, absent = self.script["commit"], []
        listed = run_text([*git, "ls-tree", "-r", "-z", commit, "--", *self.script.get("paths", ["."])])
        for line in filter(None, listed.split("\0")):
            head, path = line.split("\t", 1)
            mode, kind, blob = head.split()
            if kind != "blob":
                continue
            found = subprocess.run([*git, "cat-file", "blob", blob], capture_output=True, check=False)
            if found.returncode != 0:
                absent.append(path)
                continue
            place = self.tree / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if mode == "120000":
                place.symlink_to(found.stdout.decode())
            else:
                place.write_bytes(found.stdout)
                place.chmod(int(mode[-3:], 8))
        for recipe, place, *arguments in self.script.get("data", []):
            getattr(made_up, recipe)(self.tree / place, *arguments)
        return absent

    def _launch(self, command, seconds, stop=False, tree=None):
        """Runs in the script's folder; `stop`: a script that goes on is ended after `seconds`."""
        tree = tree or self.tree
        environment = dict(os.environ)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        environment.update({"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"})
        # Small models on several threads wait for whatever else runs on the machine.
        environment.update({"OMP_NUM_THREADS": "1"})
        for name, value in self.script.get("env", {}).items():
            environment[name] = value.format(tree=tree, field=HERE)
        cwd = tree / self.script.get("cwd", ".")
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            start = time.monotonic()
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                start_new_session=True,
            )
            stopped = False
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                stopped = True
                end(process)
            texts = []
            for stream in (out, error):
                stream.seek(0)
                texts.append(stream.read().decode(errors="replace"))
        result = {
            "status": process.returncode,
            "stopped": stopped,
            "hung": stopped and not stop,
            "seconds": round(time.monotonic() - start, 1),
            "error": texts[1][-6000:],
        }
        if "--json" in command and texts[0].strip():
            result["document"] = json.loads(texts[0])
        return result


def end(process):
    """SIGTERM to the whole session, then SIGKILL."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(GRACE)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def run_text(command):
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def digest(folder):
    """{path: kind, mode and content} of everything below."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content = ""
        found[str(path.relative_to(folder))] = f"{state.st_mode:o} {content}"
    return found


def changes(before, after):
    """What was added (+), removed (-) or changed (~)."""
    added = [f"+{path}" for path in after if path not in before]
    removed = [f"-{path}" for path in before if path not in after]
    return added + removed + [f"~{path}" for path in after if before.get(path, after[path]) != after[path]]


def processes_in(folder):
    """Command lines of processes that still work in the folder."""
    left = []
    for entry in Path("/proc").iterdir():
        if re.fullmatch(r"\d+", entry.name):
            try:
                if os.readlink(entry / "cwd").startswith(str(folder)):
                    left.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
            except OSError:
                continue  # it has ended meanwhile
    return left


if __name__ == "__main__":
    sys.exit(main())
