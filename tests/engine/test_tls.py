"""TLS: whom the engine trusts, what it asks for, and what is left of a handshake that fails (checklist J)."""

import asyncio
import contextlib
import datetime as dt
import gc
import socket
import ssl
import threading
from typing import Any

import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine, Limits, _connection as engine_connection
from fastapi_httpx_pool.exceptions import ConnectError, ConnectTimeout, ReadError, WriteError
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
from tests.support.engines import (
    LIMIT,
    Events,
    assert_quiet,
    both_loops,
    fetch,
    read,
    request_to,
    running,
    turn,
)
from tests.support.tls import Authority, Greeted, below_tls
from tests.support.upstream import Connection, answering, ok, scripted

pytestmark = pytest.mark.anyio

LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)


def trusting(authority: Authority, **options: Any) -> ConnectOptions:
    """Return options that trust the authority alone."""
    return ConnectOptions(ssl_context=authority.client(), **options)


def to(host: bytes, port: int, **extensions: Any) -> Request:
    """Return a request to a host under a name."""
    return Request(b"GET", Origin(b"https", host, port), b"/", [(b"Host", host)], extensions=extensions)


async def get(engine: Engine, host: bytes, port: int, **extensions: Any) -> bytes:
    """Send a request to a host under a name, and return the body of its response."""
    async with asyncio.timeout(LIMIT):
        return await read(await engine(to(host, port, **extensions)))


# Whom it trusts.


@both_loops
async def test_j6_server_of_a_trusted_authority(authority: Authority) -> None:
    """A server whose certificate is good is used, again and again; the response tells of its TLS."""
    with scripted(answering(ok()), authority.server()) as upstream:
        async with running(options=trusting(authority)) as engine:
            response = await engine(request_to(upstream.url))
            tls = response.extensions["network_stream"].get_extra_info("ssl_object")
            assert await read(response) == b"ok"
            assert tls.version() == "TLSv1.3"
            assert ("IP Address", "127.0.0.1") in tls.getpeercert()["subjectAltName"]
            assert await fetch(engine, upstream.url) == b"ok"
            assert upstream.accepted == 1
            assert_quiet(engine)


def _bad_server(authority: Authority, fault: str) -> ssl.SSLContext:
    if fault == "expired":
        return authority.server(not_after=LONG_AGO)
    if fault == "wrong host":
        return authority.server("other.example")
    return Authority().server()


FAULTS = {
    "expired": "certificate has expired",
    "wrong host": "certificate is not valid for '127.0.0.1'",
    "unknown authority": "unable to get local issuer certificate",
}


@both_loops
@needs_proc
@pytest.mark.parametrize("fault", FAULTS)
async def test_j1_server_that_cannot_be_trusted(authority: Authority, fault: str) -> None:
    """A bad certificate is a ConnectError that says what is wrong with it; nothing is sent, nothing stays open."""
    before = open_sockets()
    served: list[Connection] = []
    async with running(options=trusting(authority)) as engine:
        with scripted(served.append, _bad_server(authority, fault)) as upstream:
            with pytest.raises(ConnectError, match=FAULTS[fault]) as caught:
                await fetch(engine, upstream.url)
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            assert_quiet(engine)
        assert served == []
        assert await eventually(lambda: open_sockets() <= before), "something is still open"


@pytest.mark.parametrize("fault", FAULTS)
async def test_j1_verification_switched_off(authority: Authority, fault: str) -> None:
    """A context that verifies nothing accepts any server."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with scripted(answering(ok()), _bad_server(authority, fault)) as upstream:
        async with running(options=ConnectOptions(ssl_context=context)) as engine:
            assert await fetch(engine, upstream.url) == b"ok"


async def test_https_without_a_context() -> None:
    """An engine without a TLS context refuses https and says why."""
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            with pytest.raises(ConnectError, match="https needs a TLS context"):
                await get(engine, b"127.0.0.1", upstream.port)
            assert_quiet(engine)


# The client's own certificate.


async def test_j1_client_certificate(authority: Authority) -> None:
    """A server that wants a certificate gets the context's."""
    told: list[Any] = []

    def script(connection: Connection) -> None:
        assert isinstance(connection.sock, ssl.SSLSocket)
        told.append(connection.sock.getpeercert())
        answering(ok())(connection)

    options = ConnectOptions(ssl_context=authority.client(authority.certificate("client@example.com")))
    with scripted(script, authority.asking_server()) as upstream:
        async with running(options=options) as engine:
            assert await fetch(engine, upstream.url) == b"ok"
    assert ("email", "client@example.com") in told[0]["subjectAltName"]


