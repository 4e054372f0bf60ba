"""
The family-neutral exchange, in plain bytes.

``Request``, ``Response`` and ``Handler`` are what transports, policies and the engine have in
common. A handler takes a request and gives a response; whoever obtained a response closes it.
Nothing here knows httpx, Starlette or a socket.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = ("Body", "Handler", "Header", "Origin", "Request", "Response", "Timeouts")

Header = tuple[bytes, bytes]
"""One header line, name and value, as it stands on the wire."""


class Origin(NamedTuple):
    """Where a request goes: what a pool groups its connections by."""

    scheme: bytes
    host: bytes
    """Lower case, IDNA-encoded, without brackets."""
    port: int


class Timeouts(NamedTuple):
    """Limits in seconds; None for no limit. The first four mean what they mean in httpx."""

    connect: float | None = None
    read: float | None = None
    write: float | None = None
    pool: float | None = None
    total: float | None = None
    """For the whole exchange: queue, connection, request, and response to its last byte."""


class Body(Protocol):
    """The bytes of a response, as they come; read once, closed by the response's owner."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the chunks; errors are the package's own ``TransportError``s."""
        ...

    async def aclose(self) -> None:
        """Give the connection back, or close it if anything is left to read. Harmless twice."""


@dataclass(slots=True)
class Request:
    """One request, ready for the wire."""

    method: bytes
    origin: Origin
    target: bytes
    """The request target, byte for byte: path and query in origin form."""
    headers: list[Header]
    """All lines, ``Host`` and framing included, in order and case."""
    body: bytes | AsyncIterable[bytes] | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    extensions: dict[str, Any] = field(default_factory=dict)
    """As in httpx: ``trace``, ``sni_hostname``."""


@dataclass(slots=True)
class Response:
    """One response: its head, and a body that is still to come."""

    status: int
    headers: list[Header]
    body: Body
    extensions: dict[str, Any] = field(default_factory=dict)
    """As in httpx: ``http_version``, ``reason_phrase``, ``network_stream``."""

    async def aclose(self) -> None:
        """Close the body."""
        await self.body.aclose()


Handler = Callable[[Request], Awaitable[Response]]
"""What answers requests: an engine, an adapted transport, or a policy around another handler."""
