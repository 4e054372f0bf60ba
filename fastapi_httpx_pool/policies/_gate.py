"""
Who may send now: not after shutdown has begun, not from another event loop, not after a fork.

The gate also counts the exchanges in flight that go through the family's own transport, from the
first byte sent until the response is closed, so that shutdown can wait for them. The engine counts
its own.
"""

import os
from collections.abc import Awaitable
from typing import final

import anyio

from .._cancellation import event_loop
from ..exceptions import ClientClosed, ForkedProcess, ReadError, WrongEventLoop
from ..messages import Handler, Request, Response
from ._body import ReleasingBody

__all__ = ("Gate",)

CLEANING_UP = 1.0
"""Seconds that a cancelled exchange may take to clean up after itself; far more than it should."""


@final
class Gate:
    """One client's gate, around all handlers that the client sends through."""

    def __init__(self, name: str) -> None:
        """Must be made in the event loop that the client belongs to."""
        self._name = name
        self._loop = event_loop()
        self._process = os.getpid()
        self._open = True
        self._empty: anyio.Event | None = None
        self._sending: set[anyio.CancelScope] = set()
        self.in_flight: int = 0

    def guard(self, handler: Handler) -> Handler:
        """
        Return a handler that lets requests through while the gate is open.

        Raises:
            ClientClosed: The gate is shut.
            ForkedProcess: The client belongs to the parent process.
            WrongEventLoop: The client belongs to another event loop.
        """

        def guarded(request: Request) -> Awaitable[Response]:
            self._check()
            return handler(request)

        return guarded

    def count(self, handler: Handler) -> Handler:
        """
        Return a handler whose exchanges are counted, for handlers that cannot be drained themselves.

        Raises:
            ReadError: The gate was emptied before the response came.
        """

        async def counted(request: Request) -> Response:
            self.in_flight += 1
            scope = anyio.CancelScope()
            self._sending.add(scope)
            try:
                with scope:
                    response = await handler(request)
                    response.body = ReleasingBody(response.body, self._leave)
                    return response
            except BaseException:
                self._leave()
                raise
            finally:
                self._sending.remove(scope)
            self._leave()
            raise ReadError(f"The {self._name} client was closed before the response came; its drain time was over.")

        return counted

    @property
    def foreign(self) -> bool:
        """Whether this process is a fork of the one that the client belongs to."""
        return os.getpid() != self._process

    @property
    def elsewhere(self) -> bool:
        """Whether this is another event loop than the one that the client belongs to."""
        loop = event_loop()
        return loop is not self._loop and loop != self._loop

    def shut(self) -> None:
        """Let nothing in any more."""
        self._open = False

    async def empty(self, seconds: float) -> int:
        """
        Wait for the exchanges in flight, at most so long; then end those that have no response yet.

        What already has one ends when its connection is closed.

        Returns:
            How many had not ended by themselves.
        """
        await self._wait_until_empty(seconds)
        cut = self.in_flight
        if self._sending:
            for scope in self._sending:
                scope.cancel()
            await self._wait_until_empty(CLEANING_UP)
        return cut

    async def _wait_until_empty(self, seconds: float) -> None:
        if self.in_flight:
            self._empty = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._empty.wait()

    def _check(self) -> None:
        if self.foreign:
            raise ForkedProcess(self._name)
        if self.elsewhere:
            raise WrongEventLoop(self._name)
        if not self._open:
            raise ClientClosed(self._name)

    def _leave(self) -> None:
        self.in_flight -= 1
        if self._empty is not None and not self.in_flight:
            self._empty.set()
