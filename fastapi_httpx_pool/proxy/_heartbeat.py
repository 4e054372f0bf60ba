"""Comments in the silence of server-sent events, so that nobody on the way takes it for the end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Final

from .._cancellation import finish

__all__ = ("with_heartbeat",)

COMMENT: Final = b":\n\n"
_BETWEEN_EVENTS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n")
_LONGEST: Final = 4


async def with_heartbeat(chunks: AsyncIterator[bytes], seconds: float) -> AsyncGenerator[bytes, None]:
    """Give the chunks, and a comment whenever there was none for so long; never within an event."""
    end = b"\n\n"
    reading: asyncio.Future[bytes] | None = None
    try:
        while True:
            if reading is None:
                reading = asyncio.ensure_future(_next(chunks))
            done, _ = await asyncio.wait((reading,), timeout=seconds)
            if not done:
                if end.endswith(_BETWEEN_EVENTS):
                    yield COMMENT
                continue
            chunk = reading.result()
            reading = None
            if not chunk:
                return
            end = (end + chunk)[-_LONGEST:]
            yield chunk
    finally:
        if reading is not None:
            # Whoever closes the chunks next must not find them running, however often this is cancelled.
            await finish(partial(_end, reading))


async def _end(reading: "asyncio.Future[bytes]") -> None:
    reading.cancel()
    await asyncio.wait((reading,))
    if not reading.cancelled():
        reading.exception()  # or asyncio would complain that nobody has asked for it


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    async for chunk in chunks:
        if chunk:
            return chunk
    return b""
