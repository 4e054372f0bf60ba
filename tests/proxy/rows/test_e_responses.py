"""Rows E1 to E19: what upstreams answer, and what clients get of it."""

import gzip
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from fastapi_httpx_pool import ProxyPolicy, ReverseProxy, UpstreamResponse, create_lifespan
from tests.support.answers import Answer, ask, get, read_answer
from tests.support.asgi import started
from tests.support.http2_client import ask_http2
from tests.support.proxies import DOORS, EVERY_SERVER, POOL_OF_ONE, UVICORN, proxied, serving_by, settings_of
from tests.support.raw_client import headers_of, raw_client
from tests.support.recording import RecordingUpstream
from tests.support.upstream import LIMIT, Connection, Script, answering, ok, scripted

every_server = pytest.mark.parametrize("server", EVERY_SERVER)
uvicorns = pytest.mark.parametrize("server", UVICORN)
every_door = pytest.mark.parametrize("door", DOORS)
HTTP_1_0_NEVER_CHUNKED = [
    pytest.param(
        "httptools",
        marks=pytest.mark.skip(reason="uvicorn with httptools chunks bodies of unknown length for HTTP/1.0, too"),
    ),
    *EVERY_SERVER[1:],
]
CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


def once(response: bytes) -> Script:
    """Return a script that answers one request and hangs up."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(response)

    return script


def first_then(first: bytes, then: bytes) -> Script:
    """Return a script that answers the first connection's request in one way, and any other's in another."""

    def script(connection: Connection) -> None:
        while connection.read_request()[0].endswith(b"\r\n\r\n"):
            connection.send(then if connection.number else first)

    return script


def by_start(*responses: tuple[bytes, bytes]) -> Script:
    """Return a script that answers by how a request begins."""

    def script(connection: Connection) -> None:
        while head := connection.read_request()[0]:
            connection.send(next(response for start, response in responses if head.startswith(start)))

    return script


def answered(server: str, response: bytes, request: bytes = get(), **options: Any) -> Answer:
    """Return what a client gets of an upstream's answer."""
    with scripted(answering(response)) as upstream, proxied(upstream.url, server, **options) as port:
        return ask(port, request)


def two_in_turn(port: int, first: bytes) -> tuple[Answer, Answer]:
    """Send two requests over one connection, so that a body where none belongs would be seen."""
    with raw_client(port) as client:
        client.send(first)
        answer = read_answer(client, to_head_request=first.startswith(b"HEAD "))
        client.send(get(b"/second"))
        return answer, read_answer(client)


# E1: repeated fields.

REPEATED = ok(b"ok", b"Set-Cookie: a=1; Path=/, x", b"WWW-Authenticate: A", b"set-cookie: b=2", b"WWW-Authenticate: B")


@pytest.mark.parametrize(
    ("server", "door"), [*((server, "alone") for server in UVICORN), ("h11", "mounted"), ("httptools", "route")]
)
def test_e1_repeated_fields_stay_separate_lines(server: str, door: str) -> None:
    """Set-Cookie and any other repeated field arrives as so many lines, in their order."""
    answer = answered(server, REPEATED, get(b"/p/x"), door=door)

    assert answer.values(b"set-cookie") == [b"a=1; Path=/, x", b"b=2"]
    assert answer.values(b"www-authenticate") == [b"A", b"B"]


# E2: content codings.


@uvicorns
@pytest.mark.parametrize("accepts", [b"gzip;q=1.0, *;q=0", None])
def test_e2_a_coded_body_passes_as_it_is(server: str, accepts: bytes | None) -> None:
    """A compressed body keeps bytes, coding, length and validator, whether the client has asked for it or not."""
    packed = gzip.compress(b"hello" * 1000)
    seen = RecordingUpstream(ok(packed, b"Content-Encoding: gzip", b'ETag: "x"', b"Vary: Accept-Encoding"))
    lines = [] if accepts is None else [b"Accept-Encoding: " + accepts]
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        answer = ask(port, get(b"/", *lines))

    assert answer.body == packed
    assert answer.values(b"content-encoding") == [b"gzip"]
    assert answer.values(b"content-length") == [b"%d" % len(packed)]
    assert (answer.values(b"etag"), answer.values(b"vary")) == ([b'"x"'], [b"Accept-Encoding"])
    assert seen.values(b"accept-encoding") == ([] if accepts is None else [accepts])


@uvicorns
def test_e2_a_broken_coding_is_not_ours_to_judge(server: str) -> None:
    """A body that is not what its Content-Encoding says passes as it is."""
    assert answered(server, ok(b"not gzip", b"Content-Encoding: gzip")).body == b"not gzip"


# E3: answers without a body.


@every_server
@pytest.mark.parametrize(
    ("head", "lengths"),
    [(b"Content-Length: 1234\r\n", [b"1234"]), (b"Transfer-Encoding: chunked\r\n", []), (b"", [])],
    ids=["length", "chunked", "neither"],
)
def test_e3_an_answer_to_head_keeps_its_length(server: str, head: bytes, lengths: list[bytes]) -> None:
    """An answer to HEAD has the upstream's Content-Length, or none, and no body; the connection stays usable."""
    script = by_start((b"HEAD", b"HTTP/1.1 200 OK\r\n" + head + b"\r\n"), (b"GET", ok(b"second")))
    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        first, second = two_in_turn(port, get(method=b"HEAD"))

    assert (first.status, first.values(b"content-length")) == (200, lengths)
    assert (second.status, second.body) == (200, b"second")


