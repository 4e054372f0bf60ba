"""How connections are made: addresses, sockets, time limits, retries, and what is left when none is (checklist K)."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine, Limits, _connect
from fastapi_httpx_pool.exceptions import ConnectError, ConnectTimeout, ReadError, TotalTimeout
from fastapi_httpx_pool.messages import Origin, Request, Timeouts
from tests.support.connecting import (
    LoopErrors,
    Names,
    Steps,
    eventually,
    in_thread,
    needs_ipv6,
    needs_proc,
    open_sockets,
)
from tests.support.engines import LIMIT, assert_quiet, both_loops, fetch, pool_of, read, request_to, running, turn
from tests.support.patience import with_patience
from tests.support.ports import deaf_port, refusing_port
from tests.support.tls import Authority
from tests.support.upstream import Connection, answering, ok, scripted

pytestmark = pytest.mark.anyio

on_linux = pytest.mark.skipif(not hasattr(socket, "SO_BINDTODEVICE"), reason="only Linux has it")

UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def ipv6_listener() -> socket.socket:
    """Return a listening socket on ``::1``."""
    return socket.create_server(("::1", 0), family=socket.AF_INET6)


def unix_listener(path: str) -> socket.socket:
    """Return a listening Unix domain socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


async def get(engine: Engine, host: bytes, port: int, **extensions: Any) -> bytes:
    """Send a request to a host, whatever it is called, and return the body of its response."""
    request = Request(b"GET", Origin(b"http", host, port), b"/", [(b"Host", b"host")], extensions=extensions)
    async with asyncio.timeout(LIMIT):
        return await read(await engine(request))


# What cannot be connected to.


@contextmanager
def _no_file_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 8, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


REFUSED = rf"\[Errno {errno.ECONNREFUSED}\]"
HOPELESS: dict[str, tuple[bytes, int | None, dict[str, Any], str]] = {
    "refused": (b"127.0.0.1", None, {}, REFUSED),
    "refused-by-all": (b"refused.example", None, {}, f"Multiple exceptions: {REFUSED}.*{REFUSED}"),
    "no-network": (b"255.255.255.255", 80, {}, "Network is unreachable"),
    "unknown-name": (b"unknown.example", 80, {}, "Name or service not known"),
    "name-without-addresses": (b"empty.example", 80, {}, "."),
    "time-out-of-the-systems-own": (b"late.example", 80, {}, "Connection timed out"),
    "label-too-long": (b"a" * 64 + b".example", 80, {}, "too long"),
    "name-with-a-nul": (b"a\0b", 80, {}, "Name or service not known"),
    "name-that-is-not-ascii": (b"b\xc3\xbccher.example", 80, {}, "can't decode"),
    "port-too-high": (b"127.0.0.1", 70000, {}, "70000 is no port"),
    "port-too-high-for-the-resolver": (b"localhost", 70000, {}, "70000 is no port"),
    "local-address-of-somebody-else": (b"127.0.0.1", None, {"local_address": "192.0.2.1"}, "192.0.2.1"),
    "local-address-of-another-family": (b"127.0.0.1", None, {"local_address": "::1"}, "no matching local address"),
    "local-address-unknown": (b"127.0.0.1", None, {"local_address": "unknown.example"}, "Name or service not known"),
    "socket-option-refused": (b"127.0.0.1", None, {"socket_options": ((socket.SOL_SOCKET, -1, 1),)}, "not available"),
    "socket-option-too-large": (b"127.0.0.1", None, {"socket_options": ((1 << 70, 1, 1),)}, "too large"),
    "unix-socket-option-refused": (
        b"host",
        80,
        {"uds": "unused", "socket_options": ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)},
        "not supported",
    ),
    "no-unix-socket": (b"host", 80, {"uds": "/nowhere/socket"}, "No such file"),
    "unix-socket-name-too-long": (b"host", 80, {"uds": "/" + "a" * 200}, "too long"),
    "unix-socket-that-is-a-file": (b"host", 80, {"uds": __file__}, "Connection refused"),
}


