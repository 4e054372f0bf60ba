"""Table F: what becomes of a request when the upstream fails, is late, or nobody waits for the answer any more."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus

from .._kit import (
    Client,
    Lab,
    NotApplicable,
    Response,
    TookTooLong,
    UpstreamConnection,
    chunk,
    chunked,
    expect,
    ok,
    shown,
)
from .._rows import MUST, OPTION, WANT, row
from .._scenes import (
    CHUNKED_LINE,
    CHUNKED_OK,
    MOMENT,
    Hands,
    answers,
    arrives,
    by_path,
    drain,
    is_refusal,
    respond,
    stuff,
)

__all__ = ()

_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
_LATE = "nothing within {:g} s; if the proxy's own timeout is longer, shorten it, or use a longer --timeout"
_AT_ONCE = 128
_QUEUE = 0
_ONCE_MORE = 2
"""How often a request may be sent that is tried once more."""


@row("F1", "an upstream that refuses the connection is a 502", rfc="RFC 9110 15.6.3", level=WANT)
async def f1(lab: Lab) -> None:
    """With a body and without."""
    async with lab.upstream_down():
        for method, body in ((b"GET", None), (b"POST", b"hello")):
            response = (await lab.exchange(method=method, body=body)).response
            answers(response, 502, "a refused connection")
    answers((await lab.exchange()).response, 200, "when the upstream is back")


@row("F2", "an upstream that does not take the connection in time is a 504", rfc="RFC 9110 15.6.5", level=WANT)
async def f2(lab: Lab) -> None:
    """Its queue of connections is full, so that the kernel answers nothing."""
    async with lab.upstream_down() as address:
        with _full(address):
            await _check_late(lab, "a connection that is not taken")
    answers((await lab.exchange()).response, 200, "when the upstream is back")


@contextlib.contextmanager
def _full(address: tuple[str, int]) -> Iterator[None]:
    """Listen with a queue for connections that is full already."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_QUEUE)
        try:
            for _ in range(8):
                stack.enter_context(socket.create_connection(address, timeout=MOMENT))
        except OSError:
            yield
            return
        raise NotApplicable("on this system, connections are taken that nobody accepts")


async def _check_late(lab: Lab, what: str) -> None:
    client = await lab.client()
    await client.send(lab.request())
    response = await respond(client, f"{what}: {_LATE.format(lab.patience)}", within=lab.patience)
    answers(response, 504, what)


@row("F3", "an upstream that does not answer in time is a 504", rfc="RFC 9110 15.6.5", level=WANT)
async def f3(lab: Lab) -> None:
    """It has taken the request, and is silent."""
    Hands(lab)
    await _check_late(lab, "an upstream that is silent")


@row("F4", "a body that stalls is broken off, not waited for without end", level=WANT)
async def f4(lab: Lab) -> None:
    """In the middle; whoever has not begun the answer may give an error in its place."""
    late = f"a body that stalls: {_LATE.format(lab.patience)}"
    hands, client = Hands(lab), await lab.client()
    await client.send(lab.request())
    upstream = await hands.take("the request did not go up")
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    try:
        response = await client.response_head(lab.patience)
        rest = await client.read_to_end(lab.patience) if response.status == HTTPStatus.OK else b""
    except TookTooLong:
        raise TookTooLong(late) from None
    expect(response.status in {200, 502, 504}, f"a body that stalls became {response}")
    expect(not rest.endswith(b"\r\n0\r\n\r\n"), "a body that stalls looks whole to the client")
    expect(await upstream.closed(), "the client was told, and the upstream's connection stays open")


