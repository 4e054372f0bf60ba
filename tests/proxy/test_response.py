"""Answers: the upstream's status, fields and octets, as they come, and never an end that did not happen."""

import gzip
import hashlib
import threading
from typing import Any

import pytest
from fastapi import FastAPI, Request

from fastapi_httpx_pool import LimitSettings, StreamingProxyResponse, create_lifespan
from tests.support.answers import ask, get, read_answer, read_chunk
from tests.support.raw_client import RawClient, raw_client
from tests.support.recording import RecordingUpstream
from tests.support.stack import POOL_OF_ONE, UVICORN, Stack
from tests.support.upstream import LIMIT, Connection, Script, answering, ok, scripted


def once(response: bytes) -> Script:
    """Return a script that answers one request and hangs up."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(response)

    return script


def test_e1_repeated_headers_keep_every_line(every_stack: Stack) -> None:
    """Set-Cookie and other repeated fields arrive as separate lines in their order."""
    response = ok(
        b"ok", b"Set-Cookie: a=1; Path=/, x", b"WWW-Authenticate: A", b"set-cookie: b=2", b"WWW-Authenticate: B"
    )
    with scripted(answering(response)) as upstream, every_stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert answer.values(b"set-cookie") == [b"a=1; Path=/, x", b"b=2"]
    assert answer.values(b"www-authenticate") == [b"A", b"B"]


def test_e2_a_coded_body_passes_as_it_is(stack: Stack) -> None:
    """A compressed body keeps its bytes, its Content-Encoding and its length; Accept-Encoding goes up untouched."""
    packed = gzip.compress(b"hello" * 1000)
    seen = RecordingUpstream(ok(packed, b"Content-Encoding: gzip", b'ETag: "x"'))
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get(b"/", b"Accept-Encoding: gzip;q=1.0, *;q=0"))

    assert answer.body == packed
    assert answer.values(b"content-encoding") == [b"gzip"]
    assert answer.values(b"content-length") == [b"%d" % len(packed)]
    assert answer.values(b"etag") == [b'"x"']
    assert seen.values(b"accept-encoding") == [b"gzip;q=1.0, *;q=0"]


def test_e2_a_broken_coding_is_not_ours_to_judge(stack: Stack) -> None:
    """A body that is not what its Content-Encoding says passes as it is."""
    response = ok(b"not gzip", b"Content-Encoding: gzip")
    with scripted(answering(response)) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, get()).body == b"not gzip"


def two_in_turn(port: int, first: bytes, *, to_head_request: bool = False) -> list[Any]:
    """Send two requests over one connection, so that a body where none belongs would be seen."""
    with raw_client(port) as client:
        client.send(first)
        answers = [read_answer(client, to_head_request=to_head_request)]
        client.send(get(b"/second"))
        return [*answers, read_answer(client)]


def by_method(*responses: tuple[bytes, bytes]) -> Script:
    """Return a script that answers by how a request begins."""

    def script(connection: Connection) -> None:
        while True:
            head, _ = connection.read_request()
            found = [response for start, response in responses if head.startswith(start)]
            if not found:
                return
            connection.send(found[0])

    return script


def test_e3_an_answer_to_head_keeps_its_length(every_stack: Stack) -> None:
    """An answer to HEAD has the Content-Length of the upstream and no body; the connection stays usable."""
    script = by_method((b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"), (b"GET", ok(b"second")))
    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port:
        first, second = two_in_turn(port, get(method=b"HEAD"), to_head_request=True)

    assert (first.status, first.values(b"content-length")) == (200, [b"1234"])
    assert (second.status, second.body) == (200, b"second")


def test_e3_an_answer_to_head_may_have_no_length(every_stack: Stack) -> None:
    """An answer to HEAD without a length, or chunked, gets no body either."""
    script = by_method((b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), (b"GET", ok(b"second")))
    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port:
        first, second = two_in_turn(port, get(method=b"HEAD"), to_head_request=True)

    assert (first.status, first.values(b"content-length")) == (200, [])
    assert (second.status, second.body) == (200, b"second")


def test_e3_a_204_has_no_body(every_stack: Stack) -> None:
    """A 204 passes with its fields and without a body."""
    script = by_method((b"GET / ", b"HTTP/1.1 204 No Content\r\nX-Here: 1\r\n\r\n"), (b"GET", ok(b"second")))
    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port:
        first, second = two_in_turn(port, get())

    assert (first.status, first.values(b"x-here")) == (204, [b"1"])
    assert first.values(b"transfer-encoding") == []
    assert (second.status, second.body) == (200, b"second")


def test_e3_a_304_has_no_body(every_stack: Stack) -> None:
    """
    A 304 passes with its validators and without a body.

    Its Content-Length is dropped, which it may be: uvicorn with httptools would wait for the body
    that the field announces, and break the connection off.
    """
    unmodified = b'HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: "x"\r\n\r\n'
    script = by_method((b"GET / ", unmodified), (b"GET", ok(b"second")))
    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port:
        first, second = two_in_turn(port, get(b"/", b'If-None-Match: "x"'))

    assert (first.status, first.values(b"etag")) == (304, [b'"x"'])
    assert first.values(b"content-length") == first.values(b"transfer-encoding") == []
    assert (second.status, second.body) == (200, b"second")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_e4_a_body_that_ends_with_the_connection(every_stack: Stack, version: bytes) -> None:
    """An upstream body that the end of its connection delimits is chunked for a client of HTTP/1.1."""
    response = b"HTTP/" + version + b" 200 OK\r\nX-Here: 1\r\n\r\nhello"
    with scripted(once(response)) as upstream, every_stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
    assert answer.values(b"transfer-encoding") == [b"chunked"]


@pytest.mark.parametrize("server", ["h11", "hypercorn"])
def test_e4_a_client_of_http_1_0(server: str) -> None:
    """
    A client of HTTP/1.0 gets a body of unknown length without chunks, ended by the connection.

    Not with httptools: there uvicorn chunks for HTTP/1.0 too, and no app can keep it from that.
    """
    stack = Stack(server, "httpx")
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with scripted(answering(response)) as upstream, stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        head = client.read_head()
        assert client.read_to_end() == b"hello"

    assert b"chunked" not in head


TRUNCATED = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "in-a-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
}


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("kind", TRUNCATED)
def test_e5_a_truncated_body_breaks_the_connection_off(every_stack: Stack, kind: str, ending: str) -> None:
    """An upstream that fails in the middle of its body never gives the client a body that looks whole."""
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(TRUNCATED[kind])
        # The answer must have begun, or it would be a 502; what the client has seen tells that it did.
        go_on.wait(LIMIT)
        getattr(connection, ending)()

    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get())
        head = client.read_head()
        seen = client.read_until(b"hello") if kind != "bad-chunk" else b""
        go_on.set()
        rest = client.read_to_end()

    if kind == "bad-chunk" and not head.startswith(b"HTTP/1.1 200"):
        assert head.startswith(b"HTTP/1.1 502")
        return
    assert head.startswith(b"HTTP/1.1 200")
    assert not (seen + rest).endswith(b"0\r\n\r\n")
    assert len(seen + rest) < 100


def test_e5_a_truncated_upstream_does_not_poison_the_pool(stack: Stack) -> None:
    """After a truncated body the only slot of the pool serves the next request."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(TRUNCATED["chunked"] if connection.number == 0 else ok(b"second"))

    with scripted(script) as upstream, stack.proxying(upstream.url, stack.settings(limits=POOL_OF_ONE)) as port:
        assert not ask(port, get()).complete
        assert ask(port, get()).body == b"second"


