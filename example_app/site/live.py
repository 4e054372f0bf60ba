"""What lasts: server-sent events, an answer that never comes, and a logbook of what the server saw of both."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import HTTPConnection

__all__ = ("Key", "Logbook", "LogbookDep", "router")

router = APIRouter()

PATIENCE = 10.0
"""Seconds that somebody waits for an entry."""
HANG = 60.0
"""Seconds after which even a hanging answer ends."""
MOST_ENTRIES = 1000

Key = Annotated[str, Query(min_length=1, max_length=60)]


class Logbook:
    """What the server saw, for those who wait for it."""

    def __init__(self) -> None:
        self._entries: dict[str, asyncio.Future[str]] = {}

    def write(self, key: str, text: str) -> None:
        """Make an entry; the first one under a key stays."""
        entry = self._entry(key)
        if not entry.done():
            entry.set_result(text)

    async def read(self, key: str) -> str | None:
        """Wait for an entry, with patience; None if it does not come."""
        done, _ = await asyncio.wait([self._entry(key)], timeout=PATIENCE)
        return next((entry.result() for entry in done), None)

    def _entry(self, key: str) -> asyncio.Future[str]:
        if key not in self._entries:
            if len(self._entries) >= MOST_ENTRIES:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = asyncio.get_running_loop().create_future()
        return self._entries[key]


def get_logbook(connection: HTTPConnection) -> Logbook:
    """Return the app's logbook."""
    logbook: Logbook = connection.app.state.logbook
    return logbook


LogbookDep = Annotated[Logbook, Depends(get_logbook)]


@router.get("/seen")
async def seen(logbook: LogbookDep, key: Key) -> Response:
    """Answer when the server has seen it."""
    text = await logbook.read(key)
    return JSONResponse({"seen": text})


@router.get("/hang")
async def hang(request: Request, logbook: LogbookDep, key: Key) -> Response:
    """Give no answer, and note when somebody begins to wait and when nobody does any more."""
    logbook.write(f"{key} waits", "yes")
    try:
        await asyncio.wait_for(_left(request), HANG)
    except TimeoutError:
        return Response(status_code=204)
    logbook.write(f"{key} left", "yes")
    return Response(status_code=204)


@router.get("/tides")
async def tides(request: Request) -> StreamingResponse:
    """Tell three events and end; who comes back is told those after the last that arrived."""
    last = request.headers.get("last-event-id", "0")
    first = int(last) + 1 if last.isdecimal() else 1

    async def stream() -> AsyncIterator[str]:
        yield "retry: 20\n\n"
        for number in range(first, first + 3):
            yield f"id: {number}\nevent: tide\ndata: {'high' if number % 2 else 'low'} tide\ndata: number {number}\n\n"

    return _events(stream())


@router.get("/bell")
async def bell(logbook: LogbookDep, key: Key) -> StreamingResponse:
    """Tell an event when somebody rings. Whatever held back the first event would never get the second one."""

    async def stream() -> AsyncIterator[str]:
        yield "event: ready\ndata: the bell can be rung\n\n"
        text = await logbook.read(f"{key} rings")
        yield f"event: rung\ndata: {text}\n\n"

    return _events(stream())


@router.post("/bell")
async def ring(logbook: LogbookDep, key: Key) -> Response:
    """Ring the bell."""
    logbook.write(f"{key} rings", "ding-dong")
    return Response(status_code=204)


def _events(stream: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
