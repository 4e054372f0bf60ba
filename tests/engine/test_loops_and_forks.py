"""One engine in several event loops, threads and processes, and in loops of every kind (checklist M)."""

import asyncio
import contextlib
import gc
import json
import logging
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop

from fastapi_httpx_pool.engine import ConnectOptions, Engine, Limits, _engine
from fastapi_httpx_pool.exceptions import ClientClosed, ReadError
from fastapi_httpx_pool.messages import Response
from tests.support import forking_engine
from tests.support.engines import LIMIT, assert_quiet, fetch, request_to, turn
from tests.support.ports import deaf_port
from tests.support.tls import Authority
from tests.support.upstream import Connection, answering, ok, scripted
from tests.support.watched import Held, Watched

ROOT = Path(__file__).parent.parent.parent

NEW_LOOPS: list[Any] = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def numbered(connection: Connection) -> None:
    """Answer each request with the number of its connection."""
    answering(ok(b"%d" % connection.number))(connection)


def run(new_loop: NewLoop, coroutine: Coroutine[Any, Any, Any], *, debug: bool = False) -> Any:
    """Run something in an event loop of its own."""
    with asyncio.Runner(loop_factory=new_loop, debug=debug) as runner:
        return runner.run(coroutine)


@contextlib.contextmanager
def left_open() -> Any:
    """Allow transports to complain that their loop was closed under them; nobody else may."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed transport", ResourceWarning)
        warnings.filterwarnings("ignore", "unclosed resource", ResourceWarning)
        yield
        gc.collect()


# Loops one after the other, and at the same time.


@pytest.mark.parametrize("new_loop", NEW_LOOPS)
def test_m2_one_loop_after_the_other(new_loop: NewLoop) -> None:
    """In each loop the engine begins anew; what a closed loop left behind is closed."""
    watched = Watched(numbered)
    with left_open(), scripted(watched) as upstream:
        engine = Engine()

        async def use() -> bytes:
            assert engine.statistics().origins == {}
            await fetch(engine, upstream.url)
            answer = await fetch(engine, upstream.url)
            assert engine.statistics().idle == 1
            return answer

        assert [run(new_loop, use()) for _ in range(3)] == [b"0", b"1", b"2"]
        assert len(engine._pools) == 1
        run(new_loop, engine.aclose())
        assert engine._pools == {}
        assert watched.none_open_now()
        with pytest.raises(ClientClosed):
            run(new_loop, use())


@pytest.mark.parametrize("new_loop", NEW_LOOPS)
def test_m2_closed_without_a_loop(new_loop: NewLoop) -> None:
    """``close`` needs no loop, and lets go of a closed loop's sockets."""
    watched = Watched(numbered)
    with left_open(), scripted(watched) as upstream:
        engine = Engine()
        assert run(new_loop, fetch(engine, upstream.url)) == b"0"
        engine.close()
        assert watched.none_open_now()
        assert repr(engine) == "<Engine [closed]>"


def test_m2_back_and_forth() -> None:
    """Two loops that run in turns have a pool each, and each finds its own again."""
    with scripted(numbered) as upstream:
        engine = Engine()
        loops = [asyncio.new_event_loop(), uvloop.new_event_loop()]
        try:
            answers = [loop.run_until_complete(fetch(engine, upstream.url)) for loop in loops * 3]
            assert answers == [b"0", b"1"] * 3
            # Closed in the one loop, the engine is closed in the other too, as soon as that runs.
            loops[0].run_until_complete(engine.aclose())
            with pytest.raises(ClientClosed):
                loops[1].run_until_complete(fetch(engine, upstream.url))
        finally:
            for loop in loops:
                loop.run_until_complete(turn(3))
                loop.close()
        assert upstream.accepted == 2


@pytest.mark.parametrize("new_loop", NEW_LOOPS)
def test_m2_response_of_a_closed_loop(new_loop: NewLoop) -> None:
    """A response, or another protocol's stream, that outlived its loop can still be closed."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n"

    def script(connection: Connection) -> None:
        connection.send(switch if b"upgrade" in connection.read_head() else ok(b"x" * 50)[:-10])
        connection.wait_until_closed()

    watched = Watched(script)
    with left_open(), scripted(watched) as upstream:
        engine = Engine()
        headers = [(b"Connection", b"upgrade"), (b"Upgrade", b"other")]

        async def open_both() -> list[Response]:
            return [await engine(request_to(upstream.url)), await engine(request_to(upstream.url, headers=headers))]

        async def close(response: Response) -> None:
            await response.aclose()

        for response in run(new_loop, open_both()):
            run(new_loop, close(response))
        engine.close()
        assert watched.none_open_now()


class Endless:
    """A request's body that never comes."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.get_running_loop().create_future()
        raise StopAsyncIteration