@every_server
def test_e3_a_204_has_no_body(server: str) -> None:
    """A 204 passes with its fields and without body, length or chunks."""
    script = by_start((b"GET / ", b"HTTP/1.1 204 No Content\r\nX-Here: 1\r\n\r\n"), (b"GET", ok(b"second")))
    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        first, second = two_in_turn(port, get())

    assert (first.status, first.values(b"x-here")) == (204, [b"1"])
    assert first.values(b"content-length") == first.values(b"transfer-encoding") == []
    assert (second.status, second.body) == (200, b"second")


@every_server
def test_e3_a_204_may_not_tell_a_length(server: str) -> None:
    """The length that an upstream tells of a 204's body, which it may not, is dropped."""
    script = by_start((b"GET / ", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"), (b"GET", ok(b"second")))
    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        first, second = two_in_turn(port, get())

    assert (first.status, first.values(b"content-length")) == (204, [])
    assert second.body == b"second"


@every_server
def test_e3_a_304_has_no_body(server: str) -> None:
    """
    A 304 passes with its validators and without a body; the connection stays usable.

    Its Content-Length goes, as it may: uvicorn with httptools would wait for the body that it
    announces and then break the connection off, and an app does not know which server it is under.
    """
    unmodified = b'HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: "x"\r\n\r\n'
    script = by_start((b"GET / ", unmodified), (b"GET", ok(b"second")))
    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        first, second = two_in_turn(port, get(b"/", b'If-None-Match: "x"'))

    assert (first.status, first.values(b"etag")) == (304, [b'"x"'])
    assert first.values(b"content-length") == first.values(b"transfer-encoding") == []
    assert (second.status, second.body) == (200, b"second")


# E4: bodies that end with the connection.


@every_server
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_e4_a_body_that_ends_with_the_connection(server: str, version: bytes) -> None:
    """A body that the end of the upstream's connection delimits is chunked for a client of HTTP/1.1."""
    response = b"HTTP/" + version + b" 200 OK\r\nX-Here: 1\r\n\r\nhello"
    with scripted(once(response)) as upstream, proxied(upstream.url, server) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
    assert (answer.values(b"transfer-encoding"), answer.values(b"x-here")) == ([b"chunked"], [b"1"])


# E5: truncated answers.

TRUNCATED = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "in-a-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello",
    "in-the-last-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
}


class CutShort:
    """An upstream whose first answer ends too early, once its beginning has been seen; others are complete."""

    def __init__(self, kind: str, ending: str = "close", rest: bytes = b"") -> None:
        self._kind = kind
        self._ending = ending
        self._rest = rest
        self._seen = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        connection.read_request()
        if connection.number:
            connection.send(ok(b"second"))
            return
        connection.send(TRUNCATED[self._kind])
        # The answer must have begun, or this would be a 502.
        assert self._seen.wait(LIMIT)
        connection.send(self._rest)
        getattr(connection, self._ending)()

    def ask(self, port: int, request: bytes = get()) -> tuple[bytes, bytes, bytes]:
        """Return the head that the client gets, the body until the upstream fails, and what comes then."""
        with raw_client(port) as client:
            client.send(request)
            head, body = client.read_head(), client.read_until(b"hello")
            self._seen.set()
            return head, body, client.read_to_end()


@every_server
@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("kind", TRUNCATED)
def test_e5_a_truncated_answer_breaks_the_connection_off(server: str, kind: str, ending: str) -> None:
    """A client never gets an answer that looks whole if the upstream's was not."""
    cut = CutShort(kind, ending)
    with scripted(cut) as upstream, proxied(upstream.url, server) as port:
        head, body, rest = cut.ask(port)

    assert head.startswith(b"HTTP/1.1 200")
    assert body.endswith(b"hello")
    assert rest in (b"", b"\r\n")  # the end of a chunk, but not of the body
    assert [value for name, value in headers_of(head) if name == b"content-length"] == [b"100"] * (kind == "length")


@every_server
def test_e5_a_bad_chunk_breaks_the_connection_off(server: str) -> None:
    """Garbage between chunks is not passed on, and not the end."""
    cut = CutShort("chunked", "wait_until_closed", rest=b"zz\r\nhello\r\n0\r\n\r\n")
    with scripted(cut) as upstream, proxied(upstream.url, server) as port:
        assert cut.ask(port)[2] in (b"", b"\r\n")


@every_server
@pytest.mark.parametrize("door", ["mounted", "route"])
def test_e5_behind_the_other_doors(server: str, door: str) -> None:
    """No framework around the proxy turns a truncated answer into a whole one."""
    cut = CutShort("in-a-chunk")
    with scripted(cut) as upstream, proxied(upstream.url, server, door=door) as port:
        head, _, rest = cut.ask(port, get(b"/p/x"))

    assert head.startswith(b"HTTP/1.1 200")
    assert rest in (b"", b"\r\n")


@uvicorns
def test_e5_the_slot_is_free_again(server: str) -> None:
    """After a truncated answer the only connection of the pool is opened anew for the next request."""
    cut = CutShort("in-a-chunk")
    with scripted(cut) as upstream, proxied(upstream.url, server, settings=settings_of(limits=POOL_OF_ONE)) as port:
        cut.ask(port)
        assert ask(port, get()).body == b"second"


# E6: failures between head and body.


@uvicorns
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_e6_a_failure_before_the_body_is_a_clean_502(server: str, ending: str) -> None:
    """An upstream that dies between its head and its body is answered for with 502, without its fields."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 201 OK\r\nContent-Length: 100\r\nX-Leaked: 1\r\nSet-Cookie: a=1\r\n\r\n")
        getattr(connection, ending)()

    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (502, b'{"detail": "Bad Gateway"}', True)
    assert answer.values(b"x-leaked") == answer.values(b"set-cookie") == []
    assert answer.values(b"proxy-status")[0].endswith(b"; error=http_response_incomplete")


# E7: bytes beyond the answer.

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"
ENDED = {
    "length": ok(b"ok"),
    "chunked": CHUNKED_OK,
    "head": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(POISON),
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(POISON),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@uvicorns
@pytest.mark.parametrize("kind", ENDED)
def test_e7_bytes_beyond_an_answer_are_no_answer(server: str, kind: str) -> None:
    """What an upstream sends behind an answer never becomes the next client's; its connection is dropped."""
    dropped = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok(b"clean") if connection.number else ENDED[kind] + POISON)
        if connection.wait_until_closed() and not connection.number:
            dropped.set()

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=settings_of(limits=POOL_OF_ONE)) as port,
    ):
        first = ask(port, get(method=b"HEAD" if kind == "head" else b"GET"))
        assert ask(port, get()).body == b"clean"
        assert dropped.wait(LIMIT)

    assert first.status in {200, 204, 304}
    assert b"POISON" not in first.body


