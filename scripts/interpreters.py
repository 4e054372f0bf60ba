"""Find the Pythons of this machine that are newer than the one that runs this."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NEWEST_MINOR = 14


def newer_interpreters() -> dict[str, str]:
    """Return interpreters by version, oldest first: ``{"3.12": "/usr/bin/python3.12"}``."""
    found = {}
    for minor in range(sys.version_info.minor + 1, NEWEST_MINOR + 1):
        version = f"3.{minor}"
        candidates = [shutil.which(f"python{version}"), *_of_pyenv(version)]
        works = next((path for path in candidates if path is not None and _works(path, version)), None)
        if works is not None:
            found[version] = works
    return found


def _of_pyenv(version: str) -> list[str]:
    # Its shims refuse a version that is installed but not switched on.
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python{version}"))]


def _works(path: str, version: str) -> bool:
    script = "import sys, ssl, venv; print('%d.%d' % sys.version_info[:2])"
    answer = subprocess.run([path, "-c", script], capture_output=True, text=True, check=False)
    return answer.stdout.strip() == version


if __name__ == "__main__":
    for version, path in newer_interpreters().items():
        print(version, path)
