"""
Where a request goes: a URL taken apart without changing an octet of its path and query.

RFC 9110, section 7.7: a proxy must not rewrite the path and query it forwards. So there is no URL
object here, which would tidy them up; only octets that cannot stand in a request line are encoded.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import httpx

from ..messages import Origin

__all__ = ("Target", "TargetRefused", "check_path", "encoded_octets", "http_url", "origin_of", "parse_target")

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL | re.IGNORECASE)
_WEBSOCKET_SCHEME = re.compile("ws(?=s?://)", re.IGNORECASE)
_IN_TARGET = bytes(octet for octet in range(0x21, 0x7F) if octet not in b"#")
_NOT_IN_TARGET = re.compile(rb"[^\x21-\x7e]|#")
_NUL_OR_NO_ESCAPE = re.compile(rb"\x00|%(?:00|(?![0-9A-Fa-f]{2}))")
_SLASH = re.compile(rb"[/\\]")
_ROUNDS = 10
"""How often a path is decoded at most; what is not plain then was made to deceive."""
# Names, and addresses: what is beyond came into the URL with somebody's path.
_HOST = re.compile(rb"[a-z0-9._-]+|[0-9a-f:.]+(%[0-9a-z._~-]+)?", re.IGNORECASE)
LAST_PORT = 65535
_PORTS = {"http": 80, "https": 443}


class TargetRefused(Exception):
    """The URL leads where the route did not mean it to; the text says how."""


class Target(NamedTuple):
    """One upstream URL, ready for the wire."""

    origin: Origin
    host: bytes
    """For the ``Host`` line: brackets around IPv6, no default port."""
    path: bytes
    query: bytes | None
    """Without the question mark; None where the URL has none."""

    @property
    def origin_url(self) -> str:
        """The URL without path and query."""
        return f"{self.origin.scheme.decode('ascii')}://{self.host.decode('ascii')}"

    def with_query(self, query: bytes) -> bytes:
        """Return the request target: with the URL's own query, or else with this one, if there is any."""
        own = self.query
        if own is None:
            own = encoded_octets(query) or None
        return self.path if own is None else self.path + b"?" + own


def parse_target(url: str, *, strict: bool = False) -> Target:
    """
    Take an absolute URL apart.

    Args:
        url: Whole.
        strict: As in ``check_path``.

    Raises:
        ValueError: It is not an absolute http or https URL.
        TargetRefused: It has user information, a ``..`` segment (also an encoded one), or a host
            that is none: the marks of a path of the client's that was joined to a base and would
            leave it. Or its path is one that ``check_path`` refuses for another reason.
    """
    match = _URL.fullmatch(url)
    if match is None:
        shown = re.sub("//[^/]*@", "//", url.partition("?")[0])  # the rest may be secret
        raise ValueError(
            f"{shown!r} is not an absolute URL: it must begin with http:// or https://, or for a WebSocket with ws:// "
            "or wss://. A path alone is enough if the client has a base_url."
        )
    scheme, authority, path, query = match.groups()
    if "@" in authority:
        raise TargetRefused("the URL has user information before its host")
    origin, host = origin_of(scheme.lower(), authority)
    raw_path = _encoded(path) or b"/"
    check_path(raw_path, strict=strict)
    return Target(origin, host, raw_path, None if query is None else _encoded(query))


def http_url(url: str) -> str:
    """Return a URL with ``http`` for ``ws``, which means the same here."""
    return _WEBSOCKET_SCHEME.sub("http", url, count=1)


def check_path(octets: bytes, *, strict: bool = False) -> None:
    """
    Look whether a path stays where it is put, and is one at all.

    It is looked at as its recipient reads it: decoded once, with backslashes for slashes. What only
    resembles a ``..`` passes.

    Args:
        octets: As they stand in a request line.
        strict: Whether the recipient may decode more than once, and may cut parameters (``..;x``) off.

    Raises:
        TargetRefused: It has a ``..`` segment, a NUL, or a percent sign that escapes nothing.
    """
    if b"%" not in octets and b".." not in octets and b"\x00" not in octets:
        return
    if _NUL_OR_NO_ESCAPE.search(octets):
        raise TargetRefused("the path has a NUL, or a percent sign that escapes nothing")
    for _ in range(_ROUNDS):
        encoded, octets = octets, unquote_to_bytes(octets)
        if b".." in octets and b".." in _segments(octets, strict=strict):
            raise TargetRefused("the path has a '..' segment")
        if not strict or octets == encoded:
            return
    raise TargetRefused(f"the path is percent-encoded more than {_ROUNDS - 1} times over")


def _segments(path: bytes, *, strict: bool) -> list[bytes]:
    segments = _SLASH.split(path)
    return [segment.partition(b";")[0] for segment in segments] if strict else segments


@lru_cache(maxsize=1024)
def origin_of(scheme: str, authority: str) -> tuple[Origin, bytes]:
    """Return the origin and the ``Host`` line's value of an authority without user information."""
    try:
        url = httpx.URL(f"{scheme}://{authority}/")
    except httpx.InvalidURL as exc:
        raise ValueError(f"{authority!r} is not a host: {exc}") from None
    if url.port is not None and url.port > LAST_PORT:
        raise ValueError(f"{authority!r} has a port beyond {LAST_PORT}")
    if not url.host:
        raise ValueError(f"The URL {scheme}://{authority} names no host.")
    if not _HOST.fullmatch(url.raw_host):
        raise TargetRefused("the URL's host has octets that no host name has")
    return Origin(scheme.encode("ascii"), url.raw_host, url.port or _PORTS[scheme]), url.netloc


def _encoded(part: str) -> bytes:
    return encoded_octets(part.encode("utf-8", "surrogateescape"))


def encoded_octets(octets: bytes) -> bytes:
    """
    Return octets with those encoded that cannot stand in a request's target.

    A ``#`` neither: for whoever adds to a URL, what follows it would be lost.
    """
    if not octets.translate(None, _IN_TARGET):
        return octets  # as most do
    return _NOT_IN_TARGET.sub(lambda match: b"%%%02X" % ord(match[0]), octets)
