"""The machine behind the doors, driven through ASGI by hand: what no server and no client would show."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from fastapi_httpx_pool import (
    ClientMiddleware,
    ClientSettings,
    ProxyPolicy,
    ProxyRequest,
    ReverseProxy,
    StreamingProxyResponse,
    UpstreamAborted,
)
from fastapi_httpx_pool.messages import Header
from fastapi_httpx_pool.proxy._heartbeat import with_heartbeat
from fastapi_httpx_pool.proxy._inbound import BodyUnwanted, Inbound
from fastapi_httpx_pool.proxy._lifespan import run_lifespan
from tests.support.asgi import started
from tests.support.patience import with_patience
from tests.support.upstream import LIMIT, Connection, answering, ok, scripted

HOST: Header = (b"host", b"front.example")
Sent = list[dict[str, Any]]


def scope_of(method: str = "GET", *headers: Header, **more: Any) -> dict[str, Any]:
    """Return a request's scope."""
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "http_version": "1.1",
        "path": "/",
        "query_string": b"",
        "headers": [HOST, *headers],
        **more,
    }


async def silent() -> Any:
    """Give no message."""
    await anyio.sleep_forever()


def sending(*bodies: bytes) -> Any:
    """Return a channel that gives a body in pieces and falls silent."""
    left = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    left.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return left.pop(0) if left else await silent()

    return receive


async def asked(proxy: ReverseProxy, scope: dict[str, Any], receive: Any = silent) -> Sent:
    """Send a request through a proxy whose own lifespan runs, and return the messages that came back."""
    sent: Sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with started(proxy):
        with anyio.fail_after(20):
            await proxy(scope, receive, send)
    return sent


def proxy_to(url: str, *, via_in_responses: bool = False, **options: Any) -> ReverseProxy:
    """Return a proxy that is deaf to the machine's variables."""
    policy = ProxyPolicy(via="edge", via_in_responses=via_in_responses, allow_trace=True)
    return ReverseProxy(url, settings=ClientSettings(trust_env=False), policy=policy, **options)


@pytest.mark.anyio
async def test_b11_our_name_in_answers() -> None:
    """It is there on demand, with the upstream's version."""
    with scripted(answering(ok())) as upstream:
        sent = await asked(proxy_to(upstream.url, via_in_responses=True), scope_of())

    assert (b"via", b"1.1 edge") in sent[0]["headers"]


@pytest.mark.anyio
async def test_b13_a_trace_that_ends_here_shows_what_came() -> None:
    """With no Max-Forwards left it is answered here, with its own lines but the secret ones."""
    headers = ((b"max-forwards", b"0"), (b"x-a", b"1"), (b"cookie", b"secret"))
    sent = await asked(proxy_to("http://127.0.0.1:9"), scope_of("TRACE", *headers, raw_path=b"/a%2F"))

    assert sent[0]["status"] == 200
    assert sent[1]["body"] == b"TRACE /a%2F HTTP/1.1\r\nhost: front.example\r\nmax-forwards: 0\r\nx-a: 1\r\n\r\n"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"content-length", b"+5")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"content-length", b"5")],
    ],
)
async def test_g1_to_g4_what_servers_should_have_refused(headers: list[Header]) -> None:
    """A server that lets such a request through does not get it past us."""
    sent = await asked(proxy_to("http://127.0.0.1:9"), scope_of("POST", *headers), sending(b"hello"))

    assert sent[0]["status"] == 400


@pytest.mark.anyio
async def test_a_request_hook_that_returns_something_else() -> None:
    """It is told what it may return; the client gets a 502."""
    hook: Any = lambda request: {"url": "x"}  # noqa: E731 -- as short as a hook may be
    sent = await asked(proxy_to("http://127.0.0.1:9", on_request=hook), scope_of())

    assert sent[0]["status"] == 502


@pytest.mark.anyio
@pytest.mark.parametrize("preserve_host", [False, True])
async def test_another_url_brings_its_own_host(preserve_host: bool) -> None:
    """Unless the policy keeps the client's."""
    heads = []

    def script(connection: Connection) -> None:
        heads.append(connection.read_head())
        connection.send(ok())

    def redirect(request: ProxyRequest) -> None:
        request.url = upstream.url + "/other?q=1"

    with scripted(script) as upstream:
        policy = ProxyPolicy(preserve_host=preserve_host)
        settings = ClientSettings(trust_env=False)
        proxy = ReverseProxy("http://127.0.0.1:9", settings=settings, policy=policy, on_request=redirect)
        await asked(proxy, scope_of())

    assert heads[0].startswith(b"GET /other?q=1 HTTP/1.1\r\n")
    host = b"front.example" if preserve_host else f"127.0.0.1:{upstream.port}".encode()
    assert b"host: " + host + b"\r\n" in heads[0].lower()


