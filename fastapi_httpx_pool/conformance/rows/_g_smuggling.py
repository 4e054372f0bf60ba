"""Table G: requests that two parties could read in two ways, and clients that would like to choose the upstream."""

import asyncio
import contextlib
import re
from http import HTTPStatus

from .._kit import Lab, Response, TookTooLong, UpstreamConnection, chunked, expect, ok
from .._rows import MUST, WANT, invisible, row
from .._scenes import CHUNKED_LINE, answers, framed_by, is_refusal, respond

__all__ = ()

_WHOLE = chunked(b"hello")
_HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: hidden.example\r\n\r\n"


@row("G1", "with Content-Length and chunks: refused, or only the chunks go up", rfc="RFC 9112 6.1, 6.3", level=MUST)
async def g1(lab: Lab) -> None:
    """In any order, with a length that is too short, too long, or nothing."""
    for lines in (
        (b"Content-Length: 4", CHUNKED_LINE),
        (CHUNKED_LINE, b"Content-Length: 4"),
        (b"Content-Length: 0", CHUNKED_LINE),
        (b"Content-Length: %d" % (len(_WHOLE) + len(_HIDDEN)), CHUNKED_LINE),
        (b"Connection: Content-Length, Transfer-Encoding", b"Content-Length: 4", CHUNKED_LINE),
    ):
        seen = await lab.exchange(*lines, method=b"POST", body=_WHOLE)
        what = b", ".join(lines).decode("ascii")
        fine = seen.response.status in range(200, 300) or is_refusal(seen.response)
        expect(fine, f"{what}: the client got {seen.response}")
        for request in seen.requests:
            names = b" and ".join(framed_by(request)).decode("ascii")
            expect(len(framed_by(request)) == 1, f"{what}: the upstream got {names}")
            expect(not request.complete or request.body == b"hello", f"{what}: the upstream got another body")


async def _check_refused(lab: Lab, what: str, raw: bytes, *statuses: int) -> None:
    """Check that a request is refused, its connection closed, and that neither it nor what is behind it goes up."""
    client, before = await lab.client(), len(lab.upstream.requests)
    await client.send(raw + _HIDDEN)
    response = await respond(client, f"{what}: no answer, and the connection stays open")
    names = " or ".join(map(str, statuses))
    # Hanging up without a word is as safe.
    expect(response.status in {0, *statuses}, f"{what}: {names} was due, the client got {response}")
    expect(await client.closed(), f"{what}: it was refused, and its connection goes on")
    expect(len(lab.upstream.requests) == before, f"{what}: it was refused, and something went up")


@row("G2", "two lengths that are not equal are refused with 400", rfc="RFC 9112 6.3", level=MUST)
async def g2(lab: Lab) -> None:
    """On two lines and on one; the connection is closed."""
    for lines in (
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Content-Length: 6", b"Content-Length: 5"),
        (b"Content-Length: 5, 6",),
    ):
        raw = lab.request(*lines, method=b"POST", body=b"hello!")
        await _check_refused(lab, b", ".join(lines).decode("ascii"), raw, 400)


@row("G3", "a body whose last coding is not chunked is refused with 400 or 501", rfc="RFC 9112 6.3", level=MUST)
async def g3(lab: Lab) -> None:
    """What only looks like chunked, and other codings; the connection is closed."""
    for line in (
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: gzip",
    ):
        raw = lab.request(line, method=b"POST", body=b"0\r\n\r\n")
        await _check_refused(lab, ascii(line.decode("ascii")), raw, 400, 501)


_NO_LENGTHS = (b"+5", b"-5", b"0x5", b"5 5", b"5_0", b"9" * 30)
_BAD_LINES = {
    "NUL in a value": (b"X-A: a\0b", rb"\0"),
    "a carriage return in a value": (b"X-A: a\rX-B: b", rb"\r(?!\n)|^x-b"),
    "a blank in a name": (b"X A: 1", rb"^x a"),
    "a blank before the colon": (b"X-A : 1", rb"^x-a[ \t]"),
    "a tab before the colon": (b"X-A\t: 1", rb"^x-a[ \t]"),
    "a control character in a name": (b"X\x01: 1", rb"\x01"),
    "a line without a name": (b": 1", rb"^:"),
    "a folded line": (b"X-A: 1\r\n X-B: 2", rb"^[ \t]|^x-b"),
}
"""What is sent, and what must not arrive."""


