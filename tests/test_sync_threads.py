"""Sync clients and threads: which may call, how many there are, and what becomes of a call whose request ends."""

import asyncio
import contextvars
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fastapi_httpx_pool import (
    CalledInEventLoop,
    ClientClosed,
    ClientSettings,
    SyncClient,
    SyncClientDep,
    create_lifespan,
    get_sync_client,
)

from .support.raw_client import RawClient
from .support.server import serving
from .support.trio_server import serving_trio
from .support.upstream import LIMIT, Connection, Upstream, answering, ok, scripted

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n"

WORKERS = 40
"""Threads that anyio, and so Starlette, has at most."""


def new_app() -> FastAPI:
    """Return an app with a default client."""
    return FastAPI(lifespan=create_lifespan(ClientSettings(trust_env=False)))


@pytest.fixture(name="hello", scope="module")
def _hello() -> Iterator[Upstream]:
    with scripted(answering(ok(b"hello"))) as upstream:
        yield upstream


class Silent:
    """An upstream that never finishes an answer, and knows when it was left."""

    def __init__(self, begin: bytes = b"") -> None:
        self.asked = threading.Event()
        self.left = threading.Event()
        self._begin = begin
        self.upstream: Upstream

    def _script(self, connection: Connection) -> None:
        connection.read_head()
        connection.send(self._begin)
        self.asked.set()
        if connection.wait_until_closed():
            self.left.set()

    @contextmanager
    def listening(self) -> Iterator["Silent"]:
        """Listen for a block."""
        with scripted(self._script) as self.upstream:
            yield self

    def was_left(self) -> bool:
        """Wait until it was; whether it was."""
        return self.left.wait(LIMIT)


@pytest.fixture(name="silent")
def _silent() -> Iterator[Silent]:
    with Silent().listening() as silent:
        yield silent


@pytest.fixture(name="endless")
def _endless() -> Iterator[Silent]:
    with Silent(STREAM).listening() as silent:
        yield silent


def chunks_of(client: SyncClient, url: str) -> Iterator[bytes]:
    """Stream a URL."""
    with client.stream("GET", url) as response:
        yield from response.iter_bytes()


# The loop's own thread


def test_call_in_the_loop_is_refused(hello: Upstream) -> None:
    """In an `async def` route a call raises at once, and says what to do; nothing is sent."""
    app = new_app()

    @app.get("/")
    async def route(client: SyncClientDep) -> list[str]:
        texts = []
        for call in (client.get, client.delete, lambda url: client.post(url, content=iter([b"x"]))):
            with pytest.raises(CalledInEventLoop) as caught:
                call(hello.url)
            texts.append(str(caught.value))
        with pytest.raises(CalledInEventLoop), client.stream("GET", hello.url):
            pytest.fail("it was opened")
        return texts

    accepted = hello.accepted
    with TestClient(app) as browser:
        for text in browser.get("/").json():
            assert "the event loop's own thread" in text
            assert "take `client: ClientDep` and await its methods" in text
            assert "run_in_threadpool" in text
    assert hello.accepted == accepted


def app_that_drops_a_generator(endless: Silent) -> FastAPI:
    """Return an app whose route takes the first piece of a stream, and leaves the rest to the garbage collector."""
    app = new_app()

    @app.get("/")
    async def route(client: SyncClientDep) -> str:
        generator = chunks_of(client, endless.upstream.url)
        first = await run_in_threadpool(next, generator)
        del generator
        gc.collect()
        return first.decode()

    return app


def test_generator_that_is_dropped_in_the_loop(endless: Silent) -> None:
    """A stream whose generator is left to the loop's thread is closed there, without waiting."""
    with TestClient(app_that_drops_a_generator(endless)) as browser:
        assert browser.get("/").json() == "some"
        assert endless.was_left()


# Other threads


