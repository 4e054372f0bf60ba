"""Whether a real server starts with an app, and what it says if not."""

import contextlib
import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import uvicorn

LIMIT = 30.0
"""Seconds after which a server that neither starts nor gives up fails the test."""


class Start(NamedTuple):
    """What came of it."""

    succeeded: bool
    log: str
    """The server's errors."""


class _OnlyStarting(uvicorn.Server):
    """Stops as soon as it has started."""

    async def main_loop(self) -> None:
        """Serve nothing."""


def start(app: Any, *, lifespan: Literal["on", "auto"] = "on") -> Start:
    """Start uvicorn with an app and stop it."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan=lifespan, log_config=None, log_level=None)
    server = _OnlyStarting(config)

    def run() -> None:
        with contextlib.suppress(SystemExit):  # uvicorn's way to say that the start failed
            server.run()

    with _errors() as log:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(LIMIT)
    assert not thread.is_alive(), "the server did not stop"
    return Start(server.started, log.getvalue())


@contextmanager
def _errors() -> Iterator[io.StringIO]:
    log = io.StringIO()
    logger, handler = logging.getLogger("uvicorn.error"), logging.StreamHandler(log)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    try:
        yield log
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
