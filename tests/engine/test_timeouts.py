"""Time limits: what each covers, when it runs and when not (checklist B, H5 to H7)."""

import asyncio
import threading
import time

import pytest

from fastapi_httpx_pool.engine import Limits
from fastapi_httpx_pool.exceptions import ReadTimeout, TotalTimeout
from fastapi_httpx_pool.messages import Timeouts
from tests.support.bodies import Source, for_ever
from tests.support.engines import (
    LIMIT,
    assert_quiet,
    both_loops,
    fetch,
    pool_of,
    read,
    running,
    turn,
    unread,
    until,
)
from tests.support.patience import with_patience
from tests.support.ports import deaf_port
from tests.support.upstream import Connection, Script, answering, ok, scripted

pytestmark = [pytest.mark.anyio, both_loops]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
STEP = 0.05
"""Seconds between what a slow upstream sends."""
SHORT = 0.15
"""Seconds: longer than a step, shorter than some; for limits that are to be reached."""
ENOUGH = 0.3
"""Seconds: longer than an answer takes; for limits that are not, to begin with."""


def hanging(said: bytes = b"") -> Script:
    """Return a script that says so much on its first connection and falls silent; others answer."""

    def script(connection: Connection) -> None:
        if connection.number:
            answering(ok(b"next"))(connection)
            return
        connection.read_head()
        connection.send(said)
        connection.wait_until_closed()

    return script


def dripping(data: bytes, pieces: int = 6, step: float = STEP) -> Script:
    """Return a script that takes longer for its answer than a limit, but never that long for a part of it."""

    def script(connection: Connection) -> None:
        while connection.read_head():
            size = -(-len(data) // pieces)
            for start in range(0, len(data), size):
                time.sleep(step)
                connection.send(data[start : start + size])

    return script


# Read.


@pytest.mark.parametrize("limit", [0, 1e-6, 0.05, SHORT])
@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nConte", b"HTTP/1.1 102 Processing\r\n\r\n"], ids=["nothing", "half", "1xx"]
)
async def test_read_limit_before_the_head(limit: float, said: bytes) -> None:
    """An upstream that stays silent instead of giving a head ends the request; its connection is closed."""
    with scripted(hanging(said)) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            with pytest.raises(ReadTimeout, match=f"the server sent nothing for {limit:g} s"):
                await unread(engine, upstream.url, timeouts=Timeouts(read=limit))
            assert_quiet(engine)
            origin = engine.statistics().origins[upstream.url]
            assert (origin.closed, origin.failures) == ({"timeout": 1}, {"ReadTimeout": 1})
            assert await fetch(engine, upstream.url) == b"next"


@with_patience(ENOUGH)
async def test_read_limit_in_the_body(limit: float) -> None:
    """Likewise in the middle of a body, after what has come."""
    with scripted(hanging(HEAD + b"hello")) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            response = await unread(engine, upstream.url, timeouts=Timeouts(read=limit))
            chunks = aiter(response.body)
            assert await anext(chunks) == b"hello"
            with pytest.raises(ReadTimeout):
                await anext(chunks)
            assert_quiet(engine)
            assert engine.statistics().origins[upstream.url].closed == {"timeout": 1}
            await response.aclose()
            assert await fetch(engine, upstream.url) == b"next"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ok(b""), id="head"),
        pytest.param(HEAD + b"x" * 100, id="body"),
        pytest.param(b"HTTP/1.1 102 Processing\r\n\r\n" * 6 + ok(b""), id="1xx"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n32;"
            + b"x" * 100
            + b"\r\n"
            + b"x" * 50
            + b"\r\n0\r\n\r\n",
            id="extension",
        ),
    ],
)
@with_patience(ENOUGH)
async def test_read_limit_begins_anew_with_each_sign_of_life(answer: bytes, limit: float) -> None:
    """It is about silence, not about how long something takes; whatever bytes there are end the silence."""
    with scripted(dripping(answer, pieces=14, step=limit / 6)) as upstream:
        async with running() as engine:
            began = time.monotonic()
            await fetch(engine, upstream.url, timeouts=Timeouts(read=limit))
            assert time.monotonic() - began > limit
            assert_quiet(engine)


