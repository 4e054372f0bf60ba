"""Table D: request bodies are streamed, framed as they came, and never cut short in a way that looks whole."""

from http import HTTPStatus

from .._kit import Lab, NotApplicable, Request, TookTooLong, UpstreamConnection, chunk, chunked, expect, ok
from .._rows import MUST, OPTION, SHOULD, WANT, row
from .._scenes import (
    CHUNKED_LINE,
    CHUNKED_OK,
    FRAMINGS,
    Framing,
    Hands,
    answers,
    arrives,
    comes,
    drain,
    framed_by,
    respond,
    stuff,
)

__all__ = ()

_REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big"
_ENORMOUS = 2**50


@row("D1", "a request body is streamed: its head first, then each piece as it comes", level=WANT)
async def d1(lab: Lab) -> None:
    """Of a known length, and in chunks."""
    for framing in FRAMINGS:
        hands, client = Hands(lab), await lab.client()
        await client.send(lab.request(framing.line, method=b"POST"))
        upstream = await hands.take(f"{framing.name}: the head did not go up before the body came")
        for data in (b"hello", b"world"):
            await client.send(framing.piece(data))
            await arrives(upstream, data, f"{framing.name}: a piece of it did not go up before the next one came")


@row("D2", "a body goes up framed by its length or in chunks, never by both", rfc="RFC 9112 6.1, 6.3", level=MUST)
async def d2(lab: Lab) -> None:
    """Best as it came; but who has read it may say it in the other way."""
    seen = await lab.exchange(method=b"POST", body=b"hello")
    _check_body(seen.request, "a body of known length")
    seen = await lab.exchange(CHUNKED_LINE, method=b"POST", body=chunked(b"hel", b"lo"))
    _check_body(seen.request, "a body in chunks")


def _check_body(request: Request, what: str) -> None:
    frames = framed_by(request)
    names = b" and ".join(frames).decode("ascii") or "no framing"
    expect(len(frames) == 1, f"{what} went up with {names}")
    expect((request.body, request.complete) == (b"hello", True), f"{what} did not arrive whole")


@row("D3", "a request without a body goes up without one: no chunks are invented", rfc="RFC 9110 8.6", level=WANT)
async def d3(lab: Lab) -> None:
    """Of any method; a length of 0 is no body either."""
    for method in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"):
        request = (await lab.exchange(method=method)).request
        name = method.decode("ascii")
        expect(b"transfer-encoding" not in request.names, f"a {name} without a body went up with Transfer-Encoding")
        lengths = request.values(b"content-length")
        expect(lengths in ([], [b"0"]), f"a {name} without a body went up with a Content-Length that is not 0")


@row("D4", "bodies of GET, DELETE and OPTIONS are forwarded like any other", rfc="RFC 9110 9.3.1", level=WANT)
async def d4(lab: Lab) -> None:
    """In either framing."""
    for method in (b"GET", b"DELETE", b"OPTIONS"):
        name = method.decode("ascii")
        request = (await lab.exchange(method=method, body=b"hello")).request
        expect((request.body, request.complete) == (b"hello", True), f"the body of a {name} did not arrive")
        request = (await lab.exchange(CHUNKED_LINE, method=method, body=chunked(b"hello"))).request
        expect((request.body, request.complete) == (b"hello", True), f"the body of a {name} in chunks did not arrive")


@row("D5", "an upload that the client breaks off never looks whole to the upstream", rfc="RFC 9112 8", level=MUST)
async def d5(lab: Lab) -> None:
    """In either framing, with the connection closed or reset; a proxy that has sent nothing up yet sends nothing."""
    for framing in FRAMINGS:
        for leave in ("close", "reset"):
            hands, client = Hands(lab), await lab.client()
            await client.send(lab.request(framing.line, method=b"POST") + framing.piece(b"hello"))
            upstream = await hands.look(lab.timeout / 4)
            getattr(client, leave)()
            upstream = upstream or await hands.look(lab.timeout / 4)
            await _check_broken_off(upstream, framing)


async def _check_broken_off(upstream: UpstreamConnection | None, framing: Framing) -> None:
    if upstream is None:
        return
    try:
        await upstream.read_body()
    except TookTooLong:
        raise TookTooLong(f"{framing.name}: the client left, and the upstream is kept waiting for the rest") from None
    expect(not upstream.request.complete, f"{framing.name} that the client broke off was made to look whole")


@row("D6", 'the client is told "100 Continue" only when the upstream says so', rfc="RFC 9110 10.1.1", level=MUST)
async def d6(lab: Lab) -> None:
    """And a refusal arrives in its place, without the body being asked for."""
    head = lab.request(b"Expect: 100-continue", b"Content-Length: 10", method=b"POST")
    hands, client = Hands(lab), await lab.client()
    await client.send(head)
    expect(not await comes(client), "the client was told something before the upstream said anything")
    upstream = await hands.take("the head did not go up: the proxy waits for the body, and the client for its leave")
    expect(b"100-continue" in upstream.request.tokens(b"expect"), "the upstream was not told that the client waits")
    await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    said = await arrives(client, b"\r\n\r\n", 'the upstream\'s "100 Continue" did not reach the client')
    expect(said.startswith(b"HTTP/1.1 100 "), 'the upstream\'s "100 Continue" became something else')
    await client.send(b"helloworld")
    await arrives(upstream, b"helloworld", "the body did not go up after the client was told to go on")
    await upstream.send(ok(b"ok", b"Connection: close"))
    answers(await respond(client, "the response to the body did not come"), 200, "after the body")

    client = await lab.client()
    await client.send(head)
    upstream = await hands.take("the head of a second request did not go up")
    await upstream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    response = await respond(client, "the upstream's refusal did not reach the client that waits for its leave")
    answers(response, 403, "the upstream's refusal of a body that was not sent yet")
    expect(not response.interim, "the client was told to go on, and then that it is refused")


