"""
Run as a program: forks a process that has a client open, and tells what the child and the parent see.

With "opening" as its argument: forks while another thread of the parent opens a client.

In a process of its own, because a fork must not take pytest's threads along. Prints one JSON object.
"""

import asyncio
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from fastapi_httpx_pool import ClientFactory, ClientSettings, TLSSettings

LIMIT = 20.0
"""Seconds after which a child that hangs is reported as hanging."""


async def outcome_of(sending: Any) -> str:
    """Return what a request came to: its text, or its error's class and text."""
    try:
        async with asyncio.timeout(LIMIT):
            response = await sending
    except TimeoutError:
        return "hangs"
    except Exception as exc:  # noqa: BLE001 -- told to the test
        return f"{type(exc).__name__}: {exc}"
    return str(response.text)


async def in_child(factory: ClientFactory, url: str) -> dict[str, str]:
    """Use the parent's client, leave the parent's factory, then open a client of one's own."""
    used = await outcome_of(factory.get().get(url))
    await factory.__aexit__(None, None, None)
    async with ClientFactory() as own:
        return {"parents_client": used, "own_client": await outcome_of(own.get().get(url))}


def fork(factory: ClientFactory, url: str) -> dict[str, str]:
    """Return what the child told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(asyncio.run(in_child(factory, url))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return dict(json.loads(told or '{"child": "died"}'))


async def main(url: str, ca_file: str | None) -> dict[str, str]:
    """Send, fork in between, send again."""
    settings = ClientSettings() if ca_file is None else ClientSettings(tls=TLSSettings(ca_file=Path(ca_file)))
    async with ClientFactory(settings) as factory:
        before = await outcome_of(factory.get().get(url))
        told = fork(factory, url)
        after = await outcome_of(factory.get().get(url))
    return {"before": before, **told, "after": after}


async def open_one() -> str:
    """Return whether a client can be opened within the limit."""

    async def opening() -> None:
        async with ClientFactory():
            pass

    # Not a timeout around it: the thread that it waits for cannot be interrupted.
    done, _ = await asyncio.wait([asyncio.create_task(opening())], timeout=LIMIT)
    return "opens" if done else "hangs"


def fork_while_opening() -> dict[str, str]:
    """Fork in the middle of another thread's building of a TLS context."""
    build, building, go_on = TLSSettings.as_ssl_context, threading.Event(), threading.Event()

    def slow(self: TLSSettings, *args: Any, **kwargs: Any) -> Any:
        building.set()
        go_on.wait(LIMIT)
        return build(self, *args, **kwargs)

    TLSSettings.as_ssl_context = slow  # type: ignore[method-assign] # in this process only
    thread = threading.Thread(target=lambda: asyncio.run(open_one()))
    thread.start()
    building.wait(LIMIT)
    TLSSettings.as_ssl_context = build  # type: ignore[method-assign] # as it was
    child = os.fork()
    if child == 0:
        loop = asyncio.new_event_loop()
        os._exit(0 if loop.run_until_complete(open_one()) == "opens" else 1)
    _, status = os.waitpid(child, 0)
    go_on.set()
    thread.join()
    return {"child": "hangs" if status else "opens"}


if __name__ == "__main__":
    if sys.argv[1] == "opening":
        result = fork_while_opening()
    else:
        result = asyncio.run(main(sys.argv[1], sys.argv[2] if sys.argv[2:] else None))
    print(json.dumps(result))  # noqa: T201 -- what the test reads
