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
    "check_values",
    "framing_of",
    "method_in_bytes",
    "replaced",
    "request_headers",
    "response_headers",
    "sendable",
    "with_one_cookie_line",
)

# "Expect" goes too: the server answers it when we begin to read the body. "TE" goes because
# trailers are not relayed.
_HOP_BY_HOP = frozenset(
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

# A "Connection: Host, Content-Length" must break neither routing nor framing.
_NOT_NOMINATED = frozenset((b"content-length", b"host"))

_FORWARDING = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-real-ip",
    )
)


_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_SPLITTING = re.compile(rb"[\r\n\0]")


def request_headers(
    inbound: Collection[Header], *, host: bytes, peer: str | None, scheme: str, chunked: bool
) -> list[Header]:
    """
    Return the lines to send upstream.

    Args:
        inbound: As the server gave them.
        host: Of the upstream, for its one ``Host`` line.
        peer: Address of the client's end of the connection, if there is one.
        scheme: Of the inbound request.
        chunked: Whether the body goes out in chunks; if not, its ``Content-Length`` stays.
    """
    dropped = _HOP_BY_HOP | _nominated(inbound) | {b"host"}
    if chunked:
        dropped |= {b"content-length"}  # RFC 9112, section 6.1: never both
    headers = [(b"host", host)]
    headers += [line for line in inbound if line[0].lower() not in dropped and not _is_about_forwarding(line[0])]
    headers += _forwarded(inbound, peer, scheme)
    if chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def with_one_cookie_line(inbound: Collection[Header]) -> list[Header]:
    """Return the lines of an HTTP/2 or HTTP/3 request, where cookies may come in pieces (RFC 9113, section 8.2.3)."""
    pieces = [value for name, value in inbound if name.lower() == b"cookie"]
    headers = [line for line in inbound if line[0].lower() != b"cookie"]
    return [*headers, (b"cookie", b"; ".join(pieces))] if pieces else headers


def response_headers(upstream: Collection[Header]) -> list[Header]:
    """Return the lines to send to the client, names in lower case as ASGI wants them."""
    dropped = _HOP_BY_HOP | _nominated(upstream)
    if any(name.lower() == b"transfer-encoding" for name, _ in upstream):
        dropped |= {b"content-length"}  # beside chunks it is not to be believed (RFC 9112, section 6.3)
    return [(name.lower(), value) for name, value in upstream if name.lower() not in dropped]


def framing_of(inbound: Iterable[Header]) -> bytes | None:
    """
    Return the name of the line that says how a request's body ends; None if it has none.

    ``transfer-encoding`` counts where both are there (RFC 9112, section 6.3).
    """
    names = {name.lower() for name, _ in inbound}
    return next((name for name in (b"transfer-encoding", b"content-length") if name in names), None)


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
    own = _HOP_BY_HOP | {b"content-length"}
    given = [(name, value) for name, value in lines if value is not None and name not in own]
    check_values(given)
    return given, frozenset(name for name, value in lines if value is None) - own


def method_in_bytes(method: str) -> bytes:
    """Return a method; raise ValueError if it is none (RFC 9110, section 9.1)."""
    return _token(method)


def check_values(headers: Iterable[Header]) -> None:
    """Raise ValueError for a value that would split a message; peers break off when they meet one."""
    for name, value in headers:
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


def _nominated(headers: Iterable[Header]) -> frozenset[bytes]:
    names = {
        token.strip(b" \t").lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    return frozenset(names) - _NOT_NOMINATED


def _is_about_forwarding(name: bytes) -> bool:
    # CGI and WSGI upstreams take an underscore for a hyphen, and so does whoever forges one.
    return name.lower().replace(b"_", b"-") in _FORWARDING


def _forwarded(inbound: Iterable[Header], peer: str | None, scheme: str) -> list[Header]:
    headers = [] if peer is None else [(b"x-forwarded-for", peer.encode("ascii", "replace"))]
    headers += [(b"x-forwarded-host", value) for name, value in inbound if name.lower() == b"host"][:1]
    headers.append((b"x-forwarded-proto", scheme.encode("ascii")))
    return headers
