"""A large file that can be had in parts."""

import asyncio
import re
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

__all__ = ("SIZE", "content", "router")

router = APIRouter()

WIDTH = 32
"""Bytes in a line: its number."""
LINES = 250_000
SIZE = WIDTH * LINES
PIECE = 2048 * WIDTH

ETAG = f'"tide-table-{SIZE}"'

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@router.api_route("/tide-table.txt", methods=["GET", "HEAD"])
async def tide_table(request: Request) -> Response:
    """Answer with the file, or with the part that is asked for, also to go on where a download broke off."""
    headers = {"accept-ranges": "bytes", "etag": ETAG, "cache-control": "no-store"}
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    same = request.headers.get("if-range", ETAG) == ETAG
    if request.method == "HEAD" or not (asked and same and any(asked.groups())):
        return _answer(request, 0, SIZE, 200, headers)
    start, end = _part(*asked.groups())
    if start >= end:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{SIZE}"})
    return _answer(request, start, end, 206, headers | {"content-range": f"bytes {start}-{end - 1}/{SIZE}"})


def _part(first: str, last: str) -> tuple[int, int]:
    if not first:
        return max(SIZE - int(last), 0), SIZE
    return int(first), min(int(last) + 1, SIZE) if last else SIZE


def _answer(request: Request, start: int, end: int, status: int, headers: dict[str, str]) -> Response:
    headers = headers | {"content-length": str(end - start)}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="text/plain")
    return StreamingResponse(_pieces(start, end), status, headers, "text/plain")


async def _pieces(start: int, end: int) -> AsyncIterator[bytes]:
    for place in range(start, end, PIECE):
        yield content(place, min(place + PIECE, end))
        await asyncio.sleep(0)  # so that the server hears of those who leave


def content(start: int, end: int) -> bytes:
    """Return a part of the file."""
    first, last = start // WIDTH, -(-end // WIDTH)
    lines = b"".join(b"%031d\n" % number for number in range(first, last))
    return lines[start - first * WIDTH :][: end - start]
