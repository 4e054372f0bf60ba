"""The upstream answers what it was told to, byte by byte if need be, and remembers what it was asked."""

import contextlib
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from fastapi_httpx_pool.testing import Reply, Route, Upstream, UpstreamConnection, UpstreamRequest

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(name="browser")
def _browser() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10, trust_env=False) as browser:
        yield browser


def test_starts_when_it_is_asked_for() -> None:
    """Nothing listens before the URL is asked for; afterwards it is the same for as long as it lasts."""
    with Upstream() as upstream:
        assert "not started" in repr(upstream)
        assert upstream.url == upstream.url == f"http://127.0.0.1:{upstream.port}"
        assert repr(upstream) == f"<Upstream [{upstream.url}, 0 requests]>"
    assert repr(upstream) == "<Upstream [closed, 0 requests]>"
    upstream.close()
    with pytest.raises(RuntimeError, match="make another one"):
        _ = upstream.url


def test_never_started() -> None:
    """An upstream that nobody asked for has nothing to close."""
    with Upstream():
        pass


def test_bodies(upstream: Upstream, browser: httpx.Client) -> None:
    """JSON, null too, text, bytes and nothing are answered with their types and lengths."""
    upstream.get("/json").respond(json={"a": [1]})
    upstream.get("/null").respond(json=None)
    upstream.get("/text").respond(404, text="né", headers={"Content-Type": "text/html; charset=utf-8"})
    upstream.get("/bytes").respond(content=b"\0\1", headers={"X-Mine": "yes"})
    upstream.get("/nothing").respond(204)
    upstream.get("/odd").respond(599)

    assert browser.get(f"{upstream.url}/json").json() == {"a": [1]}
    assert browser.get(f"{upstream.url}/null").json() is None
    text = browser.get(f"{upstream.url}/text")
    assert (text.status_code, text.text, text.headers["content-type"]) == (404, "né", "text/html; charset=utf-8")
    found = browser.get(f"{upstream.url}/bytes")
    assert (found.content, found.headers["x-mine"], found.headers["content-length"]) == (b"\0\1", "yes", "2")
    assert "content-length" not in browser.get(f"{upstream.url}/nothing").headers
    assert browser.get(f"{upstream.url}/odd").reason_phrase == ""


def test_two_bodies() -> None:
    """A reply has one body."""
    with pytest.raises(TypeError, match="give one of them"):
        Reply(json=None, text="x")
    assert repr(Reply(201, text="four")) == "<Reply 201, 4 bytes>"


def test_methods(upstream: Upstream, browser: httpx.Client) -> None:
    """Each method has its own route; HEAD gets the head only."""
    for name in ("get", "head", "options", "post", "put", "patch", "delete"):
        getattr(upstream, name)("/x").respond(text=name)
    found = {
        name: browser.request(name, f"{upstream.url}/x").text for name in ("GET", "HEAD", "OPTIONS", "POST", "PUT")
    }
    found |= {name: browser.request(name, f"{upstream.url}/x").text for name in ("PATCH", "DELETE")}
    assert found.pop("HEAD") == ""
    assert found == {name: name.lower() for name in found}


def test_which_route(upstream: Upstream, browser: httpx.Client) -> None:
    """The newest route that matches counts; a star stands for the rest of a path, and no path for all."""
    everything = upstream.route().respond(text="everything")
    files = upstream.route("GET", "/files/*").respond(text="files")
    upstream.get("/files/one").respond(text="one")

    paths = ["/files/one?x=1", "/files/two", "/other"]
    assert [browser.get(upstream.url + path).text for path in paths] == ["one", "files", "everything"]
    assert [request.path for request in files.requests] == ["/files/two"]
    assert [repr(everything), repr(files)] == ["<Route any method any path>", "<Route GET /files/*>"]


def test_no_route(upstream: Upstream, browser: httpx.Client) -> None:
    """What no route matches is answered with a 404 that says which routes there are."""
    assert "it has: none" in browser.get(f"{upstream.url}/x").text
    upstream.get("/y")
    answer = browser.post(f"{upstream.url}/x?a=b")
    assert answer.status_code == 404
    assert "no route for POST /x; it has: <Route GET /y>" in answer.text
    assert "was given no answer" in browser.get(f"{upstream.url}/y").text


def test_answers_in_order(upstream: Upstream, browser: httpx.Client) -> None:
    """The answers of a route are given in order, the last one again and again."""
    upstream.get("/x").respond(503).respond(429).respond(text="ok")
    assert [browser.get(f"{upstream.url}/x").status_code for _ in range(4)] == [503, 429, 200, 200]


