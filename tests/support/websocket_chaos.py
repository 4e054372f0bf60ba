"""Very many WebSockets at once whose ends leave at random: one asyncio upstream in a thread, and asyncio clients."""

import asyncio
import random
from collections import Counter

from tests.support.chaos import Misbehaving, Reader, Writer
from tests.support.raw_client import headers_of
from tests.support.upstream import LIMIT
from tests.support.websocket_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    closing,
    frame,
    handshake,
    masked,
    switching,
)

REFUSAL = b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"


async def read_frame(reader: Reader) -> tuple[int, bytes]:
    """Return opcode and payload of a frame."""
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length >= 126:
        length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
    mask = await reader.readexactly(4) if second & 0x80 else bytes(4)
    return first & 0x0F, masked(await reader.readexactly(length), mask)


class Side:
    """One end of a WebSocket that leaves when and how it likes."""

    def __init__(self, reader: Reader, writer: Writer, rng: random.Random, mask: bytes | None) -> None:
        self._reader = reader
        self._writer = writer
        self._random = rng
        self._mask = mask

    async def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """Send a frame."""
        self._writer.write(frame(opcode, payload, fin=fin, mask=self._mask))
        await self._writer.drain()

    async def read(self) -> tuple[int, bytes]:
        """Return the next frame that is neither ping nor pong; pings are answered."""
        while True:
            opcode, payload = await read_frame(self._reader)
            if opcode == PING:
                await self.send(PONG, payload)
            elif opcode != PONG:
                return opcode, payload

    async def leave(self) -> str:
        """Leave in one of the ways in which people do."""
        way = self._random.choice(["close", "close-and-wait", "hang-up", "reset", "half-a-frame", "nonsense"])
        if way.startswith("close"):
            await self.send(CLOSE, closing(self._random.choice([None, 1000, 1001, 4000])))
            if way == "close-and-wait":
                while (await self.read())[0] != CLOSE:
                    pass
        elif way == "half-a-frame":
            self._writer.write(frame(TEXT, b"hello", mask=self._mask)[:-2])
        elif way == "nonsense":
            await self.send(3, b"what is this")
        if way == "reset":
            self._writer.transport.abort()
        return way


class EchoingChaos(Misbehaving):
    """An upstream that sends each message back, in one frame or several, until it leaves at random."""

    async def _serve_connection(self, reader: Reader, writer: Writer) -> None:
        self.done[await self._answer(reader, writer)] += 1

    def _close(self, writer: Writer) -> None:
        writer.close()

    async def _answer(self, reader: Reader, writer: Writer) -> str:
        head = await reader.readuntil(b"\r\n\r\n")
        fate = "accept" if self.behaves else self._random.choice(["accept"] * 7 + ["refuse", "hang-up", "wait"])
        if fate == "refuse":
            writer.write(REFUSAL)
            await writer.drain()
            return fate
        if fate == "wait":
            await asyncio.sleep(0.3)
        if fate in {"hang-up", "wait"}:
            return fate
        writer.write(switching(head))
        return await self._echo(Side(reader, writer, self._random, None))

    async def _echo(self, side: Side) -> str:
        for _ in range(1000 if self.behaves else self._random.randrange(1, 12)):
            opcode, payload = await side.read()
            if opcode == CLOSE:
                await side.send(CLOSE, payload)
                return "told"
            if self._random.random() < 0.2:
                await side.send(PING, b"are you there")
                await side.send(opcode, payload[:3], fin=False)
                await side.send(CONTINUATION, payload[3:])
            else:
                await side.send(opcode, payload)
        return await side.leave()


class Visitor:
    """A client that opens a WebSocket, talks for a while, looks at what it gets, and leaves at random."""

    def __init__(self, port: int, seed: int, *, behaves: bool = False) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._name = b"%d" % seed
        self._behaves = behaves

    async def __call__(self) -> str:
        """Do that once; return how it ended."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            return await self._visit(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            return "broken off"
        finally:
            writer.close()

    async def _visit(self, reader: Reader, writer: Writer) -> str:
        writer.write(handshake(b"/" + self._name))
        if not self._behaves and self._random.random() < 0.1:
            await asyncio.sleep(self._random.choice([0, 0.01, 0.05]))
            return "left early"
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            assert int(head.split(b" ")[1]) in {403, 502, 503, 504}, head
            assert b"sec-websocket-protocol" not in dict(headers_of(head))
            return "refused"
        return await self._talk(Side(reader, writer, self._random, MASK))

    async def _talk(self, side: Side) -> str:
        for number in range(5 if self._behaves else self._random.randrange(12)):
            sent = (
                self._random.choice([TEXT, BINARY]),
                b"%b-%d" % (self._name, number) * self._random.choice([1, 1, 1000, 20_000]),
            )
            await side.send(*sent)
            got = await side.read()
            if got[0] == CLOSE:
                await side.send(CLOSE, got[1])
                return "told"
            assert got == sent, (got[0], got[1][:50], sent[1][:50])
        if self._behaves:
            await side.send(CLOSE, closing(1000))
            while (await side.read())[0] != CLOSE:
                pass
            return "well"
        return "left by " + await side.leave()


async def visit(port: int, count: int, at_once: int, *, behaving: bool = False) -> Counter[str]:
    """Let so many clients come, so many of them at the same time, and count how it ended."""
    free = asyncio.Semaphore(at_once)

    async def one(seed: int) -> str:
        async with free:
            return await Visitor(port, seed, behaves=behaving)()

    async with asyncio.timeout(LIMIT):
        return Counter(await asyncio.gather(*(one(seed) for seed in range(count))))
