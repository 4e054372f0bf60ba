"""``PoolTransport`` in an ``AsyncClient`` that somebody made themselves: extensions, lifetime, upgraded connections."""

import asyncio
import gc
import inspect
import socket
import ssl
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from typing import Any

import anyio
import pytest
import trustme

from fastapi_httpx_pool.exceptions import ClientClosed
from fastapi_httpx_pool.transports import family_named
from tests.support.carriers import ASYNCIO, UVLOOP, on_both_engines
from tests.support.families import FAMILIES, module_of
from tests.support.recording import RecordingUpstream
from tests.support.upstream import LIMIT, Connection, Script, answering, ok, scripted
from tests.support.watched import Held

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("family", FAMILIES)]

on_the_engine = pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP], ids=["asyncio", "uvloop"])

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Quicker to make than the default, where no TLS is spoken."""


def transport_class(family: str) -> Any:
    """Return a family's class of ours."""
    return import_module(f"fastapi_httpx_pool.transports.{family}").PoolTransport


def transport_of(family: str, **arguments: Any) -> Any:
    """Return a transport of ours."""
    return transport_class(family)(**{"verify": NO_TLS, **arguments})


@asynccontextmanager
async def client_of(family: str, *, own: bool = False, **arguments: Any) -> AsyncIterator[Any]:
    """Give a client over a transport of ours; or over the family's own, to compare."""
    module = module_of(family)
    made = module.AsyncHTTPTransport(**{"verify": NO_TLS, **arguments}) if own else transport_of(family, **arguments)
    async with module.AsyncClient(transport=made, trust_env=False, timeout=LIMIT) as client:
        yield client


class Authority:
    """A certificate authority, and both sides' TLS."""

    def __init__(self, *names: str) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(self.server)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self.client)


# The constructor.


def test_signature(family: Any) -> None:
    """The family's arguments come first, with the same names, kinds and defaults; ours only by name, each optional."""
    theirs = inspect.signature(module_of(family).AsyncHTTPTransport).parameters
    ours = inspect.signature(transport_class(family)).parameters
    assert [(name, ours[name].kind, ours[name].default) for name in ours][: len(theirs)] == [
        (name, parameter.kind, parameter.default) for name, parameter in theirs.items()
    ]
    for parameter in list(ours.values())[len(theirs) :]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty


@on_the_engine
async def test_which_engine(family: Any) -> None:
    """HTTP/2, a forward proxy, and doing without HTTP/1.1 are httpcore's business; the rest is the engine's."""
    core = family_named(family).core
    for arguments in ({"http2": True}, {"proxy": "http://127.0.0.1:9"}, {"http1": False, "http2": True}):
        transport = transport_of(family, **arguments)
        assert transport.engine_name == "httpcore"
        assert isinstance(transport._pool, core.AsyncHTTPProxy) is ("proxy" in arguments)
        with pytest.raises(ValueError, match="engine='native' speaks"):
            transport_of(family, engine="native", **arguments)
        await transport.aclose()
    assert transport_of(family).engine_name == "native"
    assert transport_of(family, engine="httpcore").engine_name == "httpcore"


@on_the_engine
async def test_a_reset_in_the_handshake(family: Any) -> None:
    """
    A socket whose TLS handshake is reset is closed, and closed once.

    uvloop closes the descriptor below the socket object there; the number may be another's by then.
    """

    def script(connection: Connection) -> None:
        connection.reset()

    with scripted(script) as upstream:
        async with client_of(family) as client:
            for _ in range(20):
                with pytest.raises(module_of(family).ConnectError):
                    await client.get(upstream.url.replace("http:", "https:"))
    gc.collect()  # complains of sockets that are dropped unclosed


# Extensions of responses.