def test_what_was_asked(upstream: Upstream, browser: httpx.Client) -> None:
    """Requests are kept with method, path, query, headers in order, body and connection."""
    route = upstream.post("/caf%C3%A9").respond(json={})
    browser.post(f"{upstream.url}/caf%C3%A9?a=1&b", json={"n": 1}, headers=[("X-Two", "1"), ("x-two", "2")])
    browser.post(f"{upstream.url}/caf%C3%A9", content=iter([b"chunk", b"ed"]), headers={"Connection": "close"})
    browser.post(f"{upstream.url}/caf%C3%A9", content=b"again", headers={"Expect": "100-continue"})

    first, second, third = route.requests
    assert route.requests == upstream.requests
    assert (first.method, first.path, first.query) == ("POST", "/caf%C3%A9", "a=1&b")
    assert first.json() == {"n": 1}
    assert first.headers["x-two"] == "1, 2"
    assert (b"X-Two", b"1") in first.raw_headers
    assert second.text == "chunked"
    assert third.body == b"again"
    assert [request.connection for request in route.requests] == [0, 0, 1]
    assert upstream.connections == 2


def test_handler(upstream: Upstream, browser: httpx.Client) -> None:
    """A function may make the answer of the request."""

    def double(request: UpstreamRequest) -> Reply:
        return Reply(201, json=request.json() * 2)

    upstream.post("/double").handle(double)
    assert browser.post(f"{upstream.url}/double", json=21).json() == 42


def test_failing_handler(browser: httpx.Client) -> None:
    """What a function raises is answered with 500, and raised at the end of the block."""

    def fail(request: UpstreamRequest) -> Reply:
        raise LookupError("nothing there")

    upstream = Upstream()
    upstream.get("/x").handle(fail)
    found: list[str] = []
    with pytest.raises(LookupError, match="nothing there"), upstream:
        found.append(browser.get(f"{upstream.url}/x").text)
    assert found == ["the upstream's script failed\n"]


def test_failing_block_goes_first() -> None:
    """An error of the block's own is not hidden by one of a script's."""
    upstream = Upstream()
    upstream.errors.append(LookupError("hidden"))
    with pytest.raises(ZeroDivisionError), upstream:
        raise ZeroDivisionError


def test_drip(upstream: Upstream, browser: httpx.Client) -> None:
    """Chunks come one by one."""
    upstream.get("/x").drip([b"one", b"two"], pause=0.001, headers={"X-Mine": "yes"})
    with browser.stream("GET", f"{upstream.url}/x") as answer:
        assert b"".join(answer.iter_raw()) == b"onetwo"
    assert answer.headers["x-mine"] == "yes"


def test_delay(upstream: Upstream, browser: httpx.Client) -> None:
    """A late answer comes after the client's time limit, and in time for a patient one."""
    upstream.get("/x").respond(text="late", delay=60).respond(text="later", delay=0.001)
    with pytest.raises(httpx.ReadTimeout):
        browser.get(f"{upstream.url}/x", timeout=0.05)
    upstream.wait_for_requests(1)  # so that it is the first
    assert browser.get(f"{upstream.url}/x").text == "later"


def break_off(route: Route, how: str) -> None:
    """Give a route one of the broken answers."""
    if how == "no byte":
        route.reset()
    elif how == "half a head":
        route.reset(after=HEAD[:20])
    elif how == "half a body":
        route.respond(content=b"x" * 10, reset_after=4)
    elif how == "closed":
        route.raw(HEAD, b"xx", pause=0.001)
    elif how == "garbage":
        route.raw(b"SMTP ready\r\n\r\n")


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("no byte", httpx.ReadError),
        ("half a head", httpx.ReadError),
        ("half a body", httpx.ReadError),
        ("closed", httpx.RemoteProtocolError),
        ("garbage", httpx.RemoteProtocolError),
    ],
)
def test_broken_answers(upstream: Upstream, browser: httpx.Client, how: str, error: type[Exception]) -> None:
    """Resets, early ends and garbage reach the client as the errors that they are."""
    break_off(upstream.get("/x"), how)
    with pytest.raises(error):
        browser.get(f"{upstream.url}/x")


@pytest.mark.parametrize("after", [b"", HEAD])
def test_hang(upstream: Upstream, browser: httpx.Client, after: bytes) -> None:
    """An upstream that never answers, or never goes on, keeps the client until its time limit."""
    upstream.get("/x").hang(after)
    with pytest.raises(httpx.ReadTimeout):
        browser.get(f"{upstream.url}/x", timeout=0.05)


def test_closing_ends_what_hangs() -> None:
    """Closing waits for no client."""
    with Upstream() as upstream, socket.create_connection((upstream.host, upstream.port)) as sock:
        upstream.get("/x").hang()
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [request.path for request in upstream.wait_for_requests()] == ["/x"]
        upstream.close()
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""


