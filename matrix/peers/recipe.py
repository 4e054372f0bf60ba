"""The published recipe for a proxy: ``client.send(..., stream=True)`` into a ``StreamingResponse``."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from . import BASE, PREFIX
from ._addresses import LIMIT, ORIGIN

__all__ = ("app",)

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    async with httpx.AsyncClient(base_url=ORIGIN + BASE, timeout=LIMIT) as client:
        yield {"client": client}


app = FastAPI(lifespan=_lifespan, openapi_url=None)


@app.api_route(PREFIX + "/{path:path}", methods=_METHODS)
async def forward(path: str, request: Request) -> Response:
    """Send the request on and stream the answer back."""
    client = request.state.client
    url = f"/{path}?{request.url.query}" if request.url.query else f"/{path}"
    upstream_request = client.build_request(request.method, url, headers=request.headers.raw, content=request.stream())
    r = await client.send(upstream_request, stream=True)
    return StreamingResponse(
        r.aiter_raw(), status_code=r.status_code, headers=r.headers, background=BackgroundTask(r.aclose)
    )
