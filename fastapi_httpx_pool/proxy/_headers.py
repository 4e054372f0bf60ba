"""
Which header lines pass, in both directions.

The rules, in the order in which they are applied (stripping comes first, so that nobody can strip
what we add by naming it in ``Connection``):

1. Lines that concern one connection only end here: a fixed list, and every line that a
   ``Connection`` line names (RFC 9110, section 7.6.1). ``Host`` and the framing cannot be named away.
2. What a client says about forwarding is not believed: ours replaces it (RFC 7239, section 8.1).
3. All other lines pass as they are: order, repetition, empty values, and bytes beyond ASCII.
4. Nothing is invented: no User-Agent, no Accept, no Accept-Encoding.
"""

import re
from collections.abc import Collection, Iterable, Mapping

from ..messages import Header

__all__ = (
    "HOP_BY_HOP",
    "check_values",
    "has_token",
    "method_in_bytes",
    "replaced",
    "response_headers",
    "sendable",
    "sift",
    "with_one_cookie_line",
    "without_twins",
)

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"expect",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Lines that end here; ``TE`` and ``Expect`` are written anew where we can keep what they promise."""

# A "Connection: Host, Content-Length" must break neither routing nor framing.
_NOT_NOMINATED = frozenset((b"content-length", b"host"))
_NOTHING: frozenset[bytes] = frozenset()

# It invites the client to come to the upstream directly (RFC 7838).
_NOT_FOR_CLIENTS = HOP_BY_HOP | {b"alt-svc"}

_USUAL = frozenset((b"keep-alive", b"close", b"Keep-Alive", b"Close"))
"""What nearly all ``Connection`` lines say; ``Close`` and ``Keep-Alive`` lines end here anyway."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_TOKEN_OCTETS = re.compile(_TOKEN.pattern.encode("ascii"))
_SPLITTING = re.compile(rb"[\r\n\0]")


def sift(
    inbound: Iterable[Header], special: frozenset[bytes], ours: frozenset[bytes]
) -> tuple[list[Header], dict[bytes, list[bytes]]]:
    """
    Return the lines that may pass, and the values of those that need a look.

    Args:
        inbound: As the server gave them.
        special: Names, in lower case, of lines that need a look; among them all that are to be dropped.
        ours: Names whose twins with underscores are dropped: CGI and WSGI upstreams take an
            underscore for a hyphen, and so does whoever forges one.
    """
    headers: list[Header] = []
    found: dict[bytes, list[bytes]] = {}
    for line in inbound:
        name = line[0].lower()
        if name in special:
            found.setdefault(name, []).append(line[1])
        elif b"_" not in name or name.replace(b"_", b"-") not in ours:
            headers.append(line)
    named: frozenset[bytes] = _NOTHING
    for value in found.get(b"connection", ()):
        if value not in _USUAL:
            named |= _named_in(value)
    return ([line for line in headers if line[0].lower() not in named] if named else headers), found


def without_twins(headers: Iterable[Header], names: Collection[bytes]) -> list[Header]:
    """Return the lines without those whose names are any of these (in lower case) with underscores for hyphens."""
    return [line for line in headers if b"_" not in line[0] or line[0].lower().replace(b"_", b"-") not in names]


def with_one_cookie_line(inbound: Collection[Header]) -> list[Header]:
    """Return the lines of an HTTP/2 or HTTP/3 request, where cookies may come in pieces (RFC 9113, section 8.2.3)."""
    pieces = [value for name, value in inbound if name.lower() == b"cookie"]
    headers = [line for line in inbound if line[0].lower() != b"cookie"]
    return [*headers, (b"cookie", b"; ".join(pieces))] if pieces else headers


def response_headers(upstream: Iterable[Header], removed: frozenset[bytes] = _NOTHING) -> list[Header]:
    """Return the lines to send to the client, without those of some names; names in lower case as ASGI wants them."""
    headers = []
    more: frozenset[bytes] = _NOTHING
    for written, value in upstream:
        name = written.lower()
        if name in _NOT_FOR_CLIENTS or name in removed:
            if name == b"transfer-encoding":
                more |= {b"content-length"}  # beside chunks it is not to be believed (RFC 9112, section 6.3)
            elif name == b"connection" and value not in _USUAL:
                more |= _named_in(value)
        else:
            headers.append((name, value))
    return [line for line in headers if line[0] not in more] if more else headers


def _named_in(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t").lower() for token in value.split(b",")) - _NOT_NOMINATED


def has_token(values: Iterable[bytes], token: bytes) -> bool:
    """Whether one of several values, each a list, has a token in it (in lower case); parameters play no part."""
    return any(part.partition(b";")[0].strip(b" \t").lower() == token for value in values for part in value.split(b","))


def sendable(headers: Mapping[str, str | None]) -> tuple[list[Header], frozenset[bytes]]:
    """
    Return a route's own headers in bytes, and the names of those that it wants removed (by None).

    Those that belong to a connection or to the framing are left out.

    Raises:
        ValueError: A name or a value that would break the request.
    """
    lines = [
        (_token(name).lower(), None if value is None else value.encode("latin-1")) for name, value in headers.items()
    ]
    own = HOP_BY_HOP | {b"content-length"}
    given = [(name, value) for name, value in lines if value is not None and name not in own]
    check_values(given)
    return given, frozenset(name for name, value in lines if value is None) - own


def method_in_bytes(method: str) -> bytes:
    """Return a method; raise ValueError if it is none (RFC 9110, section 9.1)."""
    return _token(method)


def check_values(headers: Iterable[Header]) -> None:
    """Raise ValueError for a name or a value that would split a message; peers break off when they meet one."""
    for name, value in headers:
        if not _TOKEN_OCTETS.fullmatch(name):
            raise ValueError(f"{name.decode('latin-1')!r} is not the name of a header")
        if _SPLITTING.search(value):
            raise ValueError(f"the value of the header {name.decode('latin-1')!r} has a line break or NUL in it")


def _token(text: str) -> bytes:
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} is not a name that HTTP knows: letters, digits and !#$%&'*+-.^_`|~ only")
    return text.encode("ascii")


def replaced(headers: list[Header], by: Collection[Header]) -> list[Header]:
    """Return the lines with others put in the place of those of the same names."""
    names = {name.lower() for name, _ in by}
    return [line for line in headers if line[0].lower() not in names] + list(by)