@on_both_engines
async def test_response_extensions(family: Any, engine: Any) -> None:
    """A response tells its version, its reason as it was sent, and about its connection."""
    with scripted(
        answering(b"HTTP/1.0 200 \xe9t\xe9\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
    ) as upstream:
        async with client_of(family, engine=engine) as client, client.stream("GET", upstream.url) as response:
            extensions = response.extensions
            assert extensions["http_version"] == b"HTTP/1.0"
            assert extensions["reason_phrase"] == b"\xe9t\xe9"
            stream = extensions["network_stream"]
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", upstream.port)
            host, port = stream.get_extra_info("client_addr")
            sock = stream.get_extra_info("socket")
            assert sock.getsockname() == (host, port)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert stream.get_extra_info("ssl_object") is None
            assert stream.get_extra_info("no such thing") is None
            assert await response.aread() == b"ok"


@on_both_engines
async def test_tls_extensions(family: Any, engine: Any) -> None:
    """With TLS it tells which, and whose certificate it was."""
    authority = Authority("127.0.0.1")
    with scripted(answering(ok()), authority.server) as upstream:
        async with client_of(family, engine=engine, verify=authority.client) as client:
            response = await client.get(upstream.url)
            tls = response.extensions["network_stream"].get_extra_info("ssl_object")
            assert tls.version() == "TLSv1.3"
            assert tls.getpeercert()["subjectAltName"] == (("IP Address", "127.0.0.1"),)


@on_both_engines
async def test_a_connection_that_has_ended(family: Any, engine: Any) -> None:
    """``is_readable`` becomes true when the server hangs up, and nothing fails when there is nothing left to tell."""
    hang_up = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok())
        assert hang_up.wait(LIMIT)

    with scripted(script) as upstream:
        async with client_of(family, engine=engine) as client:
            stream = (await client.get(upstream.url)).extensions["network_stream"]
            assert stream.get_extra_info("is_readable") is False
            hang_up.set()
            with anyio.fail_after(LIMIT):
                while not stream.get_extra_info("is_readable"):  # noqa: ASYNC110 -- nothing tells
                    await anyio.sleep(0.001)


# Extensions of requests.


@pytest.mark.parametrize("limits", [None, {}, {"read": 0.05}, {"connect": 5.0, "read": 0.05, "pool": None}])
@on_both_engines
async def test_timeouts_that_are_not_said(family: Any, engine: Any, limits: Any) -> None:
    """What the ``timeout`` extension leaves out has no limit, and it may be left out itself."""
    held = Held()
    module = module_of(family)
    with scripted(held) as upstream:
        async with transport_of(family, engine=engine) as transport:
            if limits:
                request = module.Request("GET", upstream.url, extensions={"timeout": limits})
                with pytest.raises(module.ReadTimeout):
                    await transport.handle_async_request(request)
            held.release()
            extensions = {} if limits is None else {"timeout": limits and {**limits, "read": LIMIT}}
            request = module.Request("GET", upstream.url, extensions=extensions)
            response = await transport.handle_async_request(request)
            assert await response.aread() == b"late"
            await response.aclose()


@pytest.mark.parametrize("name", ["name.example", b"name.example"])
@on_both_engines
async def test_sni_hostname(family: Any, engine: Any, name: Any) -> None:
    """``sni_hostname`` is what is asked for and verified, instead of the URL's host."""
    if isinstance(name, bytes) and engine == "httpcore":
        pytest.skip("httpcore takes text only")
    authority = Authority("name.example")
    asked = []
    authority.server.sni_callback = lambda _sock, server_name, _context: asked.append(server_name)
    with scripted(answering(ok()), authority.server) as upstream:
        async with client_of(family, engine=engine, verify=authority.client) as client:
            assert (await client.get(upstream.url, extensions={"sni_hostname": name})).text == "ok"
        async with client_of(family, engine=engine, verify=authority.client) as client:
            with pytest.raises(module_of(family).ConnectError):
                await client.get(upstream.url)
    assert asked[0] == "name.example"


@pytest.mark.parametrize("target", [b"*", b"http://far.example/x?y", b"/a/../%zz|"])
@on_both_engines
async def test_target(family: Any, engine: Any, target: bytes) -> None:
    """``target`` is sent as it is."""
    upstream_script = RecordingUpstream()
    with scripted(upstream_script) as upstream:
        async with client_of(family, engine=engine) as client:
            await client.options(upstream.url, extensions={"target": target})
    assert upstream_script.targets == [target]


# Trace.


class Noted:
    """A ``trace`` that keeps what it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.infos: dict[str, Any] = {}

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        """Take note."""
        self.names.append(name)
        self.infos[name] = info


async def _traced(family: str, url: str, **arguments: Any) -> list[list[str]]:
    """Send the same requests with our transport and with the family's own; return what each told."""
    told = []
    for own in (False, True):
        noted = Noted()
        async with client_of(family, own=own, **arguments) as client:
            for method, content in (("GET", None), ("POST", b"body")):
                try:
                    await client.request(method, url, content=content, extensions={"trace": noted})
                except module_of(family).TransportError:
                    noted.names.append("raised")
            if "raised" not in noted.names:
                async with client.stream("GET", url, extensions={"trace": noted}) as response:
                    await response.aclose()
        told.append(noted.names)
    return told


