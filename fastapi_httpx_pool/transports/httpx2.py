"""The httpx2 family: its transport and its client."""

import ssl
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import ClassVar, final

import httpx2

from ..events import Observer
from ..messages import Handler
from ..settings import AllowedAddresses, FamilyName
from ._client import PooledClient
from ._transport import Around, EngineName, HandlerTransport, SocketOption

__all__ = ("Client", "PoolTransport")

_DEFAULT_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)
"""Those of ``httpx2.AsyncHTTPTransport``."""


class PoolTransport(HandlerTransport, httpx2.AsyncHTTPTransport):
    """
    httpx2's transport over this package's own engine; what that does not speak, over httpx2's, kept in order.

    Takes the arguments of ``httpx2.AsyncHTTPTransport`` and stands wherever that class stands:
    ``httpx2.AsyncClient(transport=PoolTransport(limits=...))``.
    """

    family_name: ClassVar[FamilyName] = "httpx2"
    handler: Handler
    """Sends family-neutral requests (``fastapi_httpx_pool.messages``) through this transport."""

    def __init__(  # noqa: PLR0917 -- httpx2's own signature
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = _DEFAULT_LIMITS,
        proxy: httpx2.URL | str | httpx2.Proxy | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
        *,
        engine: EngineName = "auto",
        around: Around | None = None,
        around_family: Around | None = None,
        connection_lifetime: float | None = None,
        max_connections_per_host: int | None = None,
        observer: Observer | None = None,
        allowed_addresses: AllowedAddresses | Iterable[str | IPv4Network | IPv6Network] = "any",
    ) -> None:
        """
        Take the family's arguments, and some of our own.

        Args:
            verify: As in httpx2, like all that follow up to ``socket_options``.
            cert: The client's own certificate.
            trust_env: Obey ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.
            http1: Offer HTTP/1.1.
            http2: Offer HTTP/2.
            limits: How many connections.
            proxy: A forward proxy.
            uds: Path of a Unix domain socket.
            local_address: Address to connect from.
            retries: Further attempts to connect.
            socket_options: Set on each socket.
            engine: ``native`` is this package's, ``httpcore`` the family's; ``auto`` the one that
                can do what the other arguments ask for, and the native one if both can.
            around: Given the transport's handler, returns the one to send through.
            around_family: Likewise, for the family's own transport below it only.
            connection_lifetime: Seconds after which an HTTP/1.1 connection is not used again.
            max_connections_per_host: Connections to one origin at a time; the native engine's.
            observer: Called with each event of the native engine.
            allowed_addresses: Where it may connect to; as in ``ClientSettings``.

        Raises:
            ValueError: ``engine="native"`` with ``http2`` or ``proxy``; or ``allowed_addresses`` with ``uds``,
                or with what only the family's engine can do.
        """
        super().__init__(
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            limits=limits,
            proxy=proxy,
            uds=uds,
            local_address=local_address,
            retries=retries,
            socket_options=socket_options,
            engine=engine,
            around=around,
            around_family=around_family,
            connection_lifetime=connection_lifetime,
            max_connections_per_host=max_connections_per_host,
            observer=observer,
            allowed_addresses=allowed_addresses,
        )


@final
class Client(PooledClient, httpx2.AsyncClient):
    """An ``httpx2.AsyncClient`` that belongs to a ``ClientFactory``."""

    transport_class: ClassVar[type[PoolTransport]] = PoolTransport