@uvicorns
def test_e7_bytes_that_come_later_are_no_answer_either(server: str) -> None:
    """What an upstream sends on an idle connection is not an answer to the next request."""
    sent, go_on = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok(b"clean"))
        if not connection.number:
            assert go_on.wait(LIMIT)
            connection.send(POISON)
            sent.set()
        connection.wait_until_closed()

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=settings_of(limits=POOL_OF_ONE)) as port,
    ):
        assert ask(port, get()).body == b"clean"
        go_on.set()
        assert sent.wait(LIMIT)
        assert ask(port, get()).body == b"clean"


# E8: interim answers.

HINTS = (
    b"HTTP/1.1 102 Processing\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\nX-Other: 1\r\n\r\n"
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </c.css>; rel=preload\r\n\r\n"
)


@pytest.mark.parametrize(("server", "door"), [("hypercorn", door) for door in DOORS])
def test_e8_early_hints_pass_where_the_server_can(server: str, door: str) -> None:
    """
    Each 103 reaches the client before the final answer, with its links.

    Over HTTP/2: no server offers ``http.response.early_hint`` with HTTP/1. The extension takes links
    only, and it has no word for 102.
    """
    with scripted(answering(HINTS + ok(b"final"))) as upstream, proxied(upstream.url, server, door=door) as port:
        answer = ask_http2(port, b"/p/x")

    hints = [[value for name, value in lines if name == b"link"] for lines in answer.informational]
    assert hints == [[b"</a.css>; rel=preload", b"</b.js>; rel=preload"], [b"</c.css>; rel=preload"]]
    assert [dict(lines)[b":status"] for lines in answer.informational] == [b"103", b"103"]
    assert (answer.status, answer.body, answer.complete) == (200, b"final", True)
    assert b"link" not in dict(answer.headers)


def test_e8_early_hints_do_not_wait_for_the_final_answer() -> None:
    """A 103 is passed on while the upstream still works on the rest."""
    released = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        assert released.wait(LIMIT)
        connection.send(ok(b"final"))

    with scripted(script) as upstream:
        sent = anyio.run(driven, ReverseProxy(upstream.url, settings=settings_of()), "2", released)

    assert [message["type"] for message in sent[:2]] == ["http.response.early_hint", "http.response.start"]
    assert list(sent[0]["links"]) == [b"</x>"]


@pytest.mark.parametrize(("version", "hinted"), [("1.0", False), ("1.1", True), ("2", True)])
def test_e8_a_client_of_http_1_0_gets_no_hints(version: str, hinted: bool) -> None:
    """HTTP/1.0 knows no interim answers, whatever its server can do."""
    with scripted(answering(HINTS + ok(b"final"))) as upstream:
        sent = anyio.run(driven, ReverseProxy(upstream.url, settings=settings_of()), version, None)

    assert ("http.response.early_hint" in [message["type"] for message in sent]) is hinted
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [200]


async def driven(app: Any, version: str, at_hint: threading.Event | None) -> list[dict[str, Any]]:
    """Send one GET to an app as a server would that can send hints; set the event at the first one."""
    sent: list[dict[str, Any]] = []
    requests = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.early_hint" and at_hint is not None:
            at_hint.set()

    async with started(app) as driver:
        await app(
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": version,
                "method": "GET",
                "scheme": "http",
                "path": "/",
                "raw_path": b"/",
                "query_string": b"",
                "root_path": "",
                "headers": [(b"host", b"front.example")],
                "client": ("127.0.0.1", 5),
                "server": ("127.0.0.1", 80),
                "state": dict(driver.scope["state"]),
                "extensions": {"http.response.early_hint": {}},
            },
            receive,
            send,
        )
    return sent


@every_server
def test_e8_elsewhere_only_the_final_answer_passes(server: str) -> None:
    """
    Interim answers, also several, neither reach the client nor take the final one's place.

    They should reach it, but none of the servers can send them with HTTP/1.
    """
    answer = answered(server, HINTS + ok(b"final"))

    assert (answer.status, answer.body, answer.complete) == (200, b"final", True)
    assert answer.values(b"link") == answer.values(b"x-other") == []


# E9: another protocol.