@on_the_engine
async def test_trace(family: Any) -> None:
    """The steps have httpcore's names and come in its order: connecting, a second request, one closed unread."""
    with scripted(answering(ok())) as upstream:
        ours, theirs = await _traced(family, upstream.url)
    assert ours == theirs
    assert ours.count("connection.connect_tcp.started") == 1
    assert ours[-1] == "http11.response_closed.complete"


@on_the_engine
async def test_trace_of_tls(family: Any) -> None:
    """So it is with TLS."""
    authority = Authority("127.0.0.1")
    with scripted(answering(ok()), authority.server) as upstream:
        ours, theirs = await _traced(family, upstream.url, verify=authority.client)
    assert ours == theirs
    assert "connection.start_tls.complete" in ours


def _hang_up(connection: Connection) -> None:
    connection.read_request()


FAULTS: dict[str, tuple[Script | None, dict[str, Any]]] = {
    "refused": (None, {}),
    "refused twice": (None, {"retries": 1}),
    "no answer": (_hang_up, {}),
    "no tls": (lambda connection: connection.close(), {"scheme": "https"}),
    "cut": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", times=1), {}),
}


@pytest.mark.parametrize("fault", FAULTS)
@on_the_engine
async def test_trace_of_faults(family: Any, fault: str) -> None:
    """And where it fails: the step that did is told."""
    script, arguments = FAULTS[fault]
    arguments = dict(arguments)
    scheme = arguments.pop("scheme", "http")
    if script is None:
        ours, theirs = await _traced(family, "http://127.0.0.1:9/", **arguments)
    else:
        with scripted(script) as upstream:
            ours, theirs = await _traced(family, upstream.url.replace("http", scheme), **arguments)
    assert ours == theirs
    assert [name for name in ours if name.endswith(".failed")]


@on_both_engines
async def test_what_a_trace_is_told(family: Any, engine: Any) -> None:
    """The response's head is the result of receiving it; where it connected to is told too."""
    noted = Noted()
    with scripted(answering(ok(b"ok", b"X-A: b"))) as upstream:
        async with client_of(family, engine=engine) as client:
            await client.get(upstream.url, extensions={"trace": noted})
    version, status, reason, headers = noted.infos["http11.receive_response_headers.complete"]["return_value"]
    assert (version, status, reason) == (b"HTTP/1.1", 200, b"OK")
    assert headers == [(b"Content-Length", b"2"), (b"X-A", b"b")]
    connecting = noted.infos["connection.connect_tcp.started"]
    assert (connecting["host"], connecting["port"]) == ("127.0.0.1", upstream.port)
    assert noted.infos["http11.send_request_headers.started"]["request"].method == b"GET"


@on_both_engines
async def test_a_trace_that_is_not_async(family: Any, engine: Any) -> None:
    """A function that is not async is refused by name, and no connection is lost over it."""
    with scripted(answering(ok())) as upstream:
        async with client_of(family, engine=engine, limits=module_of(family).Limits(max_connections=1)) as client:
            with pytest.raises(TypeError, match="trace"):
                await client.get(upstream.url, extensions={"trace": lambda name, info: None})
            assert (await client.get(upstream.url)).text == "ok"


# Its life.


def test_in_one_loop_after_the_other(family: Any) -> None:
    """The same transport serves in several event loops, one after the other, each over its own connections."""

    async def ask(url: str) -> tuple[str, int]:
        client = module_of(family).AsyncClient(transport=transport, trust_env=False)
        text = (await client.get(url)).text
        assert (await client.get(url)).text == text
        return text, transport.statistics().idle

    transport = transport_of(family)
    with scripted(answering(ok())) as upstream, warnings.catch_warnings():
        # asyncio's own complaint about connections that were open when their loop was closed.
        warnings.filterwarnings("ignore", "unclosed transport", ResourceWarning)
        assert [asyncio.run(ask(upstream.url)) for _ in range(3)] == [("ok", 1)] * 3
        assert upstream.accepted == 3
        asyncio.run(transport.aclose())
        gc.collect()


def test_made_before_trio(family: Any) -> None:
    """A transport that was made before anybody knew that trio would run goes to httpcore by itself."""

    async def ask(url: str) -> None:
        async with module_of(family).AsyncClient(transport=transport, trust_env=False) as client:
            assert (await client.get(url)).text == "ok"
            assert [connection.is_idle() for connection in transport._pool.connections] == [True]

    transport = transport_of(family)
    with scripted(answering(ok())) as upstream:
        anyio.run(ask, upstream.url, backend="trio")
    assert transport._pool.connections == []


