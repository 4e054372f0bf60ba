"""httpbin under gunicorn, on 127.0.0.1, in a process of its own: an upstream that nobody here wrote."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from tests.support.processes import staying

needs_httpbin = pytest.mark.skipif(
    not (find_spec("httpbin") and find_spec("gunicorn")), reason="httpbin and gunicorn are not installed"
)
"""Marks a test that is about httpbin."""

_OPTIONS = ("--worker-class", "gthread", "--threads", "4", "--graceful-timeout", "1", "--no-control-socket")


@contextmanager
def serving_httpbin() -> Iterator[int]:
    """Run httpbin for a block and give its port."""
    # The port is ours, and connections wait in its queue until there is somebody to take them.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "httpbin:app", "--bind", f"fd://{listener.fileno()}", *_OPTIONS],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    with staying(process, lambda: "gunicorn did not stay"):
        yield port