@pytest.mark.anyio
async def test_a_cancellation_from_outside_stays_one() -> None:
    """A server that gives up a request cancels it; nothing makes an answer of that, and nothing is left."""
    arrived = anyio.Event()
    loop = asyncio.get_running_loop() if _asyncio() else None

    def script(connection: Connection) -> None:
        connection.read_head()
        if loop is not None:
            loop.call_soon_threadsafe(arrived.set)
        connection.wait_until_closed()

    if loop is None:
        pytest.skip("the event of another thread is asyncio's")
    with scripted(script) as upstream:
        proxy = proxy_to(upstream.url)
        async with started(proxy):
            task = asyncio.create_task(proxy(scope_of(), silent, silent))  # type: ignore[arg-type] # is not called
            await asyncio.wait_for(arrived.wait(), 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert proxy._own.pool_statistics().active == 0


def _asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def test_a_websocket_that_has_no_upstream_is_refused() -> None:
    """With the answer that a request would get."""
    with (
        TestClient(proxy_to("http://127.0.0.1:9")) as browser,
        pytest.raises(WebSocketDenialResponse) as refused,
        browser.websocket_connect("/"),
    ):
        pytest.fail("it was accepted")

    assert refused.value.status_code == 502


def test_alone_behind_the_middleware_it_uses_that_ones_client() -> None:
    """It opens a client of its own only where there is none."""
    with scripted(answering(ok())) as upstream:
        proxy = ReverseProxy(upstream.url)
        with TestClient(ClientMiddleware(proxy, ClientSettings(trust_env=False))) as browser:
            assert browser.get("/").text == "ok"
            assert proxy._own is None


@pytest.mark.anyio
async def test_a_lifespan_that_ends_badly_is_told_to_the_server() -> None:
    """What fails while closing is said in the protocol's words, and raised."""

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        yield
        raise ZeroDivisionError("too late")

    async def receive() -> Any:
        return {"type": "lifespan"}

    sent: Sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ZeroDivisionError):
        await run_lifespan(failing(), receive, send)
    assert sent == [
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.failed", "message": "ZeroDivisionError: too late"},
    ]


@pytest.mark.anyio
async def test_a_body_that_is_given_up_has_no_end() -> None:
    """Whoever still waits for the rest of it is told so: an end would be taken for the body's."""
    pieces = anyio.Event()

    async def receive() -> Any:
        await pieces.wait()
        return {"type": "http.request", "body": b"late", "more_body": True}

    inbound = Inbound(receive, body=None, expected=True)
    async with anyio.create_task_group() as group:

        async def read() -> None:
            with pytest.raises(BodyUnwanted):
                await anext(inbound)

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        inbound.stop()
        pieces.set()


@pytest.mark.anyio
async def test_pieces_of_nothing_are_no_signs_of_life() -> None:
    """A heartbeat gives on what there is, and nothing for nothing."""
    if not _asyncio():
        pytest.skip("it is for asyncio")

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"data: 1\n\n", b"", b"data: 2\n\n"):
            yield chunk

    assert [chunk async for chunk in with_heartbeat(chunks(), 10)] == [b"data: 1\n\n", b"data: 2\n\n"]


@pytest.mark.anyio
async def test_early_hints_of_an_answer_that_never_comes() -> None:
    """They are dropped with it."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")

    scope = scope_of(extensions={"http.response.early_hint": {}})
    with scripted(script) as upstream:
        sent = await asked(proxy_to(upstream.url), scope)

    assert [message.get("status") for message in sent if message["type"] == "http.response.start"] == [502]


@pytest.mark.anyio
async def test_what_fails_behind_a_whole_answer_is_no_failure() -> None:
    """An upstream that has answered in full, and breaks the rest of the upload, has answered."""
    made = httpx.Response(200, headers={"content-length": "2"}, content=_whole_then_broken())
    sent: Sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    await StreamingProxyResponse.from_response(made)({"type": "http", "method": "GET"}, silent, send)
    assert b"".join(message.get("body", b"") for message in sent) == b"ok"


async def _whole_then_broken() -> AsyncIterator[bytes]:
    yield b"ok"
    raise httpx.ReadError("reset")


@pytest.mark.anyio
@pytest.mark.parametrize("last", ["http.response.early_hint", "http.response.trailers"])
async def test_a_client_that_leaves_before_what_few_servers_send(last: str) -> None:
    """Servers of ASGI 2.4 raise then; that is a client's leaving, and nothing of it comes out."""
    if not _asyncio():
        pytest.skip("only the engine knows of these")
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: 1\r\n\r\n"
    met: list[str] = []

    async def send(message: Any) -> None:
        met.append(message["type"])
        if message["type"] == last:
            raise OSError("the client has left")

    with scripted(answering(hint + body)) as upstream:
        proxy = proxy_to(upstream.url)
        async with started(proxy):
            await proxy(scope_of(extensions={last: {}}), silent, send)

    assert last in met


def stalled_at_the_end(gone: anyio.Event) -> Any:
    """Return what never takes the last piece; ``gone`` is set when it has been given it."""

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            gone.set()
            await anyio.sleep_forever()

    return send


@pytest.mark.anyio
async def test_f1_a_server_that_waits_for_a_client_that_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """hypercorn does so at the end of an answer over HTTP/2; nothing is kept for such a client."""
    monkeypatch.setattr("fastapi_httpx_pool.proxy._watch.LAST_PIECE", 0.05)
    gone = anyio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    made = httpx.Response(200, content=b"ok")
    with anyio.fail_after(LIMIT):
        await StreamingProxyResponse.from_response(made)(
            {"type": "http", "method": "GET"}, receive, stalled_at_the_end(gone)
        )


