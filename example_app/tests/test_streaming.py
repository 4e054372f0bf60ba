"""The routes that pass an answer through while it comes."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from example_app.tests.support import example_over
from tests.support.server import Running
from tests.support.upstream import LIMIT, Connection, scripted

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def in_two_pieces(first: bytes, last: bytes) -> Iterator[tuple[Running, threading.Event]]:
    """Serve the application over an upstream that sends the last piece only after the event."""
    seen = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED + b"%x\r\n%b\r\n" % (len(first), first))
        assert seen.wait(LIMIT), "the first piece did not arrive before the last was sent"
        connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))

    with scripted(script) as upstream, example_over(upstream.url) as running:
        yield running, seen


@pytest.mark.parametrize(
    ("path", "first", "last"),
    [
        ("/stream/page", b"one\n", b"two\n"),
        ("/stream/slow", b"one\n", b"two\n"),
        ("/stream/opened", b"one\n", b"two\n"),
        ("/stream/file", b"one\n", b"two\n"),
        ("/stream/events", b"data: one\n\n", b"data: two\n\n"),
        ("/stream/shout", b"ONE\n", b"TWO\n(2 lines read on the way)\n"),
    ],
)
def test_first_piece_arrives_before_the_last_is_sent(path: str, first: bytes, last: bytes) -> None:
    """Whatever streams gives each piece on at once, also when it is read on the way."""
    upstream_last = last.lower().partition(b"(")[0]
    with (
        in_two_pieces(first.lower(), upstream_last) as (example, seen),
        httpx.stream("GET", example.url + path) as response,
    ):
        pieces = response.iter_raw()
        assert next(pieces) == first
        seen.set()
        assert b"".join(pieces) == last


def test_page_is_streamed_with_status_headers_and_body(upstream: Running, example: Running) -> None:
    """A page that is streamed through is the upstream's own, and so is one from an opened response."""
    expected = httpx.get(f"{upstream.url}/page")
    for path in ("/stream/page", "/stream/opened"):
        response = httpx.get(example.url + path)
        assert response.status_code == 200
        assert response.headers["content-type"] == expected.headers["content-type"]
        assert response.headers["content-length"] == expected.headers["content-length"]
        assert response.text == expected.text


def test_content_is_read_and_changed_on_the_way(example: Running) -> None:
    """The hook changes headers and body, and the old length is not told."""
    response = httpx.get(f"{example.url}/stream/shout?lines=2&interval=0")
    assert response.text == "LINE 1 OF 2\nLINE 2 OF 2\n(2 lines read on the way)\n"
    assert response.headers["x-read-on-the-way"] == "yes"
    assert "content-length" not in response.headers


def test_events_pass_through_as_they_are(example: Running) -> None:
    """Server-sent events keep their type and their framing."""
    response = httpx.get(f"{example.url}/stream/events?count=2&interval=0")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text == "".join(f"id: {n}\nevent: tick\ndata: tick {n} of 2\n\n" for n in (1, 2))


def test_large_file_passes_whole(upstream: Running, example: Running) -> None:
    """A file of many pieces arrives with its length and its content."""
    size = 5_000_001
    response = httpx.get(f"{example.url}/stream/file", params={"bytes": size})
    assert int(response.headers["content-length"]) == len(response.content) == size
    direct = httpx.get(f"{upstream.url}/file", params={"bytes": size})
    assert hashlib.sha256(response.content).digest() == hashlib.sha256(direct.content).digest()


@pytest.mark.parametrize("in_chunks", [False, True])
def test_upload_reaches_the_upstream(example: Running, in_chunks: bool) -> None:
    """The upstream gets the body that was posted, with a length and in chunks."""
    body = bytes(range(256)) * 4096
    content = iter((body[:500_000], body[500_000:])) if in_chunks else body
    answer = httpx.post(f"{example.url}/upload", content=content).json()
    assert answer == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_upload_is_passed_on_while_it_arrives() -> None:
    """The upstream has the first piece of an upload before the browser sends the last."""
    seen = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        assert connection.read_until(b"first").endswith(b"first")
        seen.set()
        connection.read_until(b"0\r\n\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def pieces() -> Iterator[bytes]:
        yield b"first"
        assert seen.wait(LIMIT), "the upstream did not get the first piece"
        yield b"last"

    with scripted(script) as upstream, example_over(upstream.url) as example:
        assert httpx.post(f"{example.url}/upload", content=pieces()).text == "ok"
