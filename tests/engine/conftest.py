"""Fixtures for the engine's tests."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.connecting import Names
from tests.support.engines import BACKENDS
from tests.support.tls import Authority


@pytest.fixture
def anyio_backend() -> Any:
    """Run on asyncio; what is marked with ``both_loops``, on uvloop too."""
    return BACKENDS[0]


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Return a certificate authority."""
    return Authority()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Return the names that a test makes up; ``api.example`` is one."""
    names = Names()
    names.know("api.example", "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.release()
