"""``MergedStreamResponse``: several upstreams in one answer to a browser."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest
from fastapi import Request
from starlette.background import BackgroundTask

from fastapi_httpx_pool import Arrivals, MergedStreamResponse, StreamPart, get_client, merge_streams
from fastapi_httpx_pool.fanout._arrivals import Sink
from tests.support.answers import ask, get, read_chunk
from tests.support.carriers import ASYNCIO
from tests.support.fanned import Silent, client_of, echo, everywhere, replying
from tests.support.ports import refusing_port
from tests.support.raw_client import raw_client
from tests.support.stack import UVICORN, Stack
from tests.support.upstream import answering, ok, scripted

on_each_server = pytest.mark.parametrize("stack", UVICORN, ids=lambda stack: stack.server)

BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@contextmanager
def _serving(stack: Stack, requests: Any, options: dict[str, Any] | None = None, **response: Any) -> Iterator[int]:
    async def respond(request: Request) -> MergedStreamResponse:
        client = await get_client(request)
        return MergedStreamResponse(merge_streams(client, requests, **(options or {})), **response)

    with stack.routing(respond, stack.settings()) as port:
        yield port


async def _never() -> Any:
    await anyio.sleep_forever()


def _events(body: bytes) -> list[dict[str, Any]]:
    """Take server-sent events apart, and check that their tags say what their records say."""
    records = []
    for event in body.decode("ascii").removesuffix("\n\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in event.split("\n"))
        record = json.loads(lines["data"])
        assert lines["event"] == record["kind"]
        assert lines.get("id") == record.get("source")
        records.append(record)
    return records


def _lines(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.decode("ascii").splitlines()]


def _of(records: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    return [record for record in records if record.get("source") == source]


@on_each_server
@pytest.mark.parametrize(
    ("media_type", "parse", "content_type"),
    [
        ("text/event-stream", _events, b"text/event-stream; charset=utf-8"),
        ("application/x-ndjson", _lines, b"application/x-ndjson"),
    ],
    ids=["events", "lines"],
)
def test_records(stack: Stack, media_type: Any, parse: Callable[[bytes], Any], content_type: bytes) -> None:
    """A browser gets the records of each source, and at the end one of all; failures have a name and no details."""
    with scripted(answering(ok("größer\n".encode(), b"Content-Type: text/plain"))) as upstream:
        requests = {"fine": upstream.url, "down": f"http://127.0.0.1:{refusing_port()}/"}
        with _serving(stack, requests, media_type=media_type) as port:
            answer = ask(port, get())

    records = parse(answer.body)
    assert answer.complete
    assert answer.status == 200
    assert answer.values(b"content-type") == [content_type]
    assert answer.values(b"cache-control") == [b"no-store"]
    assert answer.values(b"content-length") == []
    assert _of(records, "fine") == [
        {"kind": "start", "source": "fine", "status": 200, "content_type": "text/plain"},
        {"kind": "chunk", "source": "fine", "text": "größer\n"},
        {"kind": "end", "source": "fine", "truncated": False},
    ]
    assert _of(records, "down") == [{"kind": "error", "source": "down", "error": "ConnectError"}]
    assert records[-1] == {"kind": "done", "sources": 2, "failed": 1}
    assert b"127.0.0.1" not in answer.body


@on_each_server
def test_first_bytes_as_base64(stack: Stack) -> None:
    """Bytes that are no text come as base64; of what is longer than ``max_bytes``, the beginning."""
    with (
        scripted(answering(ok(b"\xff\xfe\x00rest"))) as upstream,
        _serving(stack, [upstream.url], {"max_bytes": 3}, encoding="base64", media_type="application/x-ndjson") as port,
    ):
        records = _lines(ask(port, get()).body)

    assert records[1:3] == [
        {"kind": "chunk", "source": "0", "base64": "//4A"},
        {"kind": "end", "source": "0", "truncated": True},
    ]


@pytest.mark.parametrize(
    ("pieces", "charset", "text"),
    [
        ((b"\xc3", b"\xa4", b"\xc3\xb6"), "utf-8", "äö"),
        ((b"end\xc3",), "utf-8", "end\ufffd"),
        ((b"a\xffb",), "utf-8", "a\ufffdb"),
        ((b"\xe4\xf6",), "latin-1", "äö"),
        ((b"abc",), "hex", "abc"),
        ((b"abc",), "undefined", "abc"),
        ((b"abc",), "no-such-charset", "abc"),
        ((b"\xe2\x80\xa8\x00\r\n",), "utf-8", "\u2028\0\r\n"),
    ],
)
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])
async def test_text(pieces: tuple[bytes, ...], charset: str, text: str) -> None:
    """Text is decoded by its charset across pieces; what is none is replaced, and nothing in it can end a record."""
    upstream = httpx.Response(200, headers={"content-type": f"text/plain; charset={charset}"})

    async def work(sink: Sink[StreamPart[httpx.Response]]) -> None:
        await sink.put(StreamPart("start", "a", upstream))
        for piece in pieces:
            await sink.put(StreamPart("chunk", "a", chunk=piece))
        await sink.put(StreamPart("end", "a"))

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await MergedStreamResponse(Arrivals(work))({"type": "http", "method": "GET"}, _never, send)

    records = _events(b"".join(message["body"] for message in sent[1:]))
    assert "".join(record.get("text", "") for record in records) == text
    assert [record["kind"] for record in records if not record.get("text")] == ["start", "end", "done"]
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert b"" not in [message["body"] for message in sent[1:-1]]


def test_names_are_no_lines() -> None:
    """A source's name cannot begin a line of its own."""
    with scripted(replying(echo)) as upstream, _serving(UVICORN[0], {"a\nevent: done\n\n": upstream.url}) as port:
        body = ask(port, get()).body

    assert body.count(b"\n\n") == 4
    assert body.count(b"\nevent: done\n") == 1


