"""The agent's tests under the oldest and the newest PyTorch and Python that are said to work.

    python3 tests/versions.py                    # makes the environments, runs, prints the outcomes
    python3 tests/versions.py --write            # and writes docs/versions.md
    python3 tests/versions.py 2.7.0@python3.12   # another pair; behind the @ a name or a path

Each environment is one of PyPI's builds (4 to 5 GB on disk) and is kept in --root for the next time.  Not
part of `cargo test`, which has one version: a run takes about ten minutes and downloads 5 GB.
"""

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "docs" / "versions.md"
PAIRS = ("2.4.1@python3.9", "2.15.0@python3.13")
# Files of tests/agent that need other packages, and that of the GPU suite, which has its machine's PyTorch.
ELSEWHERE = {
    "gpu_knobs",
    "frameworks_accumulation",
    "frameworks_environment",
    "frameworks_launch",
    "frameworks_trainer",
    "kinds",
    "options_packages",
}
CLOSING = re.compile(r"^(OK|FAILED)(?: \((.*)\))?$")


def environment(torch, base, root):
    """The interpreter of an environment with this PyTorch, made where it is not there, and its version."""
    say = "import platform; print(platform.python_version())"
    version = subprocess.run([base, "-c", say], capture_output=True, text=True, check=True).stdout.strip()
    folder = root / f"torch-{torch}-py{version}"
    python = folder / "bin" / "python"
    whole = folder / "whole"
    if not whole.exists():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "uv"], check=True)
        uv = [folder / "bin" / "uv", "pip", "install", "--quiet", "--python", python]
        subprocess.run([*uv, f"torch=={torch}", "numpy", "setuptools"], check=True)
        whole.touch()
    return python, version


def run(python, name, log):
    """The closing line of one test file, and the seconds it took."""
    began = time.monotonic()
    env = dict(os.environ, OMP_NUM_THREADS="1", AUTOFIT_TEST_PYTHON=str(python))
    done = subprocess.run(
        [python, "-m", "unittest", name],
        cwd=HERE / "agent",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    log.write_text(done.stdout + done.stderr)
    lines = done.stderr.strip().splitlines()
    closing = CLOSING.match(lines[-1] if lines else "")
    return closing.group(0) if closing else f"status {done.returncode}", time.monotonic() - began


def main():
    """Exit status 1 when a file failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", nargs="*", default=PAIRS, help="PYTORCH@INTERPRETER")
    parser.add_argument("--root", type=Path, default=Path.home() / ".cache/autofit/versions")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(HERE.parent)}")
    chosen = parser.parse_args()
    names = sorted(p.stem for p in (HERE / "agent").glob("test_*.py"))
    names = [n for n in names if n[len("test_") :] not in ELSEWHERE]
    logs = chosen.root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for pair in chosen.pairs:
        torch, _, base = pair.partition("@")
        python, version = environment(torch, base or sys.executable, chosen.root)
        column = f"PyTorch {torch}, Python {version}"
        for name in names:
            log = logs / f"{torch}-{version}-{name}.log"
            said, seconds = run(python, name, log)
            outcomes.setdefault(column, {})[name] = said
            print(f"{column}, {name}: {said}, {seconds:.0f} s, {log}", flush=True)
    if chosen.write:
        TABLE.write_text(table(names, outcomes))
    return int(any(not said.startswith("OK") for column in outcomes.values() for said in column.values()))


def table(names, outcomes):
    """The page, as Markdown."""
    day = datetime.date.today().isoformat()
    head = f"""# Versions of PyTorch and Python

Oldest: PyTorch 2.4 and Python 3.9. An older PyTorch is refused by name. So are, before it,
`checkpoint=selective`, which needs 2.5, `strategy=fsdp`, which needs 2.6 (on the processor 2.7), and
`strategy`, which needs Python 3.11. A newer version than those below is not refused: what it does differently
shows as a knob that is not in force, never in silence.

Written by `python3 tests/versions.py --write` on {day}: the tests of `tests/agent` that need no other
packages, on {platform.machine()}. The tests of every commit run with one version, 2.11. What is skipped is a
test of something that the version does not have.

"""
    rows = ["| tests | " + " | ".join(outcomes) + " |", "| --- " * (len(outcomes) + 1) + "|"]
    for name in names:
        rows.append(f"| `{name}` | " + " | ".join(column[name] for column in outcomes.values()) + " |")
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
