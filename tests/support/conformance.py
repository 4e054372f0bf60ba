"""What the conformance suite is tried on: our own proxy, and proxies that do one thing wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastapi_httpx_pool.conformance import Outcome, Place, Result, run, select
from fastapi_httpx_pool.conformance._kit import Client, Response, Wire, chunked
from tests.support.ports import free_port
from tests.support.proxies import hasty, proxied

LIMIT = 2.0
"""Seconds for any wait of the suite's; so long that a busy machine is no failure."""

SOON = 0.8
"""Seconds after which what a row waits for in vain is late, where its proxy never does it."""

Bytes = Callable[[bytes], bytes]


def _as_it_is(data: bytes) -> bytes:
    return data


def _nothing(head: bytes) -> bytes | None:
    return None


@dataclass(frozen=True)
class NaiveProxy:
    """
    Reads a request, puts the base in the place of the prefix, and passes everything else on as it came.

    It asks over a new connection each time, and closes where an answer is broken off.
    """

    prefix: str = "/p"
    base: str = "/base"
    request: Bytes = _as_it_is
    """Changes a request's head."""
    response: Bytes = _as_it_is
    """Changes a response, all of it."""
    answer: Callable[[bytes], bytes | None] = _nothing
    """Answers a request, of which it sees the head, in the upstream's stead."""
    detour: Callable[[bytes], int | None] = _nothing  # type: ignore[assignment]  # None is none of either
    """Says at which port a request's upstream is, if not at the right one."""

    async def serve(self, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        wire = Wire(reader, writer, LIMIT)
        while (head := await wire.read_until(b"\r\n\r\n", within=60)).endswith(b"\r\n\r\n"):
            body = await _body_of(head, wire)
            answer = self.answer(head)
            if answer is None:
                answer = await self._forward(self.detour(head) or upstream, head, body)
            await wire.send(answer)
            if not answer:
                break

    async def _forward(self, port: int, head: bytes, body: bytes) -> bytes:
        path = (f" {self.prefix}".encode(), f" {self.base}".encode())
        client = Client(*await asyncio.open_connection("127.0.0.1", port), LIMIT)
        try:
            await client.send(self.request(head.replace(*path, 1)) + body)
            response = await client.response(head.partition(b" ")[0])
        finally:
            client.close()
        return self.response(again(response)) if response.complete else b""

    def finish(self) -> None:
        """Let go of what it has kept, if it keeps anything."""


async def _body_of(head: bytes, wire: Wire) -> bytes:
    lower = head.lower()
    if b"transfer-encoding" in lower:
        return await wire.read_until(b"0\r\n\r\n")
    length = lower.partition(b"content-length:")[2].partition(b"\r\n")[0].strip()
    return await wire.read_exactly(int(length or b"0"))


def again(response: Response) -> bytes:
    """Return a response as it was on the wire."""
    lines = [name + b": " + value for name, value in response.trailers]
    return response.head + (chunked(response.body, trailers=lines) if response.chunked else response.body)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@asynccontextmanager
async def listening(serve: Serve, port: int = 0) -> AsyncIterator[tuple[asyncio.Server, int]]:
    """Serve connections for a block, and give the server with its port."""
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def forget(task: asyncio.Task[None]) -> None:
        serving.pop(task).transport.abort()
        if not task.cancelled():
            task.exception()  # to a proxy this naive, an upstream that is slow is one

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        serving[task] = writer
        task.add_done_callback(forget)

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    try:
        yield server, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def asking(names: str, naive: NaiveProxy, limit: float) -> list[Result]:
    """Ask rows, by their names with commas, of a naive proxy, beside whatever else goes on."""
    upstream = free_port()
    async with listening(lambda reader, writer: naive.serve(upstream, reader, writer)) as (_, port):
        place = Place("127.0.0.1", port, naive.prefix, upstream_port=upstream, base=naive.base, timeout=limit)
        try:
            return await run(place, select(names.split(",")))
        finally:
            naive.finish()


def ask_naive(names: str, proxy: NaiveProxy | None = None, *, timeout: float = LIMIT) -> list[Result]:
    """Ask rows, by their names with commas, of a naive proxy."""
    return asyncio.run(asking(names, proxy or NaiveProxy(), timeout))


def ask_ours(names: str, server: str = "httptools", *, timeout: float = LIMIT, **policy: Any) -> list[Result]:
    """Ask rows, by their names with commas, of a ReverseProxy with that policy, mounted in a FastAPI app."""
    upstream = free_port()
    # Its own limits are a bit shorter than the suite's; but an upload may be held up for as long as that tries it.
    patience = hasty(connect=timeout / 2, read=timeout / 2, write=timeout, pool=timeout / 2)
    with proxied(f"http://127.0.0.1:{upstream}/base", server, door="mounted", settings=patience, **policy) as port:
        place = Place("127.0.0.1", port, "/p", upstream_port=upstream, timeout=timeout)
        results = asyncio.run(run(place, select(names.split(","))))
        # Once more, lest it was the machine that was slow.
        unmet = [result.row for result in results if result.outcome is Outcome.NOT_MET]
        second = {result.row.id: result for result in asyncio.run(run(place, unmet))} if unmet else {}
    return [second.get(result.row.id, result) for result in results]


def what_failed(results: Sequence[Result]) -> dict[str, str]:
    """Return the texts of the rows that are not met, options among them."""
    return {result.row.id: result.text for result in results if result.outcome is Outcome.NOT_MET}


def the_text(results: Sequence[Result]) -> str:
    """Return why the only row that was asked is not met."""
    [result] = results
    assert result.outcome is Outcome.NOT_MET, result
    return result.text


async def _faults_missed(faults: Sequence[tuple[str, NaiveProxy, str]]) -> list[str]:
    """
    Ask each row of its proxy, all at once, and return what those were told that were not told the text.

    For faults that are found when something has not come in time: so one time limit is waited for, not one for each.
    """
    results = await asyncio.gather(*(asking(name, proxy, LIMIT) for name, proxy, _ in faults))
    texts = [the_text(result) for result in results]
    return [f"{name}: {told}" for (name, _, text), told in zip(faults, texts, strict=True) if text not in told]


def assert_told(name: str, proxy: NaiveProxy, text: str) -> None:
    """Ask one row: it must not be met, and say this."""
    told = the_text(ask_naive(name, proxy))

    assert text in told, told


def assert_met(name: str, proxy: NaiveProxy, *, timeout: float = LIMIT) -> None:
    """Ask one row: it must be met."""
    [result] = ask_naive(name, proxy, timeout=timeout)

    assert (result.outcome, result.text) == (Outcome.MET, ""), result


def assert_all_told(faults: Sequence[tuple[str, NaiveProxy, str]]) -> None:
    """Ask rows at once that are about what comes too late: none must be met, and each say what it should."""
    assert asyncio.run(_faults_missed(faults)) == []


__all__ = (
    "LIMIT",
    "SOON",
    "NaiveProxy",
    "ask_naive",
    "ask_ours",
    "assert_all_told",
    "assert_met",
    "assert_told",
    "listening",
    "replace",
    "the_text",
    "what_failed",
)
