"""
The sending of a request's body that does not go out together with the head, piece by piece.

It keeps nothing: how far it is stands on the exchange, which may end at any time. The rules:

1. Before each piece the exchange is asked whether it makes sense to send more: the answer may have
   come meanwhile, and a refusal ends the upload.
2. What has been written is noted in the step that writes it: ``rest`` is empty from the last byte on.
   ``uploaded`` is true when the upload is over, unless it was stopped or failed.
3. What waits to go out is bounded: nothing is written while ``write_paused``, and the loop gets its
   turn now and then, however fast the body is made and the peer reads.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final, Protocol

from ..exceptions import LocalProtocolError
from ._connection import Connection
from ._wire import LAST_CHUNK, Head, ResponseReader, chunk_of

__all__ = ("NOTHING", "Sender", "check_body", "framed", "send_bytes", "send_stream")

SLICE: Final = 256 * 1024
"""Bytes of a body in memory that are written at a time."""
STINT: Final = 64 * 1024
"""Bytes of one that is made while it is sent, after which the loop gets a turn."""
NOTHING: Final = memoryview(b"")
"""The rest of a body that has been written."""


class Sender(Protocol):
    """The exchange, as far as the sending of its body knows it."""

    connection: Connection | None
    reader: ResponseReader
    rest: memoryview | None
    uploaded: bool

    def goes_on(self) -> bool:
        """Whether it makes sense to send more; if so, there is a connection."""
        ...

    async def wait_for_drain(self) -> None:
        """Wait until little is left of what has been written, or there is no point any more."""


def check_body(body: object, head: Head) -> None:
    """
    See whether a body in memory is as long as its head says.

    Raises:
        LocalProtocolError: It is not; it would end up in the next request, or that one in it.
    """
    if head.length is None or not (body is None or isinstance(body, bytes)):
        return
    length = 0 if body is None else len(body)
    if length > head.length:
        raise LocalProtocolError("Too much data for declared Content-Length")
    if length < head.length:
        raise LocalProtocolError("Too little data for declared Content-Length")


def framed(body: bytes, head: Head) -> bytes:
    """Return a body in memory as it goes over the wire."""
    return body if head.length is not None else chunk_of(body) + LAST_CHUNK


async def send_bytes(sender: Sender, *, until_head: bool = False) -> bool:
    """Write the rest of a body in memory; whether all of it has been written."""
    while await _may_send(sender):
        if until_head and sender.reader.has_head:
            return False
        connection, rest = sender.connection, sender.rest
        assert connection is not None
        assert rest is not None
        if connection.write_paused:
            await sender.wait_for_drain()
        elif rest:
            sender.rest = rest[SLICE:]
            connection.write(rest[:SLICE])
            await _let_the_loop_turn()
        else:
            sender.uploaded = True
            return True
    return False


async def send_stream(sender: Sender, body: AsyncIterable[bytes], length: int | None) -> None:
    """
    Write a body as it is made, and close what makes it.

    Raises:
        LocalProtocolError: It is not as long as the head says.
        BaseException: Whatever the body raised.
    """
    chunks = aiter(body)
    try:
        if await _send_chunks(sender, chunks, length):
            sender.uploaded = True
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _send_chunks(sender: Sender, chunks: AsyncIterator[bytes], left: int | None) -> bool:
    """Write all chunks, until there is no point any more; whether all have been written."""
    unturned = 0
    async for chunk in chunks:
        if not await _may_send(sender):
            return False
        if not chunk:
            continue  # would be the last one
        if left is not None:
            left -= len(chunk)
            if left < 0:
                raise LocalProtocolError("Too much data for declared Content-Length")
        _write(sender, chunk if left is not None else chunk_of(chunk), last=left == 0)
        unturned = await _pace(sender, unturned + len(chunk))
    if not sender.goes_on():
        return False
    if left:
        raise LocalProtocolError("Too little data for declared Content-Length")
    if left is None:
        _write(sender, LAST_CHUNK, last=True)
    return True


def _write(sender: Sender, data: bytes, *, last: bool) -> None:
    assert sender.connection is not None
    sender.connection.write(data)
    if last:
        sender.rest = NOTHING


async def _pace(sender: Sender, unturned: int) -> int:
    """Wait if need be after so many bytes without a turn of the loop; return how many that are now."""
    connection = sender.connection
    assert connection is not None
    if connection.write_paused:
        while connection.write_paused and sender.goes_on():
            await sender.wait_for_drain()
    elif unturned >= STINT:
        await _let_the_loop_turn()
    else:
        return unturned
    return 0


async def _may_send(sender: Sender) -> bool:
    """Whether it makes sense to send more, also after a look at what has come meanwhile."""
    if sender.goes_on() and not sender.reader.has_head:
        connection = sender.connection
        assert connection is not None
        # Whoever makes the body may have kept the loop from reading. A refusal is lost if the
        # next write is what tells that the peer has closed the connection after it.
        if connection.is_readable():
            await _let_the_loop_turn()
    return sender.goes_on()


async def _let_the_loop_turn() -> None:
    # asyncio tells of a failed send two turns later; a tight loop would write on into the void, and
    # never see the answer that explains it.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
