"""Names: looked up once, remembered for a while, in threads of their own (checklist K1, K2)."""

import asyncio
import gc
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import aiohappyeyeballs
import pytest

from fastapi_httpx_pool.engine import Engine, Limits, _connect
from fastapi_httpx_pool.exceptions import ConnectError, ConnectTimeout
from fastapi_httpx_pool.messages import Timeouts
from tests.support.connecting import LoopErrors, Names, in_thread, needs_ipv6
from tests.support.engines import LIMIT, assert_quiet, both_loops, fetch, running, turn
from tests.support.upstream import answering, ok, scripted

pytestmark = pytest.mark.anyio

NO_REUSE = Limits(max_idle=0)
"""So that each request looks its host up."""

UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """Look names up in one thread, so that one thing comes after the other."""
    with ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(_connect, "_executor", threads)
        yield threads


async def answered(thread: Executor) -> None:
    """Wait until a thread is done with what it did, and the loop has heard of it."""
    await asyncio.wrap_future(thread.submit(int))
    await turn(2)


def start(engine: Engine, url: str, count: int = 1, **request: Any) -> list[asyncio.Task[bytes]]:
    """Begin some requests."""
    return [asyncio.create_task(fetch(engine, url, **request)) for _ in range(count)]


# Once.


@both_loops
async def test_k1_remembered(names: Names) -> None:
    """A name is looked up for the first connection and not for the next ones."""
    with scripted(answering(ok())) as upstream:
        async with running(NO_REUSE) as engine:
            for _ in range(5):
                assert await fetch(engine, f"http://api.example:{upstream.port}") == b"ok"
    assert upstream.accepted == 5
    assert names.asked == [("api.example", upstream.port)]


@both_loops
async def test_k1_shared_while_it_runs(names: Names) -> None:
    """Many who want to know the same name at a time wait for one answer."""
    gate = names.hold("api.example")
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            tasks = start(engine, f"http://api.example:{upstream.port}", 10)
            await in_thread(lambda limit: names.arrived.acquire(timeout=limit))
            gate.set()
            assert await asyncio.gather(*tasks) == [b"ok"] * 10
            assert_quiet(engine)
    assert names.count("api.example") == 1


@both_loops
async def test_k1_one_who_gives_up_does_not_spoil_it(names: Names) -> None:
    """The cancellation, and the time-out, of some of those who wait leave the answer to the others."""
    gate = names.hold("api.example")
    with scripted(answering(ok())) as upstream:
        url = f"http://api.example:{upstream.port}"
        async with running() as engine:
            cancelled, waiting = start(engine, url), start(engine, url, 2)
            impatient = start(engine, url, timeouts=Timeouts(connect=0.01))
            await in_thread(lambda limit: names.arrived.acquire(timeout=limit))
            cancelled[0].cancel()
            await asyncio.wait([*cancelled, *impatient])
            assert cancelled[0].cancelled()
            with pytest.raises(ConnectTimeout):
                impatient[0].result()
            assert engine.statistics().active == 2
            gate.set()
            assert await asyncio.gather(*waiting) == [b"ok"] * 2
            assert_quiet(engine)
    assert names.count("api.example") == 1


@both_loops
@pytest.mark.parametrize("fails", [False, True])
async def test_k1_nobody_is_left_to_wait(names: Names, one_thread: Executor, fails: bool) -> None:
    """What comes after everybody has given up is kept for the next one if it is an answer, and forgotten if not."""
    gate = names.hold("api.example")
    with scripted(answering(ok())) as upstream:
        url = f"http://api.example:{upstream.port}"
        async with running() as engine:
            errors = LoopErrors()
            (task,) = start(engine, url)
            await in_thread(lambda limit: names.arrived.acquire(timeout=limit))
            task.cancel()
            await asyncio.wait([task])
            assert_quiet(engine)
            if fails:
                names.fail("api.example", UNKNOWN)
            gate.set()
            await answered(one_thread)
            names.know("api.example", "127.0.0.1")
            assert await fetch(engine, url) == b"ok"
            assert names.count("api.example") == (2 if fails else 1)
            gc.collect()
            assert errors.contexts == []


