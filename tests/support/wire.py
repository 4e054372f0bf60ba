"""Read a response with the engine's reader, in whatever pieces, and with h11, to compare."""

from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import h11

from fastapi_httpx_pool.engine._wire import MAX_HEAD_SIZE, ResponseReader
from fastapi_httpx_pool.exceptions import RemoteProtocolError
from fastapi_httpx_pool.messages import Header

__all__ = ("Outcome", "Told", "cut_at", "from_buffer", "h11_client", "h11_told", "pieces_of", "read", "ways_to_split")


class Outcome(NamedTuple):
    """All that a reader says in the end; the parts that are not whole are empty."""

    error: str
    """Without the bytes that it quotes, which depend on how they came."""
    status: int
    http_version: bytes
    reason: bytes
    headers: list[Header]
    body: bytes
    trailers: list[Header]
    informational: list[tuple[int, list[Header]]]
    complete: bool
    upgraded: bool
    surplus: bytes
    reusable: bool
    keep_alive_hint: int | None


def read(
    pieces: Iterable[bytes | memoryview],
    method: bytes = b"GET",
    *,
    offers: bool = False,
    ends: bool = True,
    max_head_size: int = MAX_HEAD_SIZE,
) -> Outcome:
    """Feed a reader, and let the peer end the stream behind it."""
    reader = ResponseReader(method, may_upgrade=offers, max_head_size=max_head_size)
    error = ""
    try:
        for piece in pieces:
            reader.feed(piece)
        if ends:
            reader.end()
    except RemoteProtocolError as exc:
        error = str(exc).partition("; it came in ")[0].partition(", but with ")[0]
        assert error
    body = b"".join(reader.chunks)
    assert reader.received == len(body)
    assert all(reader.chunks), "no piece of a body is empty"
    return Outcome(
        error,
        reader.status,
        reader.http_version,
        reader.reason if reader.has_head else b"",
        reader.headers if reader.has_head else [],
        body,
        reader.trailers if reader.complete else [],
        reader.informational,
        reader.complete,
        reader.upgraded,
        reader.surplus,
        reader.complete and not error and reader.reusable,
        reader.keep_alive_hint,
    )


def from_buffer(pieces: Collection[bytes]) -> Iterator[memoryview]:
    """Give the pieces one after the other in the same buffer, as a connection does."""
    buffer = bytearray(max(map(len, pieces), default=0))
    for piece in pieces:
        buffer[: len(piece)] = piece
        yield memoryview(buffer)[: len(piece)]
        buffer[:] = b"!" * len(buffer)


def pieces_of(data: bytes, size: int) -> list[bytes]:
    """Cut into pieces of the same size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def ways_to_split(data: bytes) -> Iterator[list[bytes]]:
    """Cut into single bytes, and in two, everywhere (but in long runs of the same byte)."""
    yield pieces_of(data, 1)
    for at in range(1, len(data)):
        if at < 3 or len(set(data[at - 3 : at + 2])) > 1:
            yield [data[:at], data[at:]]


class Told(NamedTuple):
    """What h11 says of a complete response."""

    status: int
    http_version: bytes
    reason: bytes
    headers: list[Header]
    """Names in lower case."""
    body: bytes
    trailers: list[Header]
    informational: list[tuple[int, list[Header]]]


def h11_client(method: bytes = b"GET") -> h11.Connection:
    """Make a connection of h11's that has sent its request."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_SIZE)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    client.send(h11.EndOfMessage())
    return client


def h11_told(data: bytes, method: bytes = b"GET") -> Told | None:
    """Read a response, and the end of the stream, with h11; None if it makes no complete response of it."""
    client = h11_client(method)
    client.receive_data(data)
    client.receive_data(b"")
    head: h11.Response | None = None
    body = b""
    informational: list[tuple[int, list[Header]]] = []
    try:
        for event in iter(client.next_event, None):
            if isinstance(event, h11.InformationalResponse):
                informational.append((event.status_code, list(event.headers)))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                version = b"HTTP/" + head.http_version
                trailers = list(event.headers)
                return Told(head.status_code, version, head.reason, list(head.headers), body, trailers, informational)
            else:
                return None
    except h11.RemoteProtocolError:
        return None
    raise AssertionError("h11 never returns None as an event")


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut at these places, wherever they are."""
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]
