"""
A WebSocket proxy by hand, all of it aiohttp: two tasks copy messages, pings as often as the others send them.

``python -m benchmarks.contenders.loop_aiohttp PORT``
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import WSMsgType, web

from ..loops import run
from ._addresses import CONNECTIONS, first

__all__ = ("relay",)

_HEARTBEAT = 20.0
_LARGEST = 64 * 1024 * 1024
_SESSION = web.AppKey("session", aiohttp.ClientSession)

Socket = aiohttp.ClientWebSocketResponse[bool] | web.WebSocketResponse[bool]


async def relay(request: web.Request) -> web.WebSocketResponse[bool]:
    """Connect to the upstream, then accept, then copy in both directions until one of them ends."""
    session = request.app[_SESSION]
    async with session.ws_connect(
        first() + request.path_qs, heartbeat=_HEARTBEAT, max_msg_size=_LARGEST, decode_text=False
    ) as upstream:
        client = web.WebSocketResponse(heartbeat=_HEARTBEAT, max_msg_size=_LARGEST, compress=False, decode_text=False)
        await client.prepare(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(upstream, client))
            group.create_task(_copy(client, upstream))
    return client


async def _copy(source: Socket, target: Socket) -> None:
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await target.send_frame(message.data, WSMsgType.TEXT)
    await target.close(code=source.close_code or aiohttp.WSCloseCode.GOING_AWAY)


@asynccontextmanager
async def _session(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
        app[_SESSION] = session
        yield


async def _serve(port: int) -> None:
    app = web.Application()
    app.cleanup_ctx.append(_session)
    app.router.add_get("/{path:.*}", relay)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()  # until the harness ends the process


if __name__ == "__main__":
    run(_serve(int(sys.argv[1])))
