"""
Who is looked at. Each peer is one column of the matrix.

All serve the upstream's ``/base`` under ``/p``, stream, and give up after the same time, as far as they
can be told to; beyond that they are as their manuals show them. The apps are modules beside this one;
nothing of them is imported here, so a peer whose package is missing is left out with that reason.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, final

from benchmarks.programs import Unavailable, built_go, configured_nginx, find, node_with

__all__ = ("ALL", "BASE", "PREFIX", "Peer", "Place", "Unavailable")

BASE = "/base"
PREFIX = "/p"

_HERE = Path(__file__).parent
_OURS = "fastapi-httpx-pool"
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)+")
_PATIENCE = 20.0
_SECONDS_FOR_GOODBYE = "1"


class Place(NamedTuple):
    """What a peer is given."""

    port: int
    origin: str
    limit: float
    """Seconds after which it should give an upstream or a client up."""
    folder: Path
    """Empty, its own, and removed afterwards."""

    @property
    def address(self) -> str:
        """Return the origin's host and port."""
        return self.origin.removeprefix("http://")


@final
@dataclass(frozen=True)
class Peer:
    """A proxy that can be started."""

    name: str
    what: str
    prepare: Callable[[Place], list[str]]
    version: Callable[[], str]
    """Ask only where it can run."""
    packages: tuple[str, ...] = ()
    """In Python, that it needs."""
    ours: bool = False

    def command(self, place: Place) -> list[str]:
        """
        Return the command that starts it.

        Raises:
            Unavailable: It cannot run here.
        """
        if missing := [package for package in self.packages if not _is_installed(package)]:
            raise Unavailable(f"{' and '.join(missing)} not installed")
        return self.prepare(place)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _uvicorn(app: str, http: str = "httptools", websockets: str = "websockets-sansio") -> Callable[[Place], list[str]]:
    # It would believe X-Forwarded-For from 127.0.0.1, where all clients of the suite are.
    options = ["--http", http, "--ws", websockets, "--no-proxy-headers", "--no-access-log", "--log-level", "error"]

    def prepare(place: Place) -> list[str]:
        command = [sys.executable, "-m", "uvicorn", f"{__name__}.{app}", "--host", "127.0.0.1"]
        command += ["--port", str(place.port), *options]
        return [*command, "--timeout-graceful-shutdown", _SECONDS_FOR_GOODBYE]

    return prepare


def _hypercorn(app: str) -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        command = [sys.executable, "-m", "hypercorn", f"{__name__}.{app}", "--bind", f"127.0.0.1:{place.port}"]
        return [*command, "--log-level", "error", "--graceful-timeout", _SECONDS_FOR_GOODBYE]

    return prepare


def _granian(app: str) -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        command = [sys.executable, "-m", "granian", f"{__name__}.{app}", "--host", "127.0.0.1"]
        command += ["--port", str(place.port), "--interface", "asgi", "--log-level", "error"]
        return [*command, "--workers-kill-timeout", _SECONDS_FOR_GOODBYE]

    return prepare


def _nginx(place: Place) -> list[str]:
    words = {
        "PORT": str(place.port),
        "ORIGIN": place.address,
        "LIMIT": f"{1000 * place.limit:.0f}ms",
        "PREFIX": PREFIX,
        "BASE": BASE,
    }
    return configured_nginx(_HERE / "nginx.conf", place.folder, words)


def _go(place: Place) -> list[str]:
    binary = built_go(_HERE / "reverse_proxy.go", place.folder)
    return [binary, str(place.port), place.origin + BASE, PREFIX, f"{place.limit:g}"]


def _fastify(place: Place) -> list[str]:
    node = node_with(("fastify", "@fastify/http-proxy"), _HERE)
    return [node, str(_HERE / "http_proxy.cjs"), str(place.port), place.origin, PREFIX, BASE, f"{place.limit:g}"]


def _said_by(program: str, *arguments: str) -> Callable[[], str]:
    """Return what asks a program for its version; empty if it does not say one."""

    def ask() -> str:
        said = subprocess.run(
            [find(program), *arguments], check=False, capture_output=True, text=True, timeout=_PATIENCE, cwd=_HERE
        )
        found = _NUMBER.search(said.stdout + said.stderr)
        return found[0] if found else ""

    return ask


def _app(name: str, what: str, start: Callable[[Place], list[str]], *packages: str) -> Peer:
    """Return a peer in Python; the packages are its server's and the proxy's, as installers call them."""
    *_, proxy = packages
    return Peer(name, what, start, partial(version, proxy), packages, ours=proxy == _OURS)


ALL = (
    _app("ours", "this package, under uvicorn with httptools", _uvicorn("ours:app"), "httptools", "uvicorn", _OURS),
    _app(
        "ours-h11", "under uvicorn with h11", _uvicorn("ours:app", "h11", "wsproto"), "h11", "wsproto", "uvicorn", _OURS
    ),
    _app("ours-hypercorn", "under hypercorn", _hypercorn("ours:app"), "hypercorn", _OURS),
    _app("ours-granian", "under granian", _granian("ours:app"), "granian", _OURS),
    _app(
        "recipe",
        "the published recipe on httpx, under uvicorn",
        _uvicorn("recipe:app"),
        "httptools",
        "uvicorn",
        "httpx",
    ),
    _app("fastapi-proxy-lib", "under uvicorn", _uvicorn("proxy_lib:app"), "httptools", "uvicorn", "fastapi-proxy-lib"),
    _app("asgi-proxy-lib", "under uvicorn", _uvicorn("asgi_proxy_lib:app"), "httptools", "uvicorn", "asgi-proxy-lib"),
    Peer("nginx", "with the whole of a request's target passed on as it came", _nginx, _said_by("nginx", "-v")),
    Peer("go", "`httputil.ReverseProxy` of Go's library", _go, _said_by("go", "version")),
    Peer(
        "fastify",
        "`@fastify/http-proxy`, made of `@fastify/reply-from`",
        _fastify,
        _said_by("node", "-p", "require('@fastify/http-proxy/package.json').version"),
    ),
)