def test_e6_a_failure_before_the_body_is_a_clean_502(every_stack: Stack) -> None:
    """An upstream that dies between its head and its body is answered for with 502, without its fields."""
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-Leaked: 1\r\nSet-Cookie: a=1\r\n\r\n"
    with scripted(once(response)) as upstream, every_stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (502, True)
    assert answer.values(b"x-leaked") == answer.values(b"set-cookie") == []
    assert answer.values(b"content-length") != [b"100"]


POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
@pytest.mark.parametrize("kind", ["length", "chunked", "head", "304", "204"])
def test_e7_bytes_beyond_an_answer_are_no_answer(stack: Stack, kind: str, family: str) -> None:
    """What an upstream sends after the end of an answer never becomes the next user's answer."""
    if family == "httpx2":
        pytest.importorskip("httpx2")
    first = {
        "length": ok(b"ok"),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "head": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(POISON),
        "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(POISON),
        "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    }[kind]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(first + POISON if connection.number == 0 else ok(b"clean"))
        connection.wait_until_closed()

    with (
        scripted(script) as upstream,
        stack.proxying(upstream.url, stack.settings(limits=POOL_OF_ONE, family=family)) as port,
    ):
        assert ask(port, get(method=b"HEAD" if kind == "head" else b"GET")).status in {200, 204, 304}
        assert ask(port, get()).body == b"clean"


def test_a_reused_connection_is_used_again(stack: Stack) -> None:
    """Answers that end properly leave their connection to the next request, whatever their framing."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    script = by_method(
        (b"GET /length ", ok()),
        (b"GET /chunked ", chunked),
        (b"GET /204 ", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET /304 ", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        (b"HEAD ", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    )
    with scripted(script) as upstream, stack.proxying(upstream.url) as port:
        for target in (b"/length", b"/chunked", b"/204", b"/304", b"/length"):
            ask(port, get(target))
        ask(port, get(method=b"HEAD"))
        ask(port, get(b"/length"))
        accepted = upstream.accepted

    assert accepted == 1


@pytest.mark.parametrize("status", [200, 201, 206, 299, 300, 307, 404, 418, 500, 503, 599])
def test_a_status_passes(status: int) -> None:
    """Any status of three digits below 600 passes, with its fields; redirects are not followed."""
    stack = UVICORN[0]
    response = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nLocation: /elsewhere\r\n\r\nok" % status
    seen = RecordingUpstream(response)
    settings = stack.settings(follow_redirects=True)
    with scripted(seen) as upstream, stack.proxying(upstream.url, settings) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.values(b"location")) == (status, b"ok", [b"/elsewhere"])
    assert len(seen.heads) == 1


@pytest.mark.parametrize("status", [600, 888, 999])
def test_a_status_beyond_599_is_a_502(every_stack: Stack, status: int) -> None:
    """A status that no server can send on is a 502, not a dropped connection."""
    response = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nX-Leaked: 1\r\n\r\nok" % status
    with scripted(once(response)) as upstream, every_stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete, answer.values(b"x-leaked")) == (502, True, [])


@pytest.mark.parametrize("lines", [(), (b"Connection: Upgrade", b"Upgrade: foo")], ids=["unasked", "asked"])
def test_a_101_is_a_502(every_stack: Stack, lines: tuple[bytes, ...]) -> None:
    """A 101 from the upstream is a 502, whether the client asked for an upgrade or not; its slot is free again."""

    def script(connection: Connection) -> None:
        connection.read_request()
        if connection.number == 0:
            connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\nfoo")
            assert connection.wait_until_closed()
        else:
            connection.send(ok(b"second"))

    settings = every_stack.settings(limits=POOL_OF_ONE)
    with scripted(script) as upstream, every_stack.proxying(upstream.url, settings) as port:
        assert ask(port, get(b"/", *lines)).status == 502
        assert ask(port, get()).body == b"second"


def test_an_informational_answer_is_no_final_one(stack: Stack) -> None:
    """A 103 before the final answer does not take its place."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with scripted(answering(hints + ok(b"final"))) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    final = answer if answer.status != 103 else None
    assert final is not None
    assert (final.status, final.body) == (200, b"final")


def test_f15_server_sent_events_arrive_one_by_one(every_stack: Stack) -> None:
    """The head arrives before any event, and each event before the next is sent."""
    steps = [threading.Event() for _ in range(3)]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, step in enumerate(steps):
            assert step.wait(LIMIT)
            connection.send(b"9\r\ndata: %d\n\n\r\n" % number)
        connection.send(b"0\r\n\r\n")

    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get())
        assert client.read_head().startswith(b"HTTP/1.1 200")
        for number, step in enumerate(steps):
            step.set()
            assert read_chunk(client) == b"data: %d\n\n" % number
        assert read_chunk(client) == b""


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"]
)
def test_f15_a_body_of_unknown_length_is_not_held_back(stack: Stack, head: bytes) -> None:
    """Without a length too, the head arrives before any byte and every byte when it was sent."""
    step = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head)
        assert step.wait(LIMIT)
        connection.send(b"x")

    with scripted(script) as upstream, stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get())
        assert client.read_head().startswith(b"HTTP/1.1 200")
        step.set()
        assert read_chunk(client) == b"x"


