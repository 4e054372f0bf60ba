"""Leaks provoked on purpose: each is found, and named with the line that began it."""

import asyncio
import gc
import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from fastapi_httpx_pool import (
    ClientDep,
    ClientFactory,
    ClientSettings,
    PoolTransport,
    StreamingProxyResponse,
    as_completed,
    create_lifespan,
)
from fastapi_httpx_pool.testing import LeaksFound, Upstream, forbid_leaks
from tests.support.families import FAMILIES

ROOT = Path(__file__).resolve().parent.relative_to(Path.cwd()).as_posix() + "/"

SETTINGS = ClientSettings(trust_env=False, drain=0.0)

Test = Callable[[Any, Upstream], Coroutine[Any, Any, Any]]


async def in_factory(test: Test, upstream: Upstream, settings: ClientSettings = SETTINGS) -> None:
    """Run a test with a client that is closed after it."""
    async with ClientFactory(settings) as factory:
        await test(factory.get(), upstream)


def leaks_of(work: Callable[[], Any]) -> tuple[str, ...]:
    """Return what a function leaves behind."""
    try:
        with forbid_leaks():
            work()
    except LeaksFound as exc:
        return exc.leaks
    return ()


def line_of(function: Any, text: str) -> str:
    """Return the place of a line in a function, as a leak is told with."""
    lines, first = inspect.getsourcelines(function)
    found = next((number, line) for number, line in enumerate(lines) if text in line)
    return f"test_leaks.py:{first + found[0]} in {function.__name__}: {found[1].strip()}"


# Responses.


async def reads(client: Any, upstream: Upstream) -> None:
    """Do everything as it should be done, in all ways."""
    assert (await client.get(f"{upstream.url}/small")).text == "small"
    async with client.stream("GET", f"{upstream.url}/big"):
        pass  # leaving the block closes it
    response = await client.send(client.build_request("GET", f"{upstream.url}/small"), stream=True)
    await response.aread()
    response = await client.send(client.build_request("GET", f"{upstream.url}/nothing"), stream=True)
    assert response.is_closed is False


async def keeps_big(client: Any, upstream: Upstream) -> None:
    """Leave a response open that holds a connection, until the client is closed."""
    client.kept = await client.send(client.build_request("GET", f"{upstream.url}/big?secret=1"), stream=True)


async def keeps_small(client: Any, upstream: Upstream) -> None:
    """Leave one that has arrived whole, and holds nothing."""
    client.kept = await client.send(client.build_request("POST", f"{upstream.url}/small"), stream=True)
    async with asyncio.timeout(10):
        while client.pool_statistics().active:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0)