@row("F5", "when all connections are taken, the answer is 503 with Retry-After", rfc="RFC 9110 15.6.4", level=OPTION)
async def f5(lab: Lab) -> None:
    """128 requests at once, whose responses do not end."""
    hands = Hands(lab)
    clients = [await lab.client() for _ in range(_AT_ONCE)]
    for client in clients:
        await client.send(lab.request())
    arrived = 0
    while arrived < _AT_ONCE and (upstream := await hands.look(lab.timeout / 2)):
        await upstream.send(_STREAM + b"\r\n")  # so that it is not late
        arrived += 1
    if arrived == _AT_ONCE:
        raise NotApplicable(f"{_AT_ONCE} requests at once all reached the upstream: the proxy has room for more")
    late = f"no room for {_AT_ONCE - arrived} requests: {_LATE.format(lab.patience)}"
    heads = await asyncio.gather(*(_head(client, lab.patience) for client in clients))
    told = [head for head in heads if head is not None and head.status != HTTPStatus.OK]  # which is the upstream's own
    expect(told, late)
    full = [head for head in told if head.status == HTTPStatus.SERVICE_UNAVAILABLE]
    expect(full, f'a request without room: 503 was due, the client got "{shown(told[0].start)}"')
    expect(b"retry-after" in full[0].names, "a 503 for want of room has no Retry-After")


async def _head(client: Client, within: float) -> Response | None:
    """Read the head of a response; None if it does not come."""
    try:
        return await client.response_head(within)
    except TookTooLong:
        return None


async def _close(connection: UpstreamConnection) -> None:
    await connection.read_body()
    connection.close()


async def _reset(connection: UpstreamConnection) -> None:
    await connection.read_body()
    connection.reset()


async def _half(connection: UpstreamConnection) -> None:
    await connection.read_body()
    await connection.send(b"HTTP/1.1 200 OK\r\nX-Half: 1")
    connection.close()


@row("F6", "an upstream that hangs up without a whole head is a 502", rfc="RFC 9110 15.6.3", level=WANT)
async def f6(lab: Lab) -> None:
    """Closed or reset without a byte, and with half a head."""
    for what, script in (
        ("an empty reply", _close),
        ("a reset in place of a reply", _reset),
        ("half a head", _half),
    ):
        for method, body in ((b"GET", None), (b"POST", b"hello")):
            answers((await lab.exchange(method=method, body=body, answer=script)).response, 502, what)


@row("F7", "a broken request body is the client's fault, a broken upload the upstream's", level=WANT)
async def f7(lab: Lab) -> None:
    """A chunk that is none is no 5xx; an upstream that resets the connection is no 4xx."""

    async def unread(connection: UpstreamConnection) -> None:
        connection.reset()

    response = (await lab.exchange(method=b"POST", body=b"hello" * 20_000, answer=unread)).response
    expect(response.status in range(500, 600), f"an upload that the upstream broke off: the client got {response}")
    broken = b"5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n"
    seen = await lab.exchange(CHUNKED_LINE, method=b"POST", body=broken, answer=ok())
    expect(is_refusal(seen.response), f"a broken chunk from the client: 400 was due, the client got {seen.response}")


_INSIDE = (b"Traceback", b"Errno", b"ECONN", b'.py"', b"refused", b"socket", b"Exception", b"\n    at ", b"dial ")


@row("F8", "errors tell the client nothing about what is behind the proxy", level=WANT)
async def f8(lab: Lab) -> None:
    """Neither addresses nor exceptions, when there is no upstream and when it hangs up."""
    hung_up = (await lab.exchange(answer=_close)).response
    async with lab.upstream_down():
        refused = (await lab.exchange()).response
    for response in (hung_up, refused):
        expect(response.status in range(500, 600), f"no error to look into: {response}")
        told = [word for word in (lab.upstream_authority, *_INSIDE) if word in response.body]
        expect(not told, f"the body of a {response.status} tells of the inside: {b', '.join(told).decode()}")


_LEAVING = ("close", "reset")


@row("F9", "a client that leaves does no harm to others, and is no failure of the upstream's", level=WANT)
async def f9(lab: Lab) -> None:
    """Twenty leave; the next one is served. (What the log says of them cannot be seen from here.)"""
    hands = Hands(lab)
    for number in range(20):
        client = await lab.client()
        await client.send(lab.request())
        await hands.take(f"after {number} clients that left, a request did not go up")
        getattr(client, _LEAVING[number % 2])()
    answers((await lab.exchange(answer=ok())).response, 200, "after 20 clients that left")


