"""What both families' ``PoolTransport`` share: the family's own transport, behind a handler."""

from collections.abc import Callable
from typing import Any, ClassVar

from ..messages import Handler
from ..settings import FamilyName
from ._family import family_named
from ._forward import send_through
from ._httpcore import PoolKeeper
from ._reverse import handler_over

__all__ = ("Around", "HandlerTransport", "SocketOption")

Around = Callable[[Handler], Handler]
"""Puts policies around a transport's own handler."""


SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
"""The arguments of one ``socket.setsockopt``."""


class HandlerTransport:
    """
    Mixed in before a family's ``AsyncHTTPTransport``.

    A request goes through the handler, whose innermost part is the family's own
    ``handle_async_request``. That is looked up at each call, on the family's class: pytest-httpx,
    vcrpy and OpenTelemetry replace it there, and respx replaces the pool's below it, so all of
    them see every request that would have reached the network.
    """

    family_name: ClassVar[FamilyName]
    default_total: float | None = None
    """Total timeout in seconds for requests that say nothing about it."""

    def __init__(self, *, around: Around | None, connection_lifetime: float | None, **arguments: Any) -> None:
        """Take the family's arguments, and two of our own; see ``PoolTransport``."""
        super().__init__(**arguments)
        self._family = family_named(self.family_name)
        keeper = PoolKeeper(self._pool, connection_lifetime)  # type: ignore[attr-defined] # the family's own
        handler = handler_over(self._send_with_family, self._family, keeper)
        self.handler: Handler = handler if around is None else around(handler)

    def is_untouched(self) -> bool:
        """Whether requests reach the handler as they were sent."""
        overridden = type(self).handle_async_request is not HandlerTransport.handle_async_request
        return not overridden and "handle_async_request" not in vars(self)

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request of the family's; give a response of the family's, or raise its errors."""
        return await send_through(self.handler, self._family, request, self.default_total)

    async def _send_with_family(self, request: Any) -> Any:
        return await super().handle_async_request(request)  # type: ignore[misc] # the family's own
