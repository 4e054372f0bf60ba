"""A proxy of raw bytes that does WebSockets right, except for what a test has it do wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.support.faults import Change


def nothing(data: bytes) -> bytes:
    """Change nothing."""
    return data


def first_bits(old: int, new: int) -> Change:
    """Return what gives pieces whose first byte is this one another first byte."""
    return lambda data: bytes((new,)) + data[1:] if data[:1] == bytes((old,)) else data


@dataclass(frozen=True)
class Faults:
    """What is done to the head of each request and response, and to each piece that comes after."""

    request: Change = nothing
    response: Change = nothing
    up: Change = nothing
    down: Change = nothing
    first: Change = lambda head: b""
    """What is told to the client before the upstream is asked; which is not, unless that is a 101."""
    passes_upgrades: bool = False
    """All of them, h2c, too."""
    keeps: bool = False
    """When one side goes without a close frame, the other stays."""


@asynccontextmanager
async def tunnelling(port: int, faults: Faults | None = None) -> AsyncIterator[int]:
    """Lead ``/p`` to ``/base`` of an upstream for a block, and give the port for clients."""
    tunnel = _Tunnel(port, faults or Faults())
    server = await asyncio.start_server(tunnel.serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await tunnel.stop()


@dataclass
class _Tunnel:
    port: int
    faults: Faults
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # somebody went, or the test is over
        finally:
            self.tasks.discard(task)
            writer.transport.abort()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faults = self.faults
        head = (await reader.readuntil(b"\r\n\r\n")).replace(b" /p", b" /base", 1)
        first = faults.first(head)
        writer.write(first)
        if first and b" 101 " not in first:
            await reader.read()
            return
        if not faults.passes_upgrades and b"\r\nUpgrade: websocket" not in head:
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith((b"Upgrade", b"HTTP2-")))
        upper_reader, upper = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            upper.write(faults.request(head))
            answer = faults.response(await upper_reader.readuntil(b"\r\n\r\n"))
            writer.write(b"" if first else answer)
            await self._relay((reader, upper, faults.up), (upper_reader, writer, faults.down))
        finally:
            upper.transport.abort()

    async def _relay(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter, Change]) -> None:
        over = asyncio.Event()
        tasks = {asyncio.create_task(self._one_way(*way, over)) for way in ways}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.faults.keeps:
                await over.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one_way(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change, over: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                if piece[:1] == b"\x88":  # a close frame
                    over.set()
                writer.write(change(piece))
                await writer.drain()