def test_f15_a_body_of_known_length_is_not_held_back(stack: Stack) -> None:
    """Each piece of a body of known length arrives when it was sent."""
    step = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
        assert step.wait(LIMIT)
        connection.send(b"two")

    with scripted(script) as upstream, stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get())
        client.read_head()
        assert client.read_exactly(3) == b"one"
        step.set()
        assert client.read_exactly(3) == b"two"


def test_f15_events_pass_a_base_http_middleware(stack: Stack) -> None:
    """``@app.middleware("http")`` around the route holds nothing back."""
    steps = [threading.Event() for _ in range(2)]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for step in steps:
            assert step.wait(LIMIT)
            connection.send(b"data: 1\n\n")

    app = FastAPI(lifespan=create_lifespan(stack.settings()))

    @app.middleware("http")
    async def middleware(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    @app.get("/")
    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream.url)

    with scripted(script) as upstream, stack.serve(app) as port, raw_client(port) as client:
        client.send(get())
        assert client.read_head().startswith(b"HTTP/1.1 200")
        for step in steps:
            step.set()
            assert read_chunk(client) == b"data: 1\n\n"


@pytest.mark.parametrize("framing", ["known-length", "chunked"])
def test_ten_megabytes_arrive_whole(every_stack: Stack, framing: str) -> None:
    """A large body arrives intact."""
    body = bytes(range(256)) * 4096 * 10
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    response = ok(body) if framing == "known-length" else chunked
    with scripted(answering(response)) as upstream, every_stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert answer.complete
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


