"""
From our request to a family's transport, and from its response and errors back to ours.

Any transport becomes a handler this way: the family's httpcore one, a mock, a cache, a user's own.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, get_args

import anyio

from ..messages import Handler, Header, Request, Response
from ..settings import FamilyName
from ._family import URL_KEY, Family, family_of
from ._native import is_own

__all__ = ("Keeper", "handler_for", "handler_over", "response_over")


class Keeper(Protocol):
    """Whoever keeps the transport's connections in order around the end of each exchange."""

    def before_close(self, stream: Any) -> None:
        """Look at a response's stream once more before it is closed."""

    async def after_failure(self, stream: Any) -> None:
        """Repair what a failed or cancelled exchange left behind; ``stream`` is None before a response."""


def handler_for(client: Any, origin_url: str) -> tuple[Handler, bool]:
    """
    Return the handler through which a client would send to this origin: ``https://api.example``.

    And whether it waits for "100 Continue" where a request has an ``Expect``.

    The client's own layer (auth, cookies, redirects, event hooks, default headers) is left out:
    it is meant for requests of the app's own. Environment proxies and mounts are obeyed.

    Raises:
        TypeError: Neither family's ``AsyncClient``.
    """
    transport = _transport_of(client, origin_url)
    # Ours is a handler's face already. (An abstract class to ask for would cost more than the rest.)
    is_untouched = getattr(transport, "is_untouched", None)
    if is_untouched is not None and is_untouched():
        return transport.handler, transport.engine_name == "native"
    return handler_over(transport.handle_async_request, family_of(client)), False


def _transport_of(client: Any, origin_url: str) -> Any:
    # Private in both families, and the hook that respx patches in its `using="httpx"` mode.
    choose = getattr(client, "_transport_for_url", None)
    if choose is not None and not client._mounts and is_own(choose, *_PACKAGES):
        return client._transport  # what it would choose for every URL
    family = family_of(client)
    return client._transport_for_url(family.module.URL(origin_url))


_PACKAGES: tuple[str, ...] = get_args(FamilyName)


def handler_over(send: Callable[[Any], Awaitable[Any]], family: Family, keeper: Keeper | None = None) -> Handler:
    """Return a handler that sends through a transport's ``handle_async_request``."""

    async def handle(request: Request) -> Response:
        try:
            with _our_errors(family):
                their_request = _their_request(family, request)
                limits = their_request.extensions["timeout"]
                response = await send(their_request)
        except BaseException:
            if keeper is not None:
                await keeper.after_failure(None)
            raise
        return Response(
            status=response.status_code,
            headers=response.headers.raw,
            body=_TransportBody(response.stream, family, keeper, partial(_keep_up, limits, request)),
            extensions=response.extensions,
        )

    return handle


def _keep_up(limits: dict[str, float | None], request: Request) -> None:
    """Have the response's body wait as long as the request says now: with the head, that may have changed."""
    # Of the transports that look at this, httpcore's looks when it begins with the body.
    limits["read"] = request.timeouts.read


def response_over(response: Any) -> Response:
    """
    Return our response for an open response of a family, of which the caller gives up ownership.

    Its body comes as it is on the wire, not decompressed; if it has been read already, it is taken
    from memory, and was decompressed.

    Raises:
        TypeError: Neither family's ``Response``.
        RuntimeError: It was closed before it was read.
    """
    family = family_of(response, "Response")
    if not isinstance(response.stream, family.module.AsyncByteStream):
        raise TypeError(f"{response!r} came from a synchronous client; open it with an AsyncClient")
    headers: list[Header] = response.headers.raw
    if response.is_stream_consumed or response.is_closed:
        content = _content_of(response)
        if content:
            described = (b"content-encoding", b"content-length", b"transfer-encoding")
            headers = [(name, value) for name, value in headers if name.lower() not in described]
            headers.append((b"content-length", str(len(content)).encode("ascii")))
        stream = family.module.ByteStream(content)
    else:
        stream = _RawStream(response)
    return Response(response.status_code, headers, _TransportBody(stream, family, None), response.extensions)


