"""
The steps of an exchange, told to httpx's ``trace`` extension by httpcore's names and in its order.

Costs nothing for requests without the extension: they never come here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import isawaitable
from math import inf
from typing import Any, Final, final

from ..exceptions import ReadError
from ..messages import Body, Request
from ._connection import Connection
from ._exchange import Exchange

__all__ = ("Trace", "TracedBody")

_READING: Final = "http11.receive_response_body"


@final
class Trace:
    """One request's trace."""

    def __init__(self, trace: Callable[[str, dict[str, Any]], Awaitable[None]], request: Request) -> None:
        self._trace = trace
        self._request = request

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        """
        Tell of one step.

        Raises:
            TypeError: The application's function is not asynchronous.
        """
        told = self._trace(name, info)
        if not isawaitable(told):
            raise TypeError(
                "If you're using an asynchronous client, the 'trace' extension must be an async function, "
                f"and {self._trace!r} is none."
            )
        await told

    @asynccontextmanager
    async def stage(self, name: str, **info: Any) -> AsyncIterator[dict[str, Any]]:
        """Tell of the beginning and of the end of one stage; what it returned is put into the dict."""
        outcome: dict[str, Any] = {"return_value": None}
        await self(f"{name}.started", info)
        try:
            yield outcome
        except BaseException as exc:
            await self(f"{name}.failed", {"exception": exc})
            raise
        await self(f"{name}.complete", outcome)

    async def send(self, exchange: Exchange, connection: Connection, now: float) -> None:
        """Do what ``start`` and ``response_head`` of an exchange do, and tell of it."""
        # Telling may take its time, or fail: the connection is the exchange's to close from here on.
        exchange.connection = connection
        connection.due = inf
        try:
            await self._send(exchange, connection, now)
        except BaseException:
            async with self.stage("http11.response_closed"):
                pass  # the pool is about to
            raise

    async def _send(self, exchange: Exchange, connection: Connection, now: float) -> None:
        request = self._request
        async with self.stage("http11.send_request_headers", request=request):
            if connection.is_closing:
                raise ReadError("the connection was lost before the request was sent")
            exchange.start(connection, now)
        async with self.stage("http11.send_request_body", request=request):
            pass  # a long body goes out while the response is awaited
        async with self.stage("http11.receive_response_headers", request=request) as outcome:
            await exchange.response_head()
            reader = exchange.reader
            outcome["return_value"] = (reader.http_version, reader.status, reader.reason, reader.headers)

    def body(self, body: Body) -> "TracedBody":
        """Return the body, traced as well."""
        return TracedBody(body, self, self._request)


@final
class TracedBody:
    """A body that tells when it is read and closed."""

    def __init__(self, body: Body, trace: Trace, request: Request) -> None:
        self._body = body
        self._chunks = aiter(body)
        self._trace = trace
        self._request = request
        self._begun = False
        self._ended = False
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            await self._trace(f"{_READING}.started", {"request": self._request})
        try:
            return await anext(self._chunks)
        except BaseException as exc:
            await self._tell_end(exc)
            raise

    async def _tell_end(self, exc: BaseException) -> None:
        if not self._ended:
            self._ended = True
            if isinstance(exc, StopAsyncIteration):
                await self._trace(f"{_READING}.complete", {"return_value": None})
            else:
                await self._trace(f"{_READING}.failed", {"exception": exc})

    async def aclose(self) -> None:
        """Close the body, also if telling fails."""
        if self._closed:
            return
        self._closed = True
        try:
            async with self._trace.stage("http11.response_closed"):
                await self._body.aclose()
        finally:
            await self._body.aclose()