@on_each_server
def test_deadline(stack: Stack) -> None:
    """When the time is over the browser is told, and the answer ends."""
    silent = Silent(BEGUN)
    with scripted(silent) as upstream, _serving(stack, [upstream.url], {"timeout": 0.3}) as port:
        answer = ask(port, get())
        assert silent.none_open_now()

    assert answer.complete
    assert _events(answer.body)[-2:] == [
        {"kind": "error", "error": "TimeoutError"},
        {"kind": "done", "sources": 0, "failed": 0},
    ]


@on_each_server
@pytest.mark.parametrize("leave", ["close", "reset"])
def test_browser_leaves(stack: Stack, leave: str) -> None:
    """When the browser leaves, all upstreams are closed, though none of them says anything any more."""
    silent = Silent(BEGUN)
    with scripted(silent) as upstream, _serving(stack, [upstream.url] * 3) as port, raw_client(port) as browser:
        browser.send(get())
        browser.read_head()
        chunks = [read_chunk(browser) for _ in range(6)]  # start and chunk of each
        assert None not in chunks
        getattr(browser, leave)()
        assert silent.none_open_now()


@on_each_server
def test_browser_leaves_before_anything_came(stack: Stack) -> None:
    """Also if nothing has come from the upstreams yet."""
    silent = Silent()
    with scripted(silent) as upstream, _serving(stack, [upstream.url]) as port, raw_client(port) as browser:
        browser.send(get())
        assert silent._arrivals.acquire(timeout=20)
        browser.close()
        assert silent.none_open_now()


@on_each_server
def test_head(stack: Stack) -> None:
    """A HEAD request gets the headers, and no upstream is asked."""
    with scripted(replying(echo)) as upstream, _serving(stack, [upstream.url], headers={"x-mine": "1"}) as port:
        answer = ask(port, get(method=b"HEAD"))
        assert upstream.accepted == 0

    assert answer.status == 200
    assert answer.values(b"x-mine") == [b"1"]


def test_background_and_status() -> None:
    """The background task runs when the browser has everything; the status is the route's."""
    done = threading.Event()
    background = BackgroundTask(done.set)
    with (
        scripted(replying(echo)) as upstream,
        _serving(UVICORN[0], [upstream.url], status_code=207, background=background) as port,
    ):
        assert ask(port, get()).status == 207
        assert done.wait(20)


def test_request_body_is_skipped() -> None:
    """A body that the route has not read is not taken for the browser's leaving."""
    with scripted(replying(echo)) as upstream, _serving(UVICORN[0], [upstream.url]) as port:
        request = get(b"/", b"Content-Length: 4", method=b"POST") + b"body"
        assert _events(ask(port, request).body)[-1] == {"kind": "done", "sources": 1, "failed": 0}


# By hand.


@pytest.mark.anyio
@everywhere
async def test_background(family: str) -> None:
    """The background task runs after the last message, in each event loop."""
    order: list[str] = []

    async def send(message: Any) -> None:
        order.append(message["type"])

    with scripted(replying(echo)) as upstream:
        async with client_of(family) as client:
            parts = merge_streams(client, [upstream.url])
            response = MergedStreamResponse(parts, background=BackgroundTask(order.append, "background"))
            await response({"type": "http", "method": "GET"}, _never, send)

    assert order == ["http.response.start", *["http.response.body"] * 5, "background"]


@pytest.mark.anyio
@everywhere
async def test_server_that_raises(family: str) -> None:
    """A server whose ``send`` raises says that the browser has left: no error, no background task."""
    silent = Silent(BEGUN)
    ran: list[str] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError

    with scripted(silent) as upstream:
        async with client_of(family) as client:
            parts = merge_streams(client, [upstream.url])
            response = MergedStreamResponse(parts, background=BackgroundTask(ran.append, "background"))
            await response({"type": "http", "method": "GET"}, _never, send)
            assert client.pool_statistics().active == 0
            assert await silent.none_open()

    assert ran == []


@pytest.mark.anyio
@everywhere
async def test_inputs_that_fail(family: str) -> None:
    """What the inputs themselves raise is the app's own mistake: it comes out as it is, and breaks the answer off."""

    def urls() -> Iterator[str]:
        yield upstream.url
        raise ZeroDivisionError

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    silent = Silent()
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            response = MergedStreamResponse(merge_streams(client, urls()))
            with pytest.raises(ZeroDivisionError):
                await response({"type": "http", "method": "GET"}, _never, send)
            assert await silent.none_open()

    assert [message["type"] for message in sent] == ["http.response.start"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])
async def test_wrong_arguments() -> None:
    """What cannot be meant is refused with a text that says what is."""
    async with client_of("httpx") as client:
        parts = merge_streams(client, [])
        with pytest.raises(TypeError, match=r"is not what merge_streams\(client, requests\) returns"):
            MergedStreamResponse(client)
        with pytest.raises(ValueError, match="media_type='text/html' is none of 'text/event-stream', 'application/x-"):
            MergedStreamResponse(parts, media_type="text/html")  # type: ignore[arg-type] # that is the point
        with pytest.raises(ValueError, match="encoding='utf-8' is none of 'text', 'base64'"):
            MergedStreamResponse(parts, encoding="utf-8")  # type: ignore[arg-type] # likewise