def test_threads_of_the_users_own(hello: Upstream) -> None:
    """Threads that anyio did not start call and stream just the same."""
    app = new_app()

    def work(client: SyncClient) -> str:
        with client.stream("GET", hello.url) as response:
            return client.get(hello.url).text + response.read().decode()

    @app.get("/")
    def route(client: SyncClientDep) -> list[str]:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(work, [client, client]))
        thread = threading.Thread(target=lambda: found.append(work(client)))
        thread.start()
        thread.join()
        return found

    @app.get("/async")
    async def asynchronous(client: SyncClientDep) -> str:
        return await asyncio.to_thread(work, client)

    with TestClient(app) as browser:
        assert browser.get("/").json() == ["hellohello"] * 3
        assert browser.get("/async").json() == "hellohello"


def test_client_outlives_its_request(hello: Upstream) -> None:
    """A client that was kept works as long as the app runs, then says that it is closed."""
    app = new_app()
    kept: list[SyncClient] = []

    @app.get("/")
    def route(client: SyncClientDep) -> str:
        kept.append(client)
        return kept[0].get(hello.url).text

    with TestClient(app) as browser:
        assert [browser.get("/").json() for _ in range(2)] == ["hello", "hello"]
        assert kept[0].get(hello.url).text == "hello"
    with pytest.raises(ClientClosed, match="default client"):
        kept[0].get(hello.url)


def connection() -> HTTPConnection:
    """Return a connection without a state."""
    return HTTPConnection({"type": "http", "headers": []})


def test_loop_that_has_ended() -> None:
    """A client whose loop is gone says so, even if nobody closed it; so does closing what it had open."""

    async def main() -> tuple[SyncClient, httpx.Response]:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=httpx.ByteStream(b"x")))
        client = await get_sync_client(connection(), httpx.AsyncClient(transport=transport))
        request = client.build_request("GET", "http://x.test")
        return client, await anyio.to_thread.run_sync(lambda: client.send(request, stream=True))

    with ThreadPoolExecutor(1) as pool:
        client, response = pool.submit(asyncio.run, main()).result()
    with pytest.raises(ClientClosed, match="default client"):
        client.get("http://x.test")
    response.close()
    assert response.is_closed


def test_loop_that_has_ended_in_this_thread() -> None:
    """Closing in the thread where the loop was does nothing: there is none to do it in."""

    async def main() -> httpx.Response:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=httpx.ByteStream(b"x")))
        client = await get_sync_client(connection(), httpx.AsyncClient(transport=transport))
        request = client.build_request("GET", "http://x.test")
        return await anyio.to_thread.run_sync(lambda: client.send(request, stream=True))

    response = asyncio.run(main())
    response.close()
    assert response.is_closed


def test_loop_that_ends_during_a_call(silent: Silent) -> None:
    """A call from a thread of the user's own ends with the loop."""
    errors: list[Exception] = []

    async def main() -> threading.Thread:
        client = await get_sync_client(connection(), httpx.AsyncClient(trust_env=False))

        def call() -> None:
            with pytest.raises(ClientClosed) as caught:
                client.get(silent.upstream.url)
            errors.append(caught.value)

        thread = threading.Thread(target=call)
        thread.start()
        await asyncio.to_thread(silent.asked.wait, LIMIT)
        return thread

    asyncio.run(main()).join(LIMIT)
    assert len(errors) == 1


def test_many_callers_take_no_more_threads() -> None:
    """100 concurrent callers of a `def` route have the worker threads, which wait at the same time, and no others."""
    crowd = threading.Barrier(WORKERS)
    names: list[str] = []

    def script(connection: Connection) -> None:
        while connection.read_head():
            if crowd.n_waiting or not names:
                # The first ones wait for each other, so that all threads there can be are there.
                try:
                    crowd.wait(LIMIT)
                except threading.BrokenBarrierError:
                    return
                names.extend(thread.name for thread in threading.enumerate() if thread not in known)
            connection.send(ok(b"hello"))

    app = new_app()

    @app.get("/")
    def route(client: SyncClientDep) -> str:
        return client.get(upstream.url).text

    async def call_all(url: str) -> list[str]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=LIMIT) as browser:
            responses = await asyncio.gather(*(browser.get(url) for _ in range(100)))
        return [response.json() for response in responses]

    with scripted(script) as upstream, serving(app) as server:
        known = set(threading.enumerate())
        assert asyncio.run(call_all(server.url)) == ["hello"] * 100
        scripts = {thread.name for thread in upstream._threads}
    others = [name for name in names if name not in scripts]
    assert set(others) == {"AnyIO worker thread"}
    assert len(scripts) <= WORKERS