@row("G4", "broken heads are refused, or mended before they go up", rfc="RFC 9110 5.5, 9112 2.2, 5", level=MUST)
async def g4(lab: Lab) -> None:
    """Lengths that are no numbers are refused; bad lines may be left out, and folded ones joined."""
    for length in _NO_LENGTHS:
        raw = lab.request(b"Content-Length: " + length, method=b"POST", body=b"hello")
        await _check_refused(lab, f"Content-Length: {length.decode('ascii')}", raw, 400, 413)
    for what, (line, mark) in _BAD_LINES.items():
        seen = await lab.exchange(line)
        fine = seen.response.status == HTTPStatus.OK or is_refusal(seen.response)
        expect(fine, f"{what}: the client got {seen.response}")
        bad = [request for request in seen.requests if re.search(b"(?im)" + mark, request.head.rstrip(b"\r\n"))]
        expect(not bad, f"{what} was passed on")


_BROKEN_CHUNKS = {
    "0x before a chunk's size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a sign before a chunk's size": b"+5\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer than its size": b"5\r\nhelloXX0\r\n\r\n",
    "a chunk's size of 25 digits": b"1000000000000000000000005\r\nhello\r\n0\r\n\r\n",
}


@row("G5", "only the data of chunks goes up: no extensions, and nothing of broken ones", rfc="RFC 9112 7.1", level=MUST)
async def g5(lab: Lab) -> None:
    """A request inside of a chunk stays data; a body with a broken chunk never becomes a whole one."""
    extended = b'3;name=value\r\nhel\r\n2;quoted="\\";0"\r\nlo\r\n0;last\r\nX-Trailer: 1\r\n\r\n'
    data = b"0\r\n\r\n" + _HIDDEN
    for what, body, wanted in (
        ("chunks with extensions and a trailer", extended, b"hello"),
        ("a chunk with a request in it", chunked(data), data),
    ):
        seen = await lab.exchange(CHUNKED_LINE, method=b"POST", body=body)
        answers(seen.response, {200, 400}, what)
        expect(all(request.body == wanted for request in seen.requests), f"{what}: other data arrived")
        expect(len(seen.requests) <= 1, f"{what}: it became two requests")
    lab.upstream.answer_with(_whole_only)
    for what, body in _BROKEN_CHUNKS.items():
        before = len(lab.upstream.requests)
        # Waiting for more of it is as good as a refusal.
        response = await _ask(lab, lab.request(CHUNKED_LINE, method=b"POST", body=body))
        accepted = response is not None and response.status in range(200, 300)
        expect(not accepted, f"{what}: the client got {response}")
        whole = any(request.complete for request in lab.upstream.requests[before:])
        expect(not whole, f"{what}: the upstream got it as a whole body")


async def _whole_only(connection: UpstreamConnection) -> None:
    """Answer a request that is whole, and no other."""
    with contextlib.suppress(TookTooLong):
        await connection.read_body()
    if connection.request.complete:
        await connection.send(ok())


@row("G6", "bare line feeds in a head are refused or mended, not passed on", rfc="RFC 9112 2.2", level=WANT)
async def g6(lab: Lab) -> None:
    """Everywhere, or behind one line only."""
    head = lab.request(b"X-A: 1", b"X-B: 2", target=b"/feeds")
    for raw in (head.replace(b"\r\n", b"\n"), head.replace(b"X-A: 1\r\n", b"X-A: 1\n")):
        # An end for those to whom a line feed is none.
        seen = await lab.exchange(raw=raw + b"\r\n\r\n")
        fine = seen.response.status == HTTPStatus.OK or is_refusal(seen.response)
        expect(fine, f"the client got {seen.response}")
        for request in (request for request in seen.requests if request.target.endswith(b"/feeds")):
            expect(b"\n" not in request.head.replace(b"\r\n", b""), "a bare line feed was passed on")
            expect({b"x-a", b"x-b"} <= request.names, "a line that ended with a bare line feed got lost")