async def drops(client: Any, upstream: Upstream) -> None:
    """Forget one without closing it."""
    response = await client.send(client.build_request("GET", f"{upstream.url}/big"), stream=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del response
        gc.collect()
    await asyncio.sleep(0)


@pytest.fixture(name="upstream")
def _upstream(upstream: Upstream) -> Upstream:
    upstream.route(path="/small").respond(text="small")
    upstream.route(path="/nothing").respond(204)
    upstream.route(path="/big").hang(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    return upstream


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_left(upstream: Upstream, family: Any) -> None:
    """What is read or closed, and a response without a body, is no leak."""
    settings = SETTINGS.model_copy(update={"family": family})
    assert leaks_of(lambda: asyncio.run(in_factory(reads, upstream, settings))) == ()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("test", "wrong"),
    [
        (keeps_big, "the response to GET {url}/big was not closed before its client was: "),
        (keeps_small, "the response to POST {url}/small was neither closed nor read: "),
        (drops, "the response to GET {url}/big was dropped without being closed: "),
    ],
)
def test_response(upstream: Upstream, test: Test, wrong: str, family: Any) -> None:
    """A response that nobody closed is told with its request, without the query, and the line that sent it."""
    settings = SETTINGS.model_copy(update={"family": family})
    (leak,) = leaks_of(lambda: asyncio.run(in_factory(test, upstream, settings)))
    assert leak.startswith(wrong.format(url=upstream.url))
    assert f"\n  {leak}\n" in str(LeaksFound((leak,)))
    assert leak.endswith(line_of(test, "client.send("))


def test_response_in_an_app(upstream: Upstream) -> None:
    """In an app it is the route's line; a response that is streamed by a proxied route to its end is no leak."""
    app = FastAPI(lifespan=create_lifespan(SETTINGS))
    kept: list[Any] = []

    @app.get("/leaking")
    async def leaking(client: ClientDep) -> None:
        kept.append(await client.send(client.build_request("GET", f"{upstream.url}/big"), stream=True))

    @app.get("/proxied")
    async def proxied(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, f"{upstream.url}/small")

    def ask(path: str) -> None:
        with TestClient(app) as browser:
            assert browser.get(path).status_code == 200

    assert leaks_of(lambda: ask("/proxied")) == ()
    (leak,) = leaks_of(lambda: ask("/leaking"))
    assert leak.endswith(line_of(leaking, "client.send("))


def test_response_of_a_proxied_route(upstream: Upstream) -> None:
    """Where no line of the app's own is at work, it is the innermost that is not this package's."""
    upstream.get("/again").respond(text="x" * 100)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = StreamingProxyResponse(Request(scope, receive), f"{upstream.url}/big")
        await response(scope, receive, send)

    async def leave() -> None:
        async with ClientFactory(SETTINGS) as factory:
            scope = {
                "type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [],
                "state": {"client": factory.get()},
            }  # fmt: skip
            began = asyncio.Event()

            async def send(message: Any) -> None:
                began.set()

            async def receive() -> Any:
                return await asyncio.get_running_loop().create_future()

            task = asyncio.ensure_future(app(scope, receive, send))
            await asyncio.wait_for(began.wait(), 10)
            task.cancel()
            await asyncio.wait((task,))

    assert leaks_of(lambda: asyncio.run(leave())) == ()


def test_many_requests(upstream: Upstream) -> None:
    """Of many requests only those are remembered that are still under way; a leak among them is found."""

    async def many(client: Any, upstream: Upstream) -> None:
        await keeps_big(client, upstream)
        for _ in range(300):
            await client.get(f"{upstream.url}/small")

    (leak,) = leaks_of(lambda: asyncio.run(in_factory(many, upstream)))
    assert "in keeps_big" in leak


# Connections.


def test_client_that_was_not_closed(upstream: Upstream) -> None:
    """The connections of a client that nobody closed are counted, by the line that made them."""
    loop = asyncio.new_event_loop()
    clients: list[httpx.AsyncClient] = []

    async def ask() -> None:
        await clients[0].get(f"{upstream.url}/small")

    async def ask_twice() -> None:
        clients.append(httpx.AsyncClient(transport=PoolTransport(trust_env=False)))
        await asyncio.gather(ask(), ask())

    leaks = leaks_of(lambda: loop.run_until_complete(ask_twice()))
    assert leaks == (f"2 connections of a client that was not closed: {ROOT}{line_of(ask, '.get(')}",)

    # It is older than the next block, so its connections are no leak there; its responses would be.
    assert leaks_of(lambda: loop.run_until_complete(ask())) == ()
    request = clients[0].build_request("GET", f"{upstream.url}/big")
    (leak,) = leaks_of(lambda: loop.run_until_complete(keep(clients[0], request)))
    assert "was not closed: " in leak
    loop.run_until_complete(clients[0].aclose())
    loop.close()


async def keep(client: Any, request: Any) -> None:
    """Leave a response open."""
    client.kept = await client.send(request, stream=True)


def test_requests_under_way(upstream: Upstream) -> None:
    """A request that somebody waits for when the block ends is told; if its client is closed, the waiting one is."""
    upstream.get("/never").hang()
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=PoolTransport(trust_env=False))
        asked: list[Any] = []

        async def ask() -> None:
            asked.append(asyncio.ensure_future(client.get(f"{upstream.url}/never")))
            while len(upstream.requests) < len(asked):  # noqa: ASYNC110 -- another thread
                await asyncio.sleep(0)

        async def end() -> None:
            await ask()
            await client.aclose()
            with pytest.raises(httpx.ReadError):
                await asked[1]

        (leak,) = leaks_of(lambda: runner.run(ask()))
        assert leak.startswith(f"the response to GET {upstream.url}/never is still awaited: ")
        assert leaks_of(lambda: runner.run(end())) == ()
        assert isinstance(asked[0].exception(), httpx.ReadError)


