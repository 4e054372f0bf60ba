"""A server that speaks HTTP/2 over TLS, with a private authority."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

LIMIT = 30.0
"""Seconds after which a server that does not start or stop fails the test."""


async def _tell_version(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": scope["http_version"].encode()})


@contextmanager
def serving_http2(folder: Path, app: Any = _tell_version, **options: Any) -> Iterator[str]:
    """
    Serve an app for a block (by default one that tells the HTTP version); writes ``ca.pem`` into the folder.

    Args:
        folder: For what is written.
        app: To serve.
        options: Of hypercorn's configuration.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    port = socket.socket(fileno=int(config.bind[0].removeprefix("fd://")))
    url = f"https://127.0.0.1:{port.getsockname()[1]}"
    port.detach()
    config.certfile = config.keyfile = str(folder / "server.pem")
    config.errorlog = None
    for name, value in options.items():
        setattr(config, name, value)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve(app, config, shutdown_trigger=stop.wait))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(LIMIT)
        assert not thread.is_alive(), "the server did not stop"
