"""
The inbound side: the request's body, and the client's departure, which come through one channel.

ASGI has one ``receive``, which gives the body first and then waits for the client to leave. So one
task listens from the beginning to the end, one chunk ahead of the upload: a client that leaves
while its request still queues for a connection is noticed, unless it has sent more than that.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import final

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

__all__ = ("Inbound",)


@final
class Inbound:
    """An async iterator of the request's body; raises ClientDisconnect if the client leaves before its end."""

    def __init__(self, request: Request | None, receive: Receive) -> None:
        """
        Take the channel.

        Args:
            request: Whose body to read; a body that the route has read already comes from memory.
                None if nobody wants it.
            receive: Of the request.
        """
        self._request = request
        self._receive = receive
        self._put, self._take = anyio.create_memory_object_stream[bytes](1)
        self._wanted = anyio.Event()
        self._first: bytes | None = None
        self._error: Exception | None = None
        if request is None or "expect" not in request.headers:
            # Servers answer an Expect with "100 Continue" when the first read comes, so that one
            # is left until the upstream takes the body.
            self._wanted.set()

    async def listen(self) -> bool:
        """
        Read the body for whoever iterates, then wait for the client to leave.

        Returns:
            Whether it left; False if the channel failed, which whoever iterates is told.
        """
        await self._wanted.wait()
        try:
            if self._request is not None:
                await self._read(self._request)
        except ClientDisconnect as exc:
            self._error = exc
            return True
        except Exception as exc:  # noqa: BLE001 -- raised again where the body is iterated
            self._error = exc
            return False
        finally:
            self._put.close()
        while (await self._receive())["type"] != "http.disconnect":
            pass  # a rest of the request that nobody wanted
        return True

    async def _read(self, request: Request) -> None:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                if chunk:
                    await self._put.send(chunk)

    async def has_body(self) -> bool:
        """Wait for the first chunk, or for the end; it is not lost."""
        self._wanted.set()
        self._first = await anext(self, None)
        return self._first is not None

    def listen_now(self) -> None:
        """Stop waiting for somebody to want the body."""
        self._wanted.set()

    def close(self) -> None:
        """Give up."""
        self._put.close()
        self._take.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        self._wanted.set()
        try:
            return await self._take.receive()
        except anyio.EndOfStream:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None