def test_two_hundred_at_once(every_stack: Stack) -> None:
    """Two hundred requests that are upstream at the same time each get their own answer."""
    count = 200
    all_there = threading.Barrier(count)

    def script(connection: Connection) -> None:
        head, _ = connection.read_request()
        all_there.wait(LIMIT)
        connection.send(ok(head.split(b" ")[1]))

    settings = every_stack.settings(limits=LimitSettings(max_connections=count), timeout=None)
    with scripted(script) as upstream, every_stack.proxying(upstream.url, settings) as port:
        clients = [RawClient(port) for _ in range(count)]
        for number, client in enumerate(clients):
            client.send(get(b"/%d" % number))
        bodies = [read_answer(client).body for client in clients]
        for client in clients:
            client.close()

    assert bodies == [b"/%d" % number for number in range(count)]


def test_two_hundred_through_a_small_pool(stack: Stack) -> None:
    """Two hundred requests through ten connections each get their own answer."""

    def script(connection: Connection) -> None:
        while (head := connection.read_request()[0]).endswith(b"\r\n\r\n"):
            connection.send(ok(head.split(b" ")[1]))

    limits = LimitSettings(max_connections=10, max_keepalive_connections=10)
    settings = stack.settings(limits=limits, timeout=None)
    with scripted(script) as upstream, stack.proxying(upstream.url, settings) as port:
        clients = [RawClient(port) for _ in range(200)]
        for number, client in enumerate(clients):
            client.send(get(b"/%d" % number))
        bodies = [read_answer(client).body for client in clients]
        for client in clients:
            client.close()
        accepted = upstream.accepted

    assert bodies == [b"/%d" % number for number in range(200)]
    assert accepted <= 10


def test_headers_and_cookies_of_the_response_are_added(stack: Stack) -> None:
    """Headers and cookies that the route sets on the response come beside the upstream's."""

    async def respond(request: Request) -> StreamingProxyResponse:
        response = StreamingProxyResponse(request, upstream.url)
        response.headers["x-ours"] = "1"
        response.set_cookie("ours", "1")
        response.set_cookie("more", "2")
        return response

    theirs = ok(b"ok", b"X-Theirs: 1", b"Set-Cookie: theirs=1")
    with scripted(answering(theirs)) as upstream, stack.routing(respond) as port:
        answer = ask(port, get())

    assert (answer.values(b"x-ours"), answer.values(b"x-theirs")) == ([b"1"], [b"1"])
    assert [cookie.split(b";")[0] for cookie in answer.values(b"set-cookie")] == [b"theirs=1", b"ours=1", b"more=2"]
    assert answer.body == b"ok"


def test_headers_of_a_middleware_are_added(stack: Stack) -> None:
    """What a middleware or a dependency's response sets does not lose the upstream's repeated fields."""
    app = FastAPI(lifespan=create_lifespan(stack.settings()))

    @app.middleware("http")
    async def middleware(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.set_cookie("ours", "1")
        return response

    @app.get("/")
    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream.url)

    theirs = ok(b"ok", b"Set-Cookie: a=1", b"Set-Cookie: b=2")
    with scripted(answering(theirs)) as upstream, stack.serve(app) as port:
        answer = ask(port, get())

    assert [cookie.split(b";")[0] for cookie in answer.values(b"set-cookie")] == [b"a=1", b"b=2", b"ours=1"]
