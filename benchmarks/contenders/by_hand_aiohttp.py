"""What people write who leave httpx: an aiohttp session in a lifespan; 100 connections, as is its default."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from ._addresses import ANSWER_TYPE, CONNECTIONS, address

__all__ = ("call", "stream")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
        yield {"session": session}


call = FastAPI(lifespan=_lifespan)
stream = FastAPI(lifespan=_lifespan)


@call.get("/{size}")
async def get(size: int, request: Request) -> Response:
    """Answer with what the upstream answers."""
    session: aiohttp.ClientSession = request.state.session
    async with session.get(address(size)) as response:
        return Response(await response.read(), response.status, media_type=ANSWER_TYPE)


@call.post("/{size}")
async def post(size: int, request: Request) -> Response:
    """Send the body on, answer with what the upstream answers."""
    session: aiohttp.ClientSession = request.state.session
    async with session.post(address(size), data=await request.body()) as response:
        return Response(await response.read(), response.status, media_type=ANSWER_TYPE)


@stream.api_route("/{size}", methods=["GET", "POST"])
async def forward(size: int, request: Request) -> Response:
    """Send the request on and stream the answer back."""
    session: aiohttp.ClientSession = request.state.session
    body = request.stream() if request.method == "POST" else None
    response = await session.request(request.method, address(size), headers=_end_to_end(request), data=body)

    async def release() -> None:
        response.release()

    headers = {"content-type": ANSWER_TYPE}
    if "content-length" in response.headers:
        headers["content-length"] = response.headers["content-length"]
    chunks = response.content.iter_any()
    return StreamingResponse(chunks, response.status, headers, background=BackgroundTask(release))


def _end_to_end(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name not in {"connection", "host"}}
