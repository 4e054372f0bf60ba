"""
Step 6 of a request: what the client sends loses its family and becomes plain bytes.

From a family's request to ours, and from our response and errors back to the family's.
"""

from collections.abc import AsyncIterator
from typing import Any, final

from ..engine import Tunnel
from ..exceptions import TransportError
from ..messages import Handler, Origin, Request, Response, Timeouts
from ._family import URL_KEY, Family
from ._native import DEFAULT_PORTS, core_error

__all__ = ("Forward",)

MOST_WAYS = 256
"""URL objects that are kept taken apart; most requests have one that was used before."""

SWITCHING = 101


@final
class Forward:
    """Sends one family's requests through handlers."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._response_class = family.module.Response
        self._ways: dict[int, tuple[Any, tuple[Origin, bytes]]] = {}
        self._byte_stream_class = family.module.ByteStream
        # The family checks isinstance(stream, AsyncByteStream), so there is one class for each.
        self._stream_class: Any = type("PoolStream", (_PoolStream, family.module.AsyncByteStream), {"family": family})

    async def send(self, handler: Handler, request: Any, total: float | None) -> Any:
        """
        Send a family's request through a handler; give the family's response, or raise its errors.

        Args:
            handler: Answers it.
            request: The family's request object.
            total: The total timeout in seconds for requests that say nothing about it.
        """
        response, stream = await self.open(handler, request, total)
        return self._response_class(
            response.status, headers=response.headers, stream=stream, extensions=response.extensions
        )

    async def open(self, handler: Handler, request: Any, total: float | None) -> tuple[Response, Any]:
        """Do the same, but give our response, and its body as a stream of the family's."""
        try:
            response = await handler(self._our_request(request, total))
        except TransportError as exc:
            error = self._family.their_error(exc)
        else:
            extensions = response.extensions
            if response.status == SWITCHING or request.method == "CONNECT":
                stream = extensions.get("network_stream")
                if isinstance(stream, Tunnel):
                    extensions["network_stream"] = _NetworkStream(stream, self._family.core)
            return response, self._stream_class(response)
        # Not inside `except`, where Python would make our error the context of the family's, whose cause
        # it may be; and nothing here keeps hold of it: either would be a circle.
        try:
            raise error
        finally:
            del error

    def _our_request(self, request: Any, total: float | None) -> Request:
        stream = request.stream
        url = request.url
        origin, target = self._way_to(url)
        extensions = dict(request.extensions)
        extensions[URL_KEY] = url
        limits = extensions.pop("timeout", {})
        target = extensions.pop("target", None) or target
        # A body in memory is told apart by its class, because a middleware may have replaced the stream.
        return Request(
            request.method.encode("ascii"),
            origin,
            target.encode("ascii") if isinstance(target, str) else target,
            request.headers.raw,
            b"".join(stream) if type(stream) is self._byte_stream_class else stream,
            Timeouts(
                limits.get("connect"),
                limits.get("read"),
                limits.get("write"),
                limits.get("pool"),
                limits.get("total", total),
            ),
            extensions,
        )

    def _way_to(self, url: Any) -> tuple[Origin, bytes]:
        """Return the origin and the target of a URL; of those used last, without taking them apart."""
        known = self._ways.get(id(url))
        if known is not None and known[0] is url:
            return known[1]
        scheme = url.raw_scheme
        way = Origin(scheme, url.raw_host, url.port or DEFAULT_PORTS.get(scheme, 0)), url.raw_path
        if len(self._ways) >= MOST_WAYS:
            self._ways.clear()
        self._ways[id(url)] = url, way
        return way


class _PoolStream:
    """Our response's body as a family's stream: a plain iterator, so nothing is left to finalize."""

    family: Family

    def __init__(self, response: Response) -> None:
        self._response = response
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            self._chunks = aiter(self._response.body)
        try:
            return await anext(self._chunks)
        except TransportError as exc:
            error = self.family.their_error(exc)
        try:
            raise error
        finally:
            del error

    async def read(self) -> bytes:
        """Return all of it."""
        try:
            chunks = [chunk async for chunk in self._response.body]
        except TransportError as exc:
            error = self.family.their_error(exc)
        else:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        try:
            raise error
        finally:
            del error

    async def aclose(self) -> None:
        try:
            await self._response.aclose()
        except TransportError as exc:
            error = self.family.their_error(exc)
        else:
            return
        try:
            raise error
        finally:
            del error


@final
class _NetworkStream:
    """A tunnel with httpcore's errors, which is what those expect who speak to it: httpx-ws, say."""

    def __init__(self, tunnel: Tunnel, core: Any) -> None:
        self._tunnel = tunnel
        self._core = core
        self.get_extra_info = tunnel.get_extra_info

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 -- httpcore's
        try:
            return await self._tunnel.read(max_bytes, timeout)
        except TransportError as exc:
            raise core_error(exc, self._core) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- httpcore's
        try:
            await self._tunnel.write(buffer, timeout)
        except TransportError as exc:
            raise core_error(exc, self._core) from exc

    async def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- httpcore's
    ) -> "_NetworkStream":
        try:
            return _NetworkStream(await self._tunnel.start_tls(ssl_context, server_hostname, timeout), self._core)
        except TransportError as exc:
            raise core_error(exc, self._core) from exc

    async def aclose(self) -> None:
        await self._tunnel.aclose()
