"""What a type checker makes of many requests at once; checked, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

import httpx
import httpx2

from fastapi_httpx_pool import (
    Arrivals,
    FanOutError,
    MergedStreamResponse,
    Outcome,
    StreamPart,
    as_completed,
    fan_out,
    merge_streams,
)
from fastapi_httpx_pool.fanout import RequestLike


def urls() -> Iterator[str]:
    """Make URLs as they are asked for."""
    yield "https://www.example.com/"


async def requests() -> AsyncIterator[httpx.Request]:
    """Make requests as they are asked for."""
    yield httpx.Request("GET", "https://www.example.com/")


def progress(done: int, failed: int, total: int | None) -> None:
    """Be told how far it came."""


async def all_of_them(client: httpx.AsyncClient, client2: httpx2.AsyncClient) -> None:
    """Responses are of the client's family; with ``return_exceptions``, errors may stand among them."""
    assert_type(await fan_out(client, ["/"]), list[httpx.Response])
    assert_type(await fan_out(client2, ["/"]), list[httpx2.Response])
    assert_type(await fan_out(client, urls(), limit=5, timeout=1.5, on_progress=progress), list[httpx.Response])
    assert_type(await fan_out(client, requests(), return_exceptions=False), list[httpx.Response])
    assert_type(await fan_out(client, [], return_exceptions=True), list[httpx.Response | Exception])
    assert_type(await fan_out(client2, [], return_exceptions=True), list[httpx2.Response | Exception])
    await fan_out(client, ["/", httpx.URL("/"), ("POST", "/"), ("POST", httpx.URL("/"), {"json": {}})])
    await fan_out(client2, [httpx2.URL("/"), httpx2.Request("GET", "/"), ("POST", httpx2.URL("/"), {"json": {}})])


async def each_of_them(client: httpx.AsyncClient, client2: httpx2.AsyncClient) -> None:
    """An outcome knows the type of its input and of its response."""
    assert_type(as_completed(client, ["/"]), Arrivals[Outcome[str, httpx.Response]])
    assert_type(as_completed(client2, urls(), stream=True), Arrivals[Outcome[str, httpx2.Response]])
    async for outcome in as_completed(client, requests()):
        assert_type(outcome.input, httpx.Request)
        assert_type(outcome.response, httpx.Response | None)
        assert_type(outcome.result(), httpx.Response)
        assert_type(outcome.error, Exception | None)
    async with as_completed(client, [("GET", "/")]) as arrivals:
        assert_type(await anext(arrivals), Outcome[tuple[str, str], httpx.Response])
    mixed: list[RequestLike] = ["/", httpx.URL("/")]
    assert_type(as_completed(client, mixed), Arrivals[Outcome[RequestLike, httpx.Response]])


async def merged(client: httpx.AsyncClient, client2: httpx2.AsyncClient) -> None:
    """Parts know their responses; a response takes those of either family."""
    assert_type(merge_streams(client, {"a": "/"}), Arrivals[StreamPart[httpx.Response]])
    assert_type(merge_streams(client2, urls(), max_bytes=10), Arrivals[StreamPart[httpx2.Response]])
    MergedStreamResponse(merge_streams(client, requests()))
    MergedStreamResponse(merge_streams(client2, ["/"]), media_type="application/x-ndjson", encoding="base64")


def errors(error: FanOutError, options: dict[str, Any]) -> None:
    """Errors say which it was."""
    assert_type(error.index, int)
