"""This package: the injected client of the httpx2 family."""

from typing import Annotated

import httpx2
from fastapi import Depends, FastAPI, Request, Response

from fastapi_httpx_pool import ClientSettings, LimitSettings, create_lifespan, get_client

from ._addresses import ANSWER_TYPE, KEEPALIVE, address

__all__ = ("call",)

Client2Dep = Annotated[httpx2.AsyncClient, Depends(get_client)]

_limits = LimitSettings(max_keepalive_connections=KEEPALIVE)

call = FastAPI(lifespan=create_lifespan(ClientSettings(family="httpx2", limits=_limits)))


@call.get("/{size}")
async def get(size: int, client: Client2Dep) -> Response:
    """Answer with what the upstream answers."""
    response = await client.get(address(size))
    return Response(response.content, response.status_code, media_type=ANSWER_TYPE)


@call.post("/{size}")
async def post(size: int, request: Request, client: Client2Dep) -> Response:
    """Send the body on, answer with what the upstream answers."""
    response = await client.post(address(size), content=await request.body())
    return Response(response.content, response.status_code, media_type=ANSWER_TYPE)