@every_server
@pytest.mark.parametrize("lines", [(), (b"Connection: Upgrade", b"Upgrade: foo")], ids=["unasked", "asked"])
def test_e9_a_101_is_a_502(server: str, lines: tuple[bytes, ...]) -> None:
    """A 101 that nobody asked for, or that we have not passed on the question for, is a 502; it is closed."""
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        if connection.number == 0:
            connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\nfoo")
            if connection.wait_until_closed():
                closed.set()
        else:
            connection.send(ok(b"second"))

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=settings_of(limits=POOL_OF_ONE)) as port,
    ):
        answer = ask(port, get(b"/", *lines))
        assert closed.wait(LIMIT)
        assert ask(port, get()).body == b"second"

    assert (answer.status, answer.values(b"upgrade")) == (502, [])
    assert answer.values(b"proxy-status")[0].endswith(b"; error=http_protocol_error")


# E10: status codes.


def numbered(responses: list[bytes]) -> Script:
    """Return a script that answers with the response that the target's number tells, and hangs up."""

    def script(connection: Connection) -> None:
        head, _ = connection.read_request()
        connection.send(responses[int(head.split(b" ")[1].rpartition(b"/")[2])])

    return script


@every_server
def test_e10_unusual_statuses_pass(server: str) -> None:
    """Any final status of three digits below 600 passes; redirects are not followed."""
    statuses = [200, 218, 299, 301, 399, 418, 499, 599]
    responses = [b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nLocation: /0\r\n\r\nok" % status for status in statuses]
    with scripted(numbered(responses)) as upstream, proxied(upstream.url, server) as port:
        answers = [ask(port, get(b"/%d" % number)) for number in range(len(statuses))]

    assert [answer.status for answer in answers] == statuses
    assert all((answer.body, answer.values(b"location")) == (b"ok", [b"/0"]) for answer in answers)


IMPOSSIBLE = [b"600", b"888", b"999", b"099", b"000", b"20", b"2000", b"abc", b"-200", b""]


@every_server
def test_e10_impossible_statuses_are_a_502(server: str) -> None:
    """What is no status, or one that servers cannot send, is a 502 and not a dropped connection."""
    responses = [b"HTTP/1.1 %b X\r\nContent-Length: 2\r\nX-Theirs: 1\r\n\r\nok" % status for status in IMPOSSIBLE]
    with scripted(numbered(responses)) as upstream, proxied(upstream.url, server) as port:
        for number, status in enumerate(IMPOSSIBLE):
            answer = ask(port, get(b"/%d" % number))
            assert (answer.status, answer.complete, answer.values(b"x-theirs")) == (502, True, []), status
            assert answer.values(b"proxy-status")[0].endswith(b"; error=http_protocol_error"), status


# E11: framing that is none.


def with_lines(*lines: bytes, body: bytes = b"ok") -> bytes:
    """Return a 200 with these lines, whatever they say about the body."""
    return b"\r\n".join((b"HTTP/1.1 200 OK", b"X-Theirs: 1", *lines, b"", body))


UNFRAMED = {
    "two lengths": with_lines(b"Content-Length: 2", b"Content-Length: 3"),
    "a list of lengths": with_lines(b"Content-Length: 2, 3"),
    "a plus": with_lines(b"Content-Length: +2"),
    "a minus": with_lines(b"Content-Length: -2"),
    "a hexadecimal length": with_lines(b"Content-Length: 0x2"),
    "a blank in the length": with_lines(b"Content-Length: 2 2"),
    "an empty length": with_lines(b"Content-Length: "),
    "a word for a length": with_lines(b"Content-Length: two"),
    "an endless length": with_lines(b"Content-Length: " + b"9" * 30),
    "a coding that we do not know": with_lines(b"Transfer-Encoding: gzip"),
    "a coding inside of chunks": with_lines(b"Transfer-Encoding: gzip, chunked", body=b"2\r\nok\r\n0\r\n\r\n"),
    "garbage": b"garbage\r\n\r\n",
    "a body without a head": b"<html>hello</html>",
    "another protocol": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "no colon": with_lines(b"Content-Length: 2", b"no colon"),
    "NUL": with_lines(b"Content-Length: 2", b"X-A: a\0b"),
    "no end of the head": b"HTTP/1.1 200 OK\r\nX-Theirs: 1\r\n",
    "half a line": b"HTTP/1.1 200 OK\r\nX-The",
    "nothing": b"",
}


@uvicorns
def test_e11_bad_framing_is_a_502(server: str) -> None:
    """An answer whose end nobody can be sure of, or that is none, is a 502; each connection is closed."""
    with scripted(numbered(list(UNFRAMED.values()))) as upstream, proxied(upstream.url, server) as port:
        for number, kind in enumerate(UNFRAMED):
            answer = ask(port, get(b"/%d" % number))
            assert (answer.status, answer.complete, answer.values(b"x-theirs")) == (502, True, []), kind
        accepted = upstream.accepted

    assert accepted == len(UNFRAMED)


@uvicorns
def test_e11_the_connection_is_not_used_again(server: str) -> None:
    """After an answer with bad framing, what else came with it is nobody's answer."""
    bad = with_lines(b"Content-Length: 2", b"Content-Length: 3", body=b"ok" + POISON)
    with (
        scripted(first_then(bad, ok(b"second"))) as upstream,
        proxied(upstream.url, server, settings=settings_of(limits=POOL_OF_ONE)) as port,
    ):
        assert ask(port, get()).status == 502
        assert ask(port, get()).body == b"second"


# E12: a length beside chunks.


@uvicorns
def test_e12_chunks_win_over_a_length(server: str) -> None:
    """A Content-Length beside chunks is not believed and not passed on; its connection is not used again."""
    both = with_lines(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
    with (
        scripted(first_then(both, ok(b"second"))) as upstream,
        proxied(upstream.url, server, settings=settings_of(limits=POOL_OF_ONE)) as port,
    ):
        answer = ask(port, get())
        assert ask(port, get()).body == b"second"

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
    assert (answer.values(b"content-length"), answer.values(b"transfer-encoding")) == ([], [b"chunked"])


# E13: folded lines, and blanks before the colon.


@uvicorns
@pytest.mark.parametrize("fold", [b"\r\n ", b"\r\n\t", b"\r\n  \t "])
def test_e13_a_folded_line_becomes_one(server: str, fold: bytes) -> None:
    """A value in several lines arrives in one, with a blank between its parts."""
    answer = answered(server, ok(b"ok", b"X-Folded: a" + fold + b"b", b"X-Next: 1"))

    assert (answer.status, answer.values(b"x-next")) == (200, [b"1"])
    assert [value.split() for value in answer.values(b"x-folded")] == [[b"a", b"b"]]
    assert b"\n " not in answer.head
    assert b"\n\t" not in answer.head


@uvicorns
@pytest.mark.parametrize("line", [b"X-A : 1", b"Content-Length : 2", b"Transfer-Encoding : chunked", b"X-A\t: 1"])
def test_e13_a_blank_before_the_colon_is_a_502(server: str, line: bytes) -> None:
    """A name with a blank behind it is refused: others may read another name."""
    assert answered(server, ok(b"ok", line)).status == 502


# E14: the size of the head.


@uvicorns
@pytest.mark.parametrize("lines", [[b"X-Big: " + b"a" * 110_000], [b"X-%d: %s" % (n, b"a" * 90) for n in range(1100)]])
def test_e14_a_head_beyond_the_cap_is_a_502(server: str, lines: list[bytes]) -> None:
    """A head of more than 100 KiB, in one line or in many, is a 502; its connection is closed."""
    with (
        scripted(first_then(ok(b"ok", *lines), ok(b"second"))) as upstream,
        proxied(upstream.url, server, settings=settings_of(limits=POOL_OF_ONE)) as port,
    ):
        answer = ask(port, get())
        assert ask(port, get()).body == b"second"

    assert (answer.status, len(answer.head) < 1000) == (502, True)


@uvicorns
def test_e14_an_endless_head_is_a_502(server: str) -> None:
    """A head that never ends is broken off at the cap, not kept."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n" + b"X-A: aaaaaaaa\r\n" * 10_000)
        assert connection.wait_until_closed()

    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, get()).status == 502


@uvicorns
def test_e14_a_large_head_passes(server: str) -> None:
    """A head of 90 kB arrives whole."""
    lines = [(b"x-%d" % number, b"a" * 90) for number in range(900)]
    answer = answered(server, ok(b"ok", *(name + b": " + value for name, value in lines)))

    assert (answer.status, answer.body) == (200, b"ok")
    assert [line for line in headers_of(answer.head) if line[0].startswith(b"x-")] == lines


# E15: addresses.


def telling(name: bytes, values: list[bytes]) -> Script:
    """Return a script that answers with the value in a line of this name that the target's number tells."""
    return numbered([ok(b"ok", name + b": " + value) for value in values])


def told(server: str, name: bytes, values: list[bytes], *, door: str = "alone", **options: Any) -> list[list[bytes]]:
    """Return what becomes of values in a line of this name; ``@`` in them stands for the upstream's authority."""

    def script(connection: Connection) -> None:
        telling(name, [value.replace(b"@", own) for value in values])(connection)

    with scripted(script) as upstream:
        own = upstream.url.removeprefix("http://").encode()
        with proxied(upstream.url + "/base", server, door=door, **options) as port:
            answers = [ask(port, get(b"/p/%d" % number)) for number in range(len(values))]
    return [[value.replace(own, b"@") for value in answer.values(name.lower())] for answer in answers]


DOORS_AND_SERVERS = pytest.mark.parametrize(
    ("server", "door", "prefix"),
    [
        ("httptools", "alone", b""),
        ("h11", "alone", b""),
        ("httptools", "mounted", b"/p"),
        ("h11", "route", b"/p"),
    ],
)
FOREIGN = [
    b"http://other.example/base/x",
    b"//other.example/base/x",
    b"/other",
    b"next",
    b"../x",
    b"?q=/base",
    b"/basement",
]


@DOORS_AND_SERVERS
@pytest.mark.parametrize("name", [b"Location", b"Content-Location"])
def test_e15_the_upstream_s_own_address_becomes_the_public_one(
    server: str, door: str, prefix: bytes, name: bytes
) -> None:
    """Absolute addresses become the public URL, paths under the base go under the prefix, all others stay."""
    own = {
        b"http://@/base/next?a=%2f#c": b"http://front.example" + prefix + b"/next?a=%2f#c",
        b"//@/base/x": b"http://front.example" + prefix + b"/x",
        b"/base/a%2Fb?next=/base/x": prefix + b"/a%2Fb?next=/base/x",
        b"/base": prefix or b"/",
    }
    seen = told(server, name, [*own, *FOREIGN], door=door, rewrite_location=True)

    assert seen == [[value] for value in (*own.values(), *FOREIGN)]


def test_e15_nothing_changes_by_default() -> None:
    """Without the option every Location passes as it is."""
    values = [b"http://@/base/next", b"/base/next", *FOREIGN]

    assert told("httptools", b"Location", values, door="mounted") == [[value] for value in values]


@every_door
def test_e15_the_client_can_follow(door: str) -> None:
    """The rewritten address leads to the resource that the upstream meant."""
    seen = RecordingUpstream()

    def script(connection: Connection) -> None:
        seen.response = ok(b"ok", b"Location: http://127.0.0.1:%d/base/a%%2Fb?c=d" % upstream.port)
        seen(connection)

    with scripted(script) as upstream, proxied(upstream.url + "/base", door=door, rewrite_location=True) as port:
        location = ask(port, get(b"/p/x")).values(b"location")[0]
        assert ask(port, get(location.removeprefix(b"http://front.example"))).status == 200

    assert seen.targets[-1] == b"/base/a%2Fb?c=d"


@uvicorns
def test_e15_without_a_host_it_becomes_a_path(server: str) -> None:
    """A client of HTTP/1.0 that names no host gets a path, which leads to wherever it is."""

    def script(connection: Connection) -> None:
        telling(b"Location", [upstream.url.encode() + b"/base/next"])(connection)

    with (
        scripted(script) as upstream,
        proxied(upstream.url + "/base", server, door="mounted", rewrite_location=True) as port,
    ):
        answer = ask(port, b"GET /p/0 HTTP/1.0\r\n\r\n")

    assert answer.values(b"location") == [b"/p/next"]


def test_e15_the_public_url_is_what_a_trusted_proxy_says() -> None:
    """Behind a proxy that is trusted, its client's scheme, host and prefix are the public ones."""

    def script(connection: Connection) -> None:
        own = upstream.url.encode() + b"/base/next"
        telling(b"Location", [own, own.replace(b"http:", b"https:"), b"/base/next"])(connection)

    lines = [b"X-Forwarded-Proto: https", b"X-Forwarded-Host: www.example", b"X-Forwarded-Prefix: /shop/"]
    trust: dict[str, Any] = {"forwarded": "append", "trusted_proxies": ["127.0.0.1"], "rewrite_location": True}
    with scripted(script) as upstream, proxied(upstream.url + "/base", door="mounted", **trust) as port:
        seen = [ask(port, get(b"/p/%d" % number, *lines)).values(b"location")[0] for number in range(3)]

    assert seen == [b"https://www.example/shop/p/next"] * 2 + [b"/shop/p/next"]


def test_e15_what_anybody_else_says_is_not() -> None:
    """A client that is not trusted chooses no other host than that of its request."""
    script = telling(b"Location", [b"/base/next"])
    lines = [b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil.example", b"X-Forwarded-Prefix: //evil.example"]
    with (
        scripted(script) as upstream,
        proxied(upstream.url + "/base", door="mounted", rewrite_location=True) as port,
    ):
        assert ask(port, get(b"/p/0", *lines)).values(b"location") == [b"/p/next"]


def test_e15_an_upstream_that_was_told_the_public_host() -> None:
    """With ``preserve_host`` the upstream calls itself by the client's name."""
    script = telling(b"Location", [b"http://front.example/base/next"])
    options: dict[str, Any] = {"preserve_host": True, "rewrite_location": True}
    with scripted(script) as upstream, proxied(upstream.url + "/base", door="mounted", **options) as port:
        assert ask(port, get(b"/p/0")).values(b"location") == [b"http://front.example/p/next"]


# E16: cookies.


@DOORS_AND_SERVERS
def test_e16_cookies_of_the_upstream_become_the_public_ones(server: str, door: str, prefix: bytes) -> None:
    """Their Path goes under the prefix and the upstream's Domain goes; all others stay, attributes byte for byte."""
    cookies = {
        b"a=1; Path=/base; HttpOnly": b"a=1; Path=" + (prefix or b"/") + b"; HttpOnly",
        b"b=2;path=/base/x;Domain=127.0.0.1": b"b=2;path=" + prefix + b"/x",
        b"c=3; Path=/other; Domain=example.com": b"c=3; Path=/other; Domain=example.com",
        b"d=4; Expires=Wed, 21 Oct 2026 07:28:00 GMT": b"d=4; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
    }

    seen = told(server, b"Set-Cookie", list(cookies), door=door, rewrite_cookies=True)

    assert seen == [[value] for value in cookies.values()]


def test_e16_several_cookies_stay_several() -> None:
    """Each line is rewritten for itself and keeps its place."""
    response = ok(b"ok", b"Set-Cookie: a=1; Path=/base", b"X-Between: 1", b"Set-Cookie: b=2; Path=/base/b")
    with (
        scripted(answering(response)) as upstream,
        proxied(upstream.url + "/base", door="mounted", rewrite_cookies=True) as port,
    ):
        answer = ask(port, get(b"/p/x"))

    assert answer.values(b"set-cookie") == [b"a=1; Path=/p", b"b=2; Path=/p/b"]


def test_e16_nothing_changes_by_default() -> None:
    """Without the option every cookie passes as it is."""
    values = [b"a=1; Path=/base; Domain=127.0.0.1"]

    assert told("httptools", b"Set-Cookie", values, door="mounted") == [values]


# E17: hooks.


def _change(response: UpstreamResponse) -> None:
    response.status_code = 299
    response.headers["x-hook"] = "1"
    del response.headers["x-gone"]


async def _change_later(response: UpstreamResponse) -> None:
    _change(response)


def _change_and_return(response: UpstreamResponse) -> UpstreamResponse:
    _change(response)
    return response


@uvicorns
@pytest.mark.parametrize("hook", [_change, _change_later, _change_and_return])
def test_e17_a_hook_changes_status_and_headers(server: str, hook: Any) -> None:
    """A sync or async hook changes status and headers; body and length pass."""
    answer = answered(server, ok(b"hello", b"X-Gone: 1", b"X-Kept: 1"), on_response=hook)

    assert (answer.status, answer.body, answer.complete) == (299, b"hello", True)
    assert (answer.values(b"x-hook"), answer.values(b"x-gone"), answer.values(b"x-kept")) == ([b"1"], [], [b"1"])
    assert answer.values(b"content-length") == [b"5"]


@pytest.mark.parametrize("door", ["mounted", "route"])
def test_e17_a_hook_behind_the_other_doors(door: str) -> None:
    """The hook of a mounted proxy, or of one in a route, is the same."""
    assert answered("httptools", ok(b"hello"), get(b"/p/x"), door=door, on_response=_change).status == 299


@uvicorns
def test_e17_a_hook_replaces_the_stream(server: str) -> None:
    """A generator around the body changes it as it streams."""

    async def doubled(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk + chunk.upper()

    def hook(response: UpstreamResponse) -> None:
        response.body = doubled(response.body)

    answer = answered(server, ok(b"hello"), on_response=hook)

    assert (answer.status, answer.body, answer.complete) == (200, b"helloHELLO", True)
    assert answer.values(b"content-length") == []


class Unfinished:
    """An upstream in the middle of its first answer, until it is hung up on; others are complete."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        connection.read_request()
        connection.send(ok(b"next") if connection.number else TRUNCATED["length"])
        if not connection.number and connection.wait_until_closed():
            self.closed.set()


def _suppress(response: UpstreamResponse) -> None:
    response.status_code = 204


def _in_place(response: UpstreamResponse) -> Response:
    return PlainTextResponse(f"was {response.status_code}", status_code=203)


async def _stream_in_place(response: UpstreamResponse) -> Response:
    return StreamingResponse(iter(["was ", str(response.status_code)]), status_code=203)


@uvicorns
@pytest.mark.parametrize(
    ("hook", "status", "body"),
    [(_suppress, 204, b""), (_in_place, 203, b"was 200"), (_stream_in_place, 203, b"was 200")],
)
def test_e17_a_hook_suppresses_the_body(server: str, hook: Any, status: int, body: bytes) -> None:
    """A hook that answers with no body or with its own lets go of the upstream, whose slot is free again."""
    unfinished = Unfinished()
    with (
        scripted(unfinished) as upstream,
        proxied(upstream.url, server, settings=settings_of(limits=POOL_OF_ONE), on_response=hook) as port,
    ):
        answer = ask(port, get())
        assert unfinished.closed.wait(LIMIT)
        assert ask(port, get()).status == status

    assert (answer.status, answer.body, answer.complete) == (status, body, True)


def _fail(response: UpstreamResponse) -> None:
    raise LookupError("a secret")


async def _fail_later(response: UpstreamResponse) -> None:
    _fail(response)


@pytest.mark.parametrize(
    ("server", "door", "hook"),
    [
        ("httptools", "alone", _fail),
        ("h11", "alone", _fail_later),
        ("httptools", "mounted", _fail_later),
        ("h11", "route", _fail),
    ],
)
def test_e17_an_error_in_a_hook_is_a_502(server: str, door: str, hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The client learns nothing but that, the log has the traceback, and the upstream is let go of."""
    unfinished = Unfinished()
    options = {"door": door, "settings": settings_of(limits=POOL_OF_ONE), "on_response": hook}
    with (
        caplog.at_level(logging.DEBUG, "fastapi_httpx_pool.proxy"),
        scripted(unfinished) as upstream,
        proxied(upstream.url, server, **options) as port,
    ):
        answer = ask(port, get(b"/p/x"))
        assert unfinished.closed.wait(LIMIT)
        assert ask(port, get(b"/p/x")).status == 502

    assert (answer.status, answer.body, answer.complete) == (502, b'{"detail": "Bad Gateway"}', True)
    assert b"secret" not in answer.head
    assert answer.values(b"proxy-status")[0].endswith(b"; error=proxy_internal_error")
    records = [record for record in caplog.records if record.name == "fastapi_httpx_pool.proxy"]
    assert len(records) == 2
    assert all("hook_failed" in record.getMessage() and record.exc_info for record in records)


@every_server
def test_e17_an_error_in_the_middle_of_a_stream_breaks_it_off(server: str) -> None:
    """A generator that fails when the answer has begun leaves no answer that looks whole."""

    async def failing(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
            raise LookupError

    def hook(response: UpstreamResponse) -> None:
        response.body = failing(response.body)

    unfinished = Unfinished()
    with scripted(unfinished) as upstream, proxied(upstream.url, server, on_response=hook) as port:
        answer = ask(port, get())
        assert unfinished.closed.wait(LIMIT)

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", False)


# E18: lines that are about the origin.

STRICT = b"Strict-Transport-Security: max-age=1; includeSubDomains"


@uvicorns
def test_e18_alt_svc_is_dropped(server: str) -> None:
    """A client is not invited to go to the upstream directly."""
    answer = answered(server, ok(b"ok", b'Alt-Svc: h3=":443"; ma=3600', b"alt-svc: clear", b"X-Kept: 1"))

    assert (answer.values(b"alt-svc"), answer.values(b"x-kept")) == ([], [b"1"])


@uvicorns
def test_e18_hsts_passes_if_the_app_has_none(server: str) -> None:
    """The upstream's Strict-Transport-Security is copied."""
    assert answered(server, ok(b"ok", STRICT)).values(b"strict-transport-security") == [STRICT.partition(b": ")[2]]


@uvicorns
def test_e18_the_policy_s_hsts_wins(server: str) -> None:
    """One that the policy sets stands in the upstream's place."""
    options: dict[str, Any] = {"response_headers": {"Strict-Transport-Security": "max-age=2"}}

    assert answered(server, ok(b"ok", STRICT), **options).values(b"strict-transport-security") == [b"max-age=2"]


@uvicorns
def test_e18_the_route_s_hsts_wins(server: str) -> None:
    """One that the route sets on the response stands in the upstream's place; cookies come beside."""
    app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)

    @app.get("/")
    async def respond(request: Request) -> Response:
        response = ReverseProxy(upstream.url, policy=ProxyPolicy()).response(request)
        response.headers["Strict-Transport-Security"] = "max-age=2"
        response.set_cookie("ours", "1")
        return response

    with scripted(answering(ok(b"ok", STRICT, b"Set-Cookie: theirs=1"))) as upstream, serving_by(server, app) as port:
        answer = ask(port, get())

    assert answer.values(b"strict-transport-security") == [b"max-age=2"]
    assert [cookie.split(b";")[0] for cookie in answer.values(b"set-cookie")] == [b"theirs=1", b"ours=1"]


@pytest.mark.parametrize("door", ["mounted", "route"])
def test_e18_the_app_s_hsts_wins(door: str) -> None:
    """One that a middleware of the app sets stands in the upstream's place."""
    app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)

    @app.middleware("http")
    async def middleware(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Strict-Transport-Security"] = "max-age=2"
        return response

    with scripted(answering(ok(b"ok", STRICT))) as upstream:
        proxy = ReverseProxy(upstream.url)
        if door == "mounted":
            app.mount("/p", proxy)
        else:

            async def respond(request: Request) -> Response:
                return proxy.response(request)

            app.add_api_route("/p/x", respond, response_model=None)
        with serving_by("httptools", app) as port:
            answer = ask(port, get(b"/p/x"))

    assert (answer.body, answer.values(b"strict-transport-security")) == (b"ok", [b"max-age=2"])


# E19: clients of HTTP/1.0.

OLD_GET = b"GET / HTTP/1.0\r\nHost: front.example\r\n\r\n"


def old_answer(server: str, response: bytes, request: bytes = OLD_GET) -> tuple[bytes, bytes]:
    """Return head and body that a client of HTTP/1.0 gets, up to the end of its connection."""
    with (
        scripted(once(response)) as upstream,
        proxied(upstream.url, server) as port,
        raw_client(port) as client,
    ):
        client.send(request)
        return client.read_head(), client.read_to_end()


@pytest.mark.parametrize("server", HTTP_1_0_NEVER_CHUNKED)
@pytest.mark.parametrize("response", [CHUNKED_OK, b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.0 200 OK\r\n\r\nhello"])
def test_e4_e19_a_body_of_unknown_length_ends_with_the_connection(server: str, response: bytes) -> None:
    """A client of HTTP/1.0 gets no chunks, whatever the upstream sends; granian counts a body that is there already."""
    head, body = old_answer(server, response)

    assert head.split(b" ")[1] == b"200"
    assert body == b"hello"
    headers = dict(headers_of(head))
    assert b"transfer-encoding" not in headers
    assert headers.get(b"content-length", b"5") == b"5"


@every_server
def test_e19_a_body_of_known_length(server: str) -> None:
    """A client of HTTP/1.0 gets the length that the upstream told, and the connection is closed behind it."""
    head, body = old_answer(server, ok(b"hello"))

    assert (head.split(b" ")[1], body) == (b"200", b"hello")
    assert [value for name, value in headers_of(head) if name == b"content-length"] == [b"5"]
    assert b"transfer-encoding" not in dict(headers_of(head))


@every_server
def test_e19_no_interim_answers(server: str) -> None:
    """A client of HTTP/1.0 gets none of the upstream's 1xx."""
    head, rest = old_answer(server, HINTS + ok(b"hello"))

    assert (head.split(b" ")[1], rest) == (b"200", b"hello")


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(
            "httptools",
            marks=pytest.mark.skip(reason="uvicorn with httptools answers the Expect of a client of HTTP/1.0, too"),
        ),
        *EVERY_SERVER[1:],
    ],
)
def test_e19_an_expectation_means_nothing(server: str) -> None:
    """A client of HTTP/1.0 that expects a 100 gets none, and nor does its expectation go on."""
    seen = RecordingUpstream(ok(b"hello"))
    lines = b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\nhi"
    with scripted(seen) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(b"POST / HTTP/1.0\r\nHost: front.example\r\n" + lines)
        head, rest = client.read_head(), client.read_to_end()

    assert (head.split(b" ")[1], rest) == (b"200", b"hello")
    assert (seen.bodies, seen.values(b"expect")) == ([b"hi"], [])


@every_server
@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_e5_e19_a_truncated_answer(server: str, kind: str) -> None:
    """A client of HTTP/1.0 that was told a length sees that the answer is cut short; one that was not cannot."""
    cut = CutShort(kind)
    with scripted(cut) as upstream, proxied(upstream.url, server) as port:
        head, _, rest = cut.ask(port, OLD_GET)

    assert head.split(b" ")[1] == b"200"
    assert [value for name, value in headers_of(head) if name == b"content-length"] == [b"100"] * (kind == "length")
    assert rest in (b"", b"\r\n")


@every_server
def test_e19_an_error_of_our_own(server: str) -> None:
    """Our own answers, too, are complete for a client of HTTP/1.0."""
    head, body = old_answer(server, b"")

    assert (head.split(b" ")[1], body) == (b"502", b'{"detail": "Bad Gateway"}')
    assert b"transfer-encoding" not in dict(headers_of(head))
