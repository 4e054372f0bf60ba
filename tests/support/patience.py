"""For tests in which something must happen within a time limit: if the machine was too slow for that, it is longer the next time."""

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any

import pytest

Test = Callable[..., Any]

GROWTH = (1, 4, 16)
"""What a limit is multiplied by, attempt for attempt; what fails at the last one has failed."""

_FAILURES = (Exception, pytest.fail.Exception)


def with_patience(limit: float) -> Callable[[Test], Test]:
    """
    Mark a test that takes ``limit``, in seconds: it is run with this one, and again with longer ones as long as it fails.

    It is for limits that are exceeded by the whole of something, but must not be by any of its parts: a
    wrong count of the time fails at each of them, a slow machine only at the short ones.
    """

    def decorate(test: Test) -> Test:
        tried = _async(test, limit) if iscoroutinefunction(test) else _sync(test, limit)
        found = signature(test)
        left = [parameter for name, parameter in found.parameters.items() if name != "limit"]
        # pytest would look for a fixture of that name.
        tried.__signature__ = found.replace(parameters=left)  # type: ignore[attr-defined] # functions take any
        return tried

    return decorate


def _sync(test: Test, limit: float) -> Test:
    @wraps(test)
    def tried(*args: Any, **kwargs: Any) -> None:
        for factor in GROWTH[:-1]:
            try:
                test(*args, limit=limit * factor, **kwargs)
            except _FAILURES:
                continue
            return
        test(*args, limit=limit * GROWTH[-1], **kwargs)

    return tried


def _async(test: Callable[..., Awaitable[None]], limit: float) -> Test:
    @wraps(test)
    async def tried(*args: Any, **kwargs: Any) -> None:
        for factor in GROWTH[:-1]:
            try:
                await test(*args, limit=limit * factor, **kwargs)
            except _FAILURES:
                continue
            return
        await test(*args, limit=limit * GROWTH[-1], **kwargs)

    return tried
