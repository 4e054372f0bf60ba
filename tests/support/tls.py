"""TLS with an authority of the test's own: certificates good and bad, and what a client says first."""

import socket
import ssl
import struct
from dataclasses import dataclass
from datetime import datetime

import trustme

from tests.support.upstream import LIMIT, Connection

SERVER_NAME = 0
ALPN = 16


class Authority:
    """A certificate authority, and the contexts of both sides."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def server(self, *names: str, not_after: datetime | None = None) -> ssl.SSLContext:
        """Return a server's context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*(names or ("127.0.0.1", "localhost")), not_after=not_after).configure_cert(context)
        return context

    def asking_server(self, *names: str) -> ssl.SSLContext:
        """Return the context of a server that wants a certificate of the client, of the same authority."""
        context = self.server(*names)
        context.verify_mode = ssl.CERT_REQUIRED
        self.trust(context)
        return context

    def client(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context

    def certificate(self, *names: str) -> trustme.LeafCert:
        """Return a certificate for these names."""
        return self._ca.issue_cert(*names)

    @property
    def certificate_of_its_own(self) -> bytes:
        """The authority's certificate, as a file has it."""
        return self._ca.cert_pem.bytes()

    def trust(self, context: ssl.SSLContext) -> None:
        """Let a context trust this authority."""
        self._ca.configure_trust(context)


@dataclass(frozen=True)
class ClientHello:
    """What a client asks for before anything is encrypted."""

    server_name: str | None
    protocols: list[bytes]
    """ALPN's."""


class Greeted:
    """A script that takes down what each client says first, and hangs up."""

    def __init__(self) -> None:
        self.hellos: list[ClientHello] = []

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        self.hellos.append(read_client_hello(connection))


def read_client_hello(connection: Connection) -> ClientHello:
    """Read the first message of a TLS handshake, in one record (RFC 8446, sections 4.1.2 and 5.1)."""
    header = connection.read_exactly(5)
    record = _Reader(connection.read_exactly(int.from_bytes(header[3:])))
    record.take(4)  # the message's kind and length
    record.take(2 + 32)  # version and random
    for width in (1, 2, 1):  # session, cipher suites, compression methods
        record.block(width)
    extensions: dict[int, bytes] = {}
    rest = _Reader(record.block(2))
    while rest.data:
        (kind,) = struct.unpack("!H", rest.take(2))
        extensions[kind] = rest.block(2)
    return ClientHello(_server_name(extensions.get(SERVER_NAME)), _protocols(extensions.get(ALPN)))


def _server_name(extension: bytes | None) -> str | None:
    if extension is None:
        return None
    names = _Reader(_Reader(extension).block(2))
    names.take(1)  # the kind: a host's
    return names.block(2).decode("ascii")


def _protocols(extension: bytes | None) -> list[bytes]:
    found = []
    rest = _Reader(b"" if extension is None else _Reader(extension).block(2))
    while rest.data:
        found.append(rest.block(1))
    return found


class _Reader:
    """Takes bytes off the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def block(self, width: int) -> bytes:
        """Take a block that has its length, in so many bytes, in front of it."""
        return self.take(int.from_bytes(self.take(width)))


def below_tls(connection: Connection) -> socket.socket:
    """Return the plain socket below a TLS connection, to write what TLS would not; another one to close."""
    sock = socket.socket(fileno=socket.dup(connection.sock.fileno()))
    sock.settimeout(LIMIT)
    return sock
