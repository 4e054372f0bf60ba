"""Rows G1 to G8, and G10: no request hides behind another, nobody chooses the upstream, nobody gets another's cookies."""

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response

from fastapi_httpx_pool import ReverseProxy, create_lifespan, get_client
from tests.support.answers import Answer, ask, get, post
from tests.support.proxies import DOORS, EVERY_SERVER, POOL_OF_ONE, UVICORN, proxied, serving_by, settings_of
from tests.support.raw_client import raw_client
from tests.support.recording import RecordingUpstream
from tests.support.strict_upstream import FRAMING, StrictUpstream
from tests.support.tls import Authority
from tests.support.upstream import LIMIT, Connection, answering, ok, scripted

uvicorns = pytest.mark.parametrize("server", UVICORN)
every_server = pytest.mark.parametrize("server", EVERY_SERVER)
every_door = pytest.mark.parametrize("door", DOORS)

CHUNKED = b"Transfer-Encoding: chunked"
WHOLE = b"5\r\nhello\r\n0\r\n\r\n"
HIDDEN = get(b"/hidden")
"""What stands behind a request that can be read in two ways."""
LAST = get(b"/last", b"Connection: close")
"""After which a server that still listens hangs up."""

REFUSED = (400, 501)


def path_of(door: str) -> bytes:
    """Return the path to ask for at a door."""
    return b"/" if door == "alone" else b"/p/"


def upload(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    """Return a request whose body is framed by these lines, or is not."""
    return b"\r\n".join((b"POST / HTTP/" + version, b"Host: front.example", *lines, b"", b"")) + body


def everything(port: int, data: bytes) -> bytes:
    """Send bytes, all at once, and return all that comes back until the server hangs up."""
    with raw_client(port) as client:
        client.send(data)
        return client.read_to_end()


def status_of(data: bytes) -> int:
    """Return the status of the first answer; 0 if there is none."""
    return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/") else 0


def attacked(server: str, requests: Iterable[bytes], **options: Any) -> tuple[StrictUpstream, list[bytes]]:
    """Send each request over a connection of its own; return what arrived upstream, and what came back for each."""
    seen = StrictUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server, **options) as port:
        answers = [everything(port, request) for request in requests]
    assert seen.faults == []
    return seen, answers


def assert_refused(server: str, requests: dict[str, bytes]) -> None:
    """Each request is refused, its connection closed, and nothing of it goes up, nor of what stands behind it."""
    seen, answers = attacked(server, [request + HIDDEN + LAST for request in requests.values()])

    assert {
        name: status_of(data) for name, data in zip(requests, answers, strict=True) if status_of(data) not in REFUSED
    } == {}
    assert {name: data for name, data in zip(requests, answers, strict=True) if data.count(b"HTTP/1.1 ") != 1} == {}
    assert seen.heads == []


# G1

