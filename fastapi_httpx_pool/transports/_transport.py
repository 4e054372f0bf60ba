"""What both families' ``PoolTransport`` share: an engine behind a handler, in the shape of the family's own transport."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Literal

from .._cancellation import runs_trio
from ..engine import ConnectOptions, Engine, IPAddress, Limits, PoolStatistics, SocketOption, allowing
from ..events import Observer
from ..messages import Handler, Response
from ..settings import AllowedAddresses, FamilyName, allowed_addresses_of
from ._family import family_named
from ._forward import Forward
from ._httpcore import PoolKeeper, seal, statistics_of_httpcore
from ._native import Genuine, engine_or, put_engine_into
from ._reverse import handler_over

__all__ = ("Around", "EngineName", "HandlerTransport", "SocketOption")

Around = Callable[[Handler], Handler]
"""Puts policies around a transport's own handler."""

EngineName = Literal["auto", "native", "httpcore"]


class HandlerTransport:
    """
    Mixed in before a family's ``AsyncHTTPTransport``.

    A request goes through the handler, whose innermost part is the package's own engine, or the
    family's ``handle_async_request``. That one is looked up at each call, on the family's class:
    pytest-httpx, vcrpy and OpenTelemetry replace it there, and respx replaces the pool's below it,
    so all of them see every request that would have reached the network.
    """

    family_name: ClassVar[FamilyName]
    default_total: float | None = None
    """Total timeout in seconds for requests that say nothing about it."""

    def __init__(
        self,
        *,
        engine: EngineName,
        around: Around | None,
        around_family: Around | None,
        connection_lifetime: float | None,
        max_connections_per_host: int | None,
        observer: Observer | None,
        allowed_addresses: object,
        **arguments: Any,
    ) -> None:
        """Take the family's arguments, and some of our own; see ``PoolTransport``."""
        addresses = allowed_addresses_of(allowed_addresses)
        is_for_engine = _is_for_engine(engine, arguments)
        _check_guarded(addresses, is_for_engine=is_for_engine)
        super().__init__(**arguments)
        family = family_named(self.family_name)
        pool = self._pool  # type: ignore[attr-defined] # the family's own
        self._forward = Forward(family)
        self._max_connections = arguments["limits"].max_connections
        self._has_proxy = arguments["proxy"] is not None
        handler = handler_over(self._send_with_family, family, PoolKeeper(pool, connection_lifetime))
        if around_family is not None:
            handler = around_family(handler)
        self._engine: Engine | None = None
        if is_for_engine:
            limits = Limits(
                max_connections=arguments["limits"].max_connections,
                max_idle=arguments["limits"].max_keepalive_connections,
                max_connections_per_host=max_connections_per_host,
                idle_expiry=arguments["limits"].keepalive_expiry,
                lifetime=connection_lifetime,
            )
            options = ConnectOptions(
                ssl_context=pool._ssl_context,
                uds=arguments["uds"],
                local_address=arguments["local_address"],
                retries=arguments["retries"],
                socket_options=tuple(arguments["socket_options"] or ()),
                allowed=_allowed(addresses),
            )
            self._engine = Engine(limits, options, observer)
            # Not by its name in the package, where people put another class.
            of_transport = Genuine(_after(HandlerTransport, type(self)))
            of_pool = Genuine(family.core.AsyncConnectionPool)
            put_engine_into(pool, self._engine, of_pool, family)
            handler = engine_or(self._engine, (of_transport, of_pool), handler)
        if addresses != "any":
            self.seal()
        self.handler: Handler = handler if around is None else around(handler)

    def seal(self) -> None:
        """Keep httpcore from connecting: what it connects to cannot be checked."""
        seal(self._pool)  # type: ignore[attr-defined] # the family's own

    @property
    def engine_name(self) -> Literal["native", "httpcore"]:
        """What carries the requests."""
        return "httpcore" if self._engine is None else "native"

    def statistics(self) -> PoolStatistics:
        """Return a snapshot of the connections and of what they have carried."""
        if self._engine is not None:
            return self._engine.statistics()
        return statistics_of_httpcore(self._pool, self._max_connections)  # type: ignore[attr-defined] # the family's own

    async def drain(self, seconds: float) -> int:
        """Wait for the engine's exchanges in flight, at most so long; return how many are left."""
        return 0 if self._engine is None else await self._engine.drain(seconds)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._engine is not None:
            await self._engine.aclose()
        await super().aclose()  # type: ignore[misc] # the family's own

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        # The family leaves its pool here, and does not call ``aclose``.
        if self._engine is not None:
            await self._engine.aclose()
        await super().__aexit__(exc_type, exc, traceback)  # type: ignore[misc] # the family's own

    def is_untouched(self) -> bool:
        """Whether requests reach the handler as they were sent."""
        overridden = type(self).handle_async_request is not HandlerTransport.handle_async_request
        return not overridden and "handle_async_request" not in vars(self)

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request of the family's; give a response of the family's, or raise its errors."""
        return await self._forward.send(self.handler, request, self.default_total)

    async def open(self, request: Any) -> tuple[Response, Any]:
        """Do the same, but give our response, and its body as a stream of the family's."""
        return await self._forward.open(self.handler, request, self.default_total)

    async def _send_with_family(self, request: Any) -> Any:
        if self._has_proxy and request.url.scheme == "wss":
            # httpcore 1.0 encrypts what goes through a SOCKS proxy if it is https, and nothing else.
            request.url = request.url.copy_with(scheme="https")
        return await super().handle_async_request(request)  # type: ignore[misc] # the family's own


def _after(mixin: type[Any], owner: type[Any]) -> type[Any]:
    """Return the class that comes after a mixin in the order of another class's bases."""
    order = owner.__mro__
    return order[order.index(mixin) + 1]


def _allowed(addresses: AllowedAddresses) -> Callable[[IPAddress], bool] | None:
    if addresses == "any":
        return None
    return allowing(("public",) if addresses == "public" else addresses)


def _check_guarded(addresses: AllowedAddresses, *, is_for_engine: bool) -> None:
    if addresses != "any" and not is_for_engine:
        raise ValueError(
            "allowed_addresses is checked by this package's own engine only: over HTTP/1.1, on asyncio and without "
            "a forward proxy; drop http2, proxy and engine='httpcore', run asyncio instead of trio, or allow any"
        )


def _is_for_engine(engine: EngineName, arguments: dict[str, Any]) -> bool:
    spoken = arguments["http1"] and not arguments["http2"] and arguments["proxy"] is None
    if engine == "native" and not spoken:
        raise ValueError(
            "engine='native' speaks HTTP/1.1 without a forward proxy; "
            "leave it at 'auto', which takes httpcore for the rest, or drop http2 and proxy"
        )
    if engine == "auto" and runs_trio():
        return False
    return engine != "httpcore" and bool(spoken)
