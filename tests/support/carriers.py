"""Both engines, each in event loops that it runs in: for tests about what is true of either."""

from typing import Any

import pytest

ASYNCIO: Any = ("asyncio", {"use_uvloop": False})
UVLOOP: Any = ("asyncio", {"use_uvloop": True})
TRIO: Any = ("trio", {})

on_both_engines = pytest.mark.parametrize(
    ("engine", "anyio_backend"),
    [
        pytest.param("native", ASYNCIO, id="native-asyncio"),
        pytest.param("native", UVLOOP, id="native-uvloop"),
        pytest.param("httpcore", ASYNCIO, id="httpcore-asyncio"),
        pytest.param("httpcore", TRIO, id="httpcore-trio"),
    ],
)
"""Marks a test that takes ``engine``, for ``ClientSettings`` or ``PoolTransport``."""

on_both_engines_of_asyncio = pytest.mark.parametrize(
    ("engine", "anyio_backend"),
    [
        pytest.param("native", ASYNCIO, id="native-asyncio"),
        pytest.param("native", UVLOOP, id="native-uvloop"),
        pytest.param("httpcore", ASYNCIO, id="httpcore-asyncio"),
        pytest.param("httpcore", UVLOOP, id="httpcore-uvloop"),
    ],
)
"""Marks one that needs asyncio."""