TWO_FRAMINGS = {
    "length first": upload(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\n"),
    "chunks first": upload(CHUNKED, b"Content-Length: %d" % (5 + len(HIDDEN)), body=b"0\r\n\r\n"),
    "chunks with the length of all": upload(CHUNKED, b"Content-Length: %d" % len(WHOLE), body=WHOLE),
    "length of nothing": upload(b"Content-Length: 0", CHUNKED, body=WHOLE),
    "named in Connection": upload(
        b"Connection: Content-Length, Transfer-Encoding", b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\n"
    ),
    "in HTTP/1.0": upload(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n", version=b"1.0"),
}


@every_server
def test_g1_two_framings_are_never_passed_on(server: str) -> None:
    """A length beside chunks is refused, or only the chunks count; the connection is closed either way."""
    names = list(TWO_FRAMINGS)

    seen, answers = attacked(server, [request + HIDDEN + LAST for request in TWO_FRAMINGS.values()])

    assert {name: data for name, data in zip(names, answers, strict=True) if data.count(b"HTTP/1.1 ") != 1} == {}
    assert set(map(status_of, answers)) <= {200, *REFUSED}
    assert set(seen.targets) <= {b"/"}
    assert len(seen.bodies) == [status_of(data) for data in answers].count(200)
    assert set(seen.bodies) <= {b"", b"hello"}


@every_door
@uvicorns
def test_g1_our_own_refusal_closes(server: str, door: str) -> None:
    """Whether it is the server that refuses or we, the client is told that the connection ends."""
    request = TWO_FRAMINGS["length first"].replace(b"POST /", b"POST " + path_of(door))

    seen, (answer,) = attacked(server, [request + HIDDEN + LAST], door=door)

    assert status_of(answer) == 400
    assert b"connection: close\r\n" in answer.lower()
    assert seen.heads == []


# G2

LENGTHS = {
    "two": upload(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"),
    "two, the longer first": upload(b"Content-Length: 6", b"Content-Length: 5", body=b"hello!"),
    "a list": upload(b"Content-Length: 5, 6", body=b"hello!"),
    "one empty": upload(b"Content-Length: 5", b"Content-Length:", body=b"hello"),
}


@every_server
def test_g2_unequal_lengths_are_refused(server: str) -> None:
    """Nobody knows which one is meant."""
    assert_refused(server, LENGTHS)


@every_server
def test_g2_equal_lengths_are_refused_or_become_one(server: str) -> None:
    """Servers that take them make one length of them."""
    requests = [upload(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")]
    requests.append(upload(b"Content-Length: 5, 5", body=b"hello"))

    seen, answers = attacked(server, [request + LAST for request in requests])

    assert set(map(status_of, answers)) <= {200, 400}
    assert [target for target in seen.targets if target != b"/last"] == [b"/"] * list(map(status_of, answers)).count(
        200
    )
    assert set(seen.bodies) <= {b"hello", b""}


# G3

CODINGS = {
    "unknown": upload(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "with a vertical tab": upload(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "with a space before the colon": upload(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "chunks inside of another": upload(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "another inside of chunks": upload(b"Transfer-Encoding: gzip, chunked", body=WHOLE),
    "in two lines": upload(b"Transfer-Encoding: gzip", CHUNKED, body=WHOLE),
    "chunks twice": upload(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "chunks twice in a list": upload(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "chunks, and not": upload(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "not, with a length": upload(b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"hello"),
    "nothing, with a length": upload(b"Transfer-Encoding:", b"Content-Length: 5", body=b"hello"),
    "with a parameter": upload(b"Transfer-Encoding: chunked;a=b", body=b"0\r\n\r\n"),
    "quoted": upload(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "in HTTP/1.0, which has none": upload(CHUNKED, body=b"0\r\n\r\n", version=b"1.0"),
}


@every_server
def test_g3_other_codings_than_chunked_are_refused(server: str) -> None:
    """A body is in chunks and nothing else, or has a length."""
    assert_refused(server, CODINGS)


@every_server
def test_g3_the_case_of_chunked_does_not_count(server: str) -> None:
    """What goes up is our own word for it."""
    seen, answers = attacked(server, [upload(b"Transfer-Encoding: CHUNKED", body=WHOLE) + LAST])

    assert status_of(answers[0]) == 200
    assert seen.bodies == [b"hello", b""]
    assert FRAMING[1] in seen.names(0)


# G4

BROKEN_HEADS = {
    "length with a sign": upload(b"Content-Length: +5", body=b"hello"),
    "negative length": upload(b"Content-Length: -5", body=b"hello"),
    "length with an underscore": upload(b"Content-Length: 5_0", body=b"hello"),
    "length in hexadecimal": upload(b"Content-Length: 0x5", body=b"hello"),
    "length of two numbers": upload(b"Content-Length: 5 5", body=b"hello"),
    "no length": upload(b"Content-Length:", body=b"hello"),
    "length in other digits": upload(b"Content-Length: \xd9\xa5", body=b"hello"),
    "enormous length": upload(b"Content-Length: " + b"9" * 30, body=b"hello"),
    "NUL": upload(b"X-A: a\0b"),
    "carriage return": upload(b"X-A: a\rX-B: b"),
    "name with a space": upload(b"X A: 1"),
    "name with a tab": upload(b"X-A\t: 1"),
    "no name": upload(b": 1"),
    "name with a control character": upload(b"X\x01: 1"),
    "name beyond ASCII": upload(b"X-\xe9: 1"),
    "no colon": upload(b"X-A"),
    "three words too many": get(b"/ a b c"),
    "control character in the target": get(b"/\x0b"),
    "method with a control character": get(method=b"G\x01T"),
}


@every_server
def test_g4_what_is_not_http_is_refused(server: str) -> None:
    """Lengths that are no numbers, names that are none, and control characters."""
    assert_refused(server, BROKEN_HEADS)


@every_server
@pytest.mark.parametrize("folded", [b"X-A: 1\r\n X-B: 2", b"X-A: 1\r\n\tX-B: 2"])
def test_g4_a_folded_line_stays_one_or_is_refused(server: str, folded: bytes) -> None:
    """What stands on a continued line is never a line of its own."""
    seen, answers = attacked(server, [get(b"/", folded, b"Connection: close")])

    assert status_of(answers[0]) in (200, 400)
    assert len(seen.heads) == (status_of(answers[0]) == 200)
    assert not seen.heads or b"x-b" not in seen.names()


@every_server
def test_g4_framing_is_never_folded_in(server: str) -> None:
    """A coding on a continued line counts for the server and for us alike."""
    seen, answers = attacked(server, [upload(b"Transfer-Encoding:\r\n chunked", body=WHOLE) + LAST])

    whole = (200, [b"/", b"/last"], [b"hello", b""])
    assert (status_of(answers[0]), seen.targets, seen.bodies) in (whole, (400, [], []))


@pytest.mark.parametrize("name", [b"Content_Length", b"Transfer_Encoding"])
@uvicorns
def test_g4_twins_of_the_framing_do_not_pass(server: str, name: bytes) -> None:
    """Upstreams that take an underscore for a hyphen would see two framings."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, post(b"hello", name + b": 50")).status in (200, 400)

    assert all(name.lower() not in seen.names(index) for index in range(len(seen.heads)))


# G5


@every_server
def test_g5_only_the_data_of_chunks_is_passed_on(server: str) -> None:
    """Extensions and trailers are the client's with the server; upstream there are chunks of our own."""
    body = b'3;name=value\r\nhel\r\n2;quoted="\\";0"\r\nlo\r\n0;last\r\nX-Trailer: 1\r\n\r\n'

    seen, answers = attacked(server, [upload(CHUNKED, b"Trailer: X-Trailer", body=body) + LAST])

    assert status_of(answers[0]) == 200
    assert seen.bodies == [b"hello", b""]
    assert seen.targets == [b"/", b"/last"]
    # uvicorn's httptools puts trailers that come with the head among the headers.
    assert server == "httptools" or b"x-trailer" not in seen.names()


@every_server
def test_g5_a_request_in_chunks_stays_data(server: str) -> None:
    """What looks like the end of the chunks, and like a request behind it, is neither inside of a chunk."""
    data = b"0\r\n\r\n" + HIDDEN

    seen, answers = attacked(server, [upload(CHUNKED, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)) + LAST])

    assert status_of(answers[0]) == 200
    assert seen.bodies == [data, b""]
    assert seen.targets == [b"/", b"/last"]


BROKEN_CHUNKS = {
    "prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "nothing": b"\r\nhello\r\n0\r\n\r\n",
    "too long": b"1" + b"0" * 20 + b"5\r\nhello\r\n0\r\n\r\n",
    "more data than announced": b"5\r\nhelloXX0\r\n\r\n",
    "line feeds": b"5\nhello\n0\n\n",
    "line feed behind an extension": b"5;a\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
}


@every_server
def test_g5_broken_chunks_never_become_a_whole_request(server: str) -> None:
    """The client is cut off, and the upstream with it, before the end of the body."""
    requests = [upload(CHUNKED, body=body) + HIDDEN for body in BROKEN_CHUNKS.values()]

    seen, answers = attacked(server, requests)

    assert seen.bodies == []
    assert set(seen.targets) <= {b"/"}
    assert [name for name, data in zip(BROKEN_CHUNKS, answers, strict=True) if status_of(data) == 200] == []


# G6


@every_server
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: front.example\nX-A: 1\nConnection: close\n\n",
        b"GET / HTTP/1.1\r\nHost: front.example\r\nX-A: 1\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: front.example\r\nX-A: 1\r\nConnection: close\n\n",
    ],
)
def test_g6_bare_line_feeds_are_refused_or_mended(server: str, head: bytes) -> None:
    """A server may take them for the end of a line; what goes up has none."""
    seen, answers = attacked(server, [head])

    assert status_of(answers[0]) in (200, 400)
    assert seen.targets == [b"/"] * (status_of(answers[0]) == 200)
    assert not seen.heads or b"x-a" in seen.names()


# G7


def strange_targets(elsewhere: bytes) -> list[bytes]:
    """Return requests that would go to another host and port if clients had a say in it."""
    targets = [
        b"http://" + elsewhere + b"/",
        b"http://front.example@" + elsewhere + b"/",
        b"http://user:secret@" + elsewhere + b"/",
        b"https://" + elsewhere,
        b"ftp://" + elsewhere + b"/",
        b"@" + elsewhere + b"/",
        b":@" + elsewhere + b"/",
        b"//" + elsewhere + b"/",
        b"/\\" + elsewhere + b"/",
        b"\\\\" + elsewhere + b"/",
        b"/p//" + elsewhere + b"/",
        b"/p@" + elsewhere + b"/",
        b"/@" + elsewhere + b"/",
        b"/p/http://" + elsewhere + b"/",
        b"?http://" + elsewhere,
        elsewhere,
        b"." + elsewhere,
        b"http:" + elsewhere,
        b"http:/" + elsewhere,
        b"http:///" + elsewhere,
    ]
    lines = [
        b"X-Forwarded-Host: " + elsewhere,
        b"Forwarded: host=" + elsewhere,
        b"X-Original-URL: http://" + elsewhere + b"/",
        b"X-Rewrite-URL: http://" + elsewhere + b"/",
        b"X-Host: " + elsewhere,
        b"Proxy: http://" + elsewhere,
    ]
    requests = [get(target, b"Connection: close") for target in targets]
    requests += [get(path, line, b"Connection: close") for line in lines for path in (b"/", b"/p/")]
    requests += [get(path).replace(b"front.example", elsewhere) for path in (b"/", b"/p/")]
    return [*requests, get(elsewhere, method=b"CONNECT")]


@every_server
@every_door
def test_g7_the_client_never_chooses_the_upstream(server: str, door: str) -> None:
    """Whatever stands in target, Host and other lines: it goes to ours, with our Host, or nowhere."""
    seen = RecordingUpstream()
    with scripted(answering(ok())) as elsewhere, scripted(seen) as upstream:
        authority = elsewhere.url.removeprefix("http://").encode()
        with proxied(upstream.url + "/base", server, door=door) as port:
            statuses = [ask(port, request).status for request in strange_targets(authority)]
        assert elsewhere.accepted == 0
        own = upstream.url.removeprefix("http://").encode()

    assert {status for status in statuses if status >= 500} <= {501}
    assert all(target.startswith(b"/base") for target in seen.targets)
    assert all(seen.values(b"host", index) == [own] for index in range(len(seen.heads)))
    assert not any(b"secret" in head for head in seen.heads)
    assert b"CONNECT" not in seen.methods


# G8


@pytest.mark.parametrize("url", ["http://user:secret@api.example", "https://secret@api.example/base"])
def test_g8_user_information_is_refused(url: str) -> None:
    """It would become an Authorization; and the complaint does not tell it."""
    with pytest.raises(ValueError, match="user information") as caught:
        ReverseProxy(url)

    assert "secret" not in str(caught.value)


@every_door
@pytest.mark.parametrize("follow_redirects", [False, True])
def test_g8_redirects_are_the_clients(door: str, follow_redirects: bool) -> None:
    """They are passed on and not followed, even where the app's client would."""
    with scripted(answering(ok())) as elsewhere:
        location = elsewhere.url.encode() + b"/"
        response = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
        settings = settings_of(follow_redirects=follow_redirects)
        with scripted(answering(response)) as upstream, proxied(upstream.url, door=door, settings=settings) as port:
            answer = ask(port, get(path_of(door)))
        assert elsewhere.accepted == 0

    assert (answer.status, answer.values(b"location")) == (302, [location])


def ask_with_defaults(url: str, door: str) -> Answer:
    """Ask through a proxy that was given an upstream and nothing else."""
    app: Any = ReverseProxy(url)
    if door == "mounted":
        app = FastAPI(lifespan=create_lifespan())
        app.mount("/p", ReverseProxy(url))
    with serving_by("httptools", app) as port:
        return ask(port, get(path_of(door)))


def test_g8_the_environments_proxies_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy with a client of its own goes to its upstream directly."""
    with scripted(answering(ok(b"proxied"))) as elsewhere, scripted(answering(ok(b"direct"))) as upstream:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, elsewhere.url)
        assert ask_with_defaults(upstream.url, "alone").body == b"direct"
        assert elsewhere.accepted == 0


@pytest.mark.parametrize("door", ["alone", "mounted"])
def test_g8_the_environments_passwords_are_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, door: str) -> None:
    """A .netrc with the upstream's name in it is for the user of the machine, not for its clients."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\ndefault login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    seen = RecordingUpstream()

    with scripted(seen) as upstream:
        assert ask_with_defaults(upstream.url, door).status == 200

    assert b"authorization" not in seen.names()


@pytest.mark.parametrize("door", ["alone", "mounted"])
def test_g8_certificates_are_verified(door: str) -> None:
    """An upstream that nobody vouches for gets no request."""
    seen = RecordingUpstream()
    with scripted(seen, Authority().server()) as upstream:
        answer = ask_with_defaults(upstream.url, door)

    assert answer.status == 502
    assert answer.values(b"proxy-status")[0].endswith(b"; error=tls_certificate_error")
    assert seen.heads == []


# G10


@every_door
@uvicorns
def test_g10_nobody_gets_anothers_cookies(server: str, door: str) -> None:
    """What the upstream sets for one client is never sent for another, over the same connection."""
    seen = RecordingUpstream(ok(b"ok", b"Set-Cookie: session=first; Path=/"))
    settings = settings_of(limits=POOL_OF_ONE)
    with scripted(seen) as upstream, proxied(upstream.url, server, door=door, settings=settings) as port:
        first = ask(port, get(path_of(door)))
        ask(port, get(path_of(door)))
        ask(port, get(path_of(door), b"Cookie: session=own"))
        assert upstream.accepted == 1

    assert first.values(b"set-cookie") == [b"session=first; Path=/"]
    assert [seen.values(b"cookie", index) for index in range(3)] == [[], [], [b"session=own"]]


def test_g10_a_routes_own_requests_get_no_clients_cookies() -> None:
    """The client that a proxy shares with the app's routes keeps none, and sends none of theirs."""
    seen = RecordingUpstream(ok(b"ok", b"Set-Cookie: session=first; Path=/"))
    app = FastAPI(lifespan=create_lifespan(settings_of()))
    with scripted(seen) as upstream:

        async def respond(request: Request) -> Response:
            client: httpx.AsyncClient = await get_client(request)
            answer = await client.get(upstream.url + "/own")
            return PlainTextResponse(answer.text)

        app.add_route("/own", respond)
        app.mount("/p", ReverseProxy(upstream.url))
        with serving_by("httptools", app) as port:
            for path in (b"/p/", b"/own", b"/p/"):
                assert ask(port, get(path)).status == 200

    assert [seen.values(b"cookie", index) for index in range(3)] == [[], [], []]


@every_server
def test_g10_answers_are_not_mixed_up(server: str) -> None:
    """Each of many clients at once gets the answer to what it asked, and nothing of another's."""

    def script(connection: Connection) -> None:
        while (head := connection.read_head()).endswith(b"\r\n\r\n"):
            connection.send(ok(head.split(b" ")[1], b"Set-Cookie: mine=" + head.split(b" ")[1]))

    answers: dict[bytes, Answer] = {}
    with scripted(script) as upstream, proxied(upstream.url, server) as port, ExitStack() as stack:
        for number in range(16):
            target = b"/%d" % number
            thread = threading.Thread(target=lambda target=target: answers.update({target: ask(port, get(target))}))
            thread.start()
            stack.callback(thread.join, LIMIT)

    assert {target: (answer.body, answer.values(b"set-cookie")) for target, answer in answers.items()} == {
        b"/%d" % number: (b"/%d" % number, [b"mine=/%d" % number]) for number in range(16)
    }


@pytest.mark.parametrize("server", EVERY_SERVER)
@pytest.mark.parametrize("framing", [b"Content-Length: 34", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_h7_a_body_behind_an_upgrade_is_no_second_request(server: str, framing: bytes) -> None:
    """Some servers take the body of a request that asks for an upgrade for the next request; nothing comes of it."""
    inner = b"GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n"
    body = inner if framing.startswith(b"Content") else b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(upload(b"Connection: Upgrade", b"Upgrade: foo", framing))
        client.send(body)
        answers = client.read_to_end() if server == "httptools" else client.read_head()

    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"/evil" not in b"".join(seen.targets)
    if b" 200" in answers:
        assert seen.bodies == [body]
