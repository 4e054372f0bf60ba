"""Header fields in both directions: what is hop-by-hop goes, everything else arrives as it was sent."""

import httpx
import pytest
from fastapi import Request

from fastapi_httpx_pool import StreamingProxyResponse, get_client
from tests.support.answers import ask, get, post
from tests.support.recording import RecordingUpstream
from tests.support.stack import Respond, Stack, target_of
from tests.support.upstream import answering, ok, scripted

ALL_OBS_TEXT = bytes(range(0x80, 0x100))
HOP_BY_HOP = [
    b"Proxy-Connection",
    b"Keep-Alive",
    b"Proxy-Authenticate",
    b"Proxy-Authorization",
    b"TE",
    b"Trailer",
    b"Upgrade",
]
"""Without Connection and Transfer-Encoding, which other tests send."""
CHUNKED_HELLO = get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n"


def test_a1_nominated_request_headers_go(stack: Stack) -> None:
    """Fields named by any Connection line, in any case, do not reach the upstream, nor does Connection."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        lines = (b"CONNECTION: x-a", b"connection: ,X-B , , keep-alive", b"X-A: 1", b"x-b: 2", b"X-C: 3")
        assert ask(port, get(b"/", *lines)).status == 200

    assert not {b"x-a", b"x-b", b"connection"} & seen.names()
    assert seen.values(b"x-c") == [b"3"]


def test_a2_hop_by_hop_request_headers_go(stack: Stack) -> None:
    """The fixed list of hop-by-hop fields does not reach the upstream, though nothing nominates them."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        lines = [name + b": trailers" for name in HOP_BY_HOP]
        assert ask(port, get(b"/", *lines, b"X-Kept: 1")).status == 200

    assert not {name.lower() for name in HOP_BY_HOP} & seen.names()
    assert b"x-kept" in seen.names()


def test_a3_nominated_response_headers_go(stack: Stack) -> None:
    """Fields named by any Connection line of the answer do not reach the client."""
    response = ok(b"ok", b"CONNECTION: x-a", b"connection: ,X-B ,", b"X-A: 1", b"x-b: 2", b"X-C: 3")
    with scripted(answering(response)) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert answer.body == b"ok"
    assert answer.values(b"x-a") == answer.values(b"x-b") == []
    assert answer.values(b"x-c") == [b"3"]
    assert not any(b"x-a" in value for value in answer.values(b"connection"))


def test_a3_hop_by_hop_response_headers_go(stack: Stack) -> None:
    """The fixed list of hop-by-hop fields does not reach the client."""
    response = ok(b"ok", *(name + b": x-y" for name in HOP_BY_HOP), b"X-Kept: 1")
    with scripted(answering(response)) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
    assert [name for name in HOP_BY_HOP if answer.values(name.lower())] == []
    assert answer.values(b"x-kept") == [b"1"]


def test_a4_client_cannot_strip_what_the_proxy_adds(stack: Stack) -> None:
    """Nominating the proxy's own headers does not keep them from the upstream."""
    seen = RecordingUpstream()
    lines = (
        b"Connection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Internal-Auth",
        b"X-Internal-Auth: forged",
    )
    with scripted(seen) as upstream, stack.proxying(upstream.url, headers={"x-internal-auth": "ours"}) as port:
        assert ask(port, get(b"/", *lines)).status == 200

    assert seen.values(b"x-internal-auth") == [b"ours"]
    assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert {b"x-forwarded-proto", b"x-forwarded-host"} <= seen.names()


