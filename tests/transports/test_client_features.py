"""Every public feature of the family's client works on ours."""

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from fastapi_httpx_pool import ClientFactory, ClientSettings, LimitSettings, TLSSettings
from tests.support.families import FAMILIES, module_of
from tests.support.http2_server import serving_http2
from tests.support.upstream import Connection, answering, ok, scripted

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("family", FAMILIES)]


def _head(connection: Connection) -> None:
    """Answer with the head of the request."""
    while head := connection.read_head():
        connection.send(ok(head))


async def test_it_is_one(family: Any, anyio_backend_name: str) -> None:
    """The client is an AsyncClient of its family, and says what it is and what carries its requests."""
    engine = "httpcore" if anyio_backend_name == "trio" else "native"
    async with ClientFactory(ClientSettings(family=family)) as factory:
        client = factory.get()
        assert isinstance(client, module_of(family).AsyncClient)
        assert repr(client) == f"<{family}.AsyncClient 'default' [open, engine: {engine}]>"
    assert client.is_closed
    assert "closed" in repr(client)


async def test_auth_hooks_and_base_url(family: Any) -> None:
    """Auth, event hooks, default headers and the base URL play their part."""
    seen: list[str] = []

    async def on_request(request: Any) -> None:
        seen.append(str(request.url))

    async def on_response(response: Any) -> None:
        seen.append(str(response.status_code))

    with scripted(_head) as upstream:
        settings = ClientSettings(family=family, base_url=f"{upstream.url}/v1", headers={"X-App": "yes"})
        async with ClientFactory(settings) as factory:
            client = factory.get()
            client.event_hooks = {"request": [on_request], "response": [on_response]}
            text = (await client.get("items", auth=("user", "pass"))).text
    assert text.startswith("GET /v1/items HTTP/1.1\r\n")
    assert "Authorization: Basic dXNlcjpwYXNz\r\n" in text
    assert "X-App: yes\r\n" in text
    assert seen == [f"{upstream.url}/v1/items", "200"]