@with_patience(ENOUGH)
async def test_read_limit_waits_for_a_reader(limit: float) -> None:
    """While nobody waits for the body, no limit runs, and nothing is held against the upstream later."""
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(HEAD)
        go_on.wait(LIMIT)
        time.sleep(STEP)
        connection.send(b"x" * 100)
        connection.wait_until_closed()

    with scripted(script) as upstream:
        async with running() as engine:
            response = await unread(engine, upstream.url, timeouts=Timeouts(read=limit))
            await asyncio.sleep(limit + STEP)
            go_on.set()
            assert await read(response) == b"x" * 100


@with_patience(ENOUGH)
async def test_read_limit_waits_for_the_upload(limit: float) -> None:
    """The upstream need not say anything before it has the whole request."""
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_until(b"0\r\n\r\n")
        connection.send(ok())
        connection.wait_until_closed()

    async def then() -> None:
        await asyncio.sleep(limit + STEP)
        go_on.set()

    with scripted(script) as upstream:
        async with running() as engine:
            body = Source([b"begun"], then)
            assert await fetch(engine, upstream.url, body=body, timeouts=Timeouts(read=limit, write=limit)) == b"ok"


async def test_read_limit_runs_after_the_upload() -> None:
    """But it must then."""
    with scripted(hanging()) as upstream:
        async with running() as engine:
            with pytest.raises(ReadTimeout):
                await unread(engine, upstream.url, body=Source([b"all"]), timeouts=Timeouts(read=STEP))
            assert_quiet(engine)


@pytest.mark.parametrize("timeouts", [Timeouts(read=SHORT), Timeouts(total=SHORT)], ids=["read", "total"])
async def test_h6_data_that_is_there_beats_the_limit(timeouts: Timeouts) -> None:
    """If the loop was busy for longer than the limit, what has come meanwhile counts."""
    go_on, sent = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        go_on.wait(LIMIT)
        connection.send(ok(b"there"))
        sent.set()
        connection.wait_until_closed()

    with scripted(script) as upstream:
        async with running() as engine:
            task = asyncio.create_task(fetch(engine, upstream.url, timeouts=timeouts))
            await until(lambda: engine._pools and any(c.holder for c in pool_of(engine)._connections))
            await turn(3)
            go_on.set()
            keep_the_loop_busy(sent)
            assert await task == b"there"


def keep_the_loop_busy(sent: threading.Event) -> None:
    """Block until something was sent, and for longer than the limit."""
    assert sent.wait(LIMIT)
    time.sleep(SHORT + STEP)


# Total.


@pytest.mark.parametrize(
    ("total", "others"), [(1e-6, Timeouts()), (SHORT, Timeouts(10, 10, 10, 10))], ids=["alone", "with others"]
)
@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\nConte", b"HTTP/1.1 102 Processing\r\n\r\n", HEAD, HEAD + b"hello"],
    ids=["nothing", "half a head", "1xx", "head", "body"],
)
async def test_total_limit(total: float, said: bytes, others: Timeouts) -> None:
    """The whole exchange has to be over in time, whatever it is at."""
    with scripted(hanging(said)) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            with pytest.raises(TotalTimeout, match=f"within its total timeout of {total:g} s"):
                await fetch(engine, upstream.url, timeouts=others._replace(total=total))
            assert_quiet(engine)


async def test_total_limit_of_a_slow_answer() -> None:
    """Signs of life do not prolong it."""
    with scripted(dripping(HEAD + b"x" * 100, pieces=10)) as upstream:
        async with running() as engine:
            with pytest.raises(TotalTimeout):
                await fetch(engine, upstream.url, timeouts=Timeouts(read=5.0, total=2 * SHORT))
            assert_quiet(engine)


