"""More proxies that do something wrong, for the conformance suite: they stream, keep connections, or try again."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi_httpx_pool.conformance._kit import Client
from tests.support.conformance import LIMIT, NaiveProxy, again


@dataclass(frozen=True)
class Relay(NaiveProxy):
    """
    Passes each piece on as it comes, both ways, until either side leaves.

    ``request`` changes each piece that goes up, and ``response`` each that comes down.
    """

    at_once: Callable[[bytes], bytes] = lambda head: b""
    """What the client is told when a head has come."""
    last_words: bytes = b""
    """What the upstream is told when the client has left."""
    parting: bytes = b""
    """What the client is told when the upstream has left."""
    throttles: bool = True
    """Whether it waits for the one side before it reads on from the other."""
    lingers: bool = False
    """Whether it keeps the one side when the other has left."""
    lifetime: float | None = None
    """Seconds after which it closes everything."""

    async def serve(self, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        answer = self.answer(head)
        if answer is not None:
            writer.write(answer)
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", upstream)
        writer.write(self.at_once(head))
        up_writer.write(self.request(head.replace(b" /p", b" /base", 1)))
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer, self.request, self.last_words)),
            asyncio.create_task(self._pump(up_reader, writer, self.response, self.parting)),
        ]
        try:
            when = asyncio.ALL_COMPLETED if self.lingers else asyncio.FIRST_COMPLETED
            await asyncio.wait(pumps, timeout=self.lifetime, return_when=when)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            up_writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Callable[[bytes], bytes],
        last: bytes,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(change(data))
                if self.throttles:
                    await writer.drain()
        with contextlib.suppress(ConnectionError):
            writer.write(last)
            await writer.drain()


@dataclass(frozen=True)
class Pooling(NaiveProxy):
    """Keeps one connection to the upstream for everybody, and whatever comes on it is the next response."""

    kept: list[Client] = field(default_factory=list)

    async def _forward(self, port: int, head: bytes, body: bytes) -> bytes:
        client = self.kept.pop() if self.kept else Client(*await asyncio.open_connection("127.0.0.1", port), LIMIT)
        await client.send(self.request(head.replace(b" /p", b" /base", 1)) + body)
        response = await client.response(head.partition(b" ")[0])
        if not response.complete:
            client.close()
            return b""
        self.kept.append(client)
        return self.response(again(response))

    def finish(self) -> None:
        """Close what is kept."""
        for client in self.kept:
            client.close()


@dataclass(frozen=True)
class Retrying(Pooling):
    """Tries again, up to three times in all."""

    tries_again: Callable[[bytes, bytes], bool] = lambda head, answer: False
    """Whether it does, given the request's head and the answer, which is empty if there was none."""

    async def _forward(self, port: int, head: bytes, body: bytes) -> bytes:
        for _ in range(3):
            answer = await super()._forward(port, head, body)
            if not self.tries_again(head, answer):
                break
        return answer


def after(count: int, then: Callable[[bytes], bytes | None]) -> Callable[[bytes], bytes | None]:
    """Return what answers requests in the upstream's stead, but only after so many."""
    seen = 0

    def answer(head: bytes) -> bytes | None:
        nonlocal seen
        seen += 1
        return then(head) if seen > count else None

    return answer
