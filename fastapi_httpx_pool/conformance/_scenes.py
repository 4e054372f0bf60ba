"""
What several rows do with both ends of the wire.

- ``Hands`` is an upstream's script that leaves everything to the row, which can then tell its story in one line:
  the client sends this, the upstream gets that, and answers, and so on.
- ``by_path`` is an upstream that answers each path in its own way.
- ``arrives``, ``comes`` and ``push`` are waits, each with a limit.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ._kit import Client, Lab, NotMet, Response, Script, TookTooLong, UpstreamConnection, Wire, answering, expect

__all__ = (
    "FRAMINGS",
    "MOMENT",
    "Framing",
    "Hands",
    "answers",
    "arrives",
    "by_path",
    "chunk",
    "comes",
    "count",
    "is_refusal",
    "push",
    "respond",
)

MOMENT = 0.1
"""Seconds that are given to what should not happen."""

_STALLED = 0.25
"""Seconds after which what nobody takes is not taken any more."""

_CLIENTS_FAULTS = range(400, 500)
_NOT_IMPLEMENTED = 501


def chunk(data: bytes) -> bytes:
    """Return one chunk of a body in chunks."""
    return b"%x\r\n%s\r\n" % (len(data), data)


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
    Framing("a body in chunks", b"Transfer-Encoding: chunked", chunked=True),
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


async def count(wire: Wire, byte: bytes) -> int:
    """Read a body in chunks, or to the end of the connection, and return how often a byte is in it."""
    found, tail = 0, b""
    while not tail.endswith(b"\r\n0\r\n\r\n") and (data := await wire.read()):
        found += data.count(byte)
        tail = (tail + data)[-7:]
    return found