@both_loops
@needs_proc
@pytest.mark.parametrize("case", HOPELESS)
async def test_b_connect_error(names: Names, case: str) -> None:
    """Whatever stands in the way of a connection is a ConnectError with the system's own words, and leaves nothing."""
    host, port, options, words = HOPELESS[case]
    port = refusing_port() if port is None else port
    names.know("refused.example", "127.0.0.1", "127.0.0.2")
    names.know("empty.example")
    names.fail("unknown.example", UNKNOWN)
    names.fail("late.example", TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
    async with running(options=ConnectOptions(**options)) as engine:
        before, errors = open_sockets(), LoopErrors()
        with pytest.raises(ConnectError, match=words) as caught:
            await get(engine, host, port)
        assert type(caught.value) is ConnectError
        assert isinstance(caught.value.__cause__, OSError | ValueError | OverflowError)
        assert_quiet(engine)
        assert list(pool_of(engine)._books.origins()) == []
        assert await eventually(lambda: open_sockets() <= before), "something is still open"
        assert errors.contexts == []


@both_loops
@needs_proc
async def test_k8_no_file_left() -> None:
    """With no file descriptor left, a request fails, and the next one succeeds when there is one again."""
    # Nobody listens at first: a thread that does would want a number too.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with running(Limits(max_connections=1)) as engine:
            with _no_file_left(), pytest.raises(ConnectError, match="Too many open files"):
                await fetch(engine, url)
            assert_quiet(engine)
            with scripted(answering(ok()), listener=listener.dup()):
                assert await fetch(engine, url) == b"ok"


async def test_k8_no_port_left(names: Names) -> None:
    """With no local port left, a request fails."""
    with scripted(answering(ok())) as upstream, socket.create_server(("127.0.0.1", 0)) as taken:
        names.know("local.example", ("127.0.0.1", taken.getsockname()[1]))
        async with running(options=ConnectOptions(local_address="local.example")) as engine:
            with pytest.raises(ConnectError, match="address already in use") as caught:
                await fetch(engine, upstream.url)
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.EADDRINUSE
            assert_quiet(engine)


@both_loops
@needs_proc
async def test_b_socket_that_somebody_closed_under_its_transport() -> None:
    """A number that the loop takes for that of another transport is a ConnectError too."""
    loop = asyncio.get_running_loop()
    theirs, other = socket.socketpair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=theirs)
    with other, socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with running() as engine:
            with _number_closed_under(theirs):
                with pytest.raises(ConnectError, match="is used by transport"):
                    await fetch(engine, url)
                assert_quiet(engine)
            transport.abort()
            await turn(3)
            with scripted(answering(ok()), listener=listener.dup()):
                assert await fetch(engine, url) == b"ok"


@contextmanager
def _number_closed_under(sock: socket.socket) -> Iterator[None]:
    number = sock.fileno()
    kept = os.dup(number)
    os.close(number)
    holes = []
    while (hole := os.open(os.devnull, os.O_RDONLY)) < number:  # so that it is the lowest number that is free
        holes.append(hole)
    os.close(hole)
    try:
        yield
    finally:
        os.dup2(kept, number)
        for extra in (kept, *holes):
            os.close(extra)


# Which address.


@both_loops
@needs_ipv6
async def test_k5_ipv6_address() -> None:
    """An IPv6 address is connected to, without the brackets that it has in a URL."""
    with scripted(answering(ok()), listener=ipv6_listener()) as upstream:
        async with running() as engine:
            response = await engine(request_to(f"http://::1:{upstream.port}"))
            stream = response.extensions["network_stream"]
            assert stream.get_extra_info("server_addr")[:2] == ("::1", upstream.port)
            assert await read(response) == b"ok"
            assert list(engine.statistics().origins) == [f"http://[::1]:{upstream.port}"]


@both_loops
@needs_proc
@pytest.mark.parametrize(
    "addresses",
    [
        ("::1", "127.0.0.1"),
        ("127.0.0.1", "::1"),
        ("127.0.0.2", "127.0.0.3", "127.0.0.1"),
    ],
)
async def test_k4_the_next_address(names: Names, addresses: tuple[str, ...]) -> None:
    """Where an address refuses, the next one is tried at once; losers are closed."""
    names.know("host.example", *addresses)
    before = open_sockets()
    async with running() as engine:
        with scripted(answering(ok())) as upstream:
            assert await fetch(engine, f"http://host.example:{upstream.port}") == b"ok"
            assert_quiet(engine)
            assert upstream.accepted == 1
            await engine.aclose()
        assert await eventually(lambda: open_sockets() <= before), "something is still open"


@both_loops
async def test_k4_localhost() -> None:
    """``localhost`` finds a server that listens on 127.0.0.1 alone."""
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            assert await fetch(engine, f"http://localhost:{upstream.port}") == b"ok"


