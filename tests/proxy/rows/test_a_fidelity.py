"""Rows A1 to A15: what concerns one connection only goes, and every other header line arrives as it was sent."""

import copy
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from fastapi_httpx_pool import (
    ProxyPolicy,
    ProxyRequest,
    ReverseProxy,
    StreamingProxyResponse,
    TLSSettings,
    UpstreamResponse,
    create_lifespan,
)
from tests.support.answers import Answer, ask, get, post
from tests.support.http2_client import ask_http2
from tests.support.http2_server import serving_http2
from tests.support.proxies import DOORS, EVERY_SERVER, UVICORN, proxied, serving_by, settings_of
from tests.support.raw_client import headers_of
from tests.support.recording import RecordingUpstream
from tests.support.upstream import answering, ok, scripted

every_server = pytest.mark.parametrize("server", EVERY_SERVER)
uvicorns = pytest.mark.parametrize("server", UVICORN)
every_door = pytest.mark.parametrize("door", DOORS)

ALL_OBS_TEXT = bytes(range(0x80, 0x100))
CHUNKED_HELLO = b"5\r\nhello\r\n0\r\n\r\n"
HOP_BY_HOP = (
    b"Proxy-Connection",
    b"Keep-Alive",
    b"Proxy-Authenticate",
    b"Proxy-Authorization",
    b"TE",
    b"Trailer",
    b"Upgrade",
    b"HTTP2-Settings",
)
"""Without Connection and Transfer-Encoding, which have tests of their own."""
FORWARDED = {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
SPLITTING = ["a\r\nX-Smuggled: 1", "a\nX-Smuggled: 1", "a\rb", "a\x00b"]


def path_of(door: str) -> bytes:
    """Return the path to ask for at a door."""
    return b"/" if door == "alone" else b"/p/"


def sent(server: str, *lines: bytes, request: bytes | None = None, **options: Any) -> RecordingUpstream:
    """Return what an upstream is sent for a request with these header lines, which must be answered well."""
    seen = RecordingUpstream()
    path = path_of(options.get("door", "alone"))
    with scripted(seen) as upstream, proxied(upstream.url, server, **options) as port:
        assert ask(port, request or get(path, *lines)).status == 200
    return seen


def answered(server: str, response: bytes, *lines: bytes, **options: Any) -> Answer:
    """Return what a client gets of an upstream's answer."""
    with scripted(answering(response)) as upstream, proxied(upstream.url, server, **options) as port:
        return ask(port, get(b"/", *lines))


def with_trailers(*trailers: bytes, head: Collection[bytes] = ()) -> bytes:
    """Return an answer in chunks with trailers behind its last one."""
    start = b"\r\n".join((b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", *head, b"", b""))
    return start + b"5\r\nhello\r\n0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"


def tokens(values: Collection[bytes]) -> set[bytes]:
    """Return the members of a header's lines, in lower case."""
    return {token.strip().lower() for value in values for token in value.split(b",")} - {b""}


# A1, A2: of requests.


@every_server
def test_a1_nominated_request_headers_go(server: str) -> None:
    """Fields named by any Connection line, in any case, do not reach the upstream, nor does Connection."""
    lines = (b"CONNECTION: x-a", b"connection: ,X-B ,\t, keep-alive", b"X-A: 1", b"x-b: 2", b"x-a: 3", b"X-C: 4")
    seen = sent(server, *lines)

    assert not {b"x-a", b"x-b", b"connection", b"keep-alive"} & seen.names()
    assert seen.values(b"x-c") == [b"4"]


@uvicorns
def test_a1_an_empty_connection_line_names_nothing(server: str) -> None:
    """A Connection line without a name in it goes, and takes nothing with it."""
    seen = sent(server, b"Connection:", b"Connection: ,", b"X-A: 1")

    assert b"connection" not in seen.names()
    assert seen.values(b"x-a") == [b"1"]


@every_server
def test_a2_hop_by_hop_request_headers_go(server: str) -> None:
    """The fixed list of hop-by-hop fields does not reach the upstream, though nothing names them."""
    seen = sent(server, *(name + b": x-y" for name in HOP_BY_HOP), b"X-Kept: 1")

    assert not {name.lower() for name in HOP_BY_HOP} & seen.names()
    assert b"x-kept" in seen.names()


@every_server
def test_a2_an_offer_of_another_protocol_goes(server: str) -> None:
    """An Upgrade as clients send it, with its Connection line, is answered as an ordinary request."""
    seen = sent(server, b"Connection: Upgrade", b"Upgrade: irc/1.0")

    assert not {b"connection", b"upgrade"} & seen.names()


# A3: of answers.


@every_server
def test_a3_nominated_response_headers_go(server: str) -> None:
    """Fields named by any Connection line of the answer do not reach the client."""
    response = ok(b"ok", b"CONNECTION: x-a", b"connection: ,X-B ,", b"X-A: 1", b"x-b: 2", b"X-C: 3")
    answer = answered(server, response)

    assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
    assert answer.values(b"x-a") == answer.values(b"x-b") == []
    assert answer.values(b"x-c") == [b"3"]
    assert not {b"x-a", b"x-b"} & tokens(answer.values(b"connection"))


@every_server
def test_a3_hop_by_hop_response_headers_go(server: str) -> None:
    """The fixed list of hop-by-hop fields does not reach the client, beside a length either."""
    answer = answered(server, ok(b"ok", *(name + b": x-y" for name in HOP_BY_HOP), b"X-Kept: 1"))

    assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
    assert [name for name in HOP_BY_HOP if b"x-y" in answer.values(name.lower())] == []
    assert answer.values(b"x-kept") == [b"1"]


@uvicorns
def test_a3_nothing_of_a_101_passes(server: str) -> None:
    """An unasked-for 101 becomes a 502 without any of its fields."""
    response = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, x-a\r\nUpgrade: x\r\nX-A: 1\r\nX-B: 2\r\n\r\n"
    answer = answered(server, response, b"Connection: upgrade", b"Upgrade: x")

    assert answer.status == 502
    assert not {b"upgrade", b"x-a", b"x-b"} & {name for name, _ in headers_of(answer.head)}


def test_a3_trailers_are_stripped_too() -> None:
    """Trailers that concern the connection, or that the head's Connection line names, do not reach the client."""
    trailers = (b"X-A: 1", b"X-Sum: 2", b"Keep-Alive: timeout=5", b"Proxy-Authenticate: Basic", b"Content-Length: 3")
    response = with_trailers(*trailers, head=[b"Connection: x-a"])
    with scripted(answering(response)) as upstream, proxied(upstream.url, "hypercorn") as port:
        answer = ask_http2(port, b"/", (b"te", b"trailers"))

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
    assert answer.trailers == [(b"x-sum", b"2")]


# A4, A5: what cannot be named away.


@every_door
def test_a4_a_client_cannot_strip_what_the_proxy_adds(door: str) -> None:
    """Naming the proxy's own headers, the policy's and a hook's does not keep them from the upstream."""

    def add(request: ProxyRequest) -> None:
        request.headers["x-hook"] = "ours"

    lines = (
        b"Connection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Via, X-Internal-Auth, X-Hook",
        b"X-Internal-Auth: forged",
        b"X-Hook: forged",
    )
    seen = sent("httptools", *lines, door=door, on_request=add, request_headers={"X-Internal-Auth": "ours"}, via="me")

    assert seen.values(b"x-internal-auth") == seen.values(b"x-hook") == [b"ours"]
    assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert seen.values(b"x-forwarded-proto") == [b"http"]
    assert seen.values(b"x-forwarded-host") == [b"front.example"]
    assert seen.values(b"via") == [b"1.1 me"]


@pytest.mark.parametrize("door", ["proxy.response", "StreamingProxyResponse"])
def test_a4_nor_what_a_route_adds(door: str) -> None:
    """Naming the headers that a route gives does not keep them from the upstream."""
    seen = RecordingUpstream()
    ours = {"x-internal-auth": "ours"}

    async def respond(request: Request) -> Response:
        if door == "proxy.response":
            return ReverseProxy(upstream.url).response(request, headers=ours)
        return StreamingProxyResponse(request, upstream.url, headers=ours)

    app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
    app.add_api_route("/", respond, response_model=None)
    with scripted(seen) as upstream, serving_by("httptools", app) as port:
        assert ask(port, get(b"/", b"Connection: X-Internal-Auth", b"x-internal-auth: forged")).status == 200

    assert seen.values(b"x-internal-auth") == [b"ours"]


@every_server
def test_a5_nominated_framing_headers_stay(server: str) -> None:
    """Naming Host and Content-Length in Connection breaks neither the routing nor the framing."""
    seen = sent(server, request=post(b"hello", b"Connection: Content-Length, Host, Transfer-Encoding"))

    assert seen.bodies == [b"hello"]
    assert seen.values(b"content-length") == [b"5"]
    assert len(seen.values(b"host")) == 1


@every_server
def test_a5_nominated_transfer_encoding_stays(server: str) -> None:
    """A chunked body whose framing field is named in Connection arrives, framed."""
    head = get(b"/", b"Connection: Transfer-Encoding, Content-Length", b"Transfer-Encoding: chunked", method=b"POST")
    seen = sent(server, request=head + CHUNKED_HELLO)

    assert seen.bodies == [CHUNKED_HELLO]
    assert seen.values(b"transfer-encoding") == [b"chunked"]
    assert b"content-length" not in seen.names()


@uvicorns
def test_a5_nominated_framing_headers_of_a_response_stay(server: str) -> None:
    """An upstream that names Content-Length in Connection still gives an answer of that length."""
    answer = answered(server, ok(b"hello", b"Connection: Content-Length"))

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
    assert answer.values(b"content-length") == [b"5"]


# A6, A7: trailers.


@every_server
def test_a6_no_te_where_trailers_cannot_be_relayed(server: str) -> None:
    """Where the server gives no way to send trailers, as none does over HTTP/1.1, the upstream is asked for none."""
    seen = sent(server, b"Connection: TE", b"TE: trailers, deflate;q=0.5")

    assert not {b"te", b"connection"} & seen.names()


def test_a6_te_asks_for_trailers_and_nothing_else() -> None:
    """Where trailers can be relayed and the client wants them, TE says so, and Connection lists it."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, "hypercorn") as port:
        for answer in (ask_http2(port, b"/", (b"te", b"trailers")), ask_http2(port)):
            assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)

    assert seen.values(b"te", 0) == [b"trailers"]
    assert b"te" in tokens(seen.values(b"connection", 0))
    assert not {b"te", b"connection"} & seen.names(1)


def test_a6_no_te_where_trailers_cannot_be_read() -> None:
    """What carries the request for a client of the family's own kind reads no trailers, so none are asked for."""
    seen = RecordingUpstream()
    settings = settings_of(engine="httpcore")
    with scripted(seen) as upstream, proxied(upstream.url, "hypercorn", settings=settings) as port:
        assert ask_http2(port, b"/", (b"te", b"trailers")).status == 200

    assert not {b"te", b"connection"} & seen.names()


@pytest.mark.parametrize("head", [[], [b"Trailer: X-Sum, X-Empty"]], ids=["unannounced", "announced"])
def test_a7_trailers_are_relayed(head: list[bytes]) -> None:
    """Trailers reach the client as trailers, every line in its order; they are never put among the headers."""
    response = with_trailers(b"X-Sum: 1", b"x-sum: 2", b"X-Empty:", b"X-Obs: " + ALL_OBS_TEXT, head=head)
    with scripted(answering(response)) as upstream, proxied(upstream.url, "hypercorn") as port:
        answer = ask_http2(port, b"/", (b"te", b"trailers"))

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
    assert answer.trailers == [(b"x-sum", b"1"), (b"x-sum", b"2"), (b"x-empty", b""), (b"x-obs", ALL_OBS_TEXT)]
    assert not {b"x-sum", b"x-empty", b"x-obs"} & {name for name, _ in answer.headers}


def test_a7_trailers_go_to_nobody_who_did_not_ask() -> None:
    """A client without TE gets the answer without its trailers, complete."""
    with scripted(answering(with_trailers(b"X-Sum: 1"))) as upstream, proxied(upstream.url, "hypercorn") as port:
        answer = ask_http2(port)

    assert (answer.status, answer.body, answer.complete, answer.trailers) == (200, b"hello", True, [])
    assert b"x-sum" not in {name for name, _ in answer.headers}


@every_server
def test_a7_trailers_end_where_the_server_cannot_send_them(server: str) -> None:
    """Over HTTP/1.1 trailers are dropped: the answer is complete, and they are not among its headers."""
    response = with_trailers(b"X-Sum: 1", b"Content-Length: 3")
    answer = answered(server, response, b"TE: trailers", b"Connection: TE")

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
    # A body that is there already is counted by granian, which is not what the trailer says.
    assert b"3" not in answer.values(b"content-length")
    assert b"x-sum" not in {name for name, _ in headers_of(answer.head)}


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(
            "httptools",
            marks=pytest.mark.skip(reason="uvicorn with httptools itself puts trailers among the headers it has read"),
        ),
        *EVERY_SERVER[1:],
    ],
)
def test_a7_request_trailers_are_not_headers(server: str) -> None:
    """Trailers of a request, for which ASGI has no word, are dropped; its body is complete."""
    head = get(b"/", b"Transfer-Encoding: chunked", b"Trailer: X-Sum", method=b"POST")
    seen = sent(server, request=head + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")

    assert seen.bodies == [CHUNKED_HELLO]
    assert b"x-sum" not in seen.names()


# A8 to A10: lines pass as they are.


@every_server
def test_a8_repeated_request_headers_keep_every_line(server: str) -> None:
    """Repeated fields arrive as separate lines in their order; the last does not win."""
    lines = (b"X-Multi: a", b"Cookie: a=1", b"X-Multi: b, c", b"cookie: b=2", b"x-multi: a")
    seen = sent(server, *lines)

    assert seen.values(b"x-multi") == [b"a", b"b, c", b"a"]
    assert seen.values(b"cookie") == [b"a=1", b"b=2"]


@every_server
def test_a9_empty_headers_survive(server: str) -> None:
    """A field without a value arrives, both ways."""
    seen = RecordingUpstream(ok(b"ok", b"X-Empty:", b"X-Next: 1"))
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        answer = ask(port, get(b"/", b"X-Empty:", b"X-Next: 1"))

    assert seen.values(b"x-empty") == answer.values(b"x-empty") == [b""]
    assert seen.values(b"x-next") == answer.values(b"x-next") == [b"1"]


@every_server
def test_a10_obs_text_is_byte_exact(server: str) -> None:
    """Bytes from 0x80 to 0xFF in a value arrive as they were sent, both ways."""
    seen = RecordingUpstream(ok(b"ok", b"X-Obs: " + ALL_OBS_TEXT))
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        answer = ask(port, get(b"/", b"X-Obs: " + ALL_OBS_TEXT))

    assert seen.values(b"x-obs") == [ALL_OBS_TEXT]
    assert answer.values(b"x-obs") == [ALL_OBS_TEXT]


# A11: nothing splits a message.


@pytest.mark.parametrize("value", SPLITTING)
@pytest.mark.parametrize("where", ["request_headers", "response_headers"])
def test_a11_a_policy_with_a_line_break_is_refused(where: str, value: str) -> None:
    """A value with CR, LF or NUL is refused when the policy is made."""
    with pytest.raises(ValueError, match="line break or NUL"):
        ProxyPolicy(**{where: {"x-bad": value}})  # type: ignore[arg-type]  # names of fields


@uvicorns
@pytest.mark.parametrize("value", SPLITTING)
def test_a11_a_line_break_from_a_request_hook_sends_nothing(server: str, value: str) -> None:
    """A value with CR, LF or NUL that a hook puts in never leaves the proxy."""
    seen = RecordingUpstream()

    def spoil(request: ProxyRequest) -> None:
        request.headers["x-bad"] = value

    with scripted(seen) as upstream, proxied(upstream.url, server, on_request=spoil) as port:
        assert ask(port, get()).status == 502

    assert seen.heads == []


@pytest.mark.parametrize(
    "spoiled",
    [
        {"method": "GET /evil HTTP/1.1\r\nX-Smuggled: 1\r\n\r\nGET"},
        {"path": "/x\x00"},
        {"name": "x-a: 1\r\nx-smuggled"},
        {"name": "x a"},
        {"name": ""},
    ],
    ids=str,
)
def test_a11_nor_does_a_method_a_path_or_a_name(spoiled: dict[str, str]) -> None:
    """What a hook makes of the method, of the URL or of a header's name cannot split the request either."""
    seen = RecordingUpstream()

    def spoil(request: ProxyRequest) -> None:
        request.method = spoiled.get("method", request.method)
        request.url = upstream.url + spoiled.get("path", "/")
        if "name" in spoiled:
            request.headers[spoiled["name"]] = "1"

    with scripted(seen) as upstream, proxied(upstream.url, on_request=spoil) as port:
        # A URL that nobody can be sent to is the client's fault, whose path it was joined from.
        assert ask(port, get()).status == (400 if "path" in spoiled else 502)

    assert seen.heads == []


def test_a11_line_breaks_in_a_url_are_encoded() -> None:
    """What a hook puts into a URL stays in the request line, in one piece."""
    seen = RecordingUpstream()

    def spoil(request: ProxyRequest) -> None:
        request.url = upstream.url + "/x HTTP/1.1\r\nX-Smuggled: 1\r\n\r\n?y\r\nz\x00"

    with scripted(seen) as upstream, proxied(upstream.url, on_request=spoil) as port:
        assert ask(port, get()).status == 200

    assert seen.targets == [b"/x%20HTTP/1.1%0D%0AX-Smuggled:%201%0D%0A%0D%0A?y%0D%0Az%00"]
    assert b"x-smuggled" not in seen.names()


@uvicorns
@pytest.mark.parametrize("line", [*(("x-bad", value) for value in SPLITTING), ("x-bad: 1\r\nx-smuggled", "1")])
def test_a11_a_line_break_from_a_response_hook_reaches_nobody(server: str, line: tuple[str, str]) -> None:
    """A name or a value with CR, LF or NUL that a hook puts into an answer makes it a 502."""
    name, value = line

    def spoil(response: UpstreamResponse) -> None:
        response.headers[name] = value

    answer = answered(server, ok(), on_response=spoil)

    assert answer.status == 502
    assert not {b"x-bad", b"x-smuggled"} & {name for name, _ in headers_of(answer.head)}


@uvicorns
@pytest.mark.parametrize("value", [b"a\rX-Smuggled: 1", b"a\x00b"])
def test_a11_an_upstreams_cr_or_nul_reaches_nobody(server: str, value: bytes) -> None:
    """An upstream's value with a lone CR or NUL in it makes its answer a 502."""
    answer = answered(server, ok(b"ok", b"X-Bad: " + value))

    assert answer.status == 502
    assert b"x-bad" not in answer.head.lower()


@every_server
@pytest.mark.parametrize("value", [b"a\rX-Smuggled: 1", b"a\x00b"])
def test_a11_a_clients_cr_or_nul_reaches_no_upstream(server: str, value: bytes) -> None:
    """A client's value with a lone CR or NUL in it is answered with 400, and nothing is sent on."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, get(b"/", b"X-Bad: " + value)).status == 400

    assert seen.heads == []


# A12: nothing is invented.


@every_server
def test_a12_nothing_is_invented_for_a_request(server: str) -> None:
    """With forwarding and Via off, a request with a Host alone goes out with a Host alone."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server, forwarded="off", via=None) as port:
        assert ask(port, get(b"/x?y")).status == 200
        assert ask(port, post(b"hello")).status == 200

        assert seen.heads[0].lower() == b"get /x?y http/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % upstream.port
    assert seen.names(1) == {b"host", b"content-length"}


@every_door
def test_a12_only_what_the_policy_says_is_added(door: str) -> None:
    """By default what is added tells who forwards for whom, and nothing else: no User-Agent, no Accept."""
    prefix = set() if door == "alone" else {b"x-forwarded-prefix"}

    assert sent("httptools", door=door).names() == {b"host", b"via"} | FORWARDED | prefix


@every_server
def test_a12_nothing_is_invented_for_an_answer(server: str) -> None:
    """An answer gets no Content-Type and no cookie; servers name themselves and the date."""
    answer = answered(server, ok(b"<html>"))

    assert {name for name, _ in headers_of(answer.head)} <= {b"content-length", b"date", b"server"}
    assert answer.values(b"content-length") == [b"6"]


def test_a12_the_clients_own_defaults_are_not_sent() -> None:
    """Headers, cookies, parameters and auth of the client that carries the request stay its own."""
    own = httpx.AsyncClient(auth=("a", "b"), cookies={"c": "d"}, headers={"x-own": "1"}, params={"p": "1"})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with own:
            yield

    seen = RecordingUpstream()
    app = FastAPI(lifespan=lifespan, openapi_url=None)
    with scripted(seen) as upstream:
        app.mount("/p", ReverseProxy(upstream.url, client=own))
        with serving_by("httptools", app) as port:
            assert ask(port, get(b"/p/path")).status == 200

    assert seen.targets == [b"/path"]
    assert seen.names() == {b"host", b"via", b"x-forwarded-prefix"} | FORWARDED


# A13 to A15.


@every_server
def test_a13_underscore_twins_of_our_headers_go(server: str) -> None:
    """A name that some upstreams would take for one of ours, an underscore for a hyphen, does not pass; others do."""
    twins = (b"X_Forwarded_For", b"x-forwarded_host", b"X_FORWARDED-PROTO", b"X_Forwarded_Prefix", b"X_Real_IP")
    lines = [name + b": evil" for name in (*twins, b"X_Internal_Auth")]
    seen = sent(server, *lines, b"X_Custom: 1", request_headers={"X-Internal-Auth": "ours"})

    assert not any(b"evil" in value for _, value in seen.headers())
    assert seen.values(b"x-internal-auth") == [b"ours"]
    assert seen.values(b"x_custom") == [b"1"]


def test_a13_and_of_those_that_the_policy_removes() -> None:
    """Who keeps a header from the upstream keeps its twin from it, too."""
    seen = sent("httptools", b"X-Admin: 1", b"X_Admin: 1", b"x-other: 1", request_headers={"x-admin": None})

    assert not {b"x-admin", b"x_admin"} & seen.names()
    assert b"x-other" in seen.names()


@pytest.mark.parametrize("door", ["on_request", "proxy.response", "StreamingProxyResponse"])
def test_a13_and_of_those_that_the_app_sets(door: str) -> None:
    """Who says in a hook or in a route who the user is, is not contradicted by a twin; even if the client guessed it."""

    def sign(request: ProxyRequest) -> None:
        request.headers["x-user"] = "alice"
        del request.headers["x-admin"]

    ours = {"x-user": "alice", "x-admin": None}

    async def respond(request: Request) -> Response:
        if door == "on_request":
            return ReverseProxy(upstream.url, on_request=sign).response(request)
        if door == "proxy.response":
            return ReverseProxy(upstream.url).response(request, headers=ours)
        return StreamingProxyResponse(request, upstream.url, headers=ours)

    app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
    app.add_api_route("/", respond, response_model=None)
    seen = RecordingUpstream()
    lines = (b"X-User: alice", b"X_User: admin", b"X-Admin: 1", b"X_Admin: 1", b"X_Other: 1")
    with scripted(seen) as upstream, serving_by("httptools", app) as port:
        assert ask(port, get(b"/", *lines)).status == 200

    assert seen.values(b"x-user") == [b"alice"]
    assert not {b"x_user", b"x-admin", b"x_admin"} & seen.names()
    assert seen.values(b"x_other") == [b"1"]


class Unchanged:
    """An ASGI app around another that notes whether the scope's own values are after a request what they were before."""

    _NAMES = ("method", "scheme", "path", "raw_path", "query_string", "root_path", "headers", "client", "server")

    def __init__(self, app: Any) -> None:
        self._app = app
        self.differences: list[list[str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the app."""
        before = copy.deepcopy({name: scope[name] for name in self._NAMES if name in scope})
        await self._app(scope, receive, send)
        if scope["type"] == "http":
            self.differences.append([name for name, value in before.items() if scope[name] != value])


@every_door
def test_a14_the_inbound_request_is_not_changed(door: str) -> None:
    """The request that came in is the same after it has been sent on, for a hook that changes what is sent, too."""
    inbound: list[str] = []

    def change(request: ProxyRequest) -> None:
        request.headers["x-a"] = "ours"
        del request.headers["x-b"]
        inbound.extend(f"{name}: {value}" for name, value in request.inbound.headers.items())

    ours = {"x-c": "1"}
    seen = RecordingUpstream()
    with scripted(seen) as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of() if door == "alone" else None, on_request=change)

        async def respond(request: Request) -> Response:
            return proxy.response(request, prefix="/p", headers=ours)

        app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
        # A mount itself moves the prefix from the path to the root_path.
        watch = Unchanged(app if door == "route" else proxy)
        if door == "route":
            app.add_api_route("/p/{path:path}", respond, response_model=None)
        else:
            app.mount("/p", watch)
        with serving_by("httptools", app if door == "mounted" else watch) as port:
            assert ask(port, get(path_of(door) + b"%41?b", b"X-A: theirs", b"X-B: theirs")).status == 200

    assert seen.targets == [b"/%41?b"]
    assert seen.values(b"x-a") == [b"ours"]
    assert b"x-b" not in seen.names()
    assert watch.differences == [[]]
    assert inbound == ["host: front.example", "x-a: theirs", "x-b: theirs"]
    assert ours == {"x-c": "1"}


def test_a15_http_2_ends_at_the_proxy() -> None:
    """A request over HTTP/2 goes to an HTTP/1.1 upstream without a pseudo-header, with one Host."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, "hypercorn") as port:
        assert ask_http2(port, b"/a?b", (b"x-a", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2")).status == 200
        host = b"127.0.0.1:%d" % upstream.port

    assert seen.heads[0].startswith(b"GET /a?b HTTP/1.1\r\n")
    assert not any(line.startswith(b":") for line in seen.heads[0].split(b"\r\n"))
    assert seen.names() == {b"host", b"via", b"x-a", b"cookie"} | FORWARDED
    assert seen.values(b"host") == [host]
    assert seen.values(b"cookie") == [b"a=1; b=2"]


def test_a15_nothing_of_http_1_is_put_between_http_2_and_http_2(tmp_path: Path) -> None:
    """A request that comes over HTTP/2 and goes on over HTTP/2 gets no Connection line on the way."""
    with serving_http2(tmp_path) as url:
        settings = settings_of(http2=True, tls=TLSSettings(ca_file=tmp_path / "ca.pem"))
        with proxied(url, "hypercorn", settings=settings) as port:
            answer = ask_http2(port, b"/", (b"te", b"trailers"))

    assert (answer.status, answer.body) == (200, b"2")


def test_a15_http_1_ends_at_the_proxy(tmp_path: Path) -> None:
    """A request over HTTP/1.1 goes to an HTTP/2 upstream without what HTTP/2 forbids."""
    scopes: list[Any] = []
    bodies: list[bytes] = []

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = {"more_body": True}
        while message["more_body"]:
            message = await receive()
            bodies.append(message["body"])
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    lines = (b"Connection: keep-alive, Upgrade, HTTP2-Settings, X-A", b"Upgrade: x", b"HTTP2-Settings: AAMAAABk")
    others = (b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: gzip", b"X-A: 1", b"X-B: 2")
    head = get(b"/a?b", *lines, *others, b"Transfer-Encoding: chunked", method=b"POST")
    with serving_http2(tmp_path, upstream) as url:
        settings = settings_of(http2=True, tls=TLSSettings(ca_file=tmp_path / "ca.pem"))
        # uvicorn with httptools reads no body behind an Upgrade.
        with proxied(url, "h11", settings=settings) as port:
            answer = ask(port, head + CHUNKED_HELLO)
    (scope,) = scopes
    names = {name for name, _ in scope["headers"]}

    assert (answer.status, answer.body) == (200, b"ok")
    assert (scope["http_version"], scope["raw_path"], scope["query_string"]) == ("2", b"/a", b"b")
    assert b"".join(bodies) == b"hello"
    assert names <= {b":authority", b"host", b"via", b"x-b"} | FORWARDED
    assert b"x-b" in names
    assert {value for name, value in scope["headers"] if name in {b":authority", b"host"}} == {
        url.removeprefix("https://").encode()
    }
