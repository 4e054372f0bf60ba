"""``merge_streams``: pieces of many answers as they come, and every upstream closed whatever happens."""

import gzip
import logging
import threading
from typing import Any

import anyio
import httpx
import pytest

from fastapi_httpx_pool import StreamPart, merge_streams
from tests.support.carriers import ASYNCIO
from tests.support.families import module_of
from tests.support.fanned import Silent, client_of, echo, everywhere, replying, wait
from tests.support.patience import with_patience
from tests.support.ports import refusing_port
from tests.support.upstream import Connection, answering, ok, scripted

pytestmark = pytest.mark.anyio

asyncio_only = pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BEGUN = HEAD + b"5\r\nhello\r\n"


class Piecewise:
    """A script that sends a head, and pieces of a body when the test says so."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.go = threading.Semaphore(0)

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        connection.read_request()
        connection.send(HEAD)
        for piece in (*self._pieces, b""):
            assert self.go.acquire(timeout=20)
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))


def _shown(part: StreamPart[Any]) -> tuple[Any, ...]:
    if part.kind == "chunk":
        return part.source, part.chunk
    return part.source, part.kind


@everywhere
async def test_pieces_as_they_come(family: str) -> None:
    """Each piece of each source comes at once, with the name of the source; so does the end."""
    one, two = Piecewise(b"a1", b"a2"), Piecewise(b"b1")
    with scripted(one) as first, scripted(two) as second:
        async with client_of(family) as client:
            parts = merge_streams(client, {"a": first.url, "b": second.url})
            starts = [await anext(parts), await anext(parts)]
            assert sorted(map(_shown, starts)) == [("a", "start"), ("b", "start")]
            assert [part.response.status_code for part in starts if part.response] == [200, 200]
            seen = []
            for script in (one, two, two, one, one):
                script.go.release()
                seen.append(_shown(await anext(parts)))
            rest = [part async for part in parts]

    assert seen == [("a", b"a1"), ("b", b"b1"), ("b", "end"), ("a", b"a2"), ("a", "end")]
    assert rest == []


@everywhere
async def test_sources_without_names(family: str) -> None:
    """A source without a name is called by its position."""
    with scripted(replying(echo)) as upstream:
        async with client_of(family) as client:
            inputs = iter((upstream.url + "/x", upstream.url + "/y"))
            parts = [part async for part in merge_streams(client, inputs)]

    assert sorted(_shown(part) for part in parts if part.kind == "chunk") == [("0", b"/x"), ("1", b"/y")]


def _breaking_off(connection: Connection) -> None:
    connection.read_request()
    connection.send(BEGUN)
    connection.reset()


@everywhere
async def test_failures_are_parts(family: str, caplog: pytest.LogCaptureFixture) -> None:
    """A source that fails, at whatever time, is a part that says so; the others go on. The log has no secrets."""
    module = module_of(family)
    down = f"http://user:password@127.0.0.1:{refusing_port()}/path?key=secret"
    with scripted(_breaking_off) as breaking, scripted(replying(echo)) as fine, caplog.at_level(logging.WARNING):
        async with client_of(family) as client:
            parts = [
                part async for part in merge_streams(client, {"down": down, "breaks": breaking.url, "fine": fine.url})
            ]

    errors = {part.source: part.error for part in parts if part.kind == "error"}
    assert isinstance(errors["down"], module.ConnectError)
    assert isinstance(errors["breaks"], module.ReadError | module.RemoteProtocolError)
    assert [_shown(part) for part in parts if part.source == "fine"] == [
        ("fine", "start"),
        ("fine", b"/"),
        ("fine", "end"),
    ]
    assert [part.source for part in parts if part.kind == "end"] == ["fine"]
    told = [record.getMessage() for record in caplog.records if record.name == "fastapi_httpx_pool.fanout"]
    assert len(told) == 2
    assert any("/path, source 'down' of a merged stream, failed with ConnectError" in text for text in told)
    assert not any(secret in "".join(told) for secret in ("user", "password", "secret"))


@everywhere
@pytest.mark.parametrize("most", [3, 5])
async def test_first_bytes(family: str, most: int) -> None:
    """With ``max_bytes`` a stream is left when so many have come, although it would never end by itself."""
    silent = Silent(BEGUN)
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            parts = [part async for part in merge_streams(client, [upstream.url], max_bytes=most)]
            assert await silent.none_open()

    assert [_shown(part) for part in parts] == [("0", "start"), ("0", b"hello"[:most]), ("0", "end")]
    assert parts[-1].truncated


@everywhere
async def test_fewer_than_the_first_bytes(family: str) -> None:
    """A body that is shorter comes to its own end."""
    with scripted(replying(echo)) as upstream:
        async with client_of(family) as client:
            parts = [part async for part in merge_streams(client, [upstream.url + "/long"], max_bytes=6)]

    assert b"".join(part.chunk for part in parts) == b"/long"
    assert not parts[-1].truncated


@everywhere
async def test_compressed(family: str) -> None:
    """Bodies are decompressed, and what has become large by that comes in pieces."""
    body = bytes(300_000)
    answer = ok(gzip.compress(body), b"Content-Encoding: gzip")
    with scripted(answering(answer)) as upstream:
        async with client_of(family) as client:
            chunks = [part.chunk async for part in merge_streams(client, [upstream.url]) if part.kind == "chunk"]
            first = [part.chunk async for part in merge_streams(client, [upstream.url], max_bytes=70_000)]

    assert b"".join(chunks) == body
    assert max(map(len, chunks)) <= 65536
    assert sum(map(len, first)) == 70_000


class Flood:
    """A script that sends without end, and tells when its peer takes no more."""

    def __init__(self) -> None:
        self.stalled = threading.Event()
        self.closed = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        connection.read_request()
        connection.sock.settimeout(0.3)
        try:
            connection.sock.sendall(HEAD)
            for _ in range(4096):  # a gigabyte; the kernel's buffers hold some megabytes
                connection.sock.sendall(b"40000\r\n" + bytes(0x40000) + b"\r\n")
        except TimeoutError:
            self.stalled.set()
        connection.sock.settimeout(20)
        if connection.wait_until_closed():
            self.closed.set()


@everywhere
async def test_back_pressure(family: str) -> None:
    """A source is not read any further while its last piece waits; when the loop is left, it is closed."""
    flood = Flood()
    with scripted(flood) as upstream:
        async with client_of(family) as client:
            async with merge_streams(client, [upstream.url]) as parts:
                await anext(parts)
                await wait(flood.stalled)
            await wait(flood.closed)


@everywhere
async def test_leaving(family: str) -> None:
    """When the loop is left every upstream is closed: those that are silent, those that wait to be fetched."""
    silent, talking = Silent(HEAD), Silent(BEGUN)
    with scripted(silent) as first, scripted(talking) as second:
        async with client_of(family) as client:
            async for part in merge_streams(client, [first.url, second.url, second.url]):
                if part.kind == "chunk":
                    break
            assert await silent.none_open()
            assert await talking.none_open()


@everywhere
async def test_cancelled(family: str) -> None:
    """When it is cancelled as well."""
    silent = Silent(BEGUN)
    with scripted(silent) as upstream:
        async with client_of(family) as client, anyio.create_task_group() as group:

            async def read() -> None:
                async for _ in merge_streams(client, [upstream.url] * 3):
                    pass

            group.start_soon(read)
            await silent.arrived(3)
            group.cancel_scope.cancel()
        assert await silent.none_open()


@everywhere
@with_patience(0.2)
async def test_deadline(family: str, limit: float) -> None:
    """When the time is over the loop is told, and all are closed."""
    silent = Silent(BEGUN)
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            parts = merge_streams(client, [upstream.url], timeout=limit)
            seen = [_shown(await anext(parts)), _shown(await anext(parts))]
            with pytest.raises(TimeoutError, match="not done within"):
                await anext(parts)
            assert await silent.none_open()

    assert seen == [("0", "start"), ("0", b"hello")]


@asyncio_only
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_bytes": 0}, ValueError, "max_bytes=0: at least one"),
        ({"limit": 0}, ValueError, "limit=0"),
        ({"requests": "http://a/"}, TypeError, "requests is str"),
        ({"client": httpx.Client}, TypeError, "is not an httpx.AsyncClient"),
    ],
)
async def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    """What cannot be meant is refused at once."""
    async with client_of("httpx") as client:
        with pytest.raises(error, match=text):
            merge_streams(**{"client": client, "requests": [], **arguments})
