"""Bodies that sync clients send: what is read in the caller's thread is read there, and when it is wanted."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fastapi_httpx_pool import ClientSettings, SyncClientDep, create_lifespan

from .support.families import FAMILIES, module_of
from .support.upstream import LIMIT, Connection, Upstream, ok, scripted
from .test_sync import run

both_families = pytest.mark.parametrize("family", FAMILIES)


def dechunked(body: bytes) -> bytes:
    """Return a chunked body without its framing."""
    data = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        data, body = data + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return data


@pytest.fixture(name="echo", scope="module")
def _echo() -> Iterator[Upstream]:
    def script(connection: Connection) -> None:
        while True:
            head, body = connection.read_request()
            if not head:
                return
            connection.send(ok(dechunked(body) if b"chunked" in head.lower() else body))

    with scripted(script) as upstream:
        yield upstream


@both_families
def test_every_kind_of_body(family: str, echo: Upstream, tmp_path: Path) -> None:
    """Bytes, text, lists, generators, files and asynchronous iterators all arrive."""
    file = tmp_path / "file"
    file.write_bytes(b"f" * 200_000)

    async def asynchronous() -> AsyncIterator[bytes]:
        yield b"async"

    def use(client: Any) -> list[bytes]:
        with file.open("rb") as opened:
            bodies: list[Any] = [
                b"bytes",
                "text",
                [b"a", b"list"],
                (b"%d" % n for n in range(5)),
                opened,
                asynchronous(),
            ]
            return [client.post(echo.url, content=body).content for body in bodies]

    assert run(use, family) == [b"bytes", b"text", b"alist", b"01234", b"f" * 200_000, b"async"]


@both_families
def test_multipart(family: str, echo: Upstream) -> None:
    """A form with a file is read in the caller's thread, too, and not in the loop."""
    readers: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            readers.append(threading.get_ident())
            return super().read(size)

    def use(client: Any) -> tuple[str, int]:
        answer = client.post(echo.url, data={"a": "b"}, files={"file": ("name.bin", File(b"content"))})
        return answer.text, threading.get_ident()

    text, caller = run(use, family)
    assert 'filename="name.bin"' in text
    assert "content" in text
    assert set(readers) == {caller}


def test_generator_runs_in_the_callers_thread(echo: Upstream) -> None:
    """A generator runs where it was made, also while the upload waits for it."""
    seen: list[int] = []

    def body() -> Iterator[bytes]:
        for _ in range(3):
            seen.append(threading.get_ident())
            yield b"x"

    def use(client: httpx.Client) -> tuple[str, int]:
        return client.post(echo.url, content=body()).text, threading.get_ident()

    text, caller = run(use)
    assert text == "xxx"
    assert seen == [caller] * 3


def test_error_of_the_generator(echo: Upstream) -> None:
    """What the generator raises comes out of the call as it is, and the connection is closed."""
    left: list[bool] = []

    def body() -> Iterator[bytes]:
        yield b"some"
        raise KeyError("mine")

    def script(connection: Connection) -> None:
        left.append(connection.wait_until_closed())

    with scripted(script) as upstream:

        def use(client: httpx.Client) -> str:
            with pytest.raises(KeyError, match="mine"):
                client.post(upstream.url, content=body())
            return client.post(echo.url, content=b"next").text

        assert run(use) == "next"
    assert left == [True]


def test_both_directions_at_once() -> None:
    """An upstream may answer while it is sent to: reading the answer goes on sending the body."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (piece := connection.read_until(b"\r\n") + connection.read_until(b"\r\n")) != b"0\r\n\r\n":
            connection.send(piece)
        connection.send(piece)

    with scripted(script) as upstream:

        def use(client: httpx.Client) -> list[str]:
            happened: list[str] = []

            def body() -> Iterator[bytes]:
                for number in range(3):
                    happened.append(f"sent {number}")
                    yield b"%d" % number

            with client.stream("POST", upstream.url, content=body()) as response:
                happened.extend(f"got {chunk.decode()}" for chunk in response.iter_bytes())
            return happened

        happened = run(use)
    assert [what for what in happened if what.startswith("sent")] == ["sent 0", "sent 1", "sent 2"]
    assert "".join(what.removeprefix("got ") for what in happened if what.startswith("got")) == "012"


def test_refused_upload() -> None:
    """An upstream that refuses early is heard; the rest of the body is not asked for, and nothing hangs."""

    def script(connection: Connection) -> None:
        connection.read_until(b"4\r\nsome\r\n")
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        connection.wait_until_closed()

    asked = 0

    def body() -> Iterator[bytes]:
        nonlocal asked
        for _ in range(1_000_000):
            asked += 1
            yield b"some"

    with scripted(script) as upstream:

        def use(client: httpx.Client) -> tuple[int, str]:
            response = client.post(upstream.url, content=body())
            return response.status_code, response.text

        assert run(use) == (413, "no")
    assert asked < 1_000_000


def test_stream_left_while_sending() -> None:
    """Leaving an answer whose request has not been sent to its end closes both."""
    left: list[bool] = []

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
        left.append(connection.wait_until_closed())

    def body() -> Iterator[bytes]:
        while True:
            yield b"x"

    with scripted(script) as upstream:

        def use(client: httpx.Client) -> bytes:
            with client.stream("POST", upstream.url, content=body()) as response:
                return next(response.iter_bytes())

        assert run(use) == b"some"
    assert left == [True]


def redirecting(connection: Connection) -> None:
    """Send whoever asks for ``/a`` to ``/b``, where the body is sent back."""
    while head := connection.read_head():
        body = dechunked(connection.read_until(b"0\r\n\r\n"))
        if b" /a " in head:
            connection.send(b"HTTP/1.1 307 Again\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")
        else:
            connection.send(ok(body))


@both_families
def test_redirect_sends_it_again(family: str) -> None:
    """After a 307 a list is sent again from its beginning; a generator cannot be, and the family says so."""
    with scripted(redirecting) as upstream:

        def use(client: Any) -> str:
            url = f"{upstream.url}/a"
            with pytest.raises(module_of(family).StreamConsumed):
                client.post(url, content=(piece for piece in (b"a", b"b")), follow_redirects=True)
            return str(client.post(url, content=[b"a", b"b"], follow_redirects=True).text)

        assert run(use, family) == "ab"


def test_request_is_sent_again(echo: Upstream) -> None:
    """A request with a list as its body is as it was afterwards, and so is the one of its response."""

    def use(client: httpx.Client) -> list[str]:
        request = client.build_request("POST", echo.url, content=[b"a", b"b"])
        before = request.stream
        first = client.send(request)
        assert request.stream is before
        return [first.text, client.send(request).text, client.send(first.request).text]

    assert run(use) == ["ab"] * 3


def test_request_of_a_redirect_is_sent_again() -> None:
    """A redirected response's own request can be sent again as well."""
    with scripted(redirecting) as upstream:

        def use(client: httpx.Client) -> str:
            response = client.post(f"{upstream.url}/a", content=[b"a", b"b"], follow_redirects=True)
            return client.send(response.request).text

        assert run(use) == "ab"


