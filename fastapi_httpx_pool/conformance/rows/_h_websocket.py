"""Table H: WebSockets, and other protocols that somebody would like to change to."""

import asyncio
from http import HTTPStatus

from .._kit import Lab, Request, expect
from .._rows import MUST, WANT, row
from .._websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    End,
    accept_of,
    agreement,
    check_handshake,
    closing,
    handshake,
    is_accepted,
    opened,
    refusing,
)

__all__ = ()

_LARGE = bytes(range(256)) * 800
_REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
_NORMAL = closing(1000)


@row("H1", "the client is accepted when the upstream has agreed, not before", rfc="RFC 6455 4", level=MUST)
async def h1(lab: Lab) -> None:
    """The upstream refuses; it agrees; it answers another key."""
    seen = await lab.exchange(raw=handshake(lab), answer=_REFUSAL)
    switched = seen.response.status == HTTPStatus.SWITCHING_PROTOCOLS
    expect(not switched, "the client was told 101, while the upstream refused")
    check_handshake(seen.request)

    async with opened(lab) as pair:
        await pair.client.send(TEXT, b"hello")
        await pair.upstream.gets(TEXT, b"hello", "a text to the upstream")
        await pair.upstream.send(TEXT, b"and hello")
        await pair.client.gets(TEXT, b"and hello", "a text to the client")

    seen = await lab.exchange(raw=handshake(lab), answer=agreement(accept_of(b"another key")))
    expect(not is_accepted(seen.response), "the client was accepted, while the upstream answered another key")


@row("H2", "the upstream's refusal is relayed: status, header lines, body", level=WANT)
async def h2(lab: Lab) -> None:
    """It asks for a password; it is somewhere else; its page comes in chunks."""
    lines = (b"WWW-Authenticate: Basic", b"X-Why: nobody knows you", b"Set-Cookie: a=1", b"Set-Cookie: b=2")
    head = b"\r\n".join((b"HTTP/1.1 401 Unauthorized", *lines, b"Content-Length: 6", b"", b""))
    response = (await lab.exchange(raw=handshake(lab), answer=refusing(head + b"who is"))).response
    expect(response.status == HTTPStatus.UNAUTHORIZED, f"a refusal with 401 became {response}")
    expect(response.values(b"x-why") == [b"nobody knows you"], "the refusal's own line got lost")
    expect(response.values(b"www-authenticate") == [b"Basic"], "the refusal's WWW-Authenticate got lost")
    expect(response.values(b"set-cookie") == [b"a=1", b"b=2"], "the refusal's two cookies did not stay two lines")
    expect(response.body == b"who is", "the refusal's body got lost")

    moved = b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n"
    response = (await lab.exchange(raw=handshake(lab), answer=refusing(moved))).response
    expect(response.status == HTTPStatus.FOUND, f"a redirect became {response}")
    expect(response.values(b"location") == [b"http://elsewhere.example/"], "the redirect's Location got lost")

    page = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnone\r\n5\r\n here\r\n0\r\n\r\n"
    response = (await lab.exchange(raw=handshake(lab), answer=refusing(page))).response
    expect((response.status, response.body) == (404, b"none here"), f"a refusal in chunks became {response}")


@row("H3", "all offered subprotocols are forwarded, and the choice comes back", rfc="RFC 6455 4.2.2", level=MUST)
async def h3(lab: Lab) -> None:
    """Two on a line, three on two lines, and none chosen."""
    answer = (b"Sec-WebSocket-Protocol: superchat",)
    async with opened(lab, b"Sec-WebSocket-Protocol: chat, superchat", answer=answer) as pair:
        expect(_offered(pair.request) == [b"chat", b"superchat"], "the upstream did not see both subprotocols")
        chosen = pair.response.values(b"sec-websocket-protocol")
        expect(chosen == [b"superchat"], "the client was not told the subprotocol that the upstream chose")

    lines = (b"Sec-WebSocket-Protocol: one", b"Sec-WebSocket-Protocol: two, three")
    async with opened(lab, *lines) as pair:
        expect(_offered(pair.request) == [b"one", b"two", b"three"], "not all subprotocols of two lines arrived")
        chosen = pair.response.values(b"sec-websocket-protocol")
        expect(not chosen, "the client was told a subprotocol, while the upstream chose none")


