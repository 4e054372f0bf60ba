"""A limit: FastAPI routes that ask nobody."""

from functools import cache

from fastapi import FastAPI, Request, Response

from ._addresses import ANSWER_TYPE

__all__ = ("app",)

app = FastAPI()


@cache
def _body(size: int) -> bytes:
    return b"x" * size


@app.get("/{size}")
async def get(size: int) -> Response:
    """Answer with so many bytes."""
    return Response(_body(size), media_type=ANSWER_TYPE)


@app.post("/{size}")
async def post(size: int, request: Request) -> Response:
    """Read the body, then answer."""
    await request.body()
    return Response(_body(size), media_type=ANSWER_TYPE)