@pytest.mark.anyio
@with_patience(0.05)
async def test_f1_a_server_that_says_so_at_the_end_of_an_answer(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    """A client that is said to have left before the server has taken the last piece is left alone."""
    monkeypatch.setattr("fastapi_httpx_pool.proxy._watch.LAST_PIECE", limit)
    ended, trailed = anyio.Event(), anyio.Event()

    async def receive() -> Any:
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            ended.set()
            await anyio.sleep(limit / 3)

    async def whole_then_slow() -> AsyncIterator[bytes]:
        yield b"ok"
        await anyio.sleep(4 * limit)
        trailed.set()

    made = httpx.Response(200, headers={"content-length": "2"}, content=whole_then_slow())
    with anyio.fail_after(LIMIT):
        await StreamingProxyResponse.from_response(made)({"type": "http", "method": "GET"}, receive, send)
    assert trailed.is_set()


@pytest.mark.anyio
async def test_f7_a_client_that_does_not_take_the_last_piece() -> None:
    """It is idle as one that does not take the first."""
    if not _asyncio():
        pytest.skip("only asyncio's watch knows idle clients")
    policy = ProxyPolicy(client_idle=0.05)
    with scripted(answering(ok())) as upstream:
        proxy = ReverseProxy(upstream.url, settings=ClientSettings(trust_env=False), policy=policy)
        async with started(proxy):
            with anyio.fail_after(LIMIT), pytest.raises(UpstreamAborted, match="client_stalled"):
                await proxy(scope_of(), silent, stalled_at_the_end(anyio.Event()))


@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interruption_leaves_nothing_behind(swallowed: bool) -> None:
    """However a hook ends that the client's leaving has interrupted, the server's own task can go on."""

    async def hook(request: ProxyRequest) -> None:
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            if not swallowed:
                raise ValueError("a hook's clean-up") from None

    async def run() -> int:
        gone = asyncio.Event()

        async def receive() -> Any:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        proxy = proxy_to(upstream.url, on_request=hook)
        async with started(proxy):
            asyncio.get_running_loop().call_soon(gone.set)
            await proxy(scope_of(), receive, send)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    with scripted(answering(ok())) as upstream:
        assert asyncio.run(run()) == 0


def test_an_event_loop_is_not_kept() -> None:
    """What watches the exchanges of an event loop goes with it."""

    async def run() -> "weakref.ref[asyncio.AbstractEventLoop]":
        await asked(proxy_to(upstream.url), scope_of())
        return weakref.ref(asyncio.get_running_loop())

    with scripted(answering(ok())) as upstream:
        loop = asyncio.run(run())
        gc.collect()
        assert loop() is None


@pytest.mark.parametrize("host", [b"a/b", b"user@a", b"a b"])
@pytest.mark.anyio
async def test_b9_the_host_of_http2_is_one(host: bytes) -> None:
    """What stands for Host there must not become ours, either."""
    scope = scope_of(http_version="2", headers=[(b"host", host)])

    assert (await asked(proxy_to("http://127.0.0.1:9"), scope, sending()))[0]["status"] == 400


@pytest.mark.anyio
async def test_b9_http2_needs_no_host() -> None:
    """Servers give an empty one for an authority that was left out."""
    scope = scope_of(http_version="2", headers=[(b"host", b"")])
    with scripted(answering(ok())) as upstream:
        assert (await asked(proxy_to(upstream.url), scope, sending()))[0]["status"] == 200


def test_a_heartbeat_lets_go_of_its_chunks() -> None:
    """However often it is cancelled, it is done with them before whoever gave them can close them."""

    async def slow_to_close() -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: 1\n\n"
            await asyncio.sleep(LIMIT)
        finally:
            for _ in range(5):
                await asyncio.sleep(0)

    async def run() -> None:
        chunks, first = slow_to_close(), asyncio.Event()

        async def read() -> None:
            async for _ in with_heartbeat(chunks, LIMIT):
                first.set()

        reading = asyncio.create_task(read())
        await first.wait()
        while not reading.done():
            reading.cancel()
            await asyncio.sleep(0)
        await chunks.aclose()

    asyncio.run(run())


@pytest.mark.anyio
async def test_f7_a_client_that_does_not_even_take_an_error() -> None:
    """It is broken off in its turn."""
    if not _asyncio():
        pytest.skip("only asyncio's watch knows idle clients")
    left = [True]

    async def send(message: Any) -> None:
        if left:
            left.clear()
            await anyio.sleep_forever()
        raise OSError

    policy = ProxyPolicy(client_idle=0.05)
    proxy = ReverseProxy("http://127.0.0.1:9", settings=ClientSettings(trust_env=False), policy=policy)
    async with started(proxy):
        with anyio.fail_after(20), pytest.raises(UpstreamAborted, match="client_stalled"):
            await proxy(scope_of(), silent, send)