@both_loops
async def test_k1_failures_are_not_remembered(names: Names) -> None:
    """Everybody who waits is told of a failure; the next one asks again."""
    names.fail("api.example", UNKNOWN)
    gate = names.hold("api.example")
    with scripted(answering(ok())) as upstream:
        url = f"http://api.example:{upstream.port}"
        async with running() as engine:
            tasks = start(engine, url, 3)
            await in_thread(lambda limit: names.arrived.acquire(timeout=limit))
            gate.set()
            await asyncio.wait(tasks)
            for task in tasks:
                with pytest.raises(ConnectError, match="Name or service not known") as caught:
                    task.result()
                assert isinstance(caught.value.__cause__, socket.gaierror)
            assert_quiet(engine)
            assert names.count("api.example") == 1
            names.know("api.example", "127.0.0.1")
            assert await fetch(engine, url) == b"ok"
    assert names.count("api.example") == 2


async def test_k1_forgotten_after_a_while(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is used until its time is over, and then asked for again."""
    loop = asyncio.get_running_loop()
    time, later = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: time() + later)
    with scripted(answering(ok())) as upstream:
        url = f"http://api.example:{upstream.port}"
        async with running(NO_REUSE) as engine:
            for later, asked in ((0.0, 1), (9.0, 1), (11.0, 2), (20.0, 2), (22.0, 3)):  # noqa: B007 -- the clock's
                assert await fetch(engine, url) == b"ok"
                assert names.count("api.example") == asked


async def test_k1_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more than a number of names are remembered; the oldest is forgotten first."""
    monkeypatch.setattr(_connect, "MOST_NAMES", 2)
    for name in ("a.example", "b.example", "c.example"):
        names.know(name, "127.0.0.1")
    with scripted(answering(ok())) as upstream:
        async with running(NO_REUSE) as engine:
            for name in "abbcbca":
                assert await fetch(engine, f"http://{name}.example:{upstream.port}") == b"ok"
    assert [name.partition(".")[0] for name, _ in names.asked] == ["a", "b", "c", "a"]


@both_loops
async def test_k1_loop_that_ends_while_a_name_is_looked_up(
    names: Names, one_thread: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that comes when its event loop is gone is nobody's, and nothing is logged."""
    gate = names.hold("api.example")
    engine = Engine()

    async def give_up() -> None:
        (task,) = start(engine, "http://api.example:1")
        await in_thread(lambda limit: names.arrived.acquire(timeout=limit))
        task.cancel()
        await asyncio.wait([task])

    with caplog.at_level(logging.DEBUG, "concurrent.futures"):
        await asyncio.to_thread(asyncio.run, give_up())
        gate.set()
        await answered(one_thread)
    engine.close()
    assert caplog.records == []


# What is looked up.


@both_loops
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_k5_addresses_are_not_looked_up(
    names: Names, monkeypatch: pytest.MonkeyPatch, host: str, anyio_backend: Any
) -> None:
    """For an address nobody is asked."""
    monkeypatch.setattr(socket, "getaddrinfo", None)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with scripted(answering(ok()), listener=socket.create_server((host, 0), family=family)) as upstream:
        async with running() as engine:
            assert await fetch(engine, f"http://{host}:{upstream.port}") == b"ok"


@needs_ipv6
async def test_k5_addresses_with_a_zone(names: Names) -> None:
    """What the zone of an address means, the resolver knows."""
    names.know("fe80::1%lo", "::1")
    with scripted(answering(ok()), listener=socket.create_server(("::1", 0), family=socket.AF_INET6)) as upstream:
        async with running() as engine:
            assert await fetch(engine, f"http://fe80::1%lo:{upstream.port}") == b"ok"
    assert names.asked == [("fe80::1%lo", upstream.port)]


# Where.


@both_loops
async def test_k2_not_in_the_applications_threads(names: Names) -> None:
    """With all threads of the loop's own executor busy, names are still looked up."""
    loop, release = asyncio.get_running_loop(), threading.Event()
    with ThreadPoolExecutor(2) as busy, scripted(answering(ok())) as upstream:
        loop.set_default_executor(busy)
        blocked = [loop.run_in_executor(None, release.wait, LIMIT) for _ in range(4)]
        try:
            async with running() as engine:
                assert await fetch(engine, f"http://api.example:{upstream.port}") == b"ok"
        finally:
            release.set()
        assert await asyncio.gather(*blocked) == [True] * 4
    assert names.count("api.example") == 1


@both_loops
async def test_k2_stuck_resolver(names: Names) -> None:
    """A name whose look-up hangs costs its own requests their time, and nobody else."""
    names.know("stuck.example", "127.0.0.1")
    gate = names.hold("stuck.example")
    with scripted(answering(ok())) as upstream:
        stuck = f"http://stuck.example:{upstream.port}"
        async with running() as engine:
            for _ in range(_connect.LOOKUPS):  # one thread, however often it is tried
                with pytest.raises(ConnectTimeout, match=r"no connection to stuck.example:\d+ within 0.001 s"):
                    await fetch(engine, stuck, timeouts=Timeouts(connect=0.001))
            assert await fetch(engine, f"http://api.example:{upstream.port}") == b"ok"
            assert_quiet(engine)
            gate.set()
            assert await fetch(engine, stuck) == b"ok"
    assert names.count("stuck.example") == 1


async def test_k2_waiting_for_a_thread_counts(names: Names) -> None:
    """When more names are looked up than there are threads, the wait for one is part of the time limit."""
    hosts = [f"stuck{number}.example" for number in range(_connect.LOOKUPS)]
    for host in hosts:
        names.know(host, "127.0.0.1")
        names.hold(host)
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            tasks = [task for host in hosts for task in start(engine, f"http://{host}:{upstream.port}")]
            for _ in hosts:
                await in_thread(lambda limit: names.arrived.acquire(timeout=limit))
            with pytest.raises(ConnectTimeout):
                await fetch(engine, f"http://api.example:{upstream.port}", timeouts=Timeouts(connect=0.01))
            assert names.count("api.example") == 0
            names.release()
            assert await asyncio.gather(*tasks) == [b"ok"] * len(hosts)
            assert await fetch(engine, f"http://api.example:{upstream.port}") == b"ok"


FORKING = """
import asyncio, os, sys
from fastapi_httpx_pool.engine import Engine, Limits
from tests.support.engines import fetch

async def main():
    engine = Engine(Limits(max_idle=0))
    try:
        return await fetch(engine, sys.argv[1])
    finally:
        await engine.aclose()

told = [asyncio.run(main())]
child = os.fork()
told.append(asyncio.run(main()))
if child:
    _, status = os.waitpid(child, 0)
    told.append(status)
    print(told)
else:
    sys.exit(0 if told[1] == b"ok" else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_m4_names_are_looked_up_in_a_forked_child() -> None:
    """A child has threads of its own for names: those of its parent do not exist in it."""
    with scripted(answering(ok())) as upstream:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, f"http://localhost:{upstream.port}"],
            capture_output=True,
            timeout=LIMIT,
            check=False,
            text=True,
        )
        assert (done.stdout, done.stderr) == ("[b'ok', b'ok', 0]\n", "")
        assert upstream.accepted == 3


# In which order.


async def test_k4_family_that_answered_comes_first(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses of the family that answered are tried first next time."""
    tried: list[list[str]] = []
    connect = aiohappyeyeballs.start_connection

    async def noting(addresses: Any, **options: Any) -> socket.socket:
        tried.append([address[4][0] for address in addresses])
        return await connect(addresses, **options)

    monkeypatch.setattr(_connect, "start_connection", noting)
    names.know("api.example", "::1", "127.0.0.1", "127.0.0.2")
    with scripted(answering(ok())) as upstream:
        async with running(NO_REUSE) as engine:
            for _ in range(3):
                assert await fetch(engine, f"http://api.example:{upstream.port}") == b"ok"
    assert tried == [["::1", "127.0.0.1", "127.0.0.2"], *[["127.0.0.1", "127.0.0.2", "::1"]] * 2]
