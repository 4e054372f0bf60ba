"""The lifespan protocol, for an app that has nothing else to open than one thing."""

from contextlib import AbstractAsyncContextManager

from starlette.types import Receive, Send

__all__ = ("run_lifespan",)


async def run_lifespan(opened: AbstractAsyncContextManager[object], receive: Receive, send: Send) -> None:
    """Hold something open from the server's start to its end; what fails is told to the server, and raised."""
    await receive()
    try:
        await opened.__aenter__()
    except BaseException as exc:
        await send({"type": "lifespan.startup.failed", "message": f"{type(exc).__name__}: {exc}"})
        raise
    try:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    finally:
        try:
            await opened.__aexit__(None, None, None)
        except BaseException as exc:
            await send({"type": "lifespan.shutdown.failed", "message": f"{type(exc).__name__}: {exc}"})
            raise
    await send({"type": "lifespan.shutdown.complete"})
