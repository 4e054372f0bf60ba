"""Contenders that are no Python: how to configure and start them, or why that cannot be done here."""

from pathlib import Path
from typing import NamedTuple

from ..programs import Unavailable, built_go, configured_nginx, node_with

__all__ = ("Place", "Unavailable", "go", "nginx", "reply_from")

_HERE = Path(__file__).parent


class Place(NamedTuple):
    """What a contender is given."""

    port: int
    origins: tuple[str, ...]
    folder: Path
    """Empty, its own, and removed afterwards."""


def go(place: Place) -> list[str]:
    """Build the Go program, unless an earlier run has."""
    binary = built_go(_HERE / "reverse_proxy.go", place.folder)
    return [binary, str(place.port), ",".join(place.origins)]


def reply_from(place: Place) -> list[str]:
    """Use the packages that node finds, through NODE_PATH for example."""
    node = node_with(("fastify", "@fastify/reply-from"), _HERE)
    return [node, str(_HERE / "reply_from.cjs"), str(place.port), ",".join(place.origins)]


def nginx(place: Place) -> list[str]:
    """Write a configuration for one process on one core that keeps everything in its folder."""
    servers = "".join(f"server {origin.removeprefix('http://')};" for origin in place.origins)
    return configured_nginx(_HERE / "nginx.conf", place.folder, {"PORT": str(place.port), "SERVERS": servers})
