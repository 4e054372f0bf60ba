"""
Start the example: ``python -m example_app``.

The application and, unless EXAMPLE_UPSTREAM_URL points it at a real site, the embedded upstream;
both on 127.0.0.1, in one process. Ctrl-C stops both.
"""

import argparse
import asyncio
import logging
import socket
import sys
from contextlib import AsyncExitStack, suppress

import uvicorn
from pydantic import ValidationError

from fastapi_httpx_pool import UpstreamAborted

from .app import create_app
from .server import PortUnusable, listen, running, signals_set
from .settings import HOST, ExampleSettings
from .upstream import BrokenOnPurpose, create_upstream

WELCOME = """\
The example runs. Open {url} in a browser, or try:

    curl -i {url}/read
    curl -N {url}/stream/shout
    curl -N {url}/five/events

Requests go to {upstream}. Press Ctrl-C to stop.
"""

UNTRUE = "ASGI callable returned without completing handshake."
"""What uvicorn's sans-I/O implementation logs of every refusal that has a status and a body."""


def main() -> int:
    """Run the command; return the process's exit status."""
    arguments = _parse_arguments()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_tells_of_a_bug)
    try:
        # uvicorn's choice of a loop: uvloop's where it is installed.
        with asyncio.Runner(loop_factory=uvicorn.Config(app="", log_config=None).get_loop_factory()) as runner:
            runner.run(_run(ExampleSettings(), arguments.seconds))
    except (PortUnusable, ValidationError) as exc:
        print(exc, file=sys.stderr)  # noqa: T201 -- a command talks to its user
        return 1
    except KeyboardInterrupt:
        pass  # before the servers were up
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m example_app",
        description="Start the example application and its embedded upstream on 127.0.0.1.",
        epilog="EXAMPLE_PORT and EXAMPLE_UPSTREAM_PORT choose the ports, EXAMPLE_UPSTREAM_URL a real site.",
    )
    parser.add_argument("--seconds", type=float, help="stop by itself after so many seconds")
    return parser.parse_args()


async def _run(settings: ExampleSettings, seconds: float | None) -> None:
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(signals_set(stop))
        # Both ports are taken before anything starts, so that nothing starts in vain.
        listener = stack.enter_context(listen(settings.port, "EXAMPLE_PORT"))
        if settings.embedded:
            upstream = stack.enter_context(listen(settings.upstream_port, "EXAMPLE_UPSTREAM_PORT"))
            settings = settings.model_copy(update={"upstream_port": _port_of(upstream)})
            await stack.enter_async_context(running(create_upstream(), upstream))
        await stack.enter_async_context(running(create_app(settings), listener, names_itself=False))
        url = f"http://{HOST}:{_port_of(listener)}"
        print(WELCOME.format(url=url, upstream=settings.upstream), flush=True)  # noqa: T201 -- a command talks to its user
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
    print("Stopped.", flush=True)  # noqa: T201 -- a command talks to its user


def _port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def _tells_of_a_bug(record: logging.LogRecord) -> bool:
    """
    Whether a record tells of a bug, with its traceback.

    Not of what the upstream breaks on purpose, nor of the application's answer that breaks off with
    it (the package has logged that), nor of answers that are cancelled because the server stops.
    Nor of a WebSocket that is refused with an answer, of which uvicorn says that there was none.
    """
    if record.msg == UNTRUE:
        return False
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, BrokenOnPurpose | UpstreamAborted | asyncio.CancelledError)


if __name__ == "__main__":
    sys.exit(main())