def _offered(request: Request) -> list[bytes]:
    return request.tokens(b"sec-websocket-protocol")


@row("H4", "the handshake's other header lines pass, both ways", level=WANT)
async def h4(lab: Lab) -> None:
    """Cookies, the origin, credentials, and lines that nobody knows."""
    lines = {
        b"cookie": b"a=1; b=2",
        b"origin": b"http://somewhere.example",
        b"authorization": b"Bearer of-good-news",
        b"x-asked": b"by the client",
    }
    answer = (b"Set-Cookie: c=3", b"Set-Cookie: d=4", b"X-Answered: by the upstream")
    async with opened(lab, *(name + b": " + value for name, value in lines.items()), answer=answer) as pair:
        for name, value in lines.items():
            expect(pair.request.values(name) == [value], f"the client's {name.decode()} did not arrive as it was")
        answered = pair.response.values(b"x-answered")
        expect(answered == [b"by the upstream"], "a line of the upstream's 101 did not arrive")
        cookies = pair.response.values(b"set-cookie")
        expect(cookies == [b"c=3", b"d=4"], "the two cookies of the upstream's 101 did not arrive as two lines")


@row("H5", "messages, close codes and deaths pass, both ways", rfc="RFC 6455 5.4, 7.4", level=MUST)
async def h5(lab: Lab) -> None:
    """Kinds and sizes of messages, fragments; codes and reasons; no code; connections that break."""
    async with opened(lab) as pair:
        await _talk(pair.client, pair.upstream, "the upstream")
        await _talk(pair.upstream, pair.client, "the client")
    for upwards in (True, False):
        await _close(lab, closing(4001, "bis später".encode()), upwards=upwards)
        await _close(lab, b"", upwards=upwards)
        await _die(lab, upwards=upwards, politely=True)
        await _die(lab, upwards=upwards, politely=False)


async def _talk(one: End, other: End, whom: str) -> None:
    await one.send(TEXT, "grüß Gott".encode())
    await other.gets(TEXT, "grüß Gott".encode(), f"a text to {whom}")
    await one.send(BINARY, b"\x00\xff\x80")
    await other.gets(BINARY, b"\x00\xff\x80", f"a binary message to {whom}")
    await one.send(TEXT)
    await other.gets(TEXT, b"", f"an empty text to {whom}")
    # In the middle of a letter, and with something between that is no part of it.
    await one.send(TEXT, b"gr\xc3", final=False)
    await one.send(PING, b"well?")
    await one.send(CONTINUATION, b"\xbc", final=False)
    await one.send(CONTINUATION, b"n")
    await other.gets(TEXT, "grün".encode(), f"a text in three fragments to {whom}")
    await one.send(TEXT, b"-" * 300)
    await other.gets(TEXT, b"-" * 300, f"a text of 300 bytes to {whom}")
    await asyncio.gather(one.send(BINARY, _LARGE), other.gets(BINARY, _LARGE, f"a message of 200 KiB to {whom}"))


async def _close(lab: Lab, payload: bytes, *, upwards: bool) -> None:
    async with opened(lab) as pair:
        one, other = (pair.client, pair.upstream) if upwards else (pair.upstream, pair.client)
        sent = f"a close frame {_said(payload)} to {'the upstream' if upwards else 'the client'}"
        # Both at once: a proxy may tell one side when the other has closed the connection, too.
        leaving = asyncio.create_task(_leave(one, payload, sent))
        try:
            await _is_left(other, payload, sent)
            await leaving
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)


async def _leave(one: End, payload: bytes, sent: str) -> None:
    await one.send(CLOSE, payload)
    await one.end(f"the answer to {sent}")
    await one.hang_up()


