"""
Make a virtual environment with everything pinned: ``python scripts/environment.py .venv test check``.

Needs only a Python 3.11 or newer; uses uv where it is installed, because it is faster. The groups
are those of pyproject.toml, the versions those of constraints.txt. An environment that is as asked
for already is left alone.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PYPROJECT = ROOT / "pyproject.toml"


def make(target: Path, groups: list[str], python: str = sys.executable) -> Path:
    """Make the environment, if need be; return its interpreter."""
    interpreter = target / "bin" / "python"
    stamp = target / "as-asked-for"
    wanted = hashlib.sha256(
        b"\0".join([PYPROJECT.read_bytes(), CONSTRAINTS.read_bytes(), python.encode(), *map(str.encode, groups)])
    ).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted and interpreter.exists()):
        print(f"making {target.name} with {', '.join(groups)} ...", flush=True)
        _install(target, interpreter, python, _requirements(groups))
        stamp.write_text(wanted)
    return interpreter


def _requirements(groups: list[str]) -> list[str]:
    known = tomllib.loads(PYPROJECT.read_text())["dependency-groups"]
    return [requirement for group in groups for requirement in known[group]]


def _install(target: Path, interpreter: Path, python: str, requirements: list[str]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    what = ["--constraint", str(CONSTRAINTS), "--editable", str(ROOT), *requirements]
    uv = shutil.which("uv")
    if uv is not None:
        subprocess.run([uv, "venv", "--quiet", "--python", python, str(target)], check=True)
        install = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            str(interpreter),
            "--build-constraints",
            str(CONSTRAINTS),
        ]
        subprocess.run([*install, *what], check=True)
    else:
        subprocess.run([python, "-m", "venv", str(target)], check=True)
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        # The option is for this installation; the variable for the one in which pip builds the package.
        subprocess.run([*pip, *what], check=True, env={**os.environ, "PIP_CONSTRAINT": str(CONSTRAINTS)})


if __name__ == "__main__":
    match sys.argv[1:]:
        case [directory, *groups]:
            make(Path(directory).absolute(), groups)
        case _:
            sys.exit("usage: python scripts/environment.py DIRECTORY [GROUP ...]")
