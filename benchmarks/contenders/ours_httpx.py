"""This package: the injected client of the httpx family, and the streaming response."""

from fastapi import FastAPI, Request, Response

from fastapi_httpx_pool import ClientDep, ClientSettings, LimitSettings, StreamingProxyResponse, create_lifespan

from ._addresses import ANSWER_TYPE, CONNECTIONS, KEEPALIVE, address

__all__ = ("call", "stream")

_settings = ClientSettings(limits=LimitSettings(max_connections=CONNECTIONS, max_keepalive_connections=KEEPALIVE))

call = FastAPI(lifespan=create_lifespan(_settings))
stream = FastAPI(lifespan=create_lifespan(_settings))


@call.get("/{size}")
async def get(size: int, client: ClientDep) -> Response:
    """Answer with what the upstream answers."""
    response = await client.get(address(size))
    return Response(response.content, response.status_code, media_type=ANSWER_TYPE)


@call.post("/{size}")
async def post(size: int, request: Request, client: ClientDep) -> Response:
    """Send the body on, answer with what the upstream answers."""
    response = await client.post(address(size), content=await request.body())
    return Response(response.content, response.status_code, media_type=ANSWER_TYPE)


@stream.api_route("/{size}", methods=["GET", "POST"])
async def forward(size: int, request: Request) -> Response:
    """Send the request on and stream the answer back."""
    return StreamingProxyResponse(request, address(size))