@row("F10", "when the client leaves before the answer, the upstream is let go at once", level=WANT)
async def f10(lab: Lab) -> None:
    """Closed and reset; without a body, and with one that has been sent."""
    for method, body in ((b"GET", None), (b"POST", b"hello")):
        for leave in _LEAVING:
            hands, client = Hands(lab), await lab.client()
            await client.send(lab.request(method=method, body=body))
            upstream = await hands.take("the request did not go up")
            await upstream.read_body()
            getattr(client, leave)()
            what = f"the client left ({leave}) before the answer to its {method.decode()}"
            expect(await upstream.closed(lab.timeout / 2), f"{what}, and the upstream is kept busy")


@row("F11", "when the client leaves in the middle, the upstream is let go, though nothing flows", level=WANT)
async def f11(lab: Lab) -> None:
    """Closed and reset, in a stream that is silent."""
    for leave in _LEAVING:
        hands, client = Hands(lab), await lab.client()
        await client.send(lab.request())
        upstream = await hands.take("the request did not go up")
        await upstream.send(CHUNKED_OK + chunk(b"hello"))
        await arrives(client, b"hello", "the beginning of the body did not come down before its end")
        getattr(client, leave)()
        expect(await upstream.closed(lab.timeout / 2), f"the client left ({leave}), and the silent upstream is kept")


@row("F12", "an upstream that dies in the middle ends the response, and costs no room", level=WANT)
async def f12(lab: Lab) -> None:
    """150 times, and the next request is served."""

    async def dying(connection: UpstreamConnection) -> None:
        await connection.read_body()
        await connection.send(CHUNKED_OK + chunk(b"hello"))
        connection.reset()

    lab.upstream.answer_with(by_path({b"die": dying, b"x": ok(b"next")}))
    for _ in range(15):
        for seen in await asyncio.gather(*(lab.exchange(target=b"/die") for _ in range(10))):
            response = seen.response
            fine = not response.complete or response.status == HTTPStatus.BAD_GATEWAY
            expect(fine, f"the end of the upstream looks like {response}")
    response = (await lab.exchange()).response
    expect(response.body == b"next", f"after 150 upstreams that died, the client got {response}")


@row("F13", "a slow client throttles the upstream: the proxy does not keep the response", level=WANT)
async def f13(lab: Lab) -> None:
    """Nothing is read of a response that would not end; when it is read at last, all of it is there."""
    hands, client = Hands(lab), await lab.client()
    client.tighten()
    await client.send(lab.request())
    upstream = await hands.take("the request did not go up")
    upstream.tighten()
    await upstream.send(CHUNKED_OK)
    length = await stuff(upstream, "the client")
    await client.response_head()
    await drain(upstream, client, length, lab.patience, "a response")


@row("F14", "as long as something comes now and then, nothing is too slow", level=WANT)
async def f14(lab: Lab) -> None:
    """A response and an upload, each in six pieces, which take longer than the proxy waits for one of them."""
    pause = lab.timeout / 5
    lab.upstream.answer_with(by_path({b"down": _dripping(pause), b"up": _echo}))
    down, up = await asyncio.gather(lab.exchange(target=b"/down"), _upload(lab, pause))
    for what, response in (("a response", down.response), ("the answer to an upload", up)):
        answers(response, 200, f"{what} that takes its time")
        expect(response.body == b"piece" * 6, f"{what} that takes its time did not arrive whole")


def _dripping(pause: float) -> Callable[[UpstreamConnection], Awaitable[None]]:
    async def script(connection: UpstreamConnection) -> None:
        await connection.read_body()
        await connection.send(CHUNKED_OK)
        async for piece in _pieces(pause):
            await connection.send(chunk(piece))
        await connection.send(chunked())

    return script


async def _pieces(pause: float) -> AsyncIterator[bytes]:
    for _ in range(6):
        await asyncio.sleep(pause)
        yield b"piece"


async def _echo(connection: UpstreamConnection) -> None:
    await connection.send(ok(await connection.read_body()))


async def _upload(lab: Lab, pause: float) -> Response:
    client = await lab.client()
    await client.send(lab.request(b"Content-Length: 30", method=b"POST", target=b"/up"))
    async for piece in _pieces(pause):
        await client.send(piece)
    return await respond(client, "an upload that takes its time is not answered")


