"""
What upstreams are told about the client: who it is, and under which scheme, host and prefix it came.

1. Nobody's word about this is passed on, but for a trusted proxy's, and that only with ``append``.
2. A proxy is trusted if the other end of the connection is in a trusted network; nothing that is
   written in the request plays a part in it. One trust goes for all lines: addresses, scheme, host.
3. A trusted proxy's list of addresses is added to. Of scheme and host, the last that it says stays,
   for it knows the client's side better than we do. Its prefix comes before ours.
4. A trusted proxy's ``Forwarded`` is added to even if ours would be ``X-Forwarded-For``, and the
   other way round: a list that lacks a link would blame the wrong one.
5. Addresses are written in one way: IPv4 addresses as such, even if they came in IPv6 clothes, and
   without the zone, which means nothing to others.
"""

import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple, final
from urllib.parse import quote

from ..messages import Header
from ._policy import UNIX, ProxyPolicy

__all__ = ("Forwarding",)

_FOR: Final = b"x-forwarded-for"
_HOST: Final = b"x-forwarded-host"
_PROTO: Final = b"x-forwarded-proto"
_PREFIX: Final = b"x-forwarded-prefix"
_FORWARDED: Final = b"forwarded"

_CLAIMS = frozenset(
    (
        _FOR,
        _HOST,
        _PROTO,
        _PREFIX,
        _FORWARDED,
        b"x-forwarded",
        b"x-forwarded-by",
        b"x-forwarded-port",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-forwarded-ssl",
        b"x-real-ip",
    )
)
"""All lines that one framework or the other believes."""

_SCHEMES = {"http": b"http", "https": b"https", "ws": b"http", "wss": b"https"}

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_IN_PATHS = "/:@!$&'()*+;=~"  # RFC 3986, section 3.3, without the comma, which would make a list of it

_PEERS_KNOWN = 1024
_PREFIXES_KNOWN = 256

_Network = IPv4Network | IPv6Network
_NOTHING: frozenset[bytes] = frozenset()


class _Peer(NamedTuple):
    """All that there is to say about an address, worked out once."""

    address: bytes | None
    """None for peers that have none, or none that we understand."""
    node: bytes
    """As ``Forwarded`` has it (RFC 7239, section 6)."""
    line: tuple[Header, ...]
    """``X-Forwarded-For`` for a client that is this peer."""
    trusted: bool


