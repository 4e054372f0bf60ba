"""A server in a process of its own, for the time of a block."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LIMIT = 30.0
"""Seconds after which a server that does not stop fails the test."""


@contextmanager
def staying(process: subprocess.Popen[bytes], complaint: Callable[[], str]) -> Iterator[None]:
    """Let a process run for a block, and end it; if it has ended by itself, the test fails with what this returns."""
    try:
        yield
        assert process.poll() is None, complaint()
    finally:
        process.terminate()
        try:
            process.wait(LIMIT)
        finally:
            process.kill()