async def test_total_limit_of_a_slow_head() -> None:
    """Also if there is no limit for reading, and the head comes in pieces."""
    with scripted(dripping(HEAD, pieces=10)) as upstream:
        async with running() as engine:
            with pytest.raises(TotalTimeout):
                await fetch(engine, upstream.url, timeouts=Timeouts(total=2 * SHORT))
            assert_quiet(engine)


async def test_total_limit_in_the_queue() -> None:
    """It runs while a request waits for its turn."""
    with scripted(hanging(HEAD)) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            response = await unread(engine, upstream.url)
            with pytest.raises(TotalTimeout):
                await unread(engine, upstream.url, timeouts=Timeouts(total=STEP))
            assert engine.statistics().queued == 0
            await response.aclose()
            assert_quiet(engine)


async def test_total_limit_while_connecting() -> None:
    """It runs while a connection is made."""
    with deaf_port() as port:
        async with running() as engine:
            with pytest.raises(TotalTimeout):
                await unread(engine, f"http://127.0.0.1:{port}", timeouts=Timeouts(total=STEP))
            assert_quiet(engine)


async def test_total_limit_while_the_body_is_made() -> None:
    """It runs while an upload waits for its own body."""
    source = Source([b"begun"], for_ever)
    with scripted(hanging()) as upstream:
        async with running() as engine:
            with pytest.raises(TotalTimeout):
                await unread(engine, upstream.url, body=source, timeouts=Timeouts(total=STEP))
            assert source.closed
            assert_quiet(engine)


@with_patience(ENOUGH)
async def test_total_limit_while_two_wait(limit: float) -> None:
    """It ends whoever reads the early answer of an upload that cannot go on."""
    source = Source([b"begun"], for_ever)
    with scripted(hanging(HEAD + b"hello")) as upstream:
        async with running() as engine:
            response = await unread(
                engine, upstream.url, body=source, timeouts=Timeouts(total=limit, write=LIMIT, read=LIMIT)
            )
            chunks = aiter(response.body)
            assert await anext(chunks) == b"hello"
            with pytest.raises(TotalTimeout):
                await anext(chunks)
            await response.aclose()
            assert source.closed
            assert_quiet(engine)


@with_patience(ENOUGH)
async def test_total_limit_that_passes_unnoticed(limit: float) -> None:
    """If nobody waits when it is over, who reads on gets what has come, and then the error, without waiting."""
    with scripted(hanging(HEAD + b"hello")) as upstream:
        async with running() as engine:
            response = await unread(engine, upstream.url, timeouts=Timeouts(total=limit))
            await asyncio.sleep(limit + STEP)
            chunks = aiter(response.body)
            assert await anext(chunks) == b"hello"
            with pytest.raises(TotalTimeout):
                await anext(chunks)
            await response.aclose()
            assert_quiet(engine)


@with_patience(ENOUGH)
async def test_total_limit_does_not_reach_beyond_the_last_byte(limit: float) -> None:
    """A complete response can be read whenever."""
    with scripted(answering(ok(b"there"))) as upstream:
        async with running() as engine:
            response = await unread(engine, upstream.url, timeouts=Timeouts(total=limit, read=limit))
            await asyncio.sleep(limit + STEP)
            assert await read(response) == b"there"
            assert await fetch(engine, upstream.url) == b"there"
            assert engine.statistics().origins[upstream.url].reused == 1


async def test_limits_under_way_do_not_pile_up() -> None:
    """A connection that carries many requests has one limit at a time, whichever of them it belongs to."""
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            for number in range(50):
                timeouts = Timeouts(read=5.0) if number % 2 else Timeouts(read=0.9, total=0.95)
                assert await fetch(engine, upstream.url, timeouts=timeouts) == b"ok"
            timer = pool_of(engine).timer
            assert len(timer._precise) + sum(map(len, timer._ticks.values())) <= 1
