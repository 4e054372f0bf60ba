"""
What several rows do with both ends of the wire.

- ``Hands`` is an upstream's script that leaves everything to the row, which can then tell its story in one line:
  the client sends this, the upstream gets that, and answers, and so on.
- ``by_path`` is an upstream that answers each path in its own way.
- ``arrives``, ``comes`` and ``push`` are waits, each with a limit.
- ``stuff`` and ``drain`` are the two halves of a body that nobody reads for a while.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ._kit import (
    Client,
    Lab,
    NotMet,
    Request,
    Response,
    Script,
    TookTooLong,
    UpstreamConnection,
    Wire,
    answering,
    chunk,
    expect,
)

__all__ = (
    "CHUNKED_LINE",
    "CHUNKED_OK",
    "FRAMINGS",
    "MOMENT",
    "Framing",
    "Hands",
    "answers",
    "arrives",
    "by_path",
    "comes",
    "drain",
    "framed_by",
    "is_refusal",
    "push",
    "respond",
    "stuff",
)

MOMENT = 0.1
"""Seconds that are given to what should not happen."""

_STALLED = 0.25
"""Seconds after which what nobody takes is not taken any more."""

_BLOCK = b"x" * 65536
_MOST_UNREAD = 64 * 1024 * 1024
"""Kernels hold some 20 MB of a body that nobody reads; who takes more than this keeps it."""

CHUNKED_LINE = b"Transfer-Encoding: chunked"
CHUNKED_OK = b"HTTP/1.1 200 OK\r\n" + CHUNKED_LINE + b"\r\n\r\n"
"""The head of a 200 whose body comes in chunks."""

_CLIENTS_FAULTS = range(400, 500)
_NOT_IMPLEMENTED = 501


@dataclass(frozen=True)
class Framing:
    """How a request says where its body ends."""

    name: str
    line: bytes
    chunked: bool

    def piece(self, data: bytes) -> bytes:
        """Return a piece of the body as it is sent."""
        return chunk(data) if self.chunked else data


FRAMINGS = (
    Framing("a body of known length", b"Content-Length: 10", chunked=False),
    Framing("a body in chunks", CHUNKED_LINE, chunked=True),
)
"""For bodies of ten bytes."""


class Hands:
    """A script that puts each request into the row's hands, and keeps its connection open until the row is over."""

    def __init__(self, lab: Lab) -> None:
        self._limit = lab.timeout
        self._arrived: asyncio.Queue[UpstreamConnection] = asyncio.Queue()
        lab.upstream.answer_with(self)

    async def __call__(self, connection: UpstreamConnection) -> None:
        """Hand a request over; the upstream breaks this off when the next row begins."""
        self._arrived.put_nowait(connection)
        await asyncio.Event().wait()

    async def take(self, otherwise: str, within: float | None = None) -> UpstreamConnection:
        """
        Wait for the next request's head and return its connection; the body is still to be read.

        Raises:
            NotMet: It did not arrive in time; with the text.
        """
        found = await self.look(self._limit if within is None else within)
        if found is None:
            raise NotMet(otherwise)
        return found

    async def look(self, within: float) -> UpstreamConnection | None:
        """Wait for the next request's head as ``take`` does; None if none comes."""
        try:
            async with asyncio.timeout(within):
                return await self._arrived.get()
        except TimeoutError:
            await _resumed()
            return None


def by_path(answers: Mapping[bytes, bytes | Script]) -> Script:
    """Return a script that answers by the last segment of the target's path, with bytes or by a script."""
    scripts = {path: answering(answer) if isinstance(answer, bytes) else answer for path, answer in answers.items()}

    async def script(connection: UpstreamConnection) -> None:
        await scripts[connection.request.target.rpartition(b"/")[2]](connection)

    return script


async def arrives(wire: Wire, mark: bytes, otherwise: str) -> bytes:
    """
    Wait for some bytes and return what came up to and with them.

    Raises:
        NotMet: They did not come in time, or the connection was closed; with the text.
    """
    try:
        data = await wire.read_until(mark)
    except TookTooLong:
        raise NotMet(otherwise) from None
    expect(data.endswith(mark), f"{otherwise}: the connection was closed")
    return data


async def comes(wire: Wire, within: float = MOMENT) -> bytes:
    """Return what comes within a moment, if anything does."""
    try:
        return await wire.read(within)
    except TookTooLong:
        await _resumed()
        return b""


async def _resumed() -> None:
    """Wait for nothing: tracers of Python 3.11 lose who awaits what a time limit ended, until it is resumed."""
    await asyncio.sleep(0)


async def respond(client: Client, otherwise: str, method: bytes = b"GET", within: float | None = None) -> Response:
    """
    Wait for a response and return it.

    Raises:
        NotMet: It did not come in time, or did not go on; with the text.
    """
    try:
        return await client.response(method, within)
    except TookTooLong:
        raise NotMet(otherwise) from None


def answers(response: Response, statuses: int | Iterable[int], what: str) -> None:
    """
    Check a response's status, and that it came to its end.

    Raises:
        NotMet: It is another one; with the text, which says what it is the answer to.
    """
    wanted = {statuses} if isinstance(statuses, int) else set(statuses)
    names = " or ".join(str(status) for status in sorted(wanted))
    expect(response.status in wanted and response.complete, f"{what}: {names} was due, the client got {response}")


def framed_by(request: Request) -> list[bytes]:
    """Return the names of the lines that say where a request's body ends, one for each line."""
    return sorted(
        name.lower() for name, _ in request.lines if name.lower() in {b"content-length", b"transfer-encoding"}
    )


def is_refusal(response: Response) -> bool:
    """Whether the proxy would not have a request: it blamed the client, or hung up."""
    return response.status in _CLIENTS_FAULTS or response.status in {0, _NOT_IMPLEMENTED}


async def push(wire: Wire, block: bytes, most: int) -> int:
    """Send a block again and again until nobody takes it, or it was that much; return how many bytes were taken."""
    taken = 0
    while taken < most and await wire.send(block, within=_STALLED):
        taken += len(block)
    await _resumed()
    return taken


async def stuff(wire: Wire, whose: str) -> int:
    """
    Send a body in chunks, all but its end, until nobody takes it, and return how long it is.

    Raises:
        NotMet: It is taken without end; the text says who had not read it.
    """
    block = chunk(_BLOCK)
    taken = await push(wire, block, _MOST_UNREAD)
    expect(taken < _MOST_UNREAD, f"the proxy took {_MOST_UNREAD >> 20} MiB that {whose} had not read")
    return (taken // len(block) + 1) * len(_BLOCK)  # with the one that got stuck


async def drain(sender: Wire, receiver: Wire, length: int, within: float, what: str) -> None:
    """
    Send the end of such a body, and read all of it.

    Raises:
        NotMet: Not all of it is there.
    """
    _, arrived = await asyncio.gather(sender.send(chunk(b""), within=within), _count(receiver))
    expect(arrived == length, f"{what} that had been throttled did not arrive whole")


async def _count(wire: Wire) -> int:
    """Read a body in chunks, or to the end of the connection, and return how much of what ``stuff`` sends is in it."""
    found, tail = 0, b""
    while not tail.endswith(b"\r\n0\r\n\r\n") and (data := await wire.read()):
        found += data.count(_BLOCK[:1])
        tail = (tail + data)[-7:]
    return found
