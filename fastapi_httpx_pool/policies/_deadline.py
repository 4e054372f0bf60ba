"""One time limit over a whole exchange: queue, connection, request, and response to its last byte."""

from collections.abc import AsyncIterator

import anyio

from ..exceptions import TotalTimeout
from ..messages import Body, Handler, Request, Response

__all__ = ("deadline",)


def deadline(handler: Handler) -> Handler:
    """
    Return a handler that keeps to ``request.timeouts.total``, in seconds.

    Raises:
        TotalTimeout: From the handler, or from the body, when the time is over.
    """

    async def limited(request: Request) -> Response:
        total = request.timeouts.total
        if total is None:
            return await handler(request)
        end = anyio.current_time() + total
        with anyio.CancelScope(deadline=end):
            response = await handler(request)
            response.body = _LimitedBody(response.body, end, total)
            return response
        raise TotalTimeout(total)

    return limited


class _LimitedBody:
    def __init__(self, body: Body, end: float, total: float) -> None:
        self._body = body
        self._chunks: AsyncIterator[bytes] | None = None
        self._end = end
        self._total = total

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            self._chunks = aiter(self._body)
        with anyio.CancelScope(deadline=self._end):
            return await anext(self._chunks)
        raise TotalTimeout(self._total)

    async def aclose(self) -> None:
        await self._body.aclose()