async def _is_left(other: End, payload: bytes, sent: str) -> None:
    kind, got = await other.message(sent)
    expect(kind == CLOSE, f"{sent} arrived as a message")
    # A program that speaks for somebody else cannot always say "no code"; then it is 1000.
    wanted = {payload} if payload else {payload, _NORMAL}
    expect(got in wanted, f"{sent} arrived {_said(got)}")
    await other.send(CLOSE, got)
    await other.hang_up()


def _said(payload: bytes) -> str:
    if not payload:
        return "without a code"
    return f"with {int.from_bytes(payload[:2])} {payload[2:].decode()!r}"


async def _die(lab: Lab, *, upwards: bool, politely: bool) -> None:
    async with opened(lab) as pair:
        one, other = (pair.client, pair.upstream) if upwards else (pair.upstream, pair.client)
        (one.close if politely else one.reset)()
        await other.end(f"the end after {'the client' if upwards else 'the upstream'} was gone")


@row("H6", "pings are answered with what was in them, both ways", rfc="RFC 6455 5.5.2", level=MUST)
async def h6(lab: Lab) -> None:
    """By the proxy, or by the other end, which answers pings, too."""
    async with opened(lab) as pair:
        for one, other, whose in (
            (pair.client, pair.upstream, "the client's"),
            (pair.upstream, pair.client, "the upstream's"),
        ):
            await one.send(PING, b"are you there?")
            await one.send(TEXT, b"hello")
            await other.gets(TEXT, b"hello", "a text after a ping")
            await other.send(TEXT, b"and hello")
            await one.gets(TEXT, b"and hello", "a text after a pong")
            expect(b"are you there?" in one.pongs, f"{whose} ping was not answered with what was in it")


@row("H7", "another Upgrade is left out or tunnelled, h2c never passed on", rfc="RFC 9110 7.8", level=MUST)
async def h7(lab: Lab) -> None:
    """A change to HTTP/2, and one to a protocol that nobody knows."""
    lines = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    seen = await lab.exchange(*lines)
    for request in seen.requests:
        expect(b"h2c" not in request.tokens(b"upgrade"), "the upstream got Upgrade: h2c")
        expect(b"http2-settings" not in request.names, "the upstream got HTTP2-Settings")
    # Some servers change to HTTP/2 themselves, which is theirs to do.
    expect(seen.response.status in {101, 200}, f"a request with Upgrade: h2c got {seen.response}")

    seen = await lab.exchange(b"Connection: Upgrade", b"Upgrade: example/1")
    expect(seen.response.status == HTTPStatus.OK, f"a request with Upgrade: example/1 got {seen.response}")


_TARGETS = (b"/a%2Fb;c?x=%zz&y=a+b&&=", b"/a//b/", b"/'%41~[]?next=../x", b"/%2e%2e/secret", b"/../secret")


@row("H8", "target, prefix and identity are as they are for HTTP", level=WANT)
async def h8(lab: Lab) -> None:
    """The same targets and lies over both, compared as the upstream sees them."""
    lies = (b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Host: lies.example", b"Forwarded: for=192.0.2.2")
    for target in _TARGETS:
        plain = (await lab.exchange(*lies, target=target, answer=_REFUSAL)).requests
        count, before = len(plain), len(lab.upstream.requests)
        await lab.exchange(raw=handshake(lab, *lies, target=target), answer=refusing(_REFUSAL))
        sockets = [await lab.upstream.request(before + index) for index in range(count)]
        also = len(lab.upstream.requests) == before + count
        expect(also, f"a WebSocket's {target.decode()} went upstream, while it is refused over HTTP")
        for one, other in zip(plain, sockets, strict=True):
            expect(one.target == other.target, f"{target.decode()} went upstream as {other.target.decode('latin-1')}")
            for name in (b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-prefix", b"via"):
                same = one.values(name) == other.values(name)
                expect(same, f"{name.decode()} was {_listed(other, name)}, and over HTTP {_listed(one, name)}")


def _listed(request: Request, name: bytes) -> str:
    return " and ".join(value.decode("latin-1") for value in request.values(name)) or "not there"