@both_loops
@pytest.mark.parametrize("certificate", ["none", "of another authority"])
@pytest.mark.parametrize(
    ("version", "errors"),
    [(ssl.TLSVersion.TLSv1_2, (ConnectError,)), (ssl.TLSVersion.TLSv1_3, (ReadError, WriteError))],
    ids=["in-the-handshake", "after-the-handshake"],
)
async def test_b_client_certificate_refused(
    authority: Authority, certificate: str, version: ssl.TLSVersion, errors: tuple[type[Exception], ...]
) -> None:
    """
    A refusal of the client's certificate is a ConnectError within the handshake.

    With TLS 1.3 the handshake is over for the client by then: what breaks is the exchange.
    """
    server = authority.asking_server()
    server.maximum_version = version
    other = None if certificate == "none" else Authority().certificate("client@example.com")
    with scripted(answering(ok()), server) as upstream:
        async with running(options=ConnectOptions(ssl_context=authority.client(other))) as engine:
            errors_of_loop = LoopErrors()
            with pytest.raises(errors) as caught:
                await fetch(engine, upstream.url)
            assert type(caught.value) in errors
            assert_quiet(engine)
            assert errors_of_loop.contexts == []


# What it asks for.


@pytest.mark.parametrize(
    ("host", "extension", "name"),
    [
        (b"api.example", None, "api.example"),
        (b"api.example.", None, "api.example"),
        (b"api.example", "other.example", "other.example"),
        (b"api.example", b"other.example", "other.example"),
        (b"api.example", "other.example.", "other.example"),
        (b"api.example", "", "api.example"),
        (b"127.0.0.1", None, None),
        (b"127.0.0.1", "other.example", "other.example"),
        (b"api.example", "127.0.0.1", None),
        pytest.param(b"::1", None, None, marks=needs_ipv6),
    ],
)
async def test_j1_hello(
    authority: Authority, names: Names, host: bytes, extension: str | bytes | None, name: str | None
) -> None:
    """TLS asks for the host's name, or the one given instead; never for an address; and for HTTP/1.1 alone."""
    names.know("api.example.", "127.0.0.1")
    greeted = Greeted()
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6) if host == b"::1" else None
    extensions = {} if extension is None else {"sni_hostname": extension}
    with scripted(greeted, listener=listener) as upstream:
        async with running(options=trusting(authority)) as engine:
            with pytest.raises(ConnectError):
                await get(engine, host, upstream.port, **extensions)
    assert [(hello.server_name, hello.protocols) for hello in greeted.hellos] == [(name, [b"http/1.1"])]


@both_loops
@pytest.mark.parametrize("extension", ["other.example", b"other.example"])
async def test_j1_name_instead_of_the_hosts(authority: Authority, names: Names, extension: str | bytes) -> None:
    """The name that is asked for is the one that is verified; connections for another name are not shared."""
    with scripted(answering(ok()), authority.server("other.example")) as upstream:
        async with running(options=trusting(authority)) as engine:
            assert await get(engine, b"api.example", upstream.port, sni_hostname=extension) == b"ok"
            with pytest.raises(ConnectError, match=r"not valid for 'api\.example'"):
                await get(engine, b"api.example", upstream.port)
            assert await get(engine, b"api.example", upstream.port, sni_hostname=extension) == b"ok"
            assert upstream.accepted == 2


@both_loops
@pytest.mark.parametrize("name", [b"\xff\xfe", ".example", "a\0b", ".", "ab." * 86, "\u20ac" * 64], ids=ascii)
async def test_b_names_that_are_none(authority: Authority, name: str | bytes) -> None:
    """A name that cannot be asked for is a ConnectError, whatever the TLS library makes of it."""
    gone = threading.Event()

    def script(connection: Connection) -> None:
        assert connection.wait_until_closed()
        gone.set()

    with scripted(script) as upstream:
        async with running(options=trusting(authority)) as engine:
            errors = LoopErrors()
            with pytest.raises(ConnectError):
                await get(engine, b"127.0.0.1", upstream.port, sni_hostname=name)
            assert_quiet(engine)
            await in_thread(gone.wait)
            assert errors.contexts == []


