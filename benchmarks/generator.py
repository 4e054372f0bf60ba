"""A load generator in Python, for warming up, and for measuring where wrk is not installed."""

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import cast, final

import httptools

from .loads import Load

__all__ = ("Measured", "generate", "percentile")

_SUCCESSFUL = range(200, 300)

_PAUSE = 0.01
"""Seconds before a caller whose connection broke connects again."""


@final
@dataclass(frozen=True)
class Measured:
    """What one run of a load gave."""

    rate: float
    """Good answers in a second."""
    errors: int
    """Answers that are not 2xx, broken connections, calls without an answer in time."""
    p50: float | None = None
    """Milliseconds in which half of the answers came."""
    p99: float | None = None
    busy: float | None = None
    """The share of the time in which the contender's core had something to do; None if unknown."""
    own: float | None = None
    """The share of the time in which the core worked for the contender."""


async def generate(port: int, load: Load, seconds: float) -> Measured:
    """Let the load's callers ask a server on 127.0.0.1 again and again for so many seconds."""
    tally = _Tally()
    request = _request(port, load)
    callers = [asyncio.create_task(_call(port, request, tally)) for _ in range(load.callers)]
    await asyncio.sleep(seconds)
    for caller in callers:
        caller.cancel()
    # What fails otherwise than by being cancelled is a fault of this file's, and is told.
    for outcome in await asyncio.gather(*callers, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return Measured(
        rate=len(tally.times) / seconds,
        errors=tally.errors,
        p50=percentile(tally.times, 50),
        p99=percentile(tally.times, 99),
    )


def percentile(times: list[float], percent: int) -> float | None:
    """Return a percentile of some seconds, in milliseconds."""
    if len(times) <= 1:  # too few for `quantiles`
        return times[0] * 1000 if times else None
    return statistics.quantiles(times, n=100)[percent - 1] * 1000


def _request(port: int, load: Load) -> bytes:
    length = f"content-length: {len(load.body)}\r\n" if load.body else ""
    return f"{load.method} {load.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{length}\r\n".encode() + load.body


@dataclass
class _Tally:
    times: list[float] = field(default_factory=list)
    errors: int = 0


async def _call(port: int, request: bytes, tally: _Tally) -> None:
    while True:
        try:
            await _exchange_until_broken(port, request, tally)
        except OSError:
            tally.errors += 1
            await asyncio.sleep(_PAUSE)


async def _exchange_until_broken(port: int, request: bytes, tally: _Tally) -> None:
    loop = asyncio.get_running_loop()
    transport, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
    try:
        while True:
            started = time.perf_counter()  # uvloop's clock ticks in milliseconds
            if await connection.exchange(request):
                tally.times.append(time.perf_counter() - started)
            else:
                tally.errors += 1
            if transport.is_closing():
                return  # the answer was whole, and the server's last one here
    finally:
        transport.abort()


class _Connection(asyncio.Protocol):
    """One caller's connection: a request, its answer, the next request."""

    _transport: asyncio.Transport
    _answer: asyncio.Future[bool]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def exchange(self, request: bytes) -> asyncio.Future[bool]:
        """Send a request; the result is whether the answer's status is 2xx."""
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._fail(ConnectionError(f"not HTTP: {exc}"))

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self._transport.close()
        if not self._answer.done():
            self._answer.set_result(self._parser.get_status_code() in _SUCCESSFUL)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the server hung up"))

    def _fail(self, error: Exception) -> None:
        # Before the first exchange there is nothing to fail.
        if hasattr(self, "_answer") and not self._answer.done():
            self._answer.set_exception(error)
