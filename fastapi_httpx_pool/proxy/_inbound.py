"""
The inbound side: the request's body, and the client's departure, which come through one channel.

ASGI has one ``receive``, which gives the body first and then waits for the client to leave. Two
parties want to know: whoever sends the body on, and whoever watches. They take turns: whoever sends
the body on comes first, and the watcher keeps for it what has come meanwhile, up to ``AHEAD``. So a
client that leaves while its request still queues for a connection is noticed, unless it has sent
more than that.
"""

from collections import deque
from collections.abc import AsyncIterator
from time import monotonic
from typing import Final, final

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

__all__ = ("BodyLost", "BodyUnwanted", "Inbound", "RequestTooLarge")

AHEAD: Final = 64 * 1024
"""Bytes of a body that nobody has asked for yet, which are kept."""


class BodyLost(Exception):
    """The request announces a body, and the server gives none."""


class BodyUnwanted(Exception):
    """The rest of the request's body is not sent on any more."""


class RequestTooLarge(Exception):
    """The request's body is longer than it may be."""


@final
class Inbound:
    """An async iterator of the request's body; raises ClientDisconnect if the client leaves before its end."""

    __slots__ = (
        "_doubtful",
        "_failure",
        "_known",
        "_left",
        "_limit",
        "_listening",
        "_news",
        "_reading",
        "_receive",
        "_reserved",
        "_stash",
        "_stashed",
        "complete",
        "length",
        "unwanted",
        "waiting_since",
    )

    def __init__(
        self,
        receive: Receive,
        *,
        body: bytes | None,
        expected: bool,
        reserved: bool = False,
        doubtful: bool = False,
        limit: int | None = None,
    ) -> None:
        """
        Take the channel.

        Args:
            receive: Of the request.
            body: What the route has read already; all of it.
            expected: Whether there is one to read.
            reserved: Whether the channel is left alone until somebody wants the body. Servers
                answer an ``Expect`` with "100 Continue" when the first read comes.
            doubtful: Whether the server may have lost the body.
            limit: Bytes that the body may have.
        """
        self._receive = receive
        self._known = body
        self._reserved = reserved and body is None
        self._doubtful = doubtful
        self._limit = limit
        self._stash: deque[Message] = deque()
        self._stashed = 0
        self._failure: Exception | None = None
        self._news: anyio.Event | None = None
        self._reading = False
        self._listening = False
        self._left = False
        self.complete: bool = not expected
        """Whether all of the body has been read, or nobody wants the rest."""
        self.length: int = 0
        """Bytes of the body so far."""
        self.unwanted: bool = False
        """Whether there was a rest that nobody wanted."""
        self.waiting_since: float | None = None
        """When the wait for the client's next piece began, if it is being waited for."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._known is not None:
            body, self._known = self._known, None
            self.complete = True
            if body:
                return self._counted(body)
        self._reserved = False
        while not self.complete:
            message = await self._next()
            if message["type"] == "http.disconnect":
                self._left = True
                raise ClientDisconnect
            if self.unwanted:
                break
            chunk: bytes = message.get("body", b"")
            self.complete = not message.get("more_body", False)
            if chunk:
                return self._counted(chunk)
        if self._doubtful and not self.length:
            raise BodyLost("the request announces a body, but asks for an upgrade, too, and the server gives none")
        if self.unwanted:
            raise BodyUnwanted  # an end would be taken for the body's
        raise StopAsyncIteration

    async def has_body(self) -> bool:
        """Wait for the first piece, or for the end; nothing is lost."""
        chunk = await anext(self, b"")
        if not chunk:
            return False
        self._keep({"type": "http.request", "body": chunk, "more_body": not self.complete}, first=True)
        self.length = 0
        self.complete = False
        return True

    def listen_now(self) -> None:
        """Let the watcher have the channel, wanted or not."""
        self._reserved = False
        self._tell()

    def stop(self) -> None:
        """Want no more of the body: what still comes is dropped, so that the server has its hands free."""
        self.unwanted = self.unwanted or not self.complete
        self.complete = True
        self.waiting_since = None
        self._known = None
        self._stash.clear()
        self._stashed = 0
        self._tell()

    async def watch(self) -> bool:
        """Wait until the client has left; False if the channel failed, which whoever reads the body is told."""
        while not self._left:
            if self._reading or self._reserved or self._stashed >= AHEAD:
                await self._wait_for_news()
                continue
            self._listening = True
            try:
                message = await self._receive()
            except Exception as exc:  # noqa: BLE001 -- raised again where the body is read
                self._failure = exc
                return False
            finally:
                self._listening = False
                self._tell()
            self._left = message["type"] == "http.disconnect"
            if self._left or not self.complete:
                self._keep(message)
        return True

    def _keep(self, message: Message, *, first: bool = False) -> None:
        self._stashed += len(message.get("body", b""))
        if first:
            self._stash.appendleft(message)
        else:
            self._stash.append(message)

    async def _next(self) -> Message:
        while self._listening and not self._stash:
            self.waiting_since = self.waiting_since or monotonic()
            await self._wait_for_news()
        self.waiting_since = None
        if self._stash:
            message = self._stash.popleft()
            self._stashed -= len(message.get("body", b""))
            self._tell()
            return message
        if self._failure is not None:
            raise self._failure from None
        self._reading = True
        self.waiting_since = monotonic()
        try:
            return await self._receive()
        finally:
            self._reading = False
            self.waiting_since = None
            self._tell()

    def _counted(self, chunk: bytes) -> bytes:
        self.length += len(chunk)
        if self._limit is not None and self.length > self._limit:
            raise RequestTooLarge(f"the body is longer than the {self._limit} bytes that max_request_body allows")
        return chunk

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    async def _wait_for_news(self) -> None:
        # Only one waits at a time: who reads the body while the watcher listens, or the watcher otherwise.
        self._news = anyio.Event()
        await self._news.wait()