@on_the_engine
async def test_it_is_closed_with_its_client(family: Any) -> None:
    """Leaving the client, or the transport, closes every connection; sending then is an error that says so."""
    module = module_of(family)
    for way in ("client", "transport", "aclose"):
        gone = threading.Semaphore(0)

        def script(connection: Connection, gone: threading.Semaphore = gone) -> None:
            answering(ok(), times=1)(connection)
            if connection.wait_until_closed():
                gone.release()

        with scripted(script) as upstream:
            transport = transport_of(family)
            client = module.AsyncClient(transport=transport, trust_env=False)
            if way == "client":
                async with client:
                    await client.get(upstream.url)
            else:
                await client.get(upstream.url)
                if way == "transport":
                    async with transport as entered:
                        assert entered is transport
                else:
                    await transport.aclose()
                    await transport.aclose()
            assert await anyio.to_thread.run_sync(partial(gone.acquire, timeout=LIMIT))
            assert transport.statistics().idle == 0
            with pytest.raises(ClientClosed) as caught:
                await transport.handle_async_request(module.Request("GET", upstream.url))
            assert isinstance(caught.value, RuntimeError)
            await client.aclose()


@on_the_engine
async def test_closing_under_way(family: Any) -> None:
    """Closing ends those who wait for a response, and those who wait for a connection, with an error."""
    held = Held()
    errors: list[str] = []
    module = module_of(family)

    async def send() -> None:
        try:
            await client.get(upstream.url)
        except module.ReadError as exc:
            errors.append(str(exc))

    with scripted(held) as upstream:
        async with (
            client_of(family, limits=module.Limits(max_connections=1)) as client,
            anyio.create_task_group() as group,
        ):
            group.start_soon(send)
            await held.arrived()
            group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            assert client._transport.statistics().queued == 1
            await client._transport.aclose()
        held.release()
    assert len(errors) == 2
    assert "waited for a connection" in errors[0] + errors[1]


@on_the_engine
async def test_the_pool_shows_the_engines_connections(family: Any) -> None:
    """``transport._pool``, which metrics read, tells of the engine's connections as httpcore's tells of its own."""
    module = module_of(family)
    with scripted(answering(ok(b"x" * 1_000_000))) as upstream:
        async with client_of(family) as client:
            pool = client._transport._pool
            assert isinstance(pool, family_named(family).core.AsyncConnectionPool)
            assert pool.connections == []
            async with client.stream("GET", upstream.url):
                [connection] = pool.connections
                states = (connection.is_idle(), connection.is_available(), connection.is_closed())
                assert (*states, connection.has_expired()) == (False, False, False, False)
                assert repr(connection) == f"<_SeenConnection ['{upstream.url}', HTTP/1.1, ACTIVE]>"
                assert "[Requests: 1 active, 0 queued | Connections: 1 active, 0 idle]" in repr(pool)
            await client.get(upstream.url)
            [connection] = pool.connections
            assert (connection.is_idle(), connection.is_available()) == (True, True)
            assert connection.info() == f"'{upstream.url}', HTTP/1.1, IDLE"
            # httpcore's own way to ask, which some use without any client.
            core = family_named(family).core
            response = await pool.request("POST", upstream.url, content=b"body")
            assert (response.status, response.content) == (200, b"x" * 1_000_000)
            with pytest.raises(core.ConnectError):
                await pool.request("GET", "http://127.0.0.1:9/")
    assert module.AsyncHTTPTransport in transport_class(family).__mro__


# Upgraded connections.


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: talk\r\n\r\n"


@asynccontextmanager
async def talking(family: str, engine: str, script: Script) -> AsyncIterator[Any]:
    """Give the network stream of an upgraded connection."""

    def switch(connection: Connection) -> None:
        connection.read_head()
        connection.send(SWITCH)
        script(connection)

    headers = {"Connection": "upgrade", "Upgrade": "talk"}
    with scripted(switch) as upstream:
        async with (
            client_of(family, engine=engine) as client,
            client.stream("GET", upstream.url, headers=headers) as response,
        ):
            assert response.status_code == 101
            with anyio.fail_after(LIMIT):
                yield response.extensions["network_stream"]


@on_both_engines
async def test_talking(family: Any, engine: Any) -> None:
    """What is written arrives, what is answered is read, at most as much as was asked for, and then the end."""

    def script(connection: Connection) -> None:
        connection.send(b"hello")
        assert connection.read_exactly(5) == b"there"
        connection.send(b"bye")

    async with talking(family, engine, script) as stream:
        assert stream.get_extra_info("server_addr")[0] == "127.0.0.1"
        data = b""
        while len(data) < 5:
            data += await stream.read(2, timeout=LIMIT)
            assert len(data) <= 6
        await stream.write(b"")
        await stream.write(b"there", timeout=LIMIT)
        while piece := await stream.read(100):
            data += piece
        assert data == b"hellobye"


