"""Several answers as one stream: each piece as it comes, and no more of a body in memory than one piece."""

import logging
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, final, overload

import anyio
import httpx

from ._arrivals import Arrivals, Sink
from ._fan import Fan
from ._requests import Call, RequestLike, check_inputs, shown

if TYPE_CHECKING:
    import httpx2

__all__ = ("StreamPart", "merge_streams")

_logger = logging.getLogger("fastapi_httpx_pool.fanout")

LARGEST: Final = 64 * 1024
"""Bytes of a chunk. Decompressing may make more of what has come at once."""

ResponseT = TypeVar("ResponseT")


@final
@dataclass(frozen=True, slots=True)
class StreamPart(Generic[ResponseT]):
    """One piece of a merged stream: of which source, and what."""

    kind: Literal["start", "chunk", "end", "error"]
    """A source starts, gives chunks, and comes to its end; or it fails, at any time."""
    source: str
    """Its name, or its position among the inputs, counted from 0."""
    response: ResponseT | None = None
    """At the start: status and headers. Its body is not for others to read."""
    chunk: bytes = b""
    """Of the body, decompressed."""
    truncated: bool = False
    """At the end: whether the stream was left because ``max_bytes`` had come."""
    error: Exception | None = None
    """Why it failed; the client's own."""


@overload
def merge_streams(
    client: httpx.AsyncClient,
    requests: Mapping[str, RequestLike] | Iterable[RequestLike] | AsyncIterable[RequestLike],
    *,
    limit: int | None = None,
    timeout: float | None = None,
    max_bytes: int | None = None,
) -> Arrivals[StreamPart[httpx.Response]]: ...
@overload
def merge_streams(
    client: "httpx2.AsyncClient",
    requests: Mapping[str, RequestLike] | Iterable[RequestLike] | AsyncIterable[RequestLike],
    *,
    limit: int | None = None,
    timeout: float | None = None,
    max_bytes: int | None = None,
) -> "Arrivals[StreamPart[httpx2.Response]]": ...


def merge_streams(
    client: Any,
    requests: Any,
    *,
    limit: int | None = None,
    timeout: float | None = None,
    max_bytes: int | None = None,
) -> Arrivals[Any]:
    """
    Stream many answers at once, and give each piece of each of them as it comes, with the name of its source.

    ``async for part in merge_streams(client, {"a": url, "b": url})``; ``MergedStreamResponse`` sends them to a
    browser. A source that fails gives an ``error`` and does not disturb the others. No source is read any
    further before its last piece has been fetched. Leaving the loop closes all of them.

    Args:
        client: Of either family.
        requests: As in ``fan_out``; or a mapping, whose keys are the names of the sources.
        limit: How many are open at once, by default as in ``fan_out``. The others begin as these end, which
            endless ones never do.
        timeout: Seconds for all of them together; None for no limit.
        max_bytes: Of each body, decompressed; the rest is not fetched.

    Raises:
        TimeoutError: From the loop: they were not done in time. All have been closed.
        TypeError: Not a client; or, from the loop, not an input of its family.
        ValueError: A limit is impossible.
    """
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes={max_bytes!r}: at least one; leave it out to have all")
    names: list[str] | None = None
    if isinstance(requests, Mapping):
        names = [str(name) for name in requests]
        requests = list(requests.values())
    check_inputs(requests)
    fan: Fan[Any] = Fan(client, requests, limit, timeout, None)
    return Arrivals(partial(_give_parts, fan, names, max_bytes))


async def _give_parts(fan: Fan[Any], names: list[str] | None, max_bytes: int | None, sink: Sink[Any]) -> None:
    async def attend(call: Call[Any]) -> None:
        name = str(call.index) if names is None else names[call.index]
        try:
            truncated = await _give_answer(fan, call, name, max_bytes, sink)
            last: StreamPart[Any] = StreamPart("end", name, truncated=truncated)
        except Exception as exc:  # noqa: BLE001 -- whoever is given the part decides
            # A text of the error's own may hold secrets.
            _logger.warning("%s, source %r of a merged stream, failed with %s", shown(call), name, type(exc).__name__)
            last = StreamPart("error", name, error=exc)
        await sink.put(last)

    await fan.run(attend)


async def _give_answer(fan: Fan[Any], call: Call[Any], name: str, max_bytes: int | None, sink: Sink[Any]) -> bool:
    """Give start and chunks; return whether the body was left before its end."""
    response = await fan.send(call, stream=True)
    try:
        await sink.put(StreamPart("start", name, response))
        chunks = response.aiter_bytes()
        try:
            left = max_bytes
            async for chunk in chunks:
                for piece in _pieces(chunk, left):
                    await sink.put(StreamPart("chunk", name, chunk=piece))
                if left is not None:
                    left -= len(chunk)
                    if left <= 0:
                        return True
        finally:
            await _unwind(chunks)
    finally:
        with anyio.CancelScope(shield=True):
            await response.aclose()
    return False


def _pieces(chunk: bytes, most: int | None) -> Iterable[bytes]:
    end = len(chunk) if most is None else min(most, len(chunk))
    return (chunk[start : min(start + LARGEST, end)] for start in range(0, end, LARGEST))


async def _unwind(chunks: AsyncIterator[bytes]) -> None:
    """
    End a body that is not read any further.

    The family's iterators are generators inside generators. To close the outermost leaves the inner ones to the
    garbage collector, of which trio complains; cancelling the innermost ends them all, in order.
    """
    with anyio.CancelScope(shield=True) as scope, suppress(Exception):
        scope.cancel()
        async for _ in chunks:
            pass
