"""Fixtures for the engine's tests."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.connecting import Names


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Return the names that a test makes up; ``api.example`` is one."""
    names = Names()
    names.know("api.example", "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.release()
