"""What the tutorial ends with."""

from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response

from fastapi_httpx_pool import (
    ClientDep,
    ClientSettings,
    LimitSettings,
    StreamingProxyResponse,
    TimeoutSettings,
    UpstreamResponse,
    create_lifespan,
)

settings = ClientSettings(
    limits=LimitSettings(max_connections=10, max_keepalive_connections=5),
    timeout=TimeoutSettings(default=5.0, read=15.0),
)
app = FastAPI(lifespan=create_lifespan(settings))


@app.get("/zen")
async def zen(client: ClientDep) -> dict[str, str]:
    """Call an upstream and answer with what it said."""
    try:
        response = await client.get("https://api.github.com/zen")
        response.raise_for_status()
    except httpx.HTTPError as exc:
        raise HTTPException(502, "GitHub is not available") from exc
    return {"zen": response.text}


@app.get("/page")
async def page(request: Request) -> Response:
    """Pass a page through as it comes."""
    return StreamingProxyResponse(request, "https://www.example.com/")


async def in_capitals(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Change each piece on the way."""
    async for chunk in chunks:
        yield chunk.upper()


def shout(response: UpstreamResponse) -> None:
    """Change headers and body of an answer."""
    response.headers["x-volume"] = "loud"
    response.body = in_capitals(response.body)


@app.get("/loud")
async def loud(request: Request) -> Response:
    """Pass a page through, and read and change it on the way."""
    return StreamingProxyResponse(
        request, "https://www.example.com/", headers={"accept-encoding": "identity"}, on_response=shout
    )
