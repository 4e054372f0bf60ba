"""Recipes that pass an answer through while it comes."""

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request

from fastapi_httpx_pool import ClientDep, StreamingProxyResponse, UpstreamResponse

from ..dependencies import SettingsDep

__all__ = ("count_lines", "router", "shout")

router = APIRouter(tags=["Streaming"])


@router.get("/stream/page")
async def stream_page(
    request: Request,
    settings: SettingsDep,
) -> StreamingProxyResponse:
    """
    Stream a page through.

    Status, headers and body as they come, in one line. The upstream's connection is given back
    when the answer has ended, and when the browser leaves before that.
    """
    return StreamingProxyResponse(request, settings.page)


@router.get("/stream/slow")
async def stream_slow(request: Request) -> StreamingProxyResponse:
    """
    Stream a slow answer through.

    The upstream writes a line every 300 ms. Each is here before the next one is written.
    """
    return StreamingProxyResponse(request, "/slow")


@router.get("/stream/shout")
async def stream_shout(request: Request) -> StreamingProxyResponse:
    """
    Read the content on the way.

    A hook puts a generator of ours around the body, which reads, counts and changes it while it
    streams. Nothing waits for the end.
    """
    return StreamingProxyResponse(
        request,
        "/slow",
        headers={"accept-encoding": "identity"},
        on_response=shout,
    )


def shout(response: UpstreamResponse) -> None:
    """Write the answer in capitals."""
    response.headers["x-read-on-the-way"] = "yes"
    response.body = count_lines(response.body)


async def count_lines(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Read every chunk, count its lines, send it on in capitals, and end with the count."""
    lines = 0
    async for chunk in body:
        lines += chunk.count(b"\n")
        yield chunk.upper()
    yield b"(%d lines read on the way)\n" % lines


@router.get("/stream/opened")
async def stream_opened(
    client: ClientDep,
    settings: SettingsDep,
) -> StreamingProxyResponse:
    """
    Stream a response that you have opened.

    For routes that look at the answer first. What is handed over is closed, whatever happens.
    """
    request = client.build_request("GET", settings.page)
    response = await client.send(request, stream=True)
    return StreamingProxyResponse.from_response(response)


@router.get("/stream/events")
async def stream_events(request: Request) -> StreamingProxyResponse:
    """
    Pass server-sent events through.

    Every event goes out when it comes in: nothing buffers them, and the response begins before the
    first one.
    """
    return StreamingProxyResponse(request, "/events")


@router.get("/stream/file")
async def stream_file(request: Request) -> StreamingProxyResponse:
    """
    Pass a large file through.

    10 MB by default, up to a gigabyte with ?bytes=1000000000. The upstream is read as fast as the
    browser takes it, so memory stays where it was.
    """
    return StreamingProxyResponse(request, "/file")


@router.post("/upload")
async def upload(request: Request) -> StreamingProxyResponse:
    """
    Stream an upload.

    The body goes upstream while it arrives. The upstream answers with the size and the SHA-256 of
    what it got.
    """
    return StreamingProxyResponse(request, "/upload")
