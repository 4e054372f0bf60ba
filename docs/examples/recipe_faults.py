"""
What the published recipe does wrong, and this package beside it: run it and see.

Everything is on this machine: an upstream that misbehaves on purpose, and the same proxy route
written twice. Takes a few seconds: ``python docs/examples/recipe_faults.py``.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from fastapi_httpx_pool import ClientFactory, ClientSettings, StreamingProxyResponse, create_lifespan

ROUNDS, CALLS, POOL = 60, 20, 5
PATIENCE = 1.0


# The upstream: each path is one thing that real upstreams do.

ANSWERS = {
    "/two-cookies": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; Path=/\r\nContent-Length: 2\r\n\r\nok",
    "/hop": b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: internal\r\nContent-Length: 2\r\n\r\nok",
    "/login": b"HTTP/1.1 200 OK\r\nSet-Cookie: session=alice; Path=/\r\nContent-Length: 2\r\n\r\nok",
    "/broken": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    "/stray": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSTRAY!",
    "/ok": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
}


class Upstream:
    """A server of a few lines on ``localhost``; cookie jars refuse bare IP addresses, which hides that fault."""

    def __init__(self) -> None:
        self.url = ""
        self.cookies_seen: list[str] = []
        self.silent_began = asyncio.Event()
        self.silent_released = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Upstream"]:
        """Serve for a block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://localhost:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split(" ")[1]
        self.cookies_seen = [line for line in head.split("\r\n") if line.lower().startswith("cookie:")]
        if path == "/silent":
            self.silent_began.set()
            await reader.read()  # returns when the proxy hangs up
            self.silent_released.set()
            return False
        if path == "/slow":
            await asyncio.sleep(0.01)
            path = "/ok"
        writer.write(ANSWERS[path])
        await writer.drain()
        return path != "/broken"


# The same route, twice.


def recipe(upstream: str) -> FastAPI:
    """Return the published recipe, word for word."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
        async with httpx.AsyncClient() as client:
            yield {"client": client}

    app = FastAPI(lifespan=lifespan)

    @app.get("/{path:path}")
    async def proxy(request: Request, path: str) -> Response:
        client: httpx.AsyncClient = request.state.client
        r = await client.send(client.build_request("GET", f"{upstream}/{path}"), stream=True)
        return StreamingResponse(
            r.aiter_raw(), status_code=r.status_code, headers=r.headers, background=BackgroundTask(r.aclose)
        )

    return app


def ours(upstream: str) -> FastAPI:
    """Return the same with this package."""
    app = FastAPI(lifespan=create_lifespan())

    @app.get("/{path:path}")
    async def proxy(request: Request, path: str) -> Response:
        return StreamingProxyResponse(request, f"{upstream}/{path}")

    return app


# What goes wrong, one function each; every one returns what it saw.


async def get(port: int, path: str) -> str:
    """Return all that comes back for one request, as it is on the wire; names in lower case do not matter here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode("latin-1")
    writer.close()
    return answer


async def two_cookies(port: int, upstream: Upstream) -> str:
    """The upstream sets two cookies."""
    lines = (await get(port, "/two-cookies")).lower().count("\r\nset-cookie:")
    return "both arrive" if lines > 1 else "merged into one broken line"


async def hop_header(port: int, upstream: Upstream) -> str:
    """The upstream names a header in Connection: it is for the next hop only."""
    return "passed on" if "x-hop" in (await get(port, "/hop")).lower() else "kept back"


async def cookie_of_another(port: int, upstream: Upstream) -> str:
    """Alice logs in through the proxy; then Bob asks for something."""
    await get(port, "/login")
    await get(port, "/ok")
    return "sent with Bob's request" if upstream.cookies_seen else "not sent"


async def browser_leaves(port: int, upstream: Upstream) -> str:
    """The browser leaves while the upstream has not answered yet."""
    upstream.silent_began.clear()
    upstream.silent_released.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /silent HTTP/1.1\r\nHost: app\r\n\r\n")
    await asyncio.wait_for(upstream.silent_began.wait(), 5)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    try:
        await asyncio.wait_for(upstream.silent_released.wait(), PATIENCE)
    except TimeoutError:
        return f"upstream still held after {PATIENCE:g} s"
    return "upstream released at once"


async def broken_answer(port: int, upstream: Upstream) -> str:
    """The upstream promises 1000 bytes and hangs up."""
    status = (await get(port, "/broken")).split(" ")[1]
    return f"{status}, then the connection breaks" if status == "200" else f"{status}, a clean error"


async def stray_bytes(port: int, upstream: Upstream) -> str:
    """The upstream sends more than it announced; then somebody else asks."""
    await get(port, "/stray")
    return "are the next caller's answer" if "STRAY!" in await get(port, "/ok") else "are thrown away"


async def cancelled_calls(client: httpx.AsyncClient, upstream: Upstream) -> str:
    """Twenty calls at a time are cancelled while the pool has five connections, up to sixty times."""
    for number in range(ROUNDS):
        calls = [asyncio.ensure_future(client.get(f"{upstream.url}/slow")) for _ in range(CALLS)]
        await asyncio.sleep(0.0005 * (number % 20))
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    try:
        await client.get(f"{upstream.url}/ok")
    except httpx.PoolTimeout:
        return "PoolTimeout for every later call"
    return "the next call succeeds"


Check = Callable[[int, Upstream], Awaitable[str]]

CHECKS: dict[str, Check] = {
    "Two Set-Cookie lines": two_cookies,
    "Header named by Connection": hop_header,
    "Alice's cookie": cookie_of_another,
    "Browser leaves before the answer": browser_leaves,
    "Upstream hangs up after its headers": broken_answer,
    "Bytes behind the end of an answer": stray_bytes,
}


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[int]:
    """Serve an app for a block; give its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    task = asyncio.ensure_future(server.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def column(app: FastAPI, upstream: Upstream) -> list[str]:
    """Return what each check saw of an app."""
    async with serving(app) as port:
        return [await check(port, upstream) for check in CHECKS.values()]


async def cancellation(upstream: Upstream) -> list[str]:
    """Return what cancelled calls do to a bare client and to ours, with the same pool."""
    limits, timeout = httpx.Limits(max_connections=POOL), httpx.Timeout(5.0, pool=PATIENCE)
    async with httpx.AsyncClient(limits=limits, timeout=timeout) as bare:
        seen = [await cancelled_calls(bare, upstream)]
    async with ClientFactory(ClientSettings(limits=limits, timeout=timeout)) as factory:
        return [*seen, await cancelled_calls(factory.get(), upstream)]


async def table() -> str:
    """Run everything; return the findings as a table."""
    async with Upstream().running() as upstream:
        columns = [await column(recipe(upstream.url), upstream), await column(ours(upstream.url), upstream)]
        pool = await cancellation(upstream)
    rows = [("", "recipe", "ours"), *zip(CHECKS, *columns, strict=True), ("Calls cancelled under load", *pool)]
    return "\n".join(f"{name:37}{theirs:34}{own}".rstrip() for name, theirs, own in rows)


if __name__ == "__main__":
    print(asyncio.run(table()))  # noqa: T201 -- what the script is for
