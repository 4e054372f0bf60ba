"""The embedded upstream: a site with everything that a proxy has to get right, on this machine."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from itertools import cycle
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from .site import add_site

__all__ = ("BrokenOnPurpose", "create_upstream")

LINE = b"Thirty-two bytes in every line.\n"
PIECE = LINE * 2048

PAGE = """<!doctype html>
<html lang="en">
<title>A page of the upstream</title>
<h1>A page of the upstream</h1>
<p>It came through the application, piece by piece.</p>
</html>
"""

Fault = Literal["unavailable", "hang", "early", "cut"]
FAULTS: tuple[Fault, ...] = ("unavailable", "hang", "early", "cut")

HANG = 60.0
"""Seconds after which even a hanging answer ends."""

Count = Annotated[int, Query(ge=1, le=1000)]
Interval = Annotated[float, Query(ge=0, le=5)]


class BrokenOnPurpose(Exception):
    """The answer breaks off here; the server then closes the connection."""


def create_upstream() -> FastAPI:
    """Return the upstream's application."""
    app = FastAPI(title="Embedded upstream", docs_url=None, redoc_url=None)
    app.get("/page")(page)
    app.get("/json")(numbers)
    app.get("/file")(file)
    app.get("/slow")(slow)
    app.get("/events")(events)
    app.get("/cookies")(cookies)
    app.post("/upload")(upload)
    app.get("/flaky")(flaky)
    app.state.faults = cycle(FAULTS)
    add_site(app)
    return app


async def page() -> HTMLResponse:
    """Answer with a small HTML page."""
    return HTMLResponse(PAGE)


async def numbers() -> dict[str, object]:
    """Answer with JSON."""
    return {"upstream": "embedded", "squares": {n: n * n for n in range(1, 6)}}


async def file(size: Annotated[int, Query(alias="bytes", ge=0, le=2**30)] = 10_000_000) -> StreamingResponse:
    """Answer with a file of that size, made while it is sent."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, len(PIECE)):
            yield PIECE[: size - start]

    return StreamingResponse(pieces(), media_type="text/plain", headers={"content-length": str(size)})


async def slow(lines: Count = 8, interval: Interval = 0.3) -> StreamingResponse:
    """Answer with a line now and then."""

    async def text() -> AsyncIterator[str]:
        for number in range(1, lines + 1):
            yield f"line {number} of {lines}\n"
            if number < lines:
                await asyncio.sleep(interval)

    return StreamingResponse(text(), media_type="text/plain")


async def events(count: Count = 6, interval: Interval = 0.3) -> StreamingResponse:
    """Answer with server-sent events."""

    async def stream() -> AsyncIterator[str]:
        for number in range(1, count + 1):
            yield f"id: {number}\nevent: tick\ndata: tick {number} of {count}\n\n"
            if number < count:
                await asyncio.sleep(interval)

    return StreamingResponse(stream(), media_type="text/event-stream")


async def cookies(request: Request, user: str = "nobody") -> JSONResponse:
    """Set a cookie for the user, and tell which cookies the request brought."""
    response = JSONResponse({"received": request.cookies})
    response.set_cookie("user", user)
    return response


async def upload(request: Request) -> dict[str, object]:
    """Read a body of any size and tell its size and its SHA-256."""
    size, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


async def flaky(request: Request, fault: Fault | None = None) -> Response:
    """Fail: say 503, hang, or break off before the first byte of the body or in its middle; in turn if not asked."""
    fault = fault or next(request.app.state.faults)
    if fault == "unavailable":
        return JSONResponse({"detail": "The upstream is having a rest."}, 503, {"retry-after": "1"})
    if fault == "hang":
        await asyncio.wait_for(_left(request), HANG)
    beginning = b"This is the beginning of an answer of 1000 bytes, and" if fault == "cut" else b""
    return StreamingResponse(_broken(beginning), media_type="text/plain", headers={"content-length": "1000"})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _broken(beginning: bytes) -> AsyncIterator[bytes]:
    if beginning:
        yield beginning
    raise BrokenOnPurpose
