"""Programs that are no Python: whether they are there, how to build them, and when they have started."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from .processes import Child

__all__ = ("Unavailable", "built_go", "configured_nginx", "find", "node_with", "wait_until_it_listens")

_BUILD_LIMIT = 300.0
_NODE_LIMIT = 20.0
_START_LIMIT = 20.0
_GLANCE = 0.05


class Unavailable(Exception):
    """Something cannot run on this machine; the text says why."""


def find(name: str) -> str:
    """
    Return where a program is.

    Raises:
        Unavailable: It is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def built_go(source: Path, folder: Path) -> str:
    """
    Build a program of one file, unless an earlier run has; the folder is for what is unfinished.

    Raises:
        Unavailable: There is no compiler, or it does not build the program.
    """
    compiler = find("go")
    binary = _cache() / f"{source.stem}-{sha256(source.read_bytes()).hexdigest()[:12]}"
    if not binary.exists():
        unfinished = folder / source.stem
        command = [compiler, "build", "-o", str(unfinished), str(source)]
        build = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_BUILD_LIMIT)
        if build.returncode:
            raise Unavailable(f"go does not build it: {build.stderr.strip()}")
        shutil.move(unfinished, binary)
    return str(binary)


def configured_nginx(template: Path, folder: Path, words: Mapping[str, str]) -> list[str]:
    """
    Write nginx's configuration with these in the place of its words, and return the command that runs it.

    Raises:
        Unavailable: It is not installed.
    """
    program = find("nginx")
    text = template.read_text(encoding="ascii")
    for word, value in {**words, "FOLDER": str(folder)}.items():
        text = text.replace(word, value)
    configuration = folder / "nginx.conf"
    configuration.write_text(text, encoding="ascii")
    return [program, "-e", "stderr", "-p", str(folder), "-c", str(configuration)]


def node_with(packages: Sequence[str], folder: Path) -> str:
    """
    Return where node is, if it finds these packages from a folder; through NODE_PATH for example.

    Raises:
        Unavailable: It is not installed, or does not find them.
    """
    node = find("node")
    script = "".join(f"require.resolve('{package}');" for package in packages)
    look = subprocess.run([node, "-e", script], check=False, capture_output=True, timeout=_NODE_LIMIT, cwd=folder)
    if look.returncode:
        raise Unavailable(f"node finds no {' and '.join(packages)}")
    return node


def wait_until_it_listens(child: Child, port: int) -> None:
    """
    Wait until a program takes connections.

    Raises:
        Unavailable: It ended, or does not within 20 s.
    """

    async def knock() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline:
        if child.has_ended():
            raise Unavailable(f"it does not start: {child.complaint()}")
        try:
            asyncio.run(knock())
        except OSError:
            time.sleep(_GLANCE)
        else:
            return
    raise Unavailable(f"it did not start within {_START_LIMIT:g} s: {child.complaint()}")


def _cache() -> Path:
    # Not in the checkout; a folder of this user's own, because what lies in it is executed.
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "fastapi-httpx-pool-benchmarks"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp())
    return folder
