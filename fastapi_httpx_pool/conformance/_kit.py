"""
What rows are made of: both ends of the wire, in the hands of one function.

A row stands on both sides of the proxy. It is the client, over a connection of its own, and it is the upstream,
which answers as the row says.

- ``expect(condition, text)`` is how a row judges; ``NotApplicable`` is how it says that it cannot be asked.
- ``Lab`` is what a row is given; ``Seen`` is what an exchange looked like from both ends.
- ``Client`` and ``UpstreamConnection`` are a ``Wire`` each: the two ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ._messages import Client, Message, Request, Response, UpstreamConnection
from ._upstream import Script, Upstream, answering, chunk, chunked, ok
from ._wire import NotApplicable, NotMet, TookTooLong, TooMuch, Wire, authority, expect, shown

__all__ = (
    "Client",
    "Lab",
    "Message",
    "NotApplicable",
    "NotMet",
    "Place",
    "Request",
    "Response",
    "Script",
    "Seen",
    "TooMuch",
    "TookTooLong",
    "Upstream",
    "UpstreamConnection",
    "Wire",
    "answering",
    "authority",
    "chunk",
    "chunked",
    "expect",
    "ok",
    "shown",
)


@dataclass(frozen=True)
class Place:
    """Where everything is."""

    host: str
    """The proxy's."""
    port: int
    prefix: str
    """The path at the proxy that leads to the upstream, without a slash at its end."""
    upstream_host: str = "127.0.0.1"
    upstream_port: int = 9100
    base: str = "/base"
    """The path at the upstream to which it leads, without a slash at its end."""
    timeout: float = 2.0

    @property
    def url(self) -> str:
        """What is asked."""
        return f"http://{authority(self.host, self.port)}{self.prefix}"

    @property
    def upstream_url(self) -> str:
        """Where it leads."""
        return f"http://{authority(self.upstream_host, self.upstream_port)}{self.base}"


@dataclass
class Seen:
    """What an exchange looked like from both ends."""

    response: Response
    requests: list[Request]
    """All that arrived at the upstream meanwhile."""

    @property
    def request(self) -> Request:
        """
        The first request that arrived at the upstream.

        Raises:
            NotMet: None did.
        """
        expect(self.requests, f"nothing arrived at the upstream, and the client got {self.response}")
        return self.requests[0]


class Lab:
    """What a row works with: the proxy's place, the upstream behind it, and clients before it."""

    upstream: Upstream
    timeout: float
    """The longest that anything may take, in seconds."""
    patience: float
    """For what the proxy itself waits for, such as its own timeouts: twice as long."""
    prefix: bytes
    """The path at the proxy that leads to the upstream's base, without a slash at its end; may be empty."""
    base: bytes
    """The path at the upstream to which it leads, without a slash at its end; may be empty."""
    authority: bytes
    """The proxy's host and port: what clients put into Host."""
    upstream_authority: bytes
    """The upstream's host and port."""

    def __init__(self, place: Place, upstream: Upstream, most: int | None = None) -> None:
        """
        Begin.

        Args:
            place: Where everything is.
            upstream: The one behind the proxy.
            most: How many bytes a client of this may be sent; None for as many as there are.
        """
        self.upstream = upstream
        self.timeout = place.timeout
        self.patience = 2 * place.timeout
        self.prefix = place.prefix.encode("ascii")
        self.base = place.base.encode("ascii")
        self.authority = authority(place.host, place.port).encode("ascii")
        self.upstream_authority = authority(place.upstream_host, place.upstream_port).encode("ascii")
        self._place = place
        self._most = most
        self._clients: list[Client] = []
        self._decoys: list[Upstream] = []

    def target(self, path: bytes = b"/x") -> bytes:
        """Return what a client asks the proxy for to get at a path under the base."""
        return self.prefix + path

    def based(self, path: bytes = b"/x") -> bytes:
        """Return what the upstream must be asked for then."""
        return self.base + path

    async def client(self) -> Client:
        """
        Connect to the proxy; the connection is closed when the row is over.

        Raises:
            NotMet: The proxy takes no connections.
        """
        try:
            async with asyncio.timeout(self.timeout):
                streams = await asyncio.open_connection(self._place.host, self._place.port)
        except OSError as error:
            raise NotMet(f"the proxy takes no connections: {error or 'no answer'}") from None
        client = Client(*streams, self.timeout, self._most)
        self._clients.append(client)
        return client

    def request(
        self,
        *lines: bytes,
        method: bytes = b"GET",
        target: bytes = b"/x",
        body: bytes | None = None,
        version: bytes = b"HTTP/1.1",
        host: bytes | None = None,
    ) -> bytes:
        """
        Return a request's bytes: the proxy's own Host, these lines, and Content-Length if there is a body.

        Args:
            lines: Header lines, without line ends. With a Content-Length or Transfer-Encoding among them, none
                is added, and the body goes as it is.
            method: The method.
            target: Below the prefix; see ``target`` of the lab.
            body: None for a request without any.
            version: The protocol's.
            host: What Host says, if it is not the proxy's own authority; ``b""`` for no Host line at all.
        """
        head = [method + b" " + self.target(target) + b" " + version]
        host = self.authority if host is None else host
        head += [b"Host: " + host] if host else []
        head += lines
        framed = {line.partition(b":")[0].strip().lower() for line in lines} & {b"content-length", b"transfer-encoding"}
        head += [] if body is None or framed else [b"Content-Length: %d" % len(body)]
        return b"\r\n".join((*head, b"", body or b""))

    async def exchange(
        self,
        *lines: bytes,
        method: bytes = b"GET",
        target: bytes = b"/x",
        body: bytes | None = None,
        version: bytes = b"HTTP/1.1",
        host: bytes | None = None,
        raw: bytes | None = None,
        answer: bytes | Script | None = None,
    ) -> Seen:
        """
        Send one request over a connection of its own, have the upstream answer it, and return what was seen.

        Args:
            lines: This and the others are those of ``request``.
            method: The same.
            target: The same.
            body: The same.
            version: The same.
            host: The same.
            raw: The request's bytes, in the place of all of those; ``method`` still says how the answer is read.
            answer: How the upstream answers: with bytes once the request is complete, or by a script. Without one
                it is as before; at first, a 200.

        Raises:
            TookTooLong: The response did not come, or did not go on.
        """
        before = len(self.upstream.requests)
        if answer is not None:
            self.upstream.answer_with(answer)
        if raw is None:
            raw = self.request(*lines, method=method, target=target, body=body, version=version, host=host)
        client = await self.client()
        await client.send(raw)
        try:
            response = await client.response(method)
        except TookTooLong as late:
            raise TookTooLong(f"the client waited for the response: {late}") from None
        client.close()
        return Seen(response, self.upstream.requests[before:])

    async def decoy(self) -> Upstream:
        """Start another server, on this machine, to which nothing must ever lead; it is stopped with the row."""
        decoy = Upstream(self.timeout)
        self._decoys.append(decoy)
        await decoy.start("127.0.0.1", 0)
        return decoy

    @contextlib.asynccontextmanager
    async def upstream_down(self) -> AsyncIterator[tuple[str, int]]:
        """Have nobody listen at the upstream's address for a block, which is given where that is."""
        place = self._place
        await self.upstream.stop()
        try:
            yield place.upstream_host, place.upstream_port
        finally:
            await self.upstream.start(place.upstream_host, place.upstream_port)

    async def end_row(self) -> None:
        """Close what clients and decoys there still are."""
        for client in self._clients:
            client.close()
        for decoy in self._decoys:
            await decoy.stop()
