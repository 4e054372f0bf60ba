"""What connections are kept apart by, where they lead, and how that is shown."""

from ..exceptions import UnsupportedProtocol
from ..messages import Origin as Address, Request

__all__ = ("Key", "address_of", "check_scheme", "key_of", "origin_in", "shown_key", "shown_origin")

_SECURE = {b"https": True, b"wss": True, b"http": False, b"ws": False}
_FOR_WEBSOCKETS = frozenset((b"ws", b"wss"))
_DEFAULT_PORTS = {True: 443, False: 80}

Key = Address | tuple[Address, str]
"""What connections are kept apart by: the origin, and the name that was asked for in TLS if it is another."""


def key_of(request: Request) -> Key:
    """Return a request's; a WebSocket's opening handshake is one to the same host."""
    origin = request.origin
    if origin.scheme in _FOR_WEBSOCKETS:
        origin = address_of(request)
    sni = request.extensions.get("sni_hostname")
    if not sni:
        return origin
    return origin, sni.decode("latin-1") if isinstance(sni, bytes) else sni


def check_scheme(scheme: bytes) -> None:
    """
    See whether connections can be made for URLs of a scheme.

    Raises:
        UnsupportedProtocol: Neither http nor https, nor what they are called for WebSockets.
    """
    if scheme in _SECURE:
        return
    if not scheme:
        raise UnsupportedProtocol("Request URL is missing an 'http://' or 'https://' protocol.")
    raise UnsupportedProtocol(f"Request URL has an unsupported protocol '{scheme.decode('ascii', 'replace')}://'.")


def address_of(request: Request) -> Address:
    """Return where to connect, with http or https for whatever it is called, and a port."""
    scheme, host, port = request.origin
    secure = _SECURE[scheme]
    return Address(b"https" if secure else b"http", host, port or _DEFAULT_PORTS[secure])


def origin_in(key: Key) -> Address:
    """Return the origin alone."""
    return key if isinstance(key, Address) else key[0]


def shown_key(key: Key) -> str:
    """Return it for people to read."""
    return shown_origin(key) if isinstance(key, Address) else f"{shown_origin(key[0])} ({key[1]})"


def shown_origin(address: Address) -> str:
    """Return it as a URL without a path."""
    host = address.host.decode("ascii", "replace")
    return f"{address.scheme.decode('ascii', 'replace')}://{f'[{host}]' if ':' in host else host}:{address.port}"