def test_digest_reads_it_first(echo: Upstream) -> None:
    """Auth that has to see the body gets it."""

    class Signed(httpx.Auth):
        requires_request_body = True

        def auth_flow(self, request: httpx.Request) -> Any:
            request.headers["X-Length"] = str(len(request.content))
            yield request

    def use(client: httpx.Client) -> list[str]:
        response = client.post(echo.url, content=iter([b"a", b"b"]), auth=Signed())
        return [response.text, response.request.headers["x-length"]]

    assert run(use) == ["ab", "2"]


def test_one_stream_into_another(echo: Upstream) -> None:
    """What is downloaded can be uploaded, chunk by chunk, through one client in one thread."""

    def use(client: httpx.Client) -> int:
        with client.stream("POST", echo.url, content=b"x" * 300_000) as download:
            return len(client.post(echo.url, content=download.iter_bytes()).content)

    assert run(use) == 300_000


class _Cancelling:
    """ASGI middleware that cancels a request's task when an event is set."""

    def __init__(self, app: Any, when: threading.Event, done: threading.Event) -> None:
        self.app = app
        self.when = when
        self.done = done

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on what is no request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        task = asyncio.ensure_future(self.app(scope, receive, send))
        with anyio.fail_after(LIMIT):
            while not self.when.is_set():  # noqa: ASYNC110 -- a thread sets it
                await anyio.sleep(0.001)
        task.cancel()
        await asyncio.wait((task,))
        self.done.set()
        await send({"type": "http.response.start", "status": 504, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("where", ["reading", "waiting"])
def test_cancelled_upload(where: str) -> None:
    """A request that is cancelled ends its upload: while a piece is being read, or while the answer is awaited."""
    when, done, over = threading.Event(), threading.Event(), threading.Event()
    left: list[bool] = []

    def script(connection: Connection) -> None:
        connection.read_until(b"0\r\n\r\n" if where == "waiting" else b"4\r\nsome\r\n")
        if where == "waiting":
            when.set()
        left.append(connection.wait_until_closed())

    def body() -> Iterator[bytes]:
        yield b"some"
        if where == "reading":
            when.set()
            assert done.wait(LIMIT)
            yield b"more"

    app = FastAPI(lifespan=create_lifespan(ClientSettings(trust_env=False)))

    @app.get("/")
    def route(client: SyncClientDep) -> None:
        try:
            with pytest.raises(asyncio.CancelledError):
                client.post(upstream.url, content=body())
        finally:
            over.set()

    app.add_middleware(_Cancelling, when=when, done=done)
    with scripted(script) as upstream, TestClient(app) as browser:
        assert browser.get("/").status_code == 504
        assert over.wait(LIMIT)
    assert left == [True]


def test_answer_that_comes_too_late() -> None:
    """An answer that arrives while the body is read, for a request that is cancelled then, is closed."""
    answered, cancelled, over = threading.Event(), threading.Event(), threading.Event()
    left: list[bool] = []

    def script(connection: Connection) -> None:
        connection.read_until(b"4\r\nsome\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
        left.append(connection.wait_until_closed())

    def body() -> Iterator[bytes]:
        yield b"some"
        assert cancelled.wait(LIMIT)
        yield b"more"

    async def note(response: httpx.Response) -> None:
        answered.set()

    app = FastAPI(lifespan=create_lifespan(ClientSettings(trust_env=False)))

    @app.get("/")
    def route(client: SyncClientDep) -> None:
        client.event_hooks = {"response": [note]}
        try:
            with pytest.raises(asyncio.CancelledError), client.stream("POST", upstream.url, content=body()):
                pytest.fail("it was opened")
        finally:
            over.set()

    app.add_middleware(_Cancelling, when=answered, done=cancelled)
    with scripted(script) as upstream, TestClient(app) as browser:
        assert browser.get("/").status_code == 504
        assert over.wait(LIMIT)
    assert left == [True]