@pytest.mark.parametrize("new_loop", NEW_LOOPS)
def test_m2_upload_of_a_closed_loop(new_loop: NewLoop) -> None:
    """A response whose request is still being sent when its loop is closed can be closed too, or forgotten."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(ok(b"x" * 50)[:-10])
        connection.wait_until_closed()

    async def close(response: Response) -> None:
        await asyncio.wait_for(response.aclose(), LIMIT)

    logging.getLogger("asyncio").addFilter(_is_no_pending_task)
    try:
        with left_open(), scripted(script) as upstream:
            engine = Engine()
            loop = new_loop()

            async def open_one() -> Response:
                return await engine(request_to(upstream.url, method=b"POST", body=Endless()))

            response = loop.run_until_complete(open_one())
            loop.close()
            run(new_loop, close(response))
            engine.close()
            del response
            gc.collect()
    finally:
        logging.getLogger("asyncio").removeFilter(_is_no_pending_task)


@pytest.mark.parametrize("new_loop", NEW_LOOPS)
def test_m2_tasks_of_a_closed_loop(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that were under way when their loop was closed under them are collected in silence."""
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    held = Held()
    tasks: list[asyncio.Future[Any]] = []

    async def begin(engine: Engine) -> None:
        urls = [held_url, held_url, *[f"http://127.0.0.1:{deaf}"] * 2]
        tasks.extend(asyncio.ensure_future(fetch(engine, url)) for url in urls)
        await held.arrived(2)
        tasks.extend(asyncio.ensure_future(fetch(engine, held_url)) for _ in range(2))
        await turn(2)
        assert (engine.statistics().active, engine.statistics().queued) == (4, 2)

    logging.getLogger("asyncio").addFilter(_is_no_pending_task)
    try:
        with left_open(), scripted(held) as upstream, deaf_port() as deaf:
            held_url = upstream.url
            engine = Engine(Limits(max_connections=4))
            loop = new_loop()
            loop.run_until_complete(begin(engine))
            loop.close()
            while tasks:
                tasks.pop(0)
                gc.collect()
            engine.close()
            held.release()
    finally:
        logging.getLogger("asyncio").removeFilter(_is_no_pending_task)
    assert [(one.exc_type, one.exc_value) for one in complaints] == []


def _is_no_pending_task(record: logging.LogRecord) -> bool:
    return "Task was destroyed but it is pending" not in record.getMessage()


class Thread:
    """An event loop in a thread, for a block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Begin something there; ``result()`` waits for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Do something there."""
        return self.start(coroutine).result(LIMIT)

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        self.loop.close()


def test_m3_two_threads() -> None:
    """Two loops in two threads use one engine at the same time, each with limits of its own."""
    with scripted(answering(ok())) as upstream, Thread() as first, Thread() as second:
        engine = Engine(Limits(max_connections=3))

        async def callers() -> int:
            answers = await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(60)))
            assert answers == [b"ok"] * 60
            assert_quiet(engine)
            return engine.statistics().origins[upstream.url].requests

        running = [thread.start(callers()) for thread in (first, second)]
        assert [one.result(LIMIT) for one in running] == [60, 60]
        assert upstream.accepted == 6
        first.run(engine.aclose())
        with pytest.raises(ClientClosed):
            second.run(fetch(engine, upstream.url))


@pytest.mark.parametrize("where", ["another loop", "another thread"])
def test_a8_closed_from_elsewhere(where: str) -> None:
    """Closed from another thread, with a loop or without, whoever waits in this one is told."""
    held = Held()
    watched = Watched(held)
    with scripted(watched) as upstream, Thread() as there:
        engine = Engine(Limits(max_connections=1))
        waiting = [there.start(fetch(engine, upstream.url)) for _ in range(3)]
        asyncio.run(held.arrived())
        there.run(turn(2))  # the others wait behind it by now
        if where == "another loop":
            asyncio.run(engine.aclose())
        else:
            engine.close()
        for one in waiting:
            with pytest.raises(ReadError, match="the pool was closed"):
                one.result(LIMIT)
        held.release()
        assert watched.none_open_now()
        with pytest.raises(ClientClosed):
            there.run(fetch(engine, upstream.url))


# Forks.


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_m4_fork(tmp_path: Path, *, secure: bool) -> None:
    """A forked child begins anew, even in a bad moment; the parent's connection is neither used nor ended."""
    context, ca_file = None, ""
    if secure:
        authority = Authority()
        context = authority.server()
        authority._ca.cert_pem.write_to_path(tmp_path / "ca.pem")
        ca_file = str(tmp_path / "ca.pem")
    with scripted(numbered, context) as upstream:
        # Threads are meant to be there, which later Pythons warn of.
        command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        told = _program([*command, "-m", forking_engine.__name__, upstream.url, ca_file])
        assert upstream.accepted == 2
    assert json.loads(told) == {
        "before": "0",
        "child_before": "<Engine [0 active, 0 idle, 0 queued, of 100]>",
        "child": "1",
        "child_after": "<Engine [0 active, 1 idle, 0 queued, of 100]>",
        "child_closed": "<Engine [closed]>",
        "child_status": 0,
        "after": "0",
        "parent": "<Engine [0 active, 1 idle, 0 queued, of 100]>",
    }


