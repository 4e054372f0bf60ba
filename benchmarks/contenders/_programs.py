"""Contenders that are no Python: how to build, configure and start them, or why that cannot be done here."""

import os
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

__all__ = ("Place", "Unavailable", "go", "nginx", "reply_from")

_HERE = Path(__file__).parent
_BUILD_LIMIT = 300.0
_NODE_LIMIT = 20.0


class Unavailable(Exception):
    """A contender cannot run on this machine; the text says why."""


class Place(NamedTuple):
    """What a contender is given."""

    port: int
    origins: tuple[str, ...]
    folder: Path
    """Empty, its own, and removed afterwards."""


def go(place: Place) -> list[str]:
    """Build the Go program, unless an earlier run has."""
    compiler = _program("go")
    source = _HERE / "reverse_proxy.go"
    binary = _cache() / f"reverse_proxy-{sha256(source.read_bytes()).hexdigest()[:12]}"
    if not binary.exists():
        unfinished = place.folder / "reverse_proxy"
        command = [compiler, "build", "-o", str(unfinished), str(source)]
        build = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_BUILD_LIMIT)
        if build.returncode:
            raise Unavailable(f"go does not build it: {build.stderr.strip()}")
        shutil.move(unfinished, binary)
    return [str(binary), str(place.port), ",".join(place.origins)]


def reply_from(place: Place) -> list[str]:
    """Use the packages that node finds, through NODE_PATH for example."""
    node = _program("node")
    packages = ("fastify", "@fastify/reply-from")
    script = "".join(f"require.resolve('{package}');" for package in packages)
    look = subprocess.run([node, "-e", script], check=False, capture_output=True, timeout=_NODE_LIMIT, cwd=_HERE)
    if look.returncode:
        raise Unavailable(f"node finds no {' and '.join(packages)}")
    return [node, str(_HERE / "reply_from.cjs"), str(place.port), ",".join(place.origins)]


def nginx(place: Place) -> list[str]:
    """Write a configuration for one process on one core that keeps everything in its folder."""
    program = _program("nginx")
    servers = "".join(f"server {origin.removeprefix('http://')};" for origin in place.origins)
    template = (_HERE / "nginx.conf").read_text(encoding="ascii")
    configuration = place.folder / "nginx.conf"
    text = template.replace("PORT", str(place.port)).replace("SERVERS", servers).replace("FOLDER", str(place.folder))
    configuration.write_text(text, encoding="ascii")
    return [program, "-e", "stderr", "-p", str(place.folder), "-c", str(configuration)]


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def _cache() -> Path:
    # Not in the checkout; a folder of this user's own, because what lies in it is executed.
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "fastapi-httpx-pool-benchmarks"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp())
    return folder