@on_both_engines
async def test_httpcores_errors_while_talking(family: Any, engine: Any) -> None:
    """Timeouts, resets, and speaking where nobody listens any more are httpcore's errors: httpx-ws expects them."""
    core = family_named(family).core
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        assert go_on.wait(LIMIT)
        connection.reset()

    async with talking(family, engine, script) as stream:
        with pytest.raises(core.ReadTimeout):
            await stream.read(100, timeout=0.02)
        with pytest.raises(core.WriteTimeout):
            await stream.write(b"x" * 30_000_000, timeout=0.05)
        go_on.set()
        with pytest.raises(core.ReadError):
            await stream.read(100, timeout=LIMIT)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(core.WriteError):
            await stream.write(b"anyone?")
        with pytest.raises(core.ReadError):
            await stream.read(100)


@on_both_engines
async def test_tls_in_a_tunnel(family: Any, engine: Any) -> None:
    """After CONNECT the stream can speak TLS with whoever is behind it, and fails as httpcore's does."""
    core = family_named(family).core
    authority = Authority("far.example")
    module = module_of(family)

    def script(connection: Connection) -> None:
        assert connection.read_head().startswith(b"CONNECT far.example:443 HTTP/1.1\r\n")
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            tls = authority.server.wrap_socket(connection.sock, server_side=True)
        except OSError:
            return
        with tls:
            tls.sendall(tls.recv(100).upper())

    with scripted(script) as upstream:
        async with transport_of(family, engine=engine) as transport:
            for trusting in (True, False):
                request = module.Request(
                    "CONNECT",
                    upstream.url,
                    headers={"Host": "far.example:443"},
                    extensions={"target": b"far.example:443"},
                )
                response = await transport.handle_async_request(request)
                assert response.status_code == 200
                stream = response.extensions["network_stream"]
                if trusting:
                    secure = await stream.start_tls(authority.client, server_hostname="far.example", timeout=LIMIT)
                    assert secure.get_extra_info("ssl_object").version() == "TLSv1.3"
                    await secure.write(b"hello")
                    assert await secure.read(100, timeout=LIMIT) == b"HELLO"
                    await secure.aclose()
                else:
                    with pytest.raises(core.ConnectError):
                        await stream.start_tls(NO_TLS, server_hostname="far.example", timeout=LIMIT)
                await response.aclose()


@on_the_engine
async def test_a_talk_holds_its_place(family: Any) -> None:
    """An upgraded connection counts until it is closed, by its stream or its response, and is never used again."""
    module = module_of(family)

    def script(connection: Connection) -> None:
        if b"upgrade" in connection.read_head():
            connection.send(SWITCH)
            connection.wait_until_closed()
        else:
            connection.send(ok())

    with scripted(script) as upstream:
        async with client_of(family, limits=module.Limits(max_connections=1)) as client:
            for closes_stream in (True, False):
                headers = {"Connection": "upgrade", "Upgrade": "talk"}
                async with client.stream("GET", upstream.url, headers=headers) as response:
                    assert client._transport.statistics().active == 1
                    with pytest.raises(module.PoolTimeout):
                        await client.get(upstream.url, timeout=module.Timeout(LIMIT, pool=0.02))
                    if closes_stream:
                        await response.extensions["network_stream"].aclose()
                        assert client._transport.statistics().active == 0
                assert client._transport.statistics().active == 0
                assert (await client.get(upstream.url)).text == "ok"


@on_the_engine
async def test_httpx_ws(family: Any) -> None:
    """httpx-ws speaks WebSocket through it."""
    if family != "httpx":
        pytest.skip("httpx-ws is for httpx")
    httpx_ws = pytest.importorskip("httpx_ws")
    server = pytest.importorskip("websockets.asyncio.server")

    async def repeat(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with server.serve(repeat, "127.0.0.1", 0) as serving:
        port = serving.sockets[0].getsockname()[1]
        async with client_of(family) as client:
            async with httpx_ws.aconnect_ws(f"ws://127.0.0.1:{port}/", client) as session:
                with anyio.fail_after(LIMIT):
                    for text in ("hello", "x" * 200_000):
                        await session.send_text(text)
                        assert await session.receive_text() == text
                    assert client._transport.statistics().active == 1
            assert client._transport.statistics().active == 0