def test_wait_for_requests(upstream: Upstream) -> None:
    """Waiting for requests that do not come ends with an error."""
    with pytest.raises(TimeoutError, match=r"0 of 2 requests came within 0\.001 s"):
        upstream.wait_for_requests(2, seconds=0.001)


def test_script(upstream: Upstream, browser: httpx.Client) -> None:
    """A script answers byte by byte, and the connection stays open unless it closes it."""

    def script(request: UpstreamRequest, connection: UpstreamConnection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % connection.number)

    upstream.get("/x").script(script)
    assert [browser.get(f"{upstream.url}/x").text for _ in range(2)] == ["0", "0"]


def test_on_connection(upstream: Upstream) -> None:
    """A whole connection can be in a function's hands: from the first byte, and until the client has gone."""
    found: list[object] = []

    def script(connection: UpstreamConnection) -> None:
        connection.send(b"hello ")
        found.extend((connection.read_until(b"\n"), connection.read_exactly(3)))
        connection.send(b"bye")
        found.append(connection.wait_until_closed())

    upstream.on_connection(script)
    with socket.create_connection((upstream.host, upstream.port)) as sock:
        sock.sendall(b"line\nabc")
        sock.settimeout(10)
        data = b""
        while data != b"hello bye":
            more = sock.recv(100)
            assert more
            data += more
    upstream.close()
    assert found[:2] == [b"line\n", b"abc"]


def test_client_that_does_not_leave(upstream: Upstream) -> None:
    """A script that waits for the client to leave gives up after a while."""
    found: list[bool] = []

    def script(connection: UpstreamConnection) -> None:
        connection.sock.settimeout(0.01)
        found.append(connection.wait_until_closed())
        connection.reset()

    upstream.on_connection(script)
    with socket.create_connection((upstream.host, upstream.port)) as sock:
        sock.settimeout(10)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert found == [False]


@pytest.mark.parametrize("waiting", [True, False])
def test_client_that_resets(upstream: Upstream, waiting: bool) -> None:
    """A client that breaks off has gone, whether the script reads, waits or sends."""
    found: list[object] = []
    begun, ended = threading.Event(), threading.Event()

    def script(connection: UpstreamConnection) -> None:
        found.append(connection.read_exactly(1))
        begun.set()
        found.append(connection.wait_until_closed() if waiting else connection.read_until(b"!"))
        connection.send(b"to nobody")
        connection.send(b"to nobody")
        ended.set()

    upstream.on_connection(script)
    with socket.create_connection((upstream.host, upstream.port)) as sock:
        sock.sendall(b"1")
        assert begun.wait(10)
        sock.sendall(b"23")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ended.wait(10)
    assert found[0] == b"1"
    assert found[1] in ((True,) if waiting else (b"", b"23"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost",
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    ],
)
def test_half_a_request(upstream: Upstream, data: bytes) -> None:
    """What is no whole request is not counted as one, and its connection is closed."""
    with socket.create_connection((upstream.host, upstream.port)) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(10)
        assert sock.recv(100) == b""
    assert upstream.requests == []


def test_trailers(upstream: Upstream) -> None:
    """Trailers behind a chunked body are passed over."""
    upstream.post("/").respond(text="ok", headers={"Connection": "close"})
    with socket.create_connection((upstream.host, upstream.port)) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nX-Trailer: 1\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.makefile("rb").read().endswith(b"ok")
    assert upstream.requests[0].body == b"ab"


def test_tls(tls_upstream: Upstream) -> None:
    """With TLS it speaks https to those who trust its authority, and outlives those who do not."""
    tls_upstream.get("/x").respond(text="secret").reset()
    with httpx.Client(trust_env=False) as browser, pytest.raises(httpx.ConnectError):
        browser.get(f"{tls_upstream.url}/x")
    context = ssl.create_default_context(cafile=str(tls_upstream.ca_file))
    with httpx.Client(verify=context, trust_env=False) as browser:
        assert browser.get(f"{tls_upstream.url}/x").text == "secret"
        # Which of the two it is, is Python's ssl's business.
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            browser.get(f"{tls_upstream.url}/x")
    folder = tls_upstream.ca_file.parent
    tls_upstream.close()
    assert not folder.exists()


def test_no_authority_without_tls(upstream: Upstream) -> None:
    """A plain upstream has no authority to trust, and says how to get one."""
    with pytest.raises(RuntimeError, match="tls=True"):
        _ = upstream.ca_file


def test_tls_without_trustme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without trustme, the error says what to install."""
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ImportError, match="pip install trustme"):
        _ = Upstream(tls=True).url
