"""Table A: what concerns one connection only goes, and every other header line arrives as it was sent."""

from http import HTTPStatus

from .._kit import Lab, NotApplicable, Request, Response, chunked, expect, ok, shown
from .._rows import SHOULD, WANT, invisible, row

__all__ = ()

_HOP_BY_HOP = (
    b"Proxy-Connection: x-hop",
    b"Keep-Alive: timeout=77",
    b"Proxy-Authenticate: x-hop",
    b"Proxy-Authorization: x-hop",
    b"Trailer: X-Hop",
    b"Upgrade: x-hop/1",
)
"""Without Connection, TE and Transfer-Encoding, which rows of their own are about."""
_OBS_TEXT = bytes(range(0x80, 0x100))
_OF_THE_PROXY = {b"host", b"connection", b"keep-alive", b"te", b"content-length", b"transfer-encoding"}
"""What a proxy writes for its own connection."""


def _left(message: Request | Response, lines: tuple[bytes, ...]) -> bytes:
    """Return which of these lines have arrived."""
    pairs = [line.split(b": ", 1) for line in lines]
    return b", ".join(name for name, value in pairs if value in message.values(name))


@row("A1", "what a Connection line of a request names stays behind, and so does Connection", rfc="RFC 9110 7.6.1")
async def a1(lab: Lab) -> None:
    """Several lines, any case, empty members, white space."""
    lines = (b"CONNECTION: x-a", b"connection: ,X-B ,\t", b"X-A: 1", b"x-b: 2", b"x-a: 3", b"X-C: 4")
    request = (await lab.exchange(*lines)).request
    left = request.names & {b"x-a", b"x-b"}
    expect(not left, f"the upstream got {shown(b', '.join(sorted(left)))}, which Connection had named")
    expect(not {b"x-a", b"x-b"} & set(request.tokens(b"connection")), "the upstream got the client's Connection")
    expect(request.values(b"x-c") == [b"4"], "a line that was not named stayed behind, too")


@row("A2", "hop-by-hop fields of a request stay behind, named or not", rfc="RFC 9110 7.6.1", level=SHOULD)
async def a2(lab: Lab) -> None:
    """The fixed list; a proxy may send its own in the place of the client's."""
    request = (await lab.exchange(*_HOP_BY_HOP, b"X-Kept: 1")).request
    left = _left(request, _HOP_BY_HOP)
    expect(not left, f"the upstream got the client's {shown(left)}")
    expect(request.values(b"x-kept") == [b"1"], "another line stayed behind, too")


@row(
    "A3",
    "of responses and their trailers, what Connection names and hop-by-hop fields stay behind",
    rfc="RFC 9110 7.6.1",
)
async def a3(lab: Lab) -> None:
    """Named fields, the fixed list beside a length, and both once more in trailers."""
    named = (b"CONNECTION: x-a", b"connection: ,X-B ,", b"X-A: 1", b"x-b: 2", b"X-C: 3")
    response = (await lab.exchange(answer=ok(b"ok", *named))).response
    left = response.names & {b"x-a", b"x-b"}
    expect(not left, f"the client got {shown(b', '.join(sorted(left)))}, which the response's Connection had named")
    expect(response.values(b"x-c") == [b"3"], f"a line that was not named stayed behind, too: {response}")

    response = (await lab.exchange(answer=ok(b"ok", *_HOP_BY_HOP))).response
    left_of_list = _left(response, _HOP_BY_HOP)
    expect(not left_of_list, f"the client got the upstream's {shown(left_of_list)}")
    expect(response.complete and response.body == b"ok", f"the client got {response}")

    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x-a\r\n\r\n"
    answer = head + chunked(b"ok", trailers=(b"X-A: 1", b"Keep-Alive: timeout=77"))
    response = (await lab.exchange(b"TE: trailers", b"Connection: TE", answer=answer)).response
    names = {name.lower() for name, _ in response.trailers} & {b"x-a", b"keep-alive"}
    expect(not names, f"the client got {shown(b', '.join(sorted(names)))} in the trailers")
    expect(response.complete and response.body == b"ok", f"the client got {response}")


@row("A4", "a client cannot strip what the proxy adds by naming it in Connection", level=WANT)
async def a4(lab: Lab) -> None:
    """Whatever the proxy adds to a bare request must be there as well when the client names it."""
    added = (await lab.exchange()).request.names - _OF_THE_PROXY
    if not added:
        raise NotApplicable("it adds nothing to a request")
    names = (await lab.exchange(b"Connection: " + b", ".join(sorted(added)))).request.names
    expect(added <= names, f"the client kept {shown(b', '.join(sorted(added - names)))} from the upstream")


@row("A5", "naming Host or what frames a body in Connection breaks neither", rfc="RFC 9110 7.6.1")
async def a5(lab: Lab) -> None:
    """The body arrives whole, or the request is refused."""
    for framing, body in ((b"Content-Length: 5", b"hello"), (b"Transfer-Encoding: chunked", chunked(b"hello"))):
        named = framing.partition(b":")[0]
        seen = await lab.exchange(b"Connection: Host, " + named, framing, method=b"POST", body=body)
        if seen.response.status == HTTPStatus.BAD_REQUEST and not seen.requests:
            continue
        request = seen.request
        expect(request.body == b"hello" and request.complete, f"the body got lost when {shown(named)} was named")
        expect(len(request.values(b"host")) == 1, "the upstream got no Host when Host was named")


