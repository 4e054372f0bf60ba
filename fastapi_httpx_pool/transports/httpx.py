"""The httpx family: its transport and its client."""

import ssl
from collections.abc import Iterable
from typing import ClassVar, final

import httpx

from ..messages import Handler
from ..settings import FamilyName
from ._client import PooledClient
from ._transport import Around, HandlerTransport, SocketOption

__all__ = ("Client", "PoolTransport")

_DEFAULT_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""Those of ``httpx.AsyncHTTPTransport``."""


class PoolTransport(HandlerTransport, httpx.AsyncHTTPTransport):
    """
    httpx's transport, kept in order: cancelled calls lose no slots, and no stray byte is reused.

    Takes the arguments of ``httpx.AsyncHTTPTransport`` and stands wherever that class stands:
    ``httpx.AsyncClient(transport=PoolTransport(limits=...))``.
    """

    family_name: ClassVar[FamilyName] = "httpx"
    handler: Handler
    """Sends family-neutral requests (``fastapi_httpx_pool.messages``) through this transport."""

    def __init__(  # noqa: PLR0917 -- httpx's own signature
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = _DEFAULT_LIMITS,
        proxy: httpx.URL | str | httpx.Proxy | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
        *,
        around: Around | None = None,
        connection_lifetime: float | None = None,
    ) -> None:
        """
        Take the family's arguments, and two of our own.

        Args:
            verify: As in httpx, like all that follow up to ``socket_options``.
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
            around: Given the transport's handler, returns the one to send through.
            connection_lifetime: Seconds after which an HTTP/1.1 connection is not used again.
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
            around=around,
            connection_lifetime=connection_lifetime,
        )


@final
class Client(PooledClient, httpx.AsyncClient):
    """An ``httpx.AsyncClient`` that belongs to a ``ClientFactory``."""

    transport_class: ClassVar[type[PoolTransport]] = PoolTransport