async def test_streaming_both_ways(family: Any) -> None:
    """Lines of a response come as they are sent, and a body goes out as it is made."""

    def script(connection: Connection) -> None:
        assert connection.read_until(b"0\r\n\r\n").endswith(b"2\r\nup\r\n0\r\n\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.send(b"4\r\none\n\r\n")
        assert went_on.wait(10)
        connection.send(b"4\r\ntwo\n\r\n0\r\n\r\n")

    async def body() -> Any:
        yield b"up"

    went_on = threading.Event()
    with scripted(script) as upstream:
        lines = []
        async with (
            ClientFactory(ClientSettings(family=family)) as factory,
            factory.get().stream("POST", upstream.url, content=body()) as response,
        ):
            async for line in response.aiter_lines():
                lines.append(line)
                went_on.set()
    assert lines == ["one", "two"]


async def test_unix_domain_socket(family: Any, tmp_path: Path) -> None:
    """``uds`` connects to a path."""
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        sock, _ = listener.accept()
        sock.settimeout(10)
        _head(Connection(sock, 0))
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    async with ClientFactory(ClientSettings(family=family, uds=path)) as factory:
        assert "Host: unix.example" in (await factory.get().get("http://unix.example/")).text
    thread.join(10)
    listener.close()


async def test_unix_domain_socket_has_no_proxy(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is meant for a socket of this machine goes to no proxy, whatever the environment says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with ClientFactory(ClientSettings(family=family, uds="/nowhere/socket")) as factory:
        with pytest.raises(module_of(family).ConnectError) as raised:
            await factory.get().get("http://unix.example/")
    assert (
        "[Errno 2]" in str(raised.value)
        or "No such file" in str(raised.value)
        or isinstance(raised.value.__cause__.__cause__.__cause__, FileNotFoundError)
    )


async def test_mutual_tls(family: Any, tmp_path: Path) -> None:
    """A private authority is trusted, and the client shows its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    subjects: list[Any] = []

    def script(connection: Connection) -> None:
        subjects.append(connection.sock.getpeercert())  # type: ignore[attr-defined] # a TLS socket here
        _head(connection)

    tls = TLSSettings(ca_file=tmp_path / "ca.pem", cert_file=tmp_path / "client.pem")
    with scripted(script, context) as upstream:
        async with ClientFactory(ClientSettings(family=family, tls=tls)) as factory:
            assert (await factory.get().get(upstream.url)).status_code == 200
        async with ClientFactory(ClientSettings(family=family)) as factory:
            with pytest.raises(module_of(family).ConnectError):
                await factory.get().get(upstream.url)
    assert subjects[0]["subjectAltName"] == (("DNS", "client.example"),)


@pytest.mark.parametrize("how", ["setting", "environment"])
async def test_forward_proxy(family: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward proxy is used, from the settings or the environment."""
    with scripted(_head) as proxy:
        if how == "environment":
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
        settings = ClientSettings(family=family, proxy=proxy.url if how == "setting" else None)
        async with ClientFactory(settings) as factory:
            text = (await factory.get().get("http://far.example/x")).text
    assert text.startswith("GET http://far.example/x HTTP/1.1\r\n")


async def test_no_proxy(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``NO_PROXY`` and ``trust_env=False`` go around it."""
    with scripted(_head) as upstream:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        async with ClientFactory(ClientSettings(family=family, trust_env=False)) as factory:
            assert (await factory.get().get(upstream.url)).text.startswith("GET / ")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with ClientFactory(ClientSettings(family=family)) as factory:
            assert (await factory.get().get(upstream.url)).text.startswith("GET / ")


async def test_socks_proxy(family: Any) -> None:
    """A SOCKS proxy is spoken to."""

    def script(connection: Connection) -> None:
        connection.read_exactly(3)  # version 5, one method: none
        connection.send(b"\x05\x00")
        request = connection.read_exactly(4 + 1 + len(b"far.example") + 2)
        assert request[5:-2] == b"far.example"
        connection.send(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        _head(connection)

    with scripted(script) as proxy:
        settings = ClientSettings(family=family, proxy=proxy.url.replace("http:", "socks5h:"))
        async with ClientFactory(settings) as factory:
            assert "Host: far.example" in (await factory.get().get("http://far.example/")).text


@pytest.mark.parametrize("engine", ["auto", "httpcore"])
async def test_connection_lifetime(family: Any, engine: Any, anyio_backend_name: str) -> None:
    """A connection older than its lifetime is not used again; a younger one is."""
    with scripted(answering(ok())) as upstream:
        # With httpcore its age counts from the end of its first exchange, so even the shortest life has two.
        counted_late = engine == "httpcore" or anyio_backend_name == "trio"
        for lifetime, connections in ((1e-6, 2 if counted_late else 4), (60.0, 1)):
            before = upstream.accepted
            limits = LimitSettings(connection_lifetime=lifetime)
            async with ClientFactory(ClientSettings(family=family, limits=limits, engine=engine)) as factory:
                for _ in range(4):
                    await factory.get().get(upstream.url)
            assert upstream.accepted - before == connections


@pytest.mark.parametrize("engine", ["auto", "httpcore"])
async def test_connections_per_host(family: Any, engine: Any) -> None:
    """One origin gets no more than its share, and says so when it is exceeded."""

    def script(connection: Connection) -> None:
        while head := connection.read_head():
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun" if b"/held" in head else ok())

    with scripted(script) as upstream:
        limits = LimitSettings(max_connections_per_host=1)
        settings = ClientSettings(family=family, limits=limits, timeout={"pool": 0.05}, engine=engine)
        async with ClientFactory(settings) as factory:
            client = factory.get()
            async with client.stream("GET", f"{upstream.url}/held"):
                with pytest.raises(module_of(family).PoolTimeout, match=r"1 .*127\.0\.0\.1"):
                    await client.get(upstream.url)
            assert (await client.get(upstream.url)).text == "ok"


async def test_the_owner_closes(family: Any) -> None:
    """``aclose`` by anyone else leaves the client to its owner."""
    with scripted(answering(ok())) as upstream:
        async with ClientFactory(ClientSettings(family=family)) as factory:
            client = factory.get()
            await client.aclose()
            assert (await client.get(upstream.url)).text == "ok"
        with pytest.raises(RuntimeError):
            await client.get(upstream.url)


async def test_http2(family: Any, tmp_path: Path) -> None:
    """With ``http2=True`` HTTP/2 is negotiated."""
    with serving_http2(tmp_path) as url:
        settings = ClientSettings(family=family, http2=True, tls=TLSSettings(ca_file=tmp_path / "ca.pem"))
        async with ClientFactory(settings) as factory:
            response = await factory.get().get(url)
            assert (response.http_version, response.text) == ("HTTP/2", "2")
