"""
Step 6 of a request: what the client sends loses its family and becomes plain bytes.

From a family's request to ours, and from our response and errors back to the family's.
"""

from collections.abc import AsyncIterator
from typing import Any

from ..exceptions import TransportError
from ..messages import Handler, Origin, Request, Response, Timeouts
from ._family import Family

__all__ = ("send_through",)

_DEFAULT_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}


async def send_through(handler: Handler, family: Family, request: Any, total: float | None) -> Any:
    """
    Send a family's request through a handler; give the family's response, or raise its errors.

    Args:
        handler: Answers it.
        family: The request's.
        request: The family's request object.
        total: The total timeout in seconds for requests that say nothing about it.
    """
    try:
        response = await handler(_our_request(family, request, total))
    except TransportError as exc:
        error = family.their_error(exc)
    else:
        return family.module.Response(
            response.status,
            headers=response.headers,
            stream=_stream_class(family)(response, family),
            extensions=response.extensions,
        )
    # Not inside `except`, where Python would make our error the context of the family's, whose cause
    # it may be; and nothing here keeps hold of it: either would be a circle.
    try:
        raise error
    finally:
        del error


def _our_request(family: Family, request: Any, total: float | None) -> Request:
    url = request.url
    extensions = dict(request.extensions)
    limits = {"total": total, **extensions.pop("timeout", {})}
    target = extensions.pop("target", None) or url.raw_path
    stream = request.stream
    return Request(
        method=request.method.encode("ascii"),
        origin=Origin(url.raw_scheme, url.raw_host, url.port or _DEFAULT_PORTS.get(url.raw_scheme, 0)),
        target=target.encode("ascii") if isinstance(target, str) else target,
        headers=request.headers.raw,
        # A body in memory is told apart by its class, because a middleware may have replaced the stream.
        body=b"".join(stream) if type(stream) is family.module.ByteStream else stream,
        timeouts=Timeouts(**{name: limits.get(name) for name in Timeouts._fields}),
        extensions=extensions,
    )


_stream_classes: dict[str, Any] = {}


def _stream_class(family: Family) -> Any:
    # The family checks isinstance(stream, AsyncByteStream), so there is one class for each.
    if family.name not in _stream_classes:
        _stream_classes[family.name] = type("PoolStream", (_PoolStream, family.module.AsyncByteStream), {})
    return _stream_classes[family.name]


class _PoolStream:
    """Our response's body as a family's stream: a plain iterator, so nothing is left to finalize."""

    def __init__(self, response: Response, family: Family) -> None:
        self._response = response
        self._family = family
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            self._chunks = aiter(self._response.body)
        try:
            return await anext(self._chunks)
        except TransportError as exc:
            error = self._family.their_error(exc)
        try:
            raise error
        finally:
            del error

    async def aclose(self) -> None:
        try:
            await self._response.aclose()
        except TransportError as exc:
            error = self._family.their_error(exc)
        else:
            return
        try:
            raise error
        finally:
            del error
