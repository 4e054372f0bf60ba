"""How many connections a client opens for calls that its limits have room for."""

import asyncio
import time

from ._clients import Client

__all__ = ("FIGURES", "LOOPS_MATTER", "TITLE", "measure")

TITLE = "600 requests by 50 callers to an upstream that takes 100 ms."
FIGURES = ("connections opened", "seconds")
LOOPS_MATTER = False

_CALLERS = 50
_CALLS = 12


async def measure(client: Client, origin: str) -> list[float]:
    """Return the connections that were opened, and how long it took."""

    async def caller() -> None:
        for _ in range(_CALLS):
            await client.get(f"{origin}/1024?delay=0.1")

    before = await _connections(origin)
    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    seconds = time.perf_counter() - started
    return [await _connections(origin) - before - 1, seconds]


async def _connections(origin: str) -> int:
    """Ask the upstream, on a connection of its own."""
    host, _, port = origin.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /connections HTTP/1.1\r\nhost: upstream\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(await reader.readexactly(length))
    finally:
        writer.close()
