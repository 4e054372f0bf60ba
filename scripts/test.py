"""
Run all tests the way they have to pass: ``python scripts/test.py``.

1. With both families on the interpreter that runs this, measuring branch coverage (gated at 100 %).
2. With httpx alone, but for what knows no family at all.
3. With both families on the newest Python that the machine has, but for what asks how fast or how right others are.
"""

import os
import subprocess
import sys
from pathlib import Path

from environment import ROOT, make
from interpreters import newer_interpreters

EVERYTHING = ["example", "test", "families"]
HTTPX_ALONE = ["example", "test"]

ABOUT_OTHERS = ["tests/benchmarks", "tests/conformance", "tests/matrix"]
KNOW_NO_FAMILY = [*ABOUT_OTHERS, "tests/engine", "tests/proxy/rows"]

# Most tests wait for sockets. The blocks of a documentation page build on each other, so files stay whole.
TWO_AT_A_TIME = ["--numprocesses", "2", "--dist", "loadfile"]


def main() -> int:
    """Run them all; stop at the first that fails."""
    code = _covered(make(ROOT / ".venv", EVERYTHING))
    code = code or _plain(make(ROOT / ".venv-httpx-alone", HTTPX_ALONE), "httpx alone", *_without(*KNOW_NO_FAMILY))
    newer = newer_interpreters()
    if newer:
        version, python = list(newer.items())[-1]  # those in between are between two that pass
        code = code or _plain(
            make(ROOT / f".venv-{version}", EVERYTHING, python), f"Python {version}", *_without(*ABOUT_OTHERS)
        )
    return code


def _without(*folders: str) -> list[str]:
    return [f"--ignore={folder}" for folder in folders]


def _covered(python: Path) -> int:
    print(f"== Python {sys.version.split()[0]}, httpx and httpx2 ==", flush=True)
    coverage = [str(python), "-m", "coverage"]
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    if code := _run([*coverage, "run", "-m", "pytest", *TWO_AT_A_TIME, *sys.argv[1:]]):
        return code
    if sys.argv[1:]:
        return 0  # a selection says nothing about coverage
    return _run([*coverage, "combine", "--quiet"]) or _run([*coverage, "report"])


def _plain(python: Path, what: str, *options: str) -> int:
    print(f"== {what} ==", flush=True)
    return _run([str(python), "-m", "pytest", *TWO_AT_A_TIME, *options, *sys.argv[1:]])


def _run(command: list[str]) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HTTPX_POOL_")}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