@final
class Forwarding:
    """One policy's lines about the client."""

    __slots__ = ("_in_forwarded", "_in_x_forwarded", "_peer", "_silent", "dropped")

    def __init__(self, policy: ProxyPolicy) -> None:
        self._silent = policy.forwarded == "off"
        self._in_x_forwarded = policy.forwarded_style in ("x-forwarded", "both")
        self._in_forwarded = policy.forwarded_style in ("forwarded", "both")
        trusted = policy.trusted_proxies if policy.forwarded == "append" else ()
        networks = tuple(_plain_network(network) for network in trusted if network != UNIX)
        self._peer: Callable[[str | None], _Peer] = lru_cache(_PEERS_KNOWN)(
            partial(_peer_of, networks, UNIX in trusted)
        )
        self.dropped: frozenset[bytes] = _NOTHING if self._silent else _CLAIMS
        """Names, in lower case, of which no line of the client's passes by itself."""

    def lines(
        self, inbound: Collection[Header], *, peer: str | None, scheme: str, host: bytes | None, prefix: str
    ) -> list[Header]:
        """
        Return the lines to send, names in lower case.

        Args:
            inbound: All of the client's.
            peer: Address of the other end of the connection; None if it has none.
            scheme: Of the inbound request.
            host: That the client asked for.
            prefix: Under which we are mounted, decoded.
        """
        if self._silent:
            return []
        known = self._peer(peer)
        claims = [line for line in inbound if line[0].lower() in _CLAIMS] if known.trusted else []
        if claims:
            return self._continued(claims, known, _SCHEMES.get(scheme, b"http"), host or b"", _encoded(prefix))
        proto = _SCHEMES.get(scheme, b"http")
        lines: list[Header] = []
        if self._in_x_forwarded:
            lines += known.line
            if host:
                lines.append((_HOST, host))
            lines.append((_PROTO, proto))
            if prefix and (path := _encoded(prefix)):
                lines.append((_PREFIX, path))
        if self._in_forwarded:
            lines.append((_FORWARDED, _element(known.node, host or b"", proto)))
        return lines

    def public_side(
        self, inbound: Iterable[Header], *, peer: str | None, scheme: str, host: bytes | None
    ) -> tuple[bytes | None, bytes]:
        """
        Return the origin that the client sees, if it is known, and what is before our own prefix.

        Args:
            inbound: All of the client's lines.
            peer: Address of the other end of the connection; None if it has none.
            scheme: Of the inbound request.
            host: That the client asked for.
        """
        claims = [line for line in inbound if line[0].lower() in _X_FORWARDED] if self._peer(peer).trusted else []
        proto, host = _last(claims, _PROTO).lower(), _last(claims, _HOST) or host
        if proto not in _SCHEMES.values():
            proto = _SCHEMES.get(scheme, b"http")
        return proto + b"://" + host if host else None, _last(claims, _PREFIX).rstrip(b"/")

    def _continued(
        self, claims: Collection[Header], peer: _Peer, proto: bytes, host: bytes, prefix: bytes
    ) -> list[Header]:
        """Return what a trusted proxy said, with our own view added or, where it said nothing, in its place."""
        names = {name.lower() for name, _ in claims}
        lines = [line for line in claims if line[0].lower() not in _CONTINUED]
        if self._in_x_forwarded or not names.isdisjoint(_X_FORWARDED):
            values = (
                (_FOR, _joined([*_values(claims, _FOR), peer.address or b""])),
                (_HOST, _last(claims, _HOST) or host),
                (_PROTO, _last(claims, _PROTO) or proto),
                (_PREFIX, _last(claims, _PREFIX).rstrip(b"/") + prefix),
            )
            lines += [line for line in values if line[1]]
        said = _joined(_values(claims, _FORWARDED))
        if said and peer.address is None:
            lines.append((_FORWARDED, said))
        elif said or self._in_forwarded:
            lines.append((_FORWARDED, _joined((said, _element(peer.node, host, proto)))))
        return lines


_X_FORWARDED = frozenset((_FOR, _HOST, _PROTO, _PREFIX))
_CONTINUED = _X_FORWARDED | {_FORWARDED}


def _peer_of(networks: Collection[_Network], trusts_unix: bool, peer: str | None) -> _Peer:
    if not peer:
        return _Peer(None, b"unknown", (), trusts_unix)
    try:
        address = _plain(ip_address(peer.partition("%")[0]))
    except ValueError:  # a test client's
        return _Peer(None, b"unknown", (), trusted=False)
    text = str(address).encode("ascii")
    node = text if address.version == 4 else b'"[%b]"' % text  # noqa: PLR2004 -- IPv4
    return _Peer(text, node, ((_FOR, text),), any(address in network for network in networks))


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _plain_network(text: str) -> _Network:
    """Return a network; one of IPv4 addresses in IPv6 clothes without them."""
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    clothes = 96
    if mapped is None or network.prefixlen < clothes:
        return network
    return IPv4Network((mapped, network.prefixlen - clothes))


@lru_cache(_PREFIXES_KNOWN)
def _encoded(prefix: str) -> bytes:
    return quote(prefix.rstrip("/"), safe=_IN_PATHS, errors="surrogateescape").encode("ascii")


def _element(node: bytes, host: bytes, proto: bytes) -> bytes:
    """Return one element of ``Forwarded`` (RFC 7239, section 4)."""
    if not host:
        return b"for=%b;proto=%b" % (node, proto)
    if not _TOKEN.fullmatch(host):
        host = b'"%b"' % host.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b"for=%b;host=%b;proto=%b" % (node, host, proto)


def _values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    return [value for found, value in headers if found.lower() == name]


def _last(headers: Iterable[Header], name: bytes) -> bytes:
    """Return the last member of a list, which may be written in several lines; empty if there is none."""
    members = [member.strip(b" \t") for value in _values(headers, name) for member in value.split(b",")]
    return next((member for member in reversed(members) if member), b"")


def _joined(values: Iterable[bytes]) -> bytes:
    stripped = (value.strip(b" \t,") for value in values)
    return b", ".join(value for value in stripped if value)
