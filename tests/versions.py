"""The agent's tests under other versions of PyTorch: the oldest and the newest that are said to work.

    python3 tests/versions.py              # makes the environments, runs, prints a table
    python3 tests/versions.py --write      # and writes docs/versions.md
    python3 tests/versions.py 2.7.0        # another version

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
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "docs" / "versions.md"
VERSIONS = ("2.4.1", "2.15.0")
# Files of tests/agent that need other packages, or a GPU's stand-in.
ELSEWHERE = {"frameworks_environment", "frameworks_launch", "frameworks_trainer", "kinds", "options_packages"}
CLOSING = re.compile(r"^(OK|FAILED)(?: \((.*)\))?$")


def environment(version, root):
    """The interpreter of an environment with this PyTorch; made if it is not there."""
    folder = root / f"torch-{version}-py{platform.python_version()}"
    python = folder / "bin" / "python"
    whole = folder / "whole"
    if not whole.exists():
        print(f"making {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "uv"], check=True)
        uv = [folder / "bin" / "uv", "pip", "install", "--quiet", "--python", python]
        subprocess.run([*uv, f"torch=={version}", "numpy", "setuptools"], check=True)
        whole.touch()
    return python


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
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="versions of PyTorch")
    parser.add_argument("--root", type=Path, default=Path.home() / ".cache/autofit/versions")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(HERE.parent)}")
    chosen = parser.parse_args()
    names = sorted(p.stem for p in (HERE / "agent").glob("test_*.py"))
    names = [n for n in names if n.removeprefix("test_") not in ELSEWHERE]
    logs = chosen.root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for version in chosen.versions:
        python = environment(version, chosen.root)
        for name in names:
            log = logs / f"{version}-{name}.log"
            outcomes[name, version], seconds = run(python, name, log)
            print(f"{version} {name}: {outcomes[name, version]}, {seconds:.0f} s, {log}", flush=True)
    if chosen.write:
        TABLE.write_text(table(names, chosen.versions, outcomes))
    return int(any(not said.startswith("OK") for said in outcomes.values()))


def table(names, versions, outcomes):
    """The page, as Markdown."""
    day = datetime.date.today().isoformat()
    rows = [
        "# Versions of PyTorch and Python",
        "",
        "Oldest: PyTorch 2.4; an older one is refused by name. `checkpoint=selective` needs 2.5 and is refused",
        "by name before. A newer one than those below is not refused: what it does differently shows as a knob",
        "that is not in force, never in silence. The agent's code is valid from Python 3.8 on, which the lints",
        "check.",
        "",
        f"Written by `python3 tests/versions.py --write` on {day}, with Python {platform.python_version()} on",
        f"{platform.machine()}: the tests of `tests/agent` that need no other packages. The tests of every commit",
        "run with one version, 2.11. A test that is skipped is one of something that the version does not have.",
        "",
        "| tests | " + " | ".join(f"PyTorch {v}" for v in versions) + " |",
        "| --- " * (len(versions) + 1) + "|",
    ]
    for name in names:
        cells = [outcomes[name, v] for v in versions]
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
