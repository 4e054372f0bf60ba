"""
Run as a program: forks a process that has an engine open, and tells what the child and the parent see.

In a process of its own, because a fork must not take pytest's threads along. Prints one JSON object.
"""

import asyncio
import json
import os
import ssl
import sys
import threading
from typing import Any

from fastapi_httpx_pool.engine import ConnectOptions, Engine
from tests.support.engines import fetch


async def in_child(engine: Engine, url: str) -> dict[str, Any]:
    """Use the parent's engine as if it were new, and close it."""
    before = repr(engine)
    answer = (await fetch(engine, url)).decode()
    after = repr(engine)
    await engine.aclose()
    return {"child_before": before, "child": answer, "child_after": after, "child_closed": repr(engine)}


def fork(engine: Engine, url: str) -> dict[str, Any]:
    """Return what the child told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, json.dumps(asyncio.run(in_child(engine, url))).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return {**json.loads(told or "{}"), "child_status": status}


def fork_while_locked(engine: Engine, url: str) -> dict[str, Any]:
    """Fork while another thread is just about to make a pool."""
    locked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with engine._lock:
            locked.set()
            go_on.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    told = fork(engine, url)
    go_on.set()
    thread.join()
    return told


async def main(url: str, ca_file: str) -> dict[str, Any]:
    """Send, fork in between, send again."""
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    engine = Engine(options=ConnectOptions(ssl_context=context))
    before = (await fetch(engine, url)).decode()
    told = fork_while_locked(engine, url)
    after = (await fetch(engine, url)).decode()
    parent = repr(engine)
    await engine.aclose()
    return {"before": before, **told, "after": after, "parent": parent}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2]))))  # noqa: T201 -- what the test reads