@pytest.mark.parametrize("host", [b"api.example", b"api.example.", b"localhost", b"127.0.0.1"])
async def test_j1_host_is_verified(authority: Authority, names: Names, host: bytes) -> None:
    """A host's certificate is for its name without the dot at the end, or for its address."""
    names.know("api.example.", "127.0.0.1")
    with scripted(answering(ok()), authority.server("api.example", "localhost", "127.0.0.1")) as upstream:
        async with running(options=trusting(authority)) as engine:
            assert await get(engine, host, upstream.port) == b"ok"


@needs_ipv6
@both_loops
async def test_j1_ipv6_address_is_verified(authority: Authority) -> None:
    """So is an IPv6 address."""
    for name, outcome in (("::1", b"ok"), ("::2", None)):
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        with scripted(answering(ok()), authority.server(name), listener=listener) as upstream:
            async with running(options=trusting(authority)) as engine:
                if outcome is not None:
                    assert await get(engine, b"::1", upstream.port) == outcome
                    continue
                with pytest.raises(ConnectError, match="not valid for '::1'"):
                    await get(engine, b"::1", upstream.port)


@both_loops
async def test_j1_server_that_would_rather_speak_http2(authority: Authority) -> None:
    """A server that offers HTTP/2 first is spoken to in HTTP/1.1."""
    server = authority.server()
    server.set_alpn_protocols(["h2", "http/1.1"])
    with scripted(answering(ok()), server) as upstream:
        async with running(options=trusting(authority)) as engine:
            response = await engine(request_to(upstream.url))
            tls = response.extensions["network_stream"].get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == "http/1.1"
            assert await read(response) == b"ok"