@row("D7", "an unknown expectation is answered with 417, or ignored", rfc="RFC 9110 10.1.1", level=WANT)
async def d7(lab: Lab) -> None:
    """It is none of a failure, and does not cost the body."""
    seen = await lab.exchange(b"Expect: something-else", method=b"POST", body=b"hello")
    answers(seen.response, {200, 417}, "an unknown expectation")
    refused = seen.response.status == HTTPStatus.EXPECTATION_FAILED
    bodies = set() if refused else {request.body for request in seen.requests}
    expect(bodies <= {b"hello"}, "a request with an unknown expectation went up without its body")


@row("D8", "an early refusal is relayed at once, and the upload ends", rfc="RFC 9110 10.1.1, 9112 9.6", level=SHOULD)
async def d8(lab: Lab) -> None:
    """Whether the upstream goes on listening or hangs up; its connection is not used for the next request."""
    for framing in FRAMINGS:
        for hangs_up in (False, True):
            await _refused_early(lab, framing, hangs_up=hangs_up)
            seen = await lab.exchange(answer=ok(b"next"))
            expect(seen.response.body == b"next", f"after an early refusal, the next request got {seen.response}")


async def _refused_early(lab: Lab, framing: Framing, *, hangs_up: bool) -> None:
    what = f"{framing.name}, refused in the middle" + " by an upstream that hangs up then" * hangs_up
    hands, client = Hands(lab), await lab.client()
    await client.send(lab.request(framing.line, method=b"POST") + framing.piece(b"hello"))
    upstream = await hands.take(f"{what}: nothing went up before the body was whole")
    await arrives(upstream, b"hello", f"{what}: the first piece did not go up")
    await upstream.send(_REFUSAL)
    if hangs_up:
        upstream.close_sending()  # closing with bytes unread would be a reset, and might take the refusal with it
    response = await respond(client, f"{what}: the client was not told before the body was whole")
    answers(response, 413, what)
    expect(response.body == b"too big", f"{what}: the refusal's body got lost")
    closes = b"close" in response.tokens(b"connection") or await client.closed()
    expect(closes, f"{what}: the client's connection stays open, with half an upload on it")


@row("D9", "both directions at once: the answer to a piece of the body comes before the next piece", level=WANT)
async def d9(lab: Lab) -> None:
    """In either framing of the request."""
    for framing in FRAMINGS:
        hands, client = Hands(lab), await lab.client()
        await client.send(lab.request(framing.line, method=b"POST"))
        upstream = await hands.take(f"{framing.name}: the head did not go up before the body came")
        await upstream.send(CHUNKED_OK)
        for data in (b"hello", b"world"):
            await client.send(framing.piece(data))
            await arrives(upstream, data, f"{framing.name}: a piece of it did not go up while the response came down")
            await upstream.send(chunk(data.upper()))
            await arrives(client, data.upper(), f"{framing.name}: no response before the request was whole")


@row("D10", "a slow upstream throttles the client's upload: the proxy does not keep it", level=WANT)
async def d10(lab: Lab) -> None:
    """Nothing is read of an upload that would not end; when it is read at last, all of it is there."""
    hands = Hands(lab)

    async def thirsty(connection: UpstreamConnection) -> None:
        connection.tighten()
        await hands(connection)

    lab.upstream.answer_with(thirsty)
    client = await lab.client()
    client.tighten()
    await client.send(lab.request(CHUNKED_LINE, method=b"POST"))
    length = await stuff(client, "the upstream")
    upstream = await hands.take("an upload in chunks did not go up at all")
    await drain(client, upstream, length, lab.patience, "an upload")


@row(
    "D11",
    "a body beyond the proxy's limit is answered with 413 before it is read",
    rfc="RFC 9110 15.5.14",
    level=OPTION,
)
async def d11(lab: Lab) -> None:
    """An announced petabyte."""

    async def at_once(connection: UpstreamConnection) -> None:
        await connection.send(ok())

    unlimited = "an announced body of 1 PiB is not refused: no limit is configured"
    try:
        seen = await lab.exchange(b"Content-Length: %d" % _ENORMOUS, method=b"POST", answer=at_once)
    except TookTooLong:
        raise NotApplicable(unlimited) from None
    if seen.requests:
        raise NotApplicable(unlimited)
    answers(seen.response, 413, "an announced body of 1 PiB")


@row("D12", "a body's bytes and its Content-Type are untouched, whatever could be parsed of them", level=WANT)
async def d12(lab: Lab) -> None:
    """JSON with blanks and a number that parsers shorten; a form; JSON that is none."""
    for kind, body in (
        (b"application/json ; Charset=UTF-8", b'{ "a" :  1.0,\r\n "b": "\xc3\xa9", "a": 2e0  }\n'),
        (b"application/x-www-form-urlencoded", b"b=%7e+1&a=&a=2&&c"),
        (b"application/json", b"{ no json"),
    ):
        seen = await lab.exchange(b"Content-Type: " + kind, method=b"POST", body=body)
        name = kind.decode("ascii")
        expect(seen.request.body == body, f"a body of {name} arrived changed")
        expect(seen.request.values(b"content-type") == [kind], f"the Content-Type {name} arrived changed")