def test_response_that_is_older(upstream: Upstream) -> None:
    """What was open before the block is nobody's leak in it, also if it is broken off there."""
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=PoolTransport(trust_env=False))
        runner.run(keep(client, client.build_request("GET", f"{upstream.url}/big")))
        assert leaks_of(lambda: runner.run(client.aclose())) == ()


# Tasks.


async def endless() -> AsyncIterator[str]:
    """Be inputs that never come."""
    await asyncio.get_running_loop().create_future()
    yield ""


async def leaves_a_fan_out(client: Any, upstream: Upstream) -> None:
    """Begin with many requests, and leave them alone."""
    outcomes = as_completed(client, [f"{upstream.url}/small", f"{upstream.url}/big"])
    client.kept = outcomes
    await anext(aiter(outcomes))


def test_task_of_a_loop_that_goes_on(upstream: Upstream) -> None:
    """A task that still runs is told with the line that began it, and so is what it waits for."""
    with asyncio.Runner() as runner:
        factory = ClientFactory(SETTINGS)
        runner.run(factory.__aenter__())
        leaks = leaks_of(lambda: runner.run(leaves_a_fan_out(factory.get(), upstream)))
        tasks = [leak for leak in leaks if leak.startswith("a task, ")]
        assert len(tasks) == 1
        assert tasks[0].endswith(line_of(leaves_a_fan_out, "anext(aiter(")) or "in leaves_a_fan_out" in tasks[0]
        runner.run(factory.__aexit__(None, None, None))


async def waits_for_inputs(client: Any) -> None:
    """Begin with many requests whose URLs never come, and leave that alone."""
    client.kept = asyncio.ensure_future(anext(as_completed(client, endless())))
    for _ in range(3):
        await asyncio.sleep(0)


async def waits_in_a_factory() -> None:
    """Do it with a client that is closed."""
    async with ClientFactory(SETTINGS) as factory:
        await waits_for_inputs(factory.get())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_task_that_the_end_of_the_loop_cancels(loop: str) -> None:
    """A task that only the end of its loop stops is a leak, too; uvloop's are told without the line."""
    make = asyncio.new_event_loop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    def run() -> None:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(waits_in_a_factory())

    leaks = leaks_of(run)
    place = line_of(waits_for_inputs, "ensure_future(") if loop == "asyncio" else "begun at an unknown line"
    assert len(leaks) == 2
    assert all(leak.startswith("a task, ") for leak in leaks)
    assert any(leak.endswith(place) for leak in leaks)


def test_upload_that_ends_by_itself(upstream: Upstream) -> None:
    """Tasks that end with their requests are no leak, and neither are those of others."""
    upstream.post("/upload").respond(text="taken")

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 10

    async def upload(client: Any, upstream: Upstream) -> None:
        client.other = asyncio.get_running_loop().create_task(asyncio.sleep(60))
        assert (await client.post(f"{upstream.url}/upload", content=body())).text == "taken"

    assert leaks_of(lambda: asyncio.run(in_factory(upload, upstream))) == ()


# The block itself.


def test_error_of_the_block() -> None:
    """What the block raises comes out, whatever it leaves behind; and everything is as it was before."""
    before = [asyncio.Runner.close, asyncio.BaseEventLoop.create_task]
    with pytest.raises(ZeroDivisionError), forbid_leaks():
        raise ZeroDivisionError
    assert before == [asyncio.Runner.close, asyncio.BaseEventLoop.create_task]


def test_unused_runner() -> None:
    """A runner that has run nothing is closed as always."""
    with forbid_leaks():
        asyncio.Runner().close()