class CountingContext(ssl.SSLContext):
    """Counts how often it is changed."""

    changed = 0

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Take note."""
        self.changed += 1
        super().set_alpn_protocols(alpn_protocols)


def test_j2_context_is_changed_only_once(authority: Authority) -> None:
    """Whatever the number of connections and of event loops, a context that was given is changed once."""
    context = CountingContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.trust(context)
    with scripted(answering(ok()), authority.server()) as upstream:
        engine = Engine(Limits(max_idle=0), ConnectOptions(ssl_context=context))

        async def twice() -> None:
            assert [await fetch(engine, upstream.url) for _ in range(2)] == [b"ok"] * 2

        asyncio.run(twice())
        asyncio.run(twice())
        engine.close()
        assert upstream.accepted == 4
    assert context.changed == 1


@both_loops
@needs_proc
async def test_context_that_somebody_else_changes(authority: Authority) -> None:
    """HTTP/2, chosen because another client has changed the shared context, is an error and no garbage."""
    before = open_sockets()
    context = authority.client()
    server = authority.server()
    server.set_alpn_protocols(["h2"])
    steps = Steps()
    async with running(options=ConnectOptions(ssl_context=context, retries=1)) as engine:
        context.set_alpn_protocols(["h2", "http/1.1"])
        with scripted(answering(ok()), server) as upstream:
            errors = LoopErrors()
            with pytest.raises(ConnectError, match="chose HTTP/2"):
                await get(engine, b"127.0.0.1", upstream.port, trace=steps)
            assert_quiet(engine)
            assert upstream.accepted == 2
            await turn(3)
        assert await eventually(lambda: open_sockets() <= before), "something is still open"
        assert errors.contexts == []
    assert steps.names.count("start_tls.failed") == 2


# Handshakes that fail.


class Failing:
    """A script that lets a handshake fail in one way, and knows when the client has left."""

    def __init__(self, way: str) -> None:
        self._way = way
        self.greeted = threading.Event()
        self.left = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        assert connection.read_exactly(5)
        self.greeted.set()
        if self._way == "end":
            return
        if self._way == "reset":
            connection.reset()
            return
        if self._way == "garbage":
            connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        elif self._way == "alert":
            connection.send(b"\x15\x03\x03\x00\x02\x02\x28")  # handshake_failure
        elif self._way == "half":
            connection.send(b"\x16\x03\x03\x10\x00\x02")
        if connection.wait_until_closed():
            self.left.set()


@both_loops
@needs_proc
@pytest.mark.parametrize("way", ["end", "reset", "garbage", "alert"])
async def test_b_handshake_fails(authority: Authority, way: str) -> None:
    """A handshake that the server breaks off, or whose answer is no TLS, is a ConnectError and leaves nothing open."""
    before, script = open_sockets(), Failing(way)
    async with running(options=trusting(authority)) as engine:
        errors = LoopErrors()
        with scripted(script) as upstream:
            with pytest.raises(ConnectError) as caught:
                await get(engine, b"127.0.0.1", upstream.port)
            assert isinstance(caught.value.__cause__, OSError)
            assert str(caught.value)
            assert_quiet(engine)
            if way in {"garbage", "alert"}:
                await in_thread(script.left.wait)
        assert await eventually(lambda: open_sockets() <= before), "something is still open"
        assert errors.contexts == []


@both_loops
@needs_proc
@pytest.mark.parametrize("way", ["silent", "half"])
async def test_b_handshake_stalls(authority: Authority, way: str) -> None:
    """A server that does not go on with the handshake is a ConnectTimeout, and is hung up on."""
    before, script = open_sockets(), Failing(way)
    async with running(options=trusting(authority)) as engine:
        errors = LoopErrors()
        with scripted(script) as upstream:
            with pytest.raises(ConnectTimeout, match=r"no connection to 127.0.0.1:\d+ within 0.05 s"):
                await fetch(engine, f"https://127.0.0.1:{upstream.port}", timeouts=Timeouts(connect=0.05))
            await in_thread(script.left.wait)
            assert_quiet(engine)
        assert await eventually(lambda: open_sockets() <= before), "something is still open"
        assert errors.contexts == []


@both_loops
@needs_proc
@pytest.mark.parametrize("way", ["silent", "half"])
async def test_h2_cancelled_in_the_handshake(authority: Authority, way: str) -> None:
    """A request that is cancelled in the handshake hangs up at once and leaves nothing."""
    before, script = open_sockets(), Failing(way)
    async with running(options=trusting(authority)) as engine:
        errors = LoopErrors()
        with scripted(script) as upstream:
            task = asyncio.create_task(get(engine, b"127.0.0.1", upstream.port))
            await in_thread(script.greeted.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_quiet(engine)
            await in_thread(script.left.wait)
        assert await eventually(lambda: open_sockets() <= before), "something is still open"
        assert errors.contexts == []


@both_loops
@needs_proc
async def test_h1_cancelled_at_every_turn(authority: Authority) -> None:
    """Wherever a new TLS connection is when its request is cancelled, it is closed and nothing is logged."""
    before = open_sockets()
    with scripted(answering(ok()), authority.server()) as upstream:
        errors = LoopErrors()
        for turns in range(24):
            async with running(options=trusting(authority)) as engine:
                task = asyncio.create_task(get(engine, b"127.0.0.1", upstream.port))
                await turn(turns % 12)
                if turns >= 12:  # the rest of the handshake takes no fixed number of turns
                    await asyncio.sleep((turns - 12) / 4000)
                task.cancel()
                await asyncio.wait([task])
                if engine.statistics().origins:
                    assert_quiet(engine)
        assert await fetch_once(authority, upstream.url) == b"ok"
    assert await eventually(lambda: open_sockets() <= before), "something is still open"
    assert errors.contexts == []


async def fetch_once(authority: Authority, url: str) -> bytes:
    """Send one request with an engine of its own."""
    async with running(options=trusting(authority)) as engine:
        return await fetch(engine, url)


@both_loops
@needs_proc
@pytest.mark.parametrize("end", ["raises", "is cancelled"])
@pytest.mark.parametrize(
    "step", ["connect_tcp.started", "connect_tcp.complete", "start_tls.started", "start_tls.complete"]
)
async def test_trace_that_ends_the_request(authority: Authority, step: str, end: str) -> None:
    """A trace that raises, or is cancelled, between two steps leaves no connection behind."""
    before = open_sockets()

    async def act(name: str) -> None:
        if name == f"connection.{step}":
            if end == "raises":
                raise LookupError(step)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async with running(options=trusting(authority)) as engine:
        errors = LoopErrors()
        with scripted(answering(ok()), authority.server()) as upstream:
            for _ in range(2):
                steps = Steps(act)
                task = asyncio.create_task(get(engine, b"127.0.0.1", upstream.port, trace=steps))
                with pytest.raises(LookupError if end == "raises" else asyncio.CancelledError):
                    await task
                assert steps.names[-1].partition(".")[0] == step.partition(".")[0]
                assert_quiet(engine)
            assert await fetch(engine, upstream.url) == b"ok"
            await engine.aclose()
        assert await eventually(lambda: open_sockets() <= before), "something is still open"
        assert errors.contexts == []


# The end of a connection.


@both_loops
@needs_proc
async def test_j3_server_that_never_says_goodbye(authority: Authority) -> None:
    """Closing does not wait for the server's side of TLS: it sees the end at once, and nothing stays open."""
    before = open_sockets()
    left, go_on = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok())
        with below_tls(connection) as plain:
            try:
                while plain.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            left.set()
            go_on.wait(LIMIT)

    engine = Engine(options=trusting(authority))
    with scripted(script, authority.server()) as upstream:
        errors = LoopErrors()
        assert await fetch(engine, upstream.url) == b"ok"
        await engine.aclose()
        await in_thread(left.wait)
        go_on.set()
    assert await eventually(lambda: open_sockets() <= before), "something is still open"
    assert errors.contexts == []