def test_a5_nominated_framing_headers_stay(stack: Stack) -> None:
    """Nominating Host and Content-Length breaks neither the routing nor the framing."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, post(b"hello", b"Connection: Content-Length, Host, Transfer-Encoding")).status == 200

    assert seen.bodies == [b"hello"]
    assert seen.values(b"content-length") == [b"5"]
    assert seen.values(b"host") == [upstream.url.removeprefix("http://").encode()]


def test_a5_nominated_transfer_encoding_stays(stack: Stack) -> None:
    """A chunked body whose framing field is nominated arrives, framed."""
    seen = RecordingUpstream()
    request = get(b"/", b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked", method=b"POST")
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, request + b"5\r\nhello\r\n0\r\n\r\n").status == 200

    assert seen.bodies == [b"5\r\nhello\r\n0\r\n\r\n"]
    assert seen.values(b"transfer-encoding") == [b"chunked"]


def test_a5_nominated_framing_headers_of_a_response_stay(stack: Stack) -> None:
    """An upstream that nominates Content-Length still gives a framed answer."""
    response = ok(b"hello", b"Connection: Content-Length")
    with scripted(answering(response)) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)


def test_a8_repeated_request_headers_keep_every_line(stack: Stack) -> None:
    """Repeated fields arrive as separate lines in their order; the last does not win."""
    seen = RecordingUpstream()
    lines = (b"X-Multi: a", b"Cookie: a=1", b"X-Multi: b, c", b"cookie: b=2", b"x-multi: a")
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, get(b"/", *lines)).status == 200

    assert seen.values(b"x-multi") == [b"a", b"b, c", b"a"]
    assert seen.values(b"cookie") == [b"a=1", b"b=2"]


def test_a9_empty_headers_survive(stack: Stack) -> None:
    """A field without a value arrives, both ways."""
    seen = RecordingUpstream(ok(b"ok", b"X-Empty:"))
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get(b"/", b"X-Empty:"))

    assert seen.values(b"x-empty") == [b""]
    assert answer.values(b"x-empty") == [b""]


def test_a10_obs_text_is_byte_exact(stack: Stack) -> None:
    """Bytes from 0x80 to 0xFF in a value arrive as they were sent, both ways."""
    seen = RecordingUpstream(ok(b"ok", b"X-Bytes: " + ALL_OBS_TEXT))
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get(b"/", b"X-Bytes: " + ALL_OBS_TEXT))

    assert seen.values(b"x-bytes") == [ALL_OBS_TEXT]
    assert answer.values(b"x-bytes") == [ALL_OBS_TEXT]


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_a12_nothing_is_invented_in_a_request(stack: Stack, family: str) -> None:
    """A bare request gets no User-Agent, Accept, Accept-Encoding, Cookie, Content-Type nor Connection; only what a proxy has to say."""
    if family == "httpx2":
        pytest.importorskip("httpx2")
    seen = RecordingUpstream()
    settings = stack.settings(family=family, headers={"x-default": "of the client"})
    with scripted(seen) as upstream, stack.proxying(upstream.url, settings) as port:
        assert ask(port, get()).status == 200

    assert seen.names() == {b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"via"}


def test_a12_nothing_is_invented_in_a_response(stack: Stack) -> None:
    """A bare answer gets no Content-Type; only the server's own Date and Server come on top."""
    with scripted(answering(ok())) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    names = {line.partition(b":")[0].lower() for line in answer.head.strip().split(b"\r\n")[1:]}
    assert names <= {b"content-length", b"date", b"server"}


def test_a12_what_the_client_says_of_itself_stays(stack: Stack) -> None:
    """User-Agent, Accept, Accept-Encoding and Authorization arrive once, as the client sent them."""
    seen = RecordingUpstream()
    lines = (b"User-Agent: me/1", b"Accept: text/x", b"Accept-Encoding: gzip;q=0.5", b"Authorization: Basic eDp5")
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, get(b"/", *lines)).status == 200

    for line in lines:
        name, _, value = line.partition(b": ")
        assert seen.values(name.lower()) == [value]


def test_b1_forwarded_headers_are_our_own(stack: Stack) -> None:
    """What a client says of its own address, host and scheme is replaced by what the proxy knows."""
    seen = RecordingUpstream()
    lies = (
        b"X-Forwarded-For: 1.1.1.1",
        b"x-forwarded-for: 2.2.2.2",
        b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-Proto: https",
        b"Forwarded: for=1.1.1.1",
        b"X-Real-IP: 1.1.1.1",
    )
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, get(b"/", *lies)).status == 200

    assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert seen.values(b"x-forwarded-host") == [b"front.example"]
    assert seen.values(b"x-forwarded-proto") == [b"http"]
    assert not {b"forwarded", b"x-real-ip"} & seen.names()


def test_b1_a_forged_prefix_does_not_pass(stack: Stack) -> None:
    """A client cannot tell the upstream under which prefix it is mounted."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, get(b"/", b"X-Forwarded-Prefix: /evil")).status == 200

    assert b"/evil" not in seen.values(b"x-forwarded-prefix")


def test_b8_host_is_the_upstreams(stack: Stack) -> None:
    """Exactly one Host is sent: the upstream's authority, not the client's."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, get()).status == 200

    assert seen.values(b"host") == [f"127.0.0.1:{upstream.port}".encode()]


def test_expect_is_stripped_where_nobody_would_wait(stack: Stack) -> None:
    """httpcore waits for no 100, so the upstream is not asked for one."""
    seen = RecordingUpstream()
    settings = stack.settings(engine="httpcore")
    with scripted(seen) as upstream, stack.proxying(upstream.url, settings) as port:
        ask(port, post(b"hello", b"Expect: 100-continue", b"Connection: close"))

    assert seen.bodies == [b"hello"]
    assert b"expect" not in seen.names()


def test_headers_replace_the_requests(stack: Stack) -> None:
    """``headers=`` takes the place of all lines of these names, in any case, and leaves the others."""
    seen = RecordingUpstream()
    replaced = {"X-Multi": "ours", "authorization": "Bearer t", "accept-encoding": "identity"}
    lines = (b"X-Multi: a", b"x-multi: b", b"Authorization: Basic eDp5", b"Accept-Encoding: gzip", b"X-Other: 1")
    with scripted(seen) as upstream, stack.proxying(upstream.url, headers=replaced) as port:
        assert ask(port, get(b"/", *lines)).status == 200

    assert seen.values(b"x-multi") == [b"ours"]
    assert seen.values(b"authorization") == [b"Bearer t"]
    assert seen.values(b"accept-encoding") == [b"identity"]
    assert seen.values(b"x-other") == [b"1"]