@row("A6", "TE goes on as trailers only, if the client sent that, and with Connection: TE", rfc="RFC 9110 10.1.4")
async def a6(lab: Lab) -> None:
    """Nothing at all is right, too: a proxy need not take trailers."""
    for sent, may_be in ((b"gzip;q=0.5, trailers", [b"trailers"]), (b"gzip", [])):
        request = (await lab.exchange(b"TE: " + sent, b"Connection: TE")).request
        got = request.tokens(b"te")
        expect(got in ([], may_be), f"for {shown(sent)}, the upstream got TE: {shown(b', '.join(got))}")
        named = b"te" in request.tokens(b"connection") or not got
        expect(named, "the upstream got TE without Connection: TE")


@row("A7", "trailers of a response arrive as trailers, announced or not", rfc="RFC 9110 6.5", level=WANT)
async def a7(lab: Lab) -> None:
    """Never among the header lines; for a client that has said that it takes trailers."""
    for head in (b"Trailer: X-Sum\r\n", b""):
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + head + b"\r\n"
        answer += chunked(b"hello", trailers=(b"X-Sum: 1",))
        response = (await lab.exchange(b"TE: trailers", b"Connection: TE", answer=answer)).response
        expect(response.body == b"hello" and response.complete, f"the client got {response}")
        expect(b"x-sum" not in response.names, "the trailer arrived among the header lines")
        got = [value for name, value in response.trailers if name.lower() == b"x-sum"]
        expect(got == [b"1"], "an announced trailer got lost" if head else "a trailer that nothing announced got lost")


@row("A8", "repeated fields keep every value, in their order", rfc="RFC 9110 5.3")
async def a8(lab: Lab) -> None:
    """As lines of their own; in one line with commas between them they say the same."""
    request = (await lab.exchange(b"X-M: a", b"Cookie: a=1", b"X-M: c", b"Cookie: b=2", b"x-m: b")).request
    got = request.tokens(b"x-m")
    expect(got == [b"a", b"c", b"b"], f"of the lines a, c and b the upstream got {shown(b', '.join(got)) or 'none'}")
    cookies = b"; ".join(request.values(b"cookie"))
    expect(cookies == b"a=1; b=2", f"of two Cookie lines the upstream got {shown(cookies) or 'none'}")


@row("A9", "fields without a value survive in both directions", rfc="RFC 9110 5.5", level=WANT)
async def a9(lab: Lab) -> None:
    """With nothing behind the colon."""
    seen = await lab.exchange(b"X-Empty:", answer=ok(b"ok", b"X-Void:"))
    expect(seen.request.values(b"x-empty") == [b""], "the upstream did not get a request's empty field")
    expect(
        seen.response.values(b"x-void") == [b""], f"the client did not get a response's empty field: {seen.response}"
    )


@row("A10", "octets 0x80 to 0xFF in values pass in both directions", rfc="RFC 9110 5.5", level=SHOULD)
async def a10(lab: Lab) -> None:
    """Byte for byte, whatever they may mean."""
    seen = await lab.exchange(b"X-Text: " + _OBS_TEXT, answer=ok(b"ok", b"X-Text: " + _OBS_TEXT))
    got = seen.request.values(b"x-text")
    expect(got == [_OBS_TEXT], f"the upstream got {shown(b', '.join(got)) or 'nothing'} of them")
    got = seen.response.values(b"x-text")
    expect(got == [_OBS_TEXT], f"the client got {shown(b', '.join(got)) or 'nothing'} of them: {seen.response}")


@row("A11", "CR, LF and NUL in a value never leave the proxy, in either direction", rfc="RFC 9110 5.5")
async def a11(lab: Lab) -> None:
    """Such a message is refused, or the value mended."""
    for octet in (b"\x00", b"\r"):
        value = b"X-A: a" + octet + b"b"
        for request in (await lab.exchange(value)).requests:
            expect(_is_clean(request.head), f"the upstream got {shown(value)} as the client had sent it")
        response = (await lab.exchange(answer=ok(b"ok", value))).response
        expect(_is_clean(response.head), f"the client got {shown(value)} as the upstream had sent it")


def _is_clean(head: bytes) -> bool:
    return b"\x00" not in head and b"\r" not in head.replace(b"\r\n", b"")


@row("A12", "the proxy invents no header fields that speak for the client or the upstream", level=WANT)
async def a12(lab: Lab) -> None:
    """Nor does a response get a type that the upstream did not give it."""
    seen = await lab.exchange()
    speaking = {b"accept", b"accept-encoding", b"accept-language", b"content-type", b"cookie", b"user-agent"}
    invented = b", ".join(sorted(seen.request.names & speaking))
    expect(not invented, f"the upstream got {shown(invented)}, which the client had not sent")
    invented = b", ".join(sorted(seen.response.names & {b"content-type", b"content-encoding"}))
    expect(not invented, f"the client got {shown(invented)}, which the upstream had not sent")


@row("A13", "a client's X_Forwarded_For does not pass where the proxy sets X-Forwarded-For", level=WANT)
async def a13(lab: Lab) -> None:
    """Upstreams that turn hyphens into underscores cannot tell them apart."""
    ours = sorted(name for name in (await lab.exchange()).request.names if name.startswith(b"x-"))
    if not ours:
        raise NotApplicable("it sets no header field with a hyphen")
    twins = {name.replace(b"-", b"_") for name in ours}
    seen = await lab.exchange(*(twin + b": 192.0.2.6" for twin in twins))
    left = b", ".join(sorted(seen.request.names & twins))
    expect(not left, f"the upstream got the client's {shown(left)}")


invisible("A14", "forwarding leaves the original request as it is", "it is about objects in the proxy's memory")
invisible(
    "A15", "what belongs to HTTP/1.1 does not leak into HTTP/2", "both ends of this suite speak HTTP/1.1, byte by byte"
)