@both_loops
@needs_proc
@pytest.mark.parametrize("deaf", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_k3_black_hole(names: Names, monkeypatch: pytest.MonkeyPatch, deaf: str) -> None:
    """An address that says nothing has a head start only; it is given up when another one answers."""
    monkeypatch.setattr(_connect, "HEAD_START", 0.02)
    before = open_sockets()
    async with running() as engine:
        with scripted(answering(ok())) as upstream, deaf_port(deaf) as port:
            during = open_sockets()
            names.know("host.example", (deaf, port), ("127.0.0.1", upstream.port))
            assert await fetch(engine, "http://host.example:80") == b"ok"
            assert_quiet(engine)
            # The engine's side and the upstream's of the one connection.
            assert await eventually(lambda: open_sockets() == during + 2)
        await engine.aclose()
        assert await eventually(lambda: open_sockets() <= before), "something is still open"


def test_k3_head_start() -> None:
    """The head start is what RFC 8305 recommends."""
    assert _connect.HEAD_START == 0.25


@both_loops
@needs_proc
async def test_k3_all_addresses_are_black_holes(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """One time limit covers all addresses, and none of the attempts outlives it."""
    monkeypatch.setattr(_connect, "HEAD_START", 0.005)
    async with running() as engine:
        with deaf_port() as port:
            before = open_sockets()
            names.know("host.example", *[("127.0.0.1", port)] * 4)
            with pytest.raises(ConnectTimeout, match="no connection to host.example:80 within 0.05 s"):  # noqa: RUF043
                await fetch(engine, "http://host.example:80", timeouts=Timeouts(connect=0.05))
            assert_quiet(engine)
            assert await eventually(lambda: open_sockets() <= before), "something is still open"


@both_loops
@on_linux
@pytest.mark.parametrize("local", ["127.0.0.2", "local.example"])
async def test_k5_local_address(names: Names, local: str) -> None:
    """Connections are made from the address that is given."""
    names.know("local.example", "::1", "127.0.0.2")
    peers = []

    def script(connection: Connection) -> None:
        peers.append(connection.sock.getpeername()[0])
        answering(ok())(connection)

    with scripted(script) as upstream:
        async with running(options=ConnectOptions(local_address=local)) as engine:
            response = await engine(request_to(upstream.url))
            assert response.extensions["network_stream"].get_extra_info("client_addr")[0] == "127.0.0.2"
            assert await read(response) == b"ok"
    assert peers == ["127.0.0.2"]


# The socket.


@both_loops
@on_linux
async def test_k5_socket_options() -> None:
    """TCP keep-alive is on and Nagle's algorithm off, if nothing else is said; the options given are set as well."""

    async def values(options: ConnectOptions, *wanted: tuple[int, int]) -> list[int]:
        async with running(options=options) as engine:
            response = await engine(request_to(upstream.url))
            sock = response.extensions["network_stream"].get_extra_info("socket")
            found = [sock.getsockopt(*which) for which in wanted]
            assert await read(response) == b"ok"
        return found

    keep_alive, idle = (socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    no_delay, congestion = (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.IPPROTO_TCP, socket.TCP_CONGESTION)
    with scripted(answering(ok())) as upstream:
        assert await values(ConnectOptions(), keep_alive, idle, no_delay) == [1, 60, 1]
        options = ConnectOptions(
            socket_options=(
                (*idle, 7),
                (*no_delay, 1),
                (*congestion, b"reno"),
                (*congestion, bytearray(b"reno")),
                (socket.IPPROTO_IP, socket.IP_OPTIONS, None, 0),
            )
        )
        assert await values(options, keep_alive, idle, no_delay) == [1, 7, 1]
        assert await values(ConnectOptions(socket_options=((*keep_alive, 0),)), keep_alive) == [0]


@both_loops
async def test_k5_unix_socket(tmp_path: Path) -> None:
    """A Unix domain socket is connected to, whatever host and port are called, and used again."""
    path = str(tmp_path / "socket")
    steps = Steps()
    options = ConnectOptions(uds=path, socket_options=((socket.SOL_SOCKET, socket.SO_SNDBUF, 65536),))
    with scripted(answering(ok()), listener=unix_listener(path)) as upstream:
        async with running(options=options) as engine:
            assert await get(engine, b"unknown.example", 12345, trace=steps) == b"ok"
            assert await get(engine, b"unknown.example", 12345, trace=steps) == b"ok"
            assert upstream.accepted == 1
            assert_quiet(engine)
    assert steps.names == ["connect_unix_socket.started", "connect_unix_socket.complete"]
    assert steps.infos[0]["path"] == path


@both_loops
@on_linux
async def test_k5_unix_socket_without_a_file() -> None:
    """So is one in Linux's abstract namespace."""
    name = f"\0fastapi-httpx-pool-{os.getpid()}"
    with scripted(answering(ok()), listener=unix_listener(name)):
        async with running(options=ConnectOptions(uds=name)) as engine:
            assert await get(engine, b"host", 80) == b"ok"


@both_loops
async def test_k5_tls_over_a_unix_socket(tmp_path: Path) -> None:
    """TLS over a Unix domain socket verifies the host's name."""
    authority, path = Authority(), str(tmp_path / "socket")
    with scripted(answering(ok()), authority.server("api.example"), listener=unix_listener(path)):
        async with running(options=ConnectOptions(ssl_context=authority.client(), uds=path)) as engine:
            assert await fetch(engine, "https://api.example:443") == b"ok"
            with pytest.raises(ConnectError, match="not valid for 'other.example'") as caught:  # noqa: RUF043
                await fetch(engine, "https://other.example:443")
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            assert_quiet(engine)


@both_loops
@on_linux
@needs_proc
async def test_k5_unix_socket_whose_queue_is_full(tmp_path: Path) -> None:
    """A server too busy to take a connection over its Unix domain socket is waited for, as over TCP."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        async with running(options=ConnectOptions(uds=path)) as engine:
            before = open_sockets()
            with pytest.raises(ConnectTimeout):
                await fetch(engine, "http://host:80", timeouts=Timeouts(connect=0.01))
            assert_quiet(engine)
            assert open_sockets() == before
            task = asyncio.create_task(fetch(engine, "http://host:80"))
            await turn(3)
            with scripted(answering(ok()), listener=listener.dup()):
                assert await task == b"ok"


# Time.


@both_loops
@needs_proc
@pytest.mark.parametrize("seconds", [0, 1e-6, 0.02, 0.1])
async def test_h5_connect_timeout(seconds: float) -> None:
    """A time limit for connecting is kept, however short, and says what it was."""
    with deaf_port() as port:
        async with running() as engine:
            before = open_sockets()
            with pytest.raises(ConnectTimeout, match=rf"^no connection to 127.0.0.1:{port} within {seconds:g} s$"):
                await fetch(engine, f"http://127.0.0.1:{port}", timeouts=Timeouts(connect=seconds))
            assert_quiet(engine)
            assert await eventually(lambda: open_sockets() <= before), "something is still open"


@both_loops
async def test_h7_no_connect_timeout() -> None:
    """Without a limit of its own, connecting ends with the total one."""
    with deaf_port() as port:
        async with running() as engine:
            with pytest.raises(TotalTimeout, match=r"0\.05 s"):
                await fetch(engine, f"http://127.0.0.1:{port}", timeouts=Timeouts(connect=None, total=0.05))
            assert_quiet(engine)


async def test_b_one_deadline_for_name_connection_and_tls(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for looking up, connecting and the handshake together, not for each."""
    loop = asyncio.get_running_loop()
    time, later = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: time() + later)
    gate, greeted = names.hold("api.example"), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_exactly(5)
        greeted.set()
        connection.wait_until_closed()

    options = ConnectOptions(ssl_context=Authority().client())
    with scripted(script) as upstream:
        async with running(options=options) as engine:
            request = request_to(f"https://api.example:{upstream.port}", timeouts=Timeouts(connect=50))
            task = asyncio.ensure_future(engine(request))
            await in_thread(lambda limit: names.arrived.acquire(timeout=limit))
            later = 20.0
            gate.set()
            await in_thread(greeted.wait)
            later = 40.0
            await turn(5)
            assert not task.done()
            later = 60.0
            with pytest.raises(ConnectTimeout, match="within 50 s"):
                await task
            assert_quiet(engine)


# Again.


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return what is slept, which takes no time."""
    found: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, result: Any = None) -> Any:
        found.append(seconds)
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", note)
    return found


@both_loops
@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_k6_retries(delays: list[float], retries: int) -> None:
    """A connection is tried as often as was said, at once and then after 0.5, 1, 2, ... seconds."""
    steps = Steps()
    async with running(options=ConnectOptions(retries=retries)) as engine:
        with pytest.raises(ConnectError, match=REFUSED):
            await get(engine, b"127.0.0.1", refusing_port(), trace=steps)
        assert_quiet(engine)
    attempt, pause = ["connect_tcp.started", "connect_tcp.failed"], ["retry.started", "retry.complete"]
    assert steps.names == [*attempt, *(pause + attempt) * retries]
    assert delays == [0, 0.5, 1, 2][:retries]


@both_loops
@with_patience(0.05)
async def test_k6_retry_that_succeeds(names: Names, delays: list[float], limit: float) -> None:
    """As soon as an attempt succeeds, it is the last one; a time-out is tried again like a refusal."""
    with scripted(answering(ok())) as upstream, deaf_port() as deaf:
        ports = iter((refusing_port(), deaf, upstream.port))

        async def act(name: str) -> None:
            if name == "connection.connect_tcp.started":
                names.know("host.example", ("127.0.0.1", next(ports)))
                pool_of(engine)._connector._names._known.clear()

        steps = Steps(act)
        async with running(options=ConnectOptions(retries=9)) as engine:
            request = request_to(
                "http://host.example:80", extensions={"trace": steps}, timeouts=Timeouts(connect=limit)
            )
            assert await read(await engine(request)) == b"ok"
            assert engine.statistics().origins["http://host.example:80"].opened == 1
    assert [name for name in steps.names if not name.endswith("started")] == [
        "connect_tcp.failed",
        "retry.complete",
        "connect_tcp.failed",
        "retry.complete",
        "connect_tcp.complete",
    ]
    assert delays[:2] == [0, 0.5]


@both_loops
async def test_k6_only_connecting_is_retried(delays: list[float]) -> None:
    """What fails on a connection that was made is not tried again."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.reset()

    with scripted(script) as upstream:
        async with running(options=ConnectOptions(retries=3)) as engine:
            with pytest.raises(ReadError):
                await fetch(engine, upstream.url)
            assert upstream.accepted == 1


async def test_k6_cancelled_between_attempts() -> None:
    """A request that is cancelled while it waits for its next attempt is gone at once."""
    async with running(options=ConnectOptions(retries=9)) as engine:
        pausing = asyncio.Event()

        async def act(name: str) -> None:
            if steps.names.count("retry.started") == 2:
                pausing.set()

        steps = Steps(act)
        task = asyncio.create_task(get(engine, b"127.0.0.1", refusing_port(), trace=steps))
        await pausing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_quiet(engine)


# Steps.


@both_loops
async def test_a6_steps_of_a_tls_connection(names: Names) -> None:
    """A trace is told of the steps, in their order, with what httpcore tells of them."""
    authority, steps = Authority(), Steps()
    context = authority.client()
    with scripted(answering(ok()), authority.server("api.example")) as upstream:
        async with running(options=ConnectOptions(ssl_context=context)) as engine:
            url = f"https://api.example:{upstream.port}"
            assert await fetch(engine, url, extensions={"trace": steps}) == b"ok"
    assert steps.names == ["connect_tcp.started", "connect_tcp.complete", "start_tls.started", "start_tls.complete"]
    where, tls = steps.infos[0], steps.infos[2]
    assert (where["host"], where["port"], where["local_address"]) == ("api.example", upstream.port, None)
    assert (tls["ssl_context"], tls["server_hostname"]) == (context, "api.example")


@both_loops
async def test_a6_steps_that_fail() -> None:
    """A step that fails is told with its exception."""
    steps = Steps()
    async with running() as engine:
        with pytest.raises(ConnectError) as caught:
            await get(engine, b"127.0.0.1", refusing_port(), trace=steps)
    assert steps.names == ["connect_tcp.started", "connect_tcp.failed"]
    assert steps.infos[1] == {"exception": caught.value.__cause__}


@both_loops
@needs_proc
@pytest.mark.parametrize("end", ["raises", "is cancelled"])
@pytest.mark.parametrize("step", ["started", "complete"])
async def test_trace_that_ends_the_request(tmp_path: Path, step: str, end: str) -> None:
    """A trace that raises, or is cancelled, leaves no Unix domain socket open either."""

    async def act(name: str) -> None:
        if name == f"connection.connect_unix_socket.{step}":
            if end == "raises":
                raise LookupError(step)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    path = str(tmp_path / "socket")
    with scripted(answering(ok()), listener=unix_listener(path)):
        async with running(options=ConnectOptions(uds=path)) as engine:
            before = open_sockets()
            task = asyncio.create_task(get(engine, b"host", 80, trace=Steps(act)))
            with pytest.raises(LookupError if end == "raises" else asyncio.CancelledError):
                await task
            assert_quiet(engine)
            assert await eventually(lambda: open_sockets() <= before), "something is still open"


# Cancelled.


@both_loops
@needs_proc
async def test_h2_cancelled_while_a_name_is_looked_up(names: Names) -> None:
    """A request that is cancelled while its host is looked up is gone at once; its place goes to the next one."""
    gate = names.hold("api.example")
    with scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            before = open_sockets()
            task = asyncio.create_task(get(engine, b"api.example", upstream.port))
            await in_thread(lambda limit: names.arrived.acquire(timeout=limit))
            next_one = asyncio.create_task(fetch(engine, upstream.url))
            await turn(2)
            assert (engine.statistics().active, engine.statistics().queued) == (1, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert open_sockets() <= before + 2
            assert await next_one == b"ok"
            assert_quiet(engine)
            gate.set()


@both_loops
@needs_proc
@pytest.mark.parametrize("count", [1, 3])
async def test_h2_cancelled_while_connecting(
    names: Names, monkeypatch: pytest.MonkeyPatch, count: int, anyio_backend: Any
) -> None:
    """A request that is cancelled while its addresses are tried leaves none of the attempts behind."""
    monkeypatch.setattr(_connect, "HEAD_START", 0.001)
    trying = asyncio.Event()
    tried = []

    def note(address: Any) -> socket.socket:
        tried.append(address)
        if len(tried) == count:
            trying.set()
        return make(address)

    with deaf_port() as port:
        names.know("host.example", *[("127.0.0.1", port)] * count)
        async with running() as engine:
            before = open_sockets()
            task = asyncio.create_task(get(engine, b"host.example", 80))
            await turn()
            connector = pool_of(engine)._connector
            make = connector._new_socket
            monkeypatch.setattr(connector, "_new_socket", note)
            await trying.wait()
            await turn(2)
            assert open_sockets() == before + count
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_quiet(engine)
            assert await eventually(lambda: open_sockets() <= before), "something is still open"


@both_loops
@needs_proc
@pytest.mark.parametrize("times", [1, 2])
async def test_a8_pool_closed_while_connecting(times: int) -> None:
    """Closing the pool ends attempts to connect; closing it again, before they have heard of it, changes nothing."""
    with deaf_port() as port:
        before = open_sockets()
        engine = Engine()
        task = asyncio.create_task(fetch(engine, f"http://127.0.0.1:{port}"))
        await turn(5)
        pool = pool_of(engine)
        assert pool.active == 1
        for _ in range(times):
            pool.close()
            # Not in the same turn, in which the waiting task is told of the first.
            asyncio.get_running_loop().call_soon(pool.close)
        with pytest.raises(ReadError, match="the pool was closed"):
            await task
        assert pool.active == 0
        await engine.aclose()
        assert await eventually(lambda: open_sockets() <= before), "something is still open"


@both_loops
@needs_proc
async def test_h1_cancelled_at_every_turn(names: Names) -> None:
    """Wherever a new connection is when its request is cancelled, it is closed and nothing is logged."""
    names.know("host.example", "::1", "127.0.0.1")
    before = open_sockets()
    with scripted(answering(ok())) as upstream:
        errors = LoopErrors()
        for host in (b"127.0.0.1", b"host.example"):
            for turns in range(20):
                async with running() as engine:
                    task = asyncio.create_task(get(engine, host, upstream.port))
                    await turn(turns)
                    task.cancel()
                    await asyncio.wait([task])
                    if engine.statistics().origins:
                        assert_quiet(engine)
    assert await eventually(lambda: open_sockets() <= before), "something is still open"
    assert errors.contexts == []


@pytest.mark.parametrize("taken", [False, True])
def test_b1_what_the_loop_has_closed_is_not_closed_again(taken: bool) -> None:
    """
    A descriptor that was closed below its socket object is left alone, also when it is somebody else's by then.

    uvloop does so when a TLS handshake is reset; closing it once more would break another connection.
    """
    left, right = socket.socketpair()
    number, inode = left.fileno(), _connect._inode_of(left)
    os.close(number)
    other = os.dup2(right.fileno(), number) if taken else None
    _connect._let_go(left, inode)
    left.close()
    assert left.fileno() == -1
    if other is not None:
        os.fstat(other)  # still open
        os.close(other)
    right.close()


def test_b1_what_came_to_nothing_is_closed() -> None:
    """A socket that is still ours is closed."""
    left, right = socket.socketpair()
    _connect._let_go(left, _connect._inode_of(left))
    assert left.fileno() == -1
    assert right.recv(1) == b""
    right.close()