def test_headers_may_name_a_host(stack: Stack) -> None:
    """``headers={"host": ...}`` is the one Host that is sent."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url, headers={"Host": "virtual.example"}) as port:
        assert ask(port, get()).status == 200

    assert seen.values(b"host") == [b"virtual.example"]


@pytest.mark.parametrize("body", [post(b"hello"), CHUNKED_HELLO], ids=["known-length", "chunked"])
def test_headers_may_be_all_of_the_requests(stack: Stack, body: bytes) -> None:
    """``headers={**request.headers, ...}``, as people write it, does not break the framing."""
    seen = RecordingUpstream()

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream.url, headers={**request.headers, "x-more": "1"})

    with scripted(seen) as upstream, stack.routing(respond) as port:
        assert ask(port, body).status == 200

    framing = [line for line in seen.headers() if line[0] in {b"content-length", b"transfer-encoding"}]
    assert len(framing) == 1
    assert seen.bodies in ([b"hello"], [b"5\r\nhello\r\n0\r\n\r\n"])
    assert seen.values(b"x-more") == [b"1"]


@pytest.mark.parametrize(
    "framing", [{"content-length": "3"}, {"transfer-encoding": "chunked"}], ids=["length", "chunked"]
)
def test_headers_cannot_break_the_framing(stack: Stack, framing: dict[str, str]) -> None:
    """A framing field in ``headers=`` leads to no second framing, and to no body cut short that looks whole."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url, headers=framing) as port:
        answer = ask(port, post(b"hello"))

    assert len([line for line in seen.headers() if line[0] in {b"content-length", b"transfer-encoding"}]) == 1
    assert seen.bodies in ([b"hello"], [b"5\r\nhello\r\n0\r\n\r\n"]) or (answer.status >= 500 and seen.bodies == [b""])


@pytest.mark.parametrize("value", ["a\r\nX-Smuggled: 1", "a\nb", "a\x00b"])
def test_headers_with_a_line_break_send_nothing(stack: Stack, value: str) -> None:
    """A value with CR, LF or NUL never leaves the proxy."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url, headers={"x-bad": value}) as port:
        answer = ask(port, get())

    assert seen.heads == []
    assert answer.status in {400, 500, 502}


def _set_then_get(upstream_url: str) -> Respond:
    """Return a route: ``/client`` asks with the shared client, everything else goes through the proxy response."""

    async def respond(request: Request) -> object:
        client = await get_client(request)
        if request.url.path == "/client":
            return {"status": (await client.get(upstream_url + "/plain")).status_code}
        if request.url.path == "/held":
            held = await client.send(client.build_request("GET", upstream_url + "/held"), stream=True)
            return StreamingProxyResponse.from_response(held)
        return StreamingProxyResponse(request, upstream_url + target_of(request))

    return respond


@pytest.mark.parametrize("first", [b"/login", b"/held", b"/client"])
@pytest.mark.parametrize("second", [b"/other", b"/held", b"/client"])
def test_g10_cookies_do_not_reach_another_user(stack: Stack, first: bytes, second: bytes) -> None:
    """What the upstream sets for one user is sent for no other, neither by a proxy response nor by the client."""
    seen = RecordingUpstream(ok(b"ok", b"Set-Cookie: session=alice; Path=/"))
    with scripted(seen, host="localhost") as upstream, stack.routing(_set_then_get(upstream.url)) as port:
        answer = ask(port, get(first))
        assert first == b"/client" or answer.values(b"set-cookie") == [b"session=alice; Path=/"]
        assert ask(port, get(second)).status == 200

    assert len(seen.heads) == 2
    assert seen.values(b"cookie", 0) == seen.values(b"cookie", 1) == []


def test_g10_a_users_own_cookie_is_sent_for_that_user_only(stack: Stack) -> None:
    """The cookie that a browser sends goes upstream with its own request and with no other."""
    seen = RecordingUpstream(ok(b"ok", b"Set-Cookie: session=new; Path=/"))
    with scripted(seen, host="localhost") as upstream, stack.proxying(upstream.url) as port:
        ask(port, get(b"/", b"Cookie: session=alice"))
        ask(port, get(b"/"))
        ask(port, get(b"/", b"Cookie: session=bob"))

    assert [seen.values(b"cookie", index) for index in range(3)] == [[b"session=alice"], [], [b"session=bob"]]


def test_the_clients_own_layer_plays_no_part(stack: Stack) -> None:
    """The client's auth, cookies, parameters and default headers are not sent for the user."""
    seen = RecordingUpstream()
    own = httpx.AsyncClient(
        auth=("a", "b"),
        cookies={"c": "d"},
        headers={"x-own": "1"},
        params={"p": "1"},
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),  # so that it needs no closing in the server's loop
    )
    with scripted(seen) as upstream, stack.proxying(upstream.url, client=own) as port:
        assert ask(port, get(b"/path")).status == 200

    assert seen.targets == [b"/path"]
    assert not {b"authorization", b"cookie", b"x-own", b"user-agent"} & seen.names()
