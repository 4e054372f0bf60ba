"""
The published recipes around any client with httpx's interface.

Written as people write them: an ``AsyncClient`` in a lifespan, taken from ``request.state``.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from ._addresses import ANSWER_TYPE, address

__all__ = ("OpenClient", "calling", "streaming")

OpenClient = Callable[[], AbstractAsyncContextManager[Any]]


def _app(open_client: OpenClient) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with open_client() as client:
            yield {"client": client}

    return FastAPI(lifespan=lifespan)


def calling(open_client: OpenClient) -> FastAPI:
    """Return an app whose routes await ``client.get`` or ``client.post`` and answer with what came."""
    app = _app(open_client)

    @app.get("/{size}")
    async def get(size: int, request: Request) -> Response:
        response = await request.state.client.get(address(size))
        return Response(response.content, response.status_code, media_type=ANSWER_TYPE)

    @app.post("/{size}")
    async def post(size: int, request: Request) -> Response:
        response = await request.state.client.post(address(size), content=await request.body())
        return Response(response.content, response.status_code, media_type=ANSWER_TYPE)

    return app


def streaming(open_client: OpenClient) -> FastAPI:
    """Return an app whose route sends the request on and streams the answer back."""
    app = _app(open_client)

    @app.api_route("/{size}", methods=["GET", "POST"])
    async def forward(size: int, request: Request) -> Response:
        client = request.state.client
        upstream_request = client.build_request(
            request.method, address(size), headers=request.headers.raw, content=request.stream()
        )
        r = await client.send(upstream_request, stream=True)
        return StreamingResponse(
            r.aiter_raw(), status_code=r.status_code, headers=r.headers, background=BackgroundTask(r.aclose)
        )

    return app