@row("G7", "no client chooses the upstream, whatever it asks for", rfc="RFC 9112 3.2.2", level=MUST)
async def g7(lab: Lab) -> None:
    """By the target, by Host, or by any other line; nor does a password in the target go up."""
    decoy = await lab.decoy()
    there = decoy.address
    targets = [
        b"http://%s/" % there,
        b"http://user:secret@%s/" % there,
        b"https://" + there,
        b"ftp://%s/" % there,
        b"@%s/" % there,
        b"//%s/" % there,
        b"/\\%s/" % there,
        there,
        b"." + there,
        b"http:" + there,
        *(lab.target(path % there) for path in (b"//%s/", b"@%s/", b"/@%s/", b"/http://%s/", b":@%s/", b"?http://%s")),
    ]
    lines = [name + there for name in (b"X-Forwarded-Host: ", b"Forwarded: host=", b"X-Host: ", b"Proxy: http://")]
    lines += [name + b"http://%s/" % there for name in (b"X-Original-URL: ", b"X-Rewrite-URL: ")]
    raws = [b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, lab.authority) for target in targets]
    raws += [lab.request(line) for line in lines]
    raws += [lab.request(host=there), b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (there, there)]
    await asyncio.gather(*(_ask(lab, raw) for raw in raws))
    expect(not decoy.accepted, "a client made the proxy connect to another server")
    told = [request for request in lab.upstream.requests if b"authorization" in request.names]
    expect(not told, "the upstream got a password that was in a request's target")
    expect(all(request.method == b"GET" for request in lab.upstream.requests), "a CONNECT went up")
    answers((await lab.exchange()).response, 200, "after requests for another server")


async def _ask(lab: Lab, raw: bytes) -> Response | None:
    """Send a request, whatever becomes of it."""
    try:
        return (await lab.exchange(raw=raw)).response
    except TookTooLong:
        return None


@row("G8", "redirects are the client's: passed on, and not followed", level=WANT)
async def g8(lab: Lab) -> None:
    """To the upstream itself and to elsewhere; nor is there an Authorization that the client has not sent."""
    decoy = await lab.decoy()
    for location in (lab.based(b"/other"), b"http://%s/" % decoy.address):
        answer = b"HTTP/1.1 307 Go\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % location
        seen = await lab.exchange(answer=answer)
        answers(seen.response, 307, "a redirect")
        expect(len(seen.requests) == 1 and not decoy.accepted, "the proxy followed a redirect")
        expect(b"authorization" not in seen.request.names, "the upstream got an Authorization that nobody had sent")


invisible(
    "G9", "where a request may choose the upstream, its resolved address is checked", "here it is always the same"
)


@row("G10", "nobody gets another's cookies, or another's response", level=WANT)
async def g10(lab: Lab) -> None:
    """One after the other over the same connections; and sixteen at once."""

    async def naming(connection: UpstreamConnection) -> None:
        await connection.read_body()
        name = connection.request.target.rpartition(b"/")[2]
        await connection.send(ok(name, b"Set-Cookie: name=%s; Path=/" % name))

    first = await lab.exchange(target=b"/first", answer=naming)
    expect(first.response.values(b"set-cookie") == [b"name=first; Path=/"], "a cookie for the client got lost")
    for number, sends in enumerate(([], [b"Cookie: own=1"])):
        seen = await lab.exchange(*sends, target=b"/other%d" % number)
        got = seen.request.values(b"cookie")
        expect(
            got == [line.partition(b": ")[2] for line in sends], "the upstream got a cookie that was another client's"
        )
    names = [b"n%d" % number for number in range(16)]
    all_seen = await asyncio.gather(*(lab.exchange(target=b"/" + name) for name in names))
    for name, each in zip(names, all_seen, strict=True):
        mine = each.response.body == name and each.response.values(b"set-cookie") == [b"name=%s; Path=/" % name]
        expect(mine, f"of sixteen at once, one got {each.response} that was not its own")