@both_loops
@needs_proc
@pytest.mark.parametrize("politely", [True, False])
async def test_j5_idle_connection_that_the_server_closes(authority: Authority, politely: bool) -> None:
    """The end of an idle connection, with TLS's goodbye or without, is seen at once; neither socket nor object stays."""
    before = open_sockets()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok())
        if politely:
            assert isinstance(connection.sock, ssl.SSLSocket)
            connection.sock.settimeout(LIMIT)
            with contextlib.suppress(OSError):  # the client has left without a goodbye of its own
                connection.sock.unwrap()

    events = Events()
    async with running(options=trusting(authority), observer=events) as engine:
        errors = LoopErrors()
        with scripted(script, authority.server()) as upstream:
            for _ in range(3):
                assert await fetch(engine, upstream.url) == b"ok"
                assert await eventually(lambda: engine.statistics().idle == 0)
            assert upstream.accepted == 3
            assert engine.statistics().origins[upstream.url].closed == {"peer": 3}
        assert await eventually(lambda: open_sockets() <= before), "something is still open"
        assert errors.contexts == []


FAULTS_OF_A_BODY = {
    "garbage": b"\x17\x03\x03\x00\x20" + bytes(32),
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "plain text": b"HTTP/1.1 200 OK\r\n\r\n",
}


@both_loops
@needs_proc
@pytest.mark.parametrize("fault", [*FAULTS_OF_A_BODY, "reset"])
async def test_j4_tls_breaks_in_the_middle_of_a_body(authority: Authority, fault: str) -> None:
    """What is no TLS, an alert or a reset in the middle of a body is a ReadError, and nothing is logged."""
    before = open_sockets()
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        go_on.wait(LIMIT)
        if fault == "reset":
            connection.reset()
            return
        with below_tls(connection) as plain:
            plain.sendall(FAULTS_OF_A_BODY[fault])
            while plain.recv(4096):
                pass

    async with running(options=trusting(authority)) as engine:
        errors = LoopErrors()
        with scripted(script, authority.server()) as upstream:
            response = await engine(request_to(upstream.url))
            go_on.set()
            with pytest.raises(ReadError):
                await read(response)
            assert_quiet(engine)
            assert engine.statistics().idle == 0
        del response
        assert await eventually(lambda: open_sockets() <= before), "something is still open"
        assert errors.contexts == []


async def test_j4_large_certificate(authority: Authority) -> None:
    """A certificate of many names, sent in several records, is no obstacle."""
    names = [f"host-number-{number}.sub.domain.example" for number in range(1500)]
    with scripted(answering(ok()), authority.server("127.0.0.1", *names)) as upstream:
        assert await fetch_once(authority, upstream.url) == b"ok"


@both_loops
async def test_j5_nothing_keeps_closed_connections_alive(authority: Authority) -> None:
    """The objects of TLS connections that were closed, by either side, are collected."""
    before = tls_objects()
    with scripted(answering(ok(), times=1), authority.server()) as upstream:
        async with running(Limits(max_idle=0), trusting(authority)) as engine:
            for _ in range(3):
                assert await fetch(engine, upstream.url) == b"ok"
        async with running(options=trusting(authority)) as engine:
            for _ in range(3):
                assert await fetch(engine, upstream.url) == b"ok"
                assert await eventually(lambda: engine.statistics().idle == 0)
        assert upstream.accepted == 6
        await turn(3)
    assert tls_objects() <= before


def tls_objects() -> int:
    """Return how many connections and TLS protocols there are."""
    gc.collect()
    return sum(
        type(found) is engine_connection.Connection or type(found).__name__ == "SSLProtocol"
        for found in gc.get_objects()
    )