def _content_of(response: Any) -> bytes:
    if not hasattr(response, "_content"):
        raise RuntimeError(
            "The response was closed, or its body read by others, before it could be streamed. Open it with "
            "client.send(request, stream=True) and do not close it: whoever streams it closes it. "
            "An `async with client.stream(...)` block closes it at its end, before the browser has it."
        )
    content: bytes = response.content
    return content


class _RawStream:
    """A family's open response, closed as a whole."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._response.aiter_raw())

    async def aclose(self) -> None:
        await self._response.aclose()


@contextmanager
def _our_errors(family: Family) -> Iterator[None]:
    try:
        yield
    except family.module.TransportError as exc:
        raise family.our_error(exc) from exc


def _their_request(family: Family, request: Request) -> Any:
    timeout = request.timeouts._asdict()
    if timeout["total"] is None:
        del timeout["total"]
    extensions = {**request.extensions, "timeout": timeout}
    url = _their_url(family, request, extensions.pop(URL_KEY, None))
    if url.raw_path != request.target:
        # A URL object tidies what it is given; the octets on the wire are these.
        extensions["target"] = request.target
    stream = _their_stream(family, request.body)
    their_request = family.module.Request(
        request.method.decode("ascii"), url, headers=request.headers, stream=stream, extensions=extensions
    )
    # The constructor writes the method in capitals, but methods are case-sensitive.
    their_request.method = request.method.decode("ascii")
    if isinstance(stream, family.module.ByteStream):
        their_request.read()
    return their_request


def _their_url(family: Family, request: Request, original: Any) -> Any:
    scheme, host, port = request.origin
    url = family.module.URL(scheme=scheme.decode("ascii"), host=host.decode("ascii"), port=port or None, raw_path=b"/")
    if request.target.startswith(b"/"):
        with suppress(family.module.InvalidURL):  # too long for a URL object, not for the wire
            url = url.copy_with(raw_path=request.target)
    if isinstance(original, family.module.URL) and _sent_of(original) == _sent_of(url):
        return original
    return url


def _sent_of(url: Any) -> tuple[object, ...]:
    return url.scheme, url.raw_host, url.port, url.raw_path


def _their_stream(family: Family, body: Any) -> Any:
    if body is None or isinstance(body, bytes):
        return family.module.ByteStream(body or b"")
    if isinstance(body, family.module.AsyncByteStream):
        return body
    stream = _chunk_stream_class(family)()
    stream.chunks = body
    return stream


_chunk_stream_classes: dict[str, Any] = {}


def _chunk_stream_class(family: Family) -> Any:
    # The family checks isinstance(stream, AsyncByteStream), so there is one class for each.
    if family.name not in _chunk_stream_classes:
        bases = (_ChunkStream, family.module.AsyncByteStream)
        _chunk_stream_classes[family.name] = type("ChunkStream", bases, {})
    return _chunk_stream_classes[family.name]


class _ChunkStream:
    """Any async iterable of bytes as a family's request stream."""

    chunks: Any

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.chunks)


class _TransportBody:
    """A family's response stream as our body."""

    def __init__(
        self, stream: Any, family: Family, keeper: Keeper | None, begin: Callable[[], None] | None = None
    ) -> None:
        """``begin`` is called before the first piece is asked for."""
        self._stream = stream
        self._begin = begin
        self._family = family
        self._keeper = keeper
        self._chunks: AsyncIterator[bytes] | None = None
        self._failed = False
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            if self._begin is not None:
                self._begin()
            self._chunks = aiter(self._stream)
        try:
            with _our_errors(self._family):
                return await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except BaseException:
            self._failed = True
            raise

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._keeper is not None:
            self._keeper.before_close(self._stream)
        try:
            with _our_errors(self._family), anyio.CancelScope(shield=True):
                await self._stream.aclose()
                if isinstance(self._chunks, AsyncGenerator):
                    # Another task may still be in it; the closed stream ends that one's wait.
                    with suppress(RuntimeError):
                        await self._chunks.aclose()
        except BaseException:
            self._failed = True
            raise
        finally:
            if self._failed and self._keeper is not None:
                await self._keeper.after_failure(self._stream)
