"""A client that leaves, at any stage, and one that reads slowly: the upstream notices, and its slot is free again."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.background import BackgroundTask

from fastapi_httpx_pool import StreamingProxyResponse
from tests.support.answers import ask, get, post, read_answer, read_chunk
from tests.support.back_pressure import MEGABYTE, Firehose, kernel_holds, stingy_client
from tests.support.ports import deaf_port
from tests.support.raw_client import RawClient, raw_client
from tests.support.recording import AppProbe
from tests.support.stack import Stack, app_of
from tests.support.stages import AT_ONCE, BEGUN, STAGES, HangingUpstream, one_slot, proxy_to
from tests.support.upstream import LIMIT, Connection, ok, scripted


@pytest.mark.parametrize("leaving", ["close", "reset"])
@pytest.mark.parametrize("stage", STAGES)
def test_f10_f11_a_client_that_leaves_frees_the_upstream(every_stack: Stack, stage: str, leaving: str) -> None:
    """A client that leaves while the upstream is silent has its connection closed at once, and its slot freed."""
    script = HangingUpstream(STAGES[stage])
    with scripted(script) as upstream:
        probe = AppProbe(app_of(proxy_to(upstream.url), one_slot(every_stack)))
        with every_stack.serve(probe) as port:
            with raw_client(port) as client:
                client.send(get())
                assert script.hanging.wait(LIMIT)
                if stage in BEGUN:
                    assert client.read_head().startswith(b"HTTP/1.1 200")
                getattr(client, leaving)()
                assert script.closed.wait(AT_ONCE)
                assert probe.ended.acquire(timeout=AT_ONCE)
            assert ask(port, get()).body == b"next"

    assert not any(status >= 500 for status in probe.statuses)


@pytest.mark.parametrize("body", ["known-length", "chunked"])
def test_f10_a_client_that_leaves_after_its_upload(every_stack: Stack, body: str) -> None:
    """A client that has sent a body and leaves before the head frees the upstream as well."""
    script = HangingUpstream()
    chunked = get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n"
    with scripted(script) as upstream, every_stack.proxying(upstream.url, one_slot(every_stack)) as port:
        with raw_client(port) as client:
            client.send(post(b"hello") if body == "known-length" else chunked)
            assert script.hanging.wait(LIMIT)
        assert script.closed.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"


def test_f10_a_client_that_leaves_while_its_body_was_read_by_the_route(stack: Stack) -> None:
    """A body that the route has read does not hide the client's leaving."""
    script = HangingUpstream()

    async def respond(request: Request) -> StreamingProxyResponse:
        await request.body()
        return StreamingProxyResponse(request, upstream.url)

    with scripted(script) as upstream, stack.routing(respond, one_slot(stack)) as port:
        with raw_client(port) as client:
            client.send(post(b"hello"))
            assert script.hanging.wait(LIMIT)
        assert script.closed.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"


@pytest.mark.parametrize("stage", ["waiting-for-the-head", "in-a-silent-stream"])
def test_f10_f11_behind_a_base_http_middleware(every_stack: Stack, stage: str) -> None:
    """``@app.middleware("http")`` around the route does not hide the client's leaving."""
    script = HangingUpstream(STAGES[stage])
    with scripted(script) as upstream:
        app: FastAPI = app_of(proxy_to(upstream.url), one_slot(every_stack))

        @app.middleware("http")
        async def middleware(request: Request, call_next: Any) -> Any:
            return await call_next(request)

        with every_stack.serve(app) as port:
            with raw_client(port) as client:
                client.send(get())
                assert script.hanging.wait(LIMIT)
                if stage in BEGUN:
                    client.read_head()
            assert script.closed.wait(AT_ONCE)
            assert ask(port, get()).body == b"next"


@pytest.mark.parametrize("request_of", [get, partial(post, b"hello")], ids=["bodiless", "with-a-body"])
def test_f10_a_client_that_leaves_the_queue(every_stack: Stack, request_of: Callable[..., bytes]) -> None:
    """A client that leaves while it waits for the full pool is not sent upstream, and takes nobody's slot."""
    held, release, targets = threading.Event(), threading.Event(), []

    def script(connection: Connection) -> None:
        while (head := connection.read_request()[0]).endswith(b"\r\n\r\n"):
            targets.append(head.split(b" ")[1])
            held.set()
            assert release.wait(LIMIT)
            connection.send(ok(b"held"))

    with scripted(script) as upstream:
        probe = AppProbe(app_of(proxy_to(upstream.url), one_slot(every_stack)))
        with every_stack.serve(probe) as port, raw_client(port) as holder:
            holder.send(get(b"/held"))
            assert held.wait(LIMIT)
            assert probe.begun.acquire(timeout=LIMIT)
            with raw_client(port) as queued:
                queued.send(request_of(target=b"/queued"))
                assert probe.begun.acquire(timeout=LIMIT)
            assert probe.ended.acquire(timeout=AT_ONCE)
            release.set()
            assert read_answer(holder).body == b"held"
            assert ask(port, get(b"/next")).body == b"held"

    assert targets == [b"/held", b"/next"]