@row("F15", "a stream's head goes out at once, and then each piece as it comes", level=WANT)
async def f15(lab: Lab) -> None:
    """Server-sent events, in chunks and to the end of the connection."""
    for what, line in (("events in chunks", b"Transfer-Encoding: chunked\r\n"), ("events without a length", b"")):
        hands, client = Hands(lab), await lab.client()
        await client.send(lab.request())
        upstream = await hands.take("the request did not go up")
        await upstream.send(_STREAM + line + b"\r\n")
        await arrives(client, b"\r\n\r\n", f"{what}: the head did not come down before the first of them")
        for data in (b"data: 1\n\n", b"data: 2\n\n"):
            await upstream.send(chunk(data) if line else data)
            await arrives(client, data, f"{what}: one did not come down before the next")


@row(
    "F16",
    "who meets a stale connection tries once more if that does no harm, else never",
    rfc="RFC 9110 9.2.2",
    level=MUST,
)
async def f16(lab: Lab) -> None:
    """The connection was used before, and closes without a byte of an answer."""
    for method in (b"POST", b"PATCH"):
        tries, _ = await _tries_on_stale(lab, method)
        expect(tries == 1, f"a {method.decode()} was sent {tries} times")
    seen = await lab.exchange(answer=_close)
    fresh = [request for request in seen.requests if not request.turn]
    expect(len(fresh) <= 1, f"a GET was sent again over {len(fresh)} new connections, one after the other")
    tries, response = await _tries_on_stale(lab, b"GET")
    answers(response, 200, "a GET on a connection that had become stale")
    expect(tries <= _ONCE_MORE, f"a GET on a connection that had become stale was sent {tries} times")


async def _tries_on_stale(lab: Lab, method: bytes) -> tuple[int, Response]:
    """Use a connection, and have it end on the next request without an answer."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.read_body()
        if connection.request.turn:
            connection.close()
        else:
            await connection.send(ok())

    await lab.exchange(answer=script)
    await asyncio.sleep(MOMENT / 5)  # until the connection is back in the pool
    seen = await lab.exchange(method=method)
    return len(seen.requests), seen.response


@row(
    "F17",
    "a connection that was closed while idle is replaced without anybody noticing",
    rfc="RFC 9112 9.5",
    level=WANT,
)
async def f17(lab: Lab) -> None:
    """Even for what is not tried twice."""
    for method in (b"GET", b"POST"):

        async def script(connection: UpstreamConnection) -> None:
            await connection.read_body()
            await connection.send(ok())
            await asyncio.sleep(MOMENT / 5)
            connection.close()

        await lab.exchange(answer=script)
        await asyncio.sleep(MOMENT)
        what = f"a {method.decode()} after an idle connection was closed"
        answers((await lab.exchange(method=method, answer=ok())).response, 200, what)


@row("F18", "an upstream's error is an answer: passed on, and asked for once", level=WANT)
async def f18(lab: Lab) -> None:
    """Also with Retry-After, which is for the client."""
    for status in (429, 500, 502, 503, 504):
        answer = b"HTTP/1.1 %d No\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nno" % status
        seen = await lab.exchange(answer=answer)
        expect(len(seen.requests) == 1, f"the upstream said {status}, and was asked {len(seen.requests)} times")
        answers(seen.response, status, f"an upstream's {status}")
        expect(seen.response.body == b"no", f"an upstream's {status} lost its body")
        expect(seen.response.values(b"retry-after") == [b"1"], f"an upstream's {status} lost its Retry-After")


@row("F19", "a trace goes on: there is one traceparent, of the same trace", level=WANT)
async def f19(lab: Lab) -> None:
    """Passed on, or put anew. (That failures are one line of the log each cannot be seen from here.)"""
    trace = b"0af7651916cd43dd8448eb211c80319c"
    values = (await lab.exchange(b"traceparent: 00-%s-b7ad6b7169203331-01" % trace)).request.values(b"traceparent")
    expect(len(values) == 1, f"the upstream got {len(values)} lines of traceparent")
    expect(values[0].split(b"-")[1:2] == [trace], "the upstream got the traceparent of another trace")