def test_contextvars_reach_the_loop(hello: Upstream) -> None:
    """What the route sets in its context is seen where the request is sent: tracing hangs together."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[str] = []

    async def note(request: httpx.Request) -> None:
        seen.append(variable.get())

    app = new_app()

    @app.get("/")
    def route(client: SyncClientDep) -> None:
        variable.set("set")
        client.event_hooks = {"request": [note]}
        client.get(hello.url)
        client.post(hello.url, content=iter([b"x"]))

    with TestClient(app) as browser:
        browser.get("/")
    assert seen == ["set", "set"]


# Requests that end early


Cancel = Callable[[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]], Callable[[], None]], Awaitable[None]]
"""Does some work, and cancels it when told so, and says that it has."""


async def by_scope(
    work: Callable[[], Awaitable[None]], when: Callable[[], Awaitable[None]], then: Callable[[], None]
) -> None:
    """Cancel the work as anyio does."""
    async with anyio.create_task_group() as group:

        async def cancel() -> None:
            await when()
            group.cancel_scope.cancel()
            then()

        group.start_soon(cancel)
        await work()


async def by_task(
    work: Callable[[], Awaitable[None]], when: Callable[[], Awaitable[None]], then: Callable[[], None]
) -> None:
    """Cancel the work as asyncio does."""

    async def do() -> None:
        await work()

    task = asyncio.create_task(do())
    await when()
    task.cancel()
    then()
    await asyncio.wait((task,))


both_ways = pytest.mark.parametrize("cancel", [by_scope, by_task])


class Cancelling:
    """Pure ASGI middleware that cancels requests when an event is set, and answers 504."""

    def __init__(self, app: Any, cancel: Cancel, when: threading.Event, then: threading.Event | None = None) -> None:
        self.app = app
        self.cancel = cancel
        self.when = when
        self.then = then or threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on what is no request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def wait() -> None:
            with anyio.fail_after(LIMIT):
                while not self.when.is_set():  # noqa: ASYNC110 -- a thread sets it
                    await anyio.sleep(0.001)

        answered = False

        async def answer(message: Any) -> None:
            nonlocal answered
            answered = True
            await send(message)

        await self.cancel(lambda: self.app(scope, receive, answer), wait, self.then.set)
        if not answered:
            await send({"type": "http.response.start", "status": 504, "headers": []})
            await send({"type": "http.response.body", "body": b""})


class Noting:
    """Runs a route's work and notes how it ends."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.over = threading.Event()

    def run(self, work: Callable[[], Any]) -> None:
        """Do the work."""
        try:
            work()
        except BaseException as exc:
            self.error = exc
            raise
        finally:
            self.over.set()

    def ended(self) -> BaseException | None:
        """Wait until it ends, and return what it raised."""
        assert self.over.wait(LIMIT)
        return self.error


@contextmanager
def cancelled_request(
    cancel: Cancel, when: threading.Event, use: Callable[[SyncClient], Any], then: threading.Event | None = None
) -> Iterator[Noting]:
    """Send a request that is cancelled when the event is set; the block runs while the server still does."""
    app = new_app()
    noting = Noting()

    @app.get("/")
    def route(client: SyncClientDep) -> None:
        noting.run(lambda: use(client))

    app.add_middleware(Cancelling, cancel=cancel, when=when, then=then)
    with serving(app) as server:
        # What a thread returns all the same may still be sent.
        assert httpx.get(server.url, trust_env=False, timeout=LIMIT).status_code in (200, 504)
        yield noting


@both_ways
def test_call_ends_with_the_request(cancel: Cancel, silent: Silent) -> None:
    """A request that is cancelled ends the call it waits for, with the loop's own cancellation."""
    with cancelled_request(cancel, silent.asked, lambda client: client.get(silent.upstream.url)) as noting:
        assert isinstance(noting.ended(), asyncio.CancelledError)
        assert silent.was_left()