@pytest.mark.parametrize("request_of", [get, partial(post, b"hello")], ids=["bodiless", "with-a-body"])
def test_f10_a_client_that_leaves_while_connecting(every_stack: Stack, request_of: Callable[..., bytes]) -> None:
    """A client that leaves while the upstream does not take the connection frees the only slot."""
    with scripted(HangingUpstream()) as upstream, deaf_port() as deaf:

        async def respond(request: Request) -> StreamingProxyResponse:
            url = f"http://127.0.0.1:{deaf}" if request.url.path == "/deaf" else upstream.url
            return StreamingProxyResponse(request, url)

        # The working upstream's first connection hangs; it is spent here.
        RawClient(upstream.port).close()
        probe = AppProbe(app_of(respond, one_slot(every_stack)))
        with every_stack.serve(probe) as port:
            with raw_client(port) as client:
                client.send(request_of(target=b"/deaf"))
                assert probe.begun.acquire(timeout=LIMIT)
            assert probe.ended.acquire(timeout=AT_ONCE)
            assert ask(port, get(b"/fine")).body == b"next"

    assert not any(status >= 500 for status in probe.statuses)


def test_d5_a_client_that_leaves_its_upload_frees_the_slot(every_stack: Stack) -> None:
    """A client that leaves in the middle of its upload frees the only slot."""
    started, ended = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        if connection.number:
            connection.read_request()
            connection.send(ok(b"next"))
            return
        connection.read_until(b"hello")
        started.set()
        if connection.wait_until_closed():
            ended.set()

    with scripted(script) as upstream, every_stack.proxying(upstream.url, one_slot(every_stack)) as port:
        with raw_client(port) as client:
            client.send(get(b"/", b"Content-Length: 100", method=b"POST") + b"hello")
            assert started.wait(LIMIT)
        assert ended.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"