def test_m4_seen_from_the_inside() -> None:
    """What happens in the child: each engine begins anew, and what the parent left is kept and not touched."""
    with scripted(numbered) as upstream, asyncio.Runner() as runner:
        engine = Engine()
        assert runner.run(fetch(engine, upstream.url)) == b"0"
        lock = engine._lock
        _engine._forget_all()
        try:
            assert engine._lock is not lock
            assert runner.run(fetch(engine, upstream.url)) == b"1"
            runner.run(engine.aclose())
            left = [pool for pools in _engine._left_behind for pool in pools.values()]
            assert [(pool.idle, pool.is_closed) for pool in left if pool.loop is runner.get_loop()] == [(1, False)]
        finally:
            # This is the parent, after all.
            while _engine._left_behind:
                if (pool := _engine._left_behind.pop().get(runner.get_loop())) is not None:
                    runner.get_loop().call_soon(pool.close)
            runner.run(turn(3))


def _program(command: list[str]) -> str:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60.0, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


# Loops of every kind.


async def everything(url: str) -> None:
    """Do a little of everything: reuse, queue, upload, early end, cancellation."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 100_000

    async with contextlib.AsyncExitStack() as stack:
        engine = Engine(Limits(max_connections=3, max_idle=2))
        stack.push_async_callback(engine.aclose)
        assert set(await asyncio.gather(*(fetch(engine, url) for _ in range(20)))) == {b"ok"}
        assert await fetch(engine, url, method=b"POST", body=body()) == b"ok"
        assert await fetch(engine, url, method=b"PUT", body=b"x" * 300_000) == b"ok"
        for turns in range(0, 12, 3):
            tasks = [asyncio.ensure_future(fetch(engine, url)) for _ in range(6)]
            await turn(turns)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert_quiet(engine)
        await (await engine(request_to(url))).aclose()
        assert await fetch(engine, url) == b"ok"
        assert_quiet(engine)


@pytest.mark.parametrize("new_loop", NEW_LOOPS)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_m6_debug_mode(new_loop: NewLoop, caplog: pytest.LogCaptureFixture, *, secure: bool) -> None:
    """In debug mode nothing is warned of and nothing logged."""
    authority = Authority()
    with scripted(answering(ok()), authority.server() if secure else None) as upstream, caplog.at_level(logging.INFO):

        async def main() -> None:
            asyncio.get_running_loop().slow_callback_duration = LIMIT  # this machine may be busy
            await everything_over(upstream.url, authority.client())

        run(new_loop, main(), debug=True)
        gc.collect()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def everything_over(url: str, context: ssl.SSLContext) -> None:
    """Do all that with TLS, if that is what the URL says."""
    if url.startswith("http:"):
        await everything(url)
        return
    engine = Engine(Limits(max_connections=2), ConnectOptions(ssl_context=context))
    assert set(await asyncio.gather(*(fetch(engine, url) for _ in range(5)))) == {b"ok"}
    await (await engine(request_to(url))).aclose()
    task = asyncio.ensure_future(fetch(engine, url))
    await turn(2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await fetch(engine, url) == b"ok"
    await engine.aclose()
    await turn(3)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_m6_eager_tasks() -> None:
    """With tasks that begin at once all is the same."""

    async def main() -> None:
        factory: Any = vars(asyncio)["eager_task_factory"]
        asyncio.get_running_loop().set_task_factory(factory)
        await everything(upstream.url)
        assert len(asyncio.all_tasks()) == 1

    with scripted(answering(ok())) as upstream:
        run(asyncio.new_event_loop, main())


def test_debug_mode_tells_where_a_forgotten_response_was_opened() -> None:
    """A response that is dropped half-read gives its place back, and in debug mode says where it came from."""

    async def main() -> None:
        engine = Engine(Limits(max_connections=1))

        async def forget() -> None:
            await engine(request_to(upstream.url, b"/forgotten"))
            gc.collect()

        with pytest.warns(ResourceWarning, match=r"the response to /forgotten was dropped(?s:.*)in forget"):
            await forget()
        await turn()
        assert_quiet(engine)
        await engine.aclose()

    with scripted(answering(ok(b"x" * 50)[:-10])) as upstream:
        run(asyncio.new_event_loop, main(), debug=True)


# The end of the interpreter.

EXITING = """
import asyncio, sys
from fastapi_httpx_pool.engine import Engine
from tests.support.engines import fetch, request_to

if sys.argv[2] == "uvloop":
    from uvloop import new_event_loop
else:
    from asyncio import new_event_loop

engines, kept = [Engine(), Engine()], []

async def main(engine):
    await asyncio.gather(*(fetch(engine, sys.argv[1]) for _ in range(3)))
    kept.append(await engine(request_to(sys.argv[1], b"/half")))
    assert engine.statistics().active == 1

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main(engines[0]))
loop = new_event_loop()
loop.run_until_complete(main(engines[1]))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_m7_interpreter_exit(loop: str) -> None:
    """An interpreter that ends with connections open ends silently, whether their loop was closed or not."""

    def script(connection: Connection) -> None:
        while head := connection.read_head():
            connection.send(ok(b"x" * 50)[:-10] if b"/half" in head else ok())

    with scripted(script) as upstream:
        _program([sys.executable, "-c", EXITING, upstream.url, loop])