@both_ways
def test_stream_ends_with_the_request(cancel: Cancel, endless: Silent) -> None:
    """A request that is cancelled ends the wait for a chunk, and the stream is closed."""

    def use(client: SyncClient) -> None:
        with client.stream("GET", endless.upstream.url) as response:
            for _ in response.iter_bytes():
                pass

    with cancelled_request(cancel, endless.asked, use) as noting:
        assert isinstance(noting.ended(), asyncio.CancelledError)
        assert endless.was_left()


@both_ways
def test_stream_is_closed_after_a_cancelled_request(cancel: Cancel, endless: Silent) -> None:
    """A route that leaves its stream after its request was cancelled still closes it."""
    opened = threading.Event()
    cancelled = threading.Event()

    def use(client: SyncClient) -> None:
        with client.stream("GET", endless.upstream.url):
            opened.set()
            assert cancelled.wait(LIMIT)

    with cancelled_request(cancel, opened, use, then=cancelled) as noting:
        assert noting.ended() is None
        assert endless.was_left()


@both_ways
def test_no_call_begins_after_the_request(cancel: Cancel, silent: Silent) -> None:
    """A thread whose request was cancelled cannot call any more."""
    more: list[BaseException] = []

    def use(client: SyncClient) -> None:
        try:
            client.get(silent.upstream.url)
        except asyncio.CancelledError:
            for content in (b"x", iter([b"x"])):
                with pytest.raises(asyncio.CancelledError) as caught:
                    client.post(silent.upstream.url, content=content)
                more.append(caught.value)
            raise

    with cancelled_request(cancel, silent.asked, use) as noting:
        noting.ended()
    assert len(more) == 2
    assert silent.upstream.accepted == 1


def test_browser_leaves_a_streaming_response(endless: Silent) -> None:
    """A StreamingResponse over a sync stream is ended when the browser leaves, and with it the upstream."""
    app = new_app()

    @app.get("/")
    def route(client: SyncClientDep) -> StreamingResponse:
        return StreamingResponse(chunks_of(client, endless.upstream.url))

    with serving(app) as server:
        browser = RawClient(server.port)
        browser.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert browser.read_until(b"some").endswith(b"some")
        browser.close()
        assert endless.was_left()


# trio


def test_on_trio(hello: Upstream) -> None:
    """Under trio calls, streams, bodies and foreign threads work alike."""
    app = new_app()

    @app.get("/")
    def route(client: SyncClientDep) -> list[str]:
        with client.stream("GET", hello.url) as response:
            found = [response.read().decode()]
        found.append(client.post(hello.url, content=(piece for piece in (b"a", b"b"))).text)
        with ThreadPoolExecutor(1) as pool:
            return [*found, pool.submit(client.get, hello.url).result().text]

    @app.get("/async")
    async def asynchronous(client: SyncClientDep) -> str:
        with pytest.raises(CalledInEventLoop) as caught:
            client.get(hello.url)
        return type(caught.value).__name__

    with serving_trio(app) as port, httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}") as browser:
        assert browser.get("/").json() == ["hello"] * 3
        assert browser.get("/async").json() == "CalledInEventLoop"


# httpcore leaves its generators to the garbage collector, which complains under trio.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_generator_that_is_dropped_on_trio(endless: Silent) -> None:
    """Under trio, too, a stream whose generator is left to the loop's thread is closed there."""
    with serving_trio(app_that_drops_a_generator(endless)) as port:
        assert httpx.get(f"http://127.0.0.1:{port}", trust_env=False).json() == "some"
        assert endless.was_left()


def test_cancellation_on_trio(silent: Silent) -> None:
    """Under trio a cancelled request ends its call, too."""
    app = new_app()
    noting = Noting()

    @app.get("/")
    def route(client: SyncClientDep) -> None:
        noting.run(lambda: client.get(silent.upstream.url))

    app.add_middleware(Cancelling, cancel=by_scope, when=silent.asked)
    with serving_trio(app) as port:
        assert httpx.get(f"http://127.0.0.1:{port}", trust_env=False, timeout=LIMIT).status_code == 504
        assert type(noting.ended()).__name__ == "Cancelled"
        assert silent.was_left()