def test_f9_a_client_that_leaves_is_no_error(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves is no exception in the app, no 5xx, and nothing above the level of a debug line."""
    caplog.set_level("DEBUG")
    script = HangingUpstream()
    with scripted(script) as upstream:
        probe = AppProbe(app_of(proxy_to(upstream.url), one_slot(stack)))
        with stack.serve(probe) as port:
            with raw_client(port) as client:
                client.send(get())
                assert script.hanging.wait(LIMIT)
            assert probe.ended.acquire(timeout=AT_ONCE)

    assert probe.failures == []
    assert set(probe.statuses) <= {499}
    loud = [record for record in caplog.records if record.levelname in {"WARNING", "ERROR", "CRITICAL"}]
    assert loud == []


def test_f9_a_499_is_recorded(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """A client that left has one line in the log of the package, at the level of a debug line, with a 499."""
    caplog.set_level("DEBUG")
    script = HangingUpstream()
    with scripted(script) as upstream:
        probe = AppProbe(app_of(proxy_to(upstream.url), one_slot(stack)))
        with stack.serve(probe) as port:
            with raw_client(port) as client:
                client.send(get(b"/path?key=secret"))
                assert script.hanging.wait(LIMIT)
            assert probe.ended.acquire(timeout=AT_ONCE)

    ours = [record for record in caplog.records if record.name.startswith("fastapi_httpx_pool")]
    assert [record.levelname for record in ours] == ["DEBUG"]
    assert "499" in ours[0].getMessage()
    assert "secret" not in ours[0].getMessage()


def test_f9_a_client_that_stays_is_not_recorded(every_stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """A client that gets its whole answer is not taken for one that left, however late the upstream ends it."""
    caplog.set_level("DEBUG")
    read = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        assert read.wait(LIMIT)
        connection.send(b"hello")

    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get())
        client.read_head()
        read.set()
        assert client.read_exactly(10) == b"hellohello"

    assert [record for record in caplog.records if record.name.startswith("fastapi_httpx_pool")] == []


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_f12_an_upstream_that_dies_frees_the_slot(every_stack: Stack, ending: str) -> None:
    """An upstream that dies mid-stream breaks the client's connection off and frees the only slot."""
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        if connection.number:
            connection.send(ok(b"next"))
            return
        connection.send(STAGES["between-chunks"])
        assert go_on.wait(LIMIT)
        getattr(connection, ending)()

    with scripted(script) as upstream, every_stack.proxying(upstream.url, one_slot(every_stack)) as port:
        with raw_client(port) as client:
            client.send(get())
            client.read_until(b"hello\r\n")
            go_on.set()
            assert client.read_to_end() == b""
        assert ask(port, get()).body == b"next"


class PausingFirehose(Firehose):
    """A script that pushes until the proxy takes no more, then waits for leave to push a little more and end."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.go_on = threading.Event()

    def end(self, connection: Connection) -> None:
        """Wait for leave, push a little more, and end the answer."""
        assert self.go_on.wait(LIMIT)
        self.push(connection, self.pushed + MEGABYTE)


@pytest.mark.timeout(90)
def test_f13_a_slow_client_throttles_the_upstream(every_stack: Stack) -> None:
    """An upstream cannot push more at a client that reads nothing than the kernel and a few MiB hold."""
    script = PausingFirehose(kernel_holds(2) + 8 * MEGABYTE)
    with (
        scripted(script) as upstream,
        every_stack.proxying(upstream.url, one_slot(every_stack)) as port,
        stingy_client(port) as client,
    ):
        client.send(get())
        assert script.stalled.wait(LIMIT), f"{script.pushed} bytes were taken"
        script.go_on.set()
        client.read_head()
        received = 0
        while chunk := read_chunk(client):
            received += len(chunk)

    assert chunk == b""
    assert received == script.pushed


@pytest.mark.timeout(90)
def test_f13_a_slow_client_that_leaves_frees_the_upstream(every_stack: Stack) -> None:
    """A client that leaves while the answer waits for it closes the upstream connection and frees its slot."""
    script = Firehose(kernel_holds(2) + 8 * MEGABYTE)
    with (
        scripted(script) as upstream,
        every_stack.proxying(upstream.url, one_slot(every_stack)) as port,
        stingy_client(port) as client,
    ):
        client.send(get())
        assert script.stalled.wait(LIMIT), f"{script.pushed} bytes were taken"
        client.reset()
        assert script.closed.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"


def test_one_hundred_that_leave_do_no_harm(every_stack: Stack) -> None:
    """After a hundred clients that left at some stage, the only slot still serves."""
    answering_now = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        if answering_now.is_set():
            connection.send(ok(b"next"))
        else:
            connection.send(STAGES["between-chunks"] if connection.number % 2 else b"")
            connection.wait_until_closed()

    with scripted(script) as upstream:
        probe = AppProbe(app_of(proxy_to(upstream.url), one_slot(every_stack)))
        with every_stack.serve(probe) as port:
            clients = [RawClient(port) for _ in range(100)]
            for client in clients:
                client.send(get())
            for _ in clients:
                assert probe.begun.acquire(timeout=LIMIT)
            for number, client in enumerate(clients):
                client.reset() if number % 2 else client.close()
            for _ in clients:
                assert probe.ended.acquire(timeout=AT_ONCE)
            answering_now.set()
            assert ask(port, get()).body == b"next"

    assert probe.failures == []


def test_many_requests_over_one_connection(every_stack: Stack) -> None:
    """A client that stays is served request after request, with and without bodies."""

    def script(connection: Connection) -> None:
        while True:
            head, body = connection.read_request()
            if not head.endswith(b"\r\n\r\n"):
                return
            connection.send(ok(head.split(b" ")[1] + body))

    with (
        scripted(script) as upstream,
        every_stack.proxying(upstream.url, one_slot(every_stack)) as port,
        raw_client(port) as client,
    ):
        for number in range(50):
            client.send(get(b"/%d" % number) if number % 2 else post(b"hello", target=b"/%d" % number))
            answer = read_answer(client)
            assert answer.body == (b"/%d" % number if number % 2 else b"/%dhello" % number)
        accepted = upstream.accepted

    assert accepted == 1


def test_a_background_task_runs_after_the_answer(every_stack: Stack) -> None:
    """The background task runs when the client has its answer, and not before."""
    ran, may_end, done_before_end = threading.Event(), threading.Event(), []

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        assert may_end.wait(LIMIT)
        done_before_end.append(ran.is_set())
        connection.send(b"hello")

    with (
        scripted(script) as upstream,
        every_stack.proxying(upstream.url, background=BackgroundTask(ran.set)) as port,
        raw_client(port) as client,
    ):
        client.send(get())
        client.read_head()
        may_end.set()
        assert client.read_exactly(10) == b"hellohello"
        assert ran.wait(LIMIT)

    assert done_before_end == [False]


@pytest.mark.parametrize("stage", ["waiting-for-the-head", "in-a-known-length"])
def test_a_background_task_does_not_run_for_a_client_that_left(every_stack: Stack, stage: str) -> None:
    """The background task does not run if the client did not get its answer."""
    ran = threading.Event()
    script = HangingUpstream(STAGES[stage])
    with scripted(script) as upstream:
        respond = proxy_to(upstream.url, background=BackgroundTask(ran.set))
        probe = AppProbe(app_of(respond, one_slot(every_stack)))
        with every_stack.serve(probe) as port:
            with raw_client(port) as client:
                client.send(get())
                assert script.hanging.wait(LIMIT)
            assert probe.ended.acquire(timeout=AT_ONCE)

    assert not ran.is_set()


def test_a_background_task_does_not_run_for_a_truncated_answer(stack: Stack) -> None:
    """The background task does not run if the upstream died in the middle."""
    ran = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(STAGES["in-a-known-length"])

    with (
        scripted(script) as upstream,
        stack.proxying(upstream.url, background=BackgroundTask(ran.set)) as port,
    ):
        assert not ask(port, get()).complete

    assert not ran.is_set()
