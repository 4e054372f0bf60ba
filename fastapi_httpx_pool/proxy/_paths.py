"""
From the path that a client asked for to the one that its upstream is asked for, octet by octet.

The upstream is chosen by the base, which the app has written; a client's octets only ever follow
the base's path, after a slash. They are forwarded as they came (RFC 9110, section 7.7), and looked
at separately, decoded, for what would lead out of the base again. So nothing here is normalised:
what is not forwarded unchanged is refused, and only octets that no path can have on the wire are
encoded.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self, final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from starlette.types import Scope

from ..messages import Origin
from ._target import TargetRefused, check_path, encoded_octets, http_url, origin_of

__all__ = ("Base", "below_mount", "inbound_path", "is_authority", "public_prefix", "without_prefix")

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL | re.IGNORECASE)
# A path of nothing else, without "..", is forwarded without a second look: most are.
_PLAIN = bytes(octet for octet in range(0x21, 0x7F) if octet not in b"%?#")
_NOT_IN_PATH = re.compile(rb"[^\x21-\x7e]|[?#]")
_ABSOLUTE_FORM = re.compile(rb"https?://(?:[^/?#@]*@)?([^/?#@]+)(/[^?#]*)?", re.DOTALL | re.IGNORECASE)
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Za-z:.%_~-]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]+)(?::[0-9]*)?")
# All that may stand in a path without being encoded, beyond letters and digits.
_PATH_CHARACTERS = "/-._~!$&'()*+,;=:@"


@final
@dataclass(frozen=True, slots=True)
class Base:
    """What a proxy stands before: a URL whose path everything is joined to and stays below."""

    origin: Origin
    host: bytes
    """For the ``Host`` line: brackets around IPv6, no default port."""
    path: bytes
    """As it was written; a slash where nothing was."""
    query: bytes | None = field(repr=False)
    """Without the question mark; None where the URL has none."""
    origin_url: str
    """The URL without path and query."""
    _stem: bytes = field(repr=False)
    """The path without a slash at its end, of which there is one between it and what follows."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """
        Take a URL apart, without changing an octet of its path and query.

        Raises:
            ValueError: It is not an absolute URL of http or https, or ws or wss, or has parts that a base
                cannot have.
        """
        match = _URL.fullmatch(http_url(url))
        if match is None:
            raise ValueError(
                f"The upstream {_without_secrets(url)!r} is not an absolute URL: it must begin with http:// or https://, "
                "which ws:// and wss:// may stand for."
            )
        scheme, authority, path, query, fragment = match.groups()
        if "@" in authority:
            raise ValueError(
                f"The upstream {_without_secrets(url)!r} has user information before its host, which is not sent; "
                'put credentials into a header: request_headers={"authorization": "..."} of the policy.'
            )
        if fragment is not None:
            raise ValueError(f"The upstream {_without_secrets(url)!r} has a fragment, which cannot be sent.")
        octets = _encoded(path) or b"/"
        try:
            origin, host = origin_of(scheme.lower(), authority)
            check_path(octets)
        except TargetRefused as exc:
            raise ValueError(f"The upstream {_without_secrets(url)!r} is none: {exc}.") from None
        return cls(
            origin=origin,
            host=host,
            path=octets,
            query=None if query is None else _encoded(query),
            origin_url=f"{scheme.lower()}://{host.decode('ascii')}",
            _stem=octets.removesuffix(b"/"),
        )

    def target(self, rest: bytes, query: bytes, *, strict: bool = False) -> bytes:
        """
        Return the request target for a path below the base.

        Args:
            rest: The path, as it was on the wire; nothing for the base's own.
            query: The client's, without the question mark; it follows the base's.
            strict: Whether a ``..`` is looked for in all that the path may be decoded to.

        Raises:
            TargetRefused: The path would leave the base, or is none.
        """
        if rest.translate(None, _PLAIN) or b".." in rest:
            check_path(rest, strict=strict)
            rest = _NOT_IN_PATH.sub(_escape, rest)
        if rest and not rest.startswith(b"/"):
            rest = b"/" + rest
        path = self._stem + rest if rest else self.path
        if query:
            query = encoded_octets(query)
            return path + b"?" + (self.query + b"&" + query if self.query else query)
        return path if self.query is None else path + b"?" + self.query


def inbound_path(scope: Scope) -> tuple[bytes, bytes | None]:
    """
    Return the path that was asked for, as it was on the wire, and the authority if one was named with it.

    Some servers give the whole URL of a request target in absolute-form (RFC 9112, section 3.2.2).
    Its host then stands in the place of the ``Host`` line; it does not choose the upstream.

    Raises:
        TargetRefused: It is neither a path nor an absolute http or https URL.
    """
    octets: bytes = scope.get("raw_path") or _quoted(scope["path"])
    if octets.startswith(b"/"):
        return octets, None
    match = _ABSOLUTE_FORM.fullmatch(octets)
    if match is None or not _AUTHORITY.fullmatch(match[1]):
        raise TargetRefused("the request target is neither a path nor an absolute URL")
    return match[2] or b"/", match[1]


def below_mount(scope: Scope, raw_path: bytes, prefix: str) -> bytes:
    """
    Return what of a path is below where we are mounted.

    Args:
        scope: Of the request.
        raw_path: As it was on the wire.
        prefix: The scope's ``root_path``, which grows with each mount, and what a route adds to it.

    Raises:
        TargetRefused: The path is not there.
    """
    if not prefix:
        return raw_path
    try:
        return without_prefix(raw_path, prefix)
    except TargetRefused:
        told = _told(scope)
        if not prefix.startswith(told):
            raise
        return without_prefix(raw_path, prefix[len(told) :])


def public_prefix(scope: Scope, prefix: str) -> bytes:
    """Return the prefix as the client wrote it, for a request whose path is below it; otherwise encoded."""
    try:
        raw_path, _ = inbound_path(scope)
        taken = raw_path[: len(raw_path) - len(below_mount(scope, raw_path, prefix))]
    except TargetRefused:  # a route may have chosen another path
        return _quoted(prefix)
    if len(unquote_to_bytes(taken)) < len(_wanted(prefix)[0]):
        return _quoted(_told(scope)) + taken
    return taken


def _told(scope: Scope) -> str:
    """
    Return what a server or an app was told to be its ``root_path``.

    They differ in whether the path still has it: somebody before them may have taken it away.
    """
    told: str = scope.get("app_root_path", scope.get("root_path", ""))
    return told


def without_prefix(raw_path: bytes, prefix: str) -> bytes:
    """
    Return what follows a prefix, with its slash or empty.

    Args:
        raw_path: As it was on the wire, the prefix perhaps percent-encoded.
        prefix: Decoded, as in a ``root_path``. A slash at its end says nothing.

    Raises:
        TargetRefused: The path does not begin with all of the prefix.
    """
    wanted, plain = _wanted(prefix)
    rest = raw_path[len(wanted) :] if plain and raw_path.startswith(wanted) else _after_encoded(wanted, raw_path)
    if rest and not rest.startswith(b"/") and rest[:3].lower() != b"%2f":
        raise TargetRefused("the path is beside the prefix")
    return rest


@lru_cache(maxsize=256)
def is_authority(host: bytes) -> bool:
    """Whether it is a host, with or without a port (RFC 9110, section 7.2)."""
    return _AUTHORITY.fullmatch(host) is not None


@lru_cache(maxsize=256)
def _wanted(prefix: str) -> tuple[bytes, bool]:
    """Return the octets of a prefix, and whether they may be looked for as they are."""
    octets = prefix.encode("utf-8", "surrogateescape").removesuffix(b"/")
    return octets, b"%" not in octets


def _after_encoded(wanted: bytes, raw_path: bytes) -> bytes:
    position = 0
    for octet in wanted:
        length = 3 if raw_path[position : position + 1] == b"%" else 1
        if unquote_to_bytes(raw_path[position : position + length]) != bytes((octet,)):
            raise TargetRefused("the path is beside the prefix")
        position += length
    return raw_path[position:]


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(match[0])


def _encoded(part: str) -> bytes:
    return encoded_octets(part.encode("utf-8", "surrogateescape"))


def _quoted(path: str) -> bytes:
    return quote_from_bytes(path.encode("utf-8", "surrogateescape"), _PATH_CHARACTERS).encode("ascii")


def _without_secrets(url: str) -> str:
    """Return what may be shown: no user information, no query."""
    before, at, after = re.split("[?#]", url, maxsplit=1)[0].rpartition("@")
    return (before.partition("//")[0] + "//..." if "//" in before else "...") + at + after if at else after
