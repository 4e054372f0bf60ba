"""
Blocking clients for ``def`` routes, which run in threads: the same clients, the same pool, the same loop.

A call goes to the app's event loop and waits there for its result; no thread, loop or pool is added.
The rules:

1. A call is one trip to the loop, a streamed body one for each time that something has arrived.
2. What is the caller's own runs in the caller's thread: a body that is a generator or a file, and the
   decoding of a streamed response.
3. A call ends with the request on whose behalf it is made; closing always comes to its end.
4. The loop's own thread never waits for itself.
"""

import asyncio
import concurrent.futures
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextvars import copy_context
from functools import cache, partial
from threading import get_ident
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, Self, TypeVar, cast, final, overload

import anyio
import httpx
from anyio import from_thread
from anyio.lowlevel import current_token
from fastapi import Depends
from starlette.requests import HTTPConnection

from ._cancellation import finish, runs_asyncio, runs_trio
from ._state import client_in
from .clients import DEFAULT_NAME
from .dependencies import get_client, named_client
from .exceptions import CalledInEventLoop, ClientClosed
from .fanout import RequestLike, fan_out
from .transports import Family, family_of

__all__ = ("SyncClient", "SyncClientDep", "get_sync_client", "named_sync_client")

T = TypeVar("T")
ClientT = TypeVar("ClientT")
_Dependency = Callable[..., Coroutine[Any, Any, Any]]


class _Blocking:
    """
    Mixed in before a family's ``Client``.

    The family's constructor is not called: whatever is not here is the asynchronous client's, to be
    read and to be set, so both are one client.
    """

    _loop: "_Loop"
    _classes: "_Classes"

    def __init__(self, client: Any, classes: Any) -> None:
        vars(self).update(_loop=_Loop(client), _wrapped=client, _classes=classes)

    def close(self) -> None:
        """Do nothing: the client belongs to the app, and others are using it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    if not TYPE_CHECKING:  # pragma: no branch -- for type checkers these are the family's own

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(self._wrapped, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(self._wrapped, name, value)

        def __repr__(self) -> str:
            return f"<sync {self._wrapped!r}>"

        def build_request(self, *args: Any, **arguments: Any) -> Any:
            """Build a request, as the asynchronous client does."""
            return self._wrapped.build_request(*args, **arguments)

        def send(self, request: Any, **arguments: Any) -> Any:
            """Send a request; every other method comes through here."""
            return _send(self._loop, self._classes, request, arguments)


@final
class SyncClient(_Blocking, httpx.Client):
    """
    An app's client for code that runs in threads; an ``httpx.Client`` whose every call waits.

    Headers, timeouts, cookies, hooks and everything else are those of the asynchronous client, which
    sends. Responses are httpx's, and streamed ones are read with ``iter_bytes`` and the like. It is
    made by ``SyncClientDep`` for one request, and works in any other thread as long as the app runs.

    Raises:
        CalledInEventLoop: From every call in the loop's own thread, which would wait for itself.
        ClientClosed: From every call after the app has shut down.
    """

    @overload
    def fan_out(
        self,
        requests: Iterable[RequestLike],
        *,
        limit: int | None = None,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
    ) -> list[httpx.Response]: ...
    @overload
    def fan_out(
        self,
        requests: Iterable[RequestLike],
        *,
        limit: int | None = None,
        timeout: float | None = None,
        return_exceptions: Literal[True],
    ) -> list[httpx.Response | Exception]: ...

    def fan_out(
        self,
        requests: Iterable[RequestLike],
        *,
        limit: int | None = None,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """
        Send many requests at once, and return their responses in the order of the inputs.

        What ``fan_out`` does in an ``async def`` route; a client of the httpx2 family has this method, too.

        Args:
            requests: URLs, requests, ``(method, url)`` or ``(method, url, options)``, with bodies that are
                in memory. A generator runs in this thread, and is asked for each of them when it is its turn.
            limit: How many are under way at once; as in ``fan_out``.
            timeout: Seconds for all of them together; None for no limit.
            return_exceptions: Have a failed request's own error stand in its place.

        Raises:
            FanOutError: A request failed; all others have been cancelled and closed.
            TimeoutError: They were not done in time; likewise.
        """
        options: dict[str, Any] = {"limit": limit, "timeout": timeout, "return_exceptions": return_exceptions}
        return _fan_out(self._loop, self._classes, requests, options)


async def get_sync_client(connection: HTTPConnection, client: Annotated[Any, Depends(get_client)] = None) -> SyncClient:
    """
    Return the application's default client, for a ``def`` route.

    An override of ``get_client`` counts here too. In a plain Starlette endpoint that is a ``def``:
    ``anyio.from_thread.run(get_sync_client, request)``.

    Args:
        connection: The request.
        client: An asynchronous client, in the place of the connection's.

    Raises:
        ClientNotStarted: No lifespan of ours ran for this application.
    """
    return cast("SyncClient", _blocking(client_in(connection) if client is None else client))


SyncClientDep = Annotated[SyncClient, Depends(get_sync_client)]
"""``client: SyncClientDep`` in a ``def`` route is short for ``Depends(get_sync_client)``."""


@overload
def named_sync_client(name: str) -> Callable[[HTTPConnection], Coroutine[Any, Any, SyncClient]]: ...
@overload
def named_sync_client(
    name: str, client_class: type[ClientT]
) -> Callable[[HTTPConnection], Coroutine[Any, Any, ClientT]]: ...


def named_sync_client(name: str, client_class: type[Any] | None = None) -> _Dependency:
    """
    Return the dependency for a named client in ``def`` routes; the same object for the same arguments.

    An override of ``named_client(name)`` counts here too.

    Args:
        name: As given to ``create_lifespan(clients={name: ...})``.
        client_class: ``httpx2.Client`` if the client is of that family.

    Raises:
        TypeError: ``client_class`` is neither family's ``Client``; or, from the dependency, the client
            is of the other family.
        ClientNotStarted: From the dependency: no lifespan of ours ran for this application.
        UnknownClient: From the dependency: the lifespan opened no client of this name.
    """
    key = (name, client_class)
    if key not in _dependencies:
        _dependencies[key] = _dependency(name, client_class)
    return _dependencies[key]


_dependencies: dict[tuple[str, type[Any] | None], _Dependency] = {}


def _dependency(name: str, client_class: type[Any] | None) -> _Dependency:
    asynchronous = named_client(name) if client_class is None else named_client(name, _async_class(client_class))

    async def get_named_sync_client(
        connection: HTTPConnection, client: Annotated[Any, Depends(asynchronous)] = None
    ) -> Any:
        return _blocking(await asynchronous(connection) if client is None else client)

    return get_named_sync_client


def _async_class(client_class: type[Any]) -> type[Any]:
    module = sys.modules[client_class.__module__.partition(".")[0]]
    if client_class is not getattr(module, "Client", None) or not hasattr(module, "AsyncClient"):
        raise TypeError(
            f"{client_class!r} is neither httpx.Client nor httpx2.Client. In a `def` route, write "
            "Annotated[httpx2.Client, Depends(named_sync_client(name, httpx2.Client))]; "
            "for an asynchronous client in an `async def` route, there is named_client."
        )
    return cast("type[Any]", module.AsyncClient)


def _blocking(client: Any) -> Any:
    classes = _classes_of(family_of(client))
    return classes.client(client, classes)


class _Classes(NamedTuple):
    """What stands before a family's ``isinstance``, so there is one of each for each."""

    client: Any
    body: Any
    stream: Any
    in_memory: type[Any]
    readable: type[Any]

    def open_to_threads(self, response: Any, exchange: "_Exchange") -> None:
        """Let threads read a response, and close it."""
        for each in (*response.history, response):
            each.stream = self.stream(each.stream, exchange)


def _no_websocket(*args: Any, **arguments: Any) -> None:
    raise NotImplementedError(
        "A sync client opens no WebSockets: they need the event loop all the time. In an `async def` route, "
        "open one with the asynchronous client, httpx2.AsyncClient."
    )


@cache
def _classes_of(family: Family) -> _Classes:
    module = family.module
    both = (module.SyncByteStream, module.AsyncByteStream)
    members = {"fan_out": SyncClient.fan_out, "websocket": _no_websocket}
    return _Classes(
        SyncClient if module is httpx else type("SyncClient", (_Blocking, module.Client), members),
        type("SyncBody", (_Body, *both), {}),
        type("SyncStream", (_Stream, *both), {}),
        module.ByteStream,
        module.SyncByteStream,
    )


# A request and its response.


def _send(loop: "_Loop", classes: _Classes, request: Any, arguments: dict[str, Any]) -> Any:
    body = None
    content = request.stream
    if isinstance(content, classes.readable) and not isinstance(content, classes.in_memory):
        body = request.stream = classes.body(content)
    exchange = _Exchange(loop, body)
    try:
        response = exchange.run(partial(loop.client.send, request, **arguments))
    finally:
        if body is not None and request.stream is body:
            request.stream = content
    classes.open_to_threads(response, exchange)
    return response


def _fan_out(loop: "_Loop", classes: "_Classes", requests: Any, options: dict[str, Any]) -> list[Any]:
    inputs = _Reader(requests) if isinstance(requests, Iterator) else None
    work = partial(fan_out, loop.client, requests if inputs is None else inputs, **options)
    results = _Exchange(loop, inputs).run(work)
    exchange = _Exchange(loop, None)
    for result in results:
        if not isinstance(result, Exception):
            classes.open_to_threads(result, exchange)
    return results


@final
class _Exchange:
    """What is done in the loop, while the caller's thread may have to read what is sent."""

    def __init__(self, loop: "_Loop", reader: "_Reader | None") -> None:
        self._loop = loop
        self._reader = reader

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work in the loop, and wait for its result."""
        reader = self._reader
        if reader is None or reader.is_over:
            return self._loop.run(work)
        job = _Job(work, reader)
        try:
            done = self._loop.run(job.begin)
            while not done:
                done = self._loop.run(partial(job.go_on, reader.read()))
        except BaseException:
            self._loop.finish(job.stop)
            raise
        return cast("T", job.result())

    def finish(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work in the loop, whatever happens to the request."""
        self._loop.finish(work)


@final
class _Job:
    """Work that goes on in a task of its own between the caller's trips to the loop."""

    def __init__(self, work: Callable[[], Awaitable[Any]], reader: "_Reader") -> None:
        self._work = work
        self._reader = reader
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._scope: anyio.CancelScope | None = None

    async def begin(self) -> bool:
        """Start; return whether it is done, because otherwise a piece is wanted."""
        self._scope = anyio.CancelScope()
        _spawn(partial(self._run, self._scope))
        return await self._wait()

    async def go_on(self, piece: object) -> bool:
        """Give the piece, and go on likewise."""
        self._reader.give(piece)
        return await self._wait()

    async def stop(self) -> None:
        """End it, if it was begun; what came out of it all the same is closed."""
        if self._scope is None:
            return
        self._scope.cancel()
        while not self._done:
            await self._reader.changed()
        if hasattr(self._result, "aclose"):
            await self._result.aclose()

    def result(self) -> Any:
        """Return what came out, or raise it."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error

    async def _wait(self) -> bool:
        while not self._done and not self._reader.is_wanted:
            await self._reader.changed()
        return self._done

    async def _run(self, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                self._result = await self._work()
        except BaseException as exc:  # noqa: BLE001 -- raised again in the caller's thread
            self._error = exc
        self._done = True
        self._reader.change()


_END: Final = object()
"""Comes behind the last piece."""


class _Reader:
    """What the caller's thread reads, piece by piece, when the loop wants one."""

    def __init__(self, content: Any) -> None:
        self._content = content
        self._pieces: Iterator[Any] | None = None
        self._piece: object = None
        self._given = anyio.Event()
        self._changed = anyio.Event()
        self.is_wanted = False
        self.is_over = False

    # In the loop.

    def __aiter__(self) -> AsyncIterator[Any]:
        # From the beginning, if that can be had: a redirect may want it again.
        self._pieces = None
        self.is_over = False
        return self

    async def __anext__(self) -> Any:
        given = self._given = anyio.Event()
        self.is_wanted = True
        self.change()
        try:
            await given.wait()
        finally:
            self.is_wanted = False
        piece, self._piece = self._piece, None
        if piece is _END:
            raise StopAsyncIteration
        if isinstance(piece, Exception):
            raise piece
        return piece

    def give(self, piece: object) -> None:
        """Hand over the next piece."""
        self._piece = piece
        self.is_wanted = False
        self._given.set()

    def change(self) -> None:
        """Say that something may have changed for who waits."""
        self._changed.set()

    async def changed(self) -> None:
        """Wait for that."""
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    # In the caller's thread.

    def read(self) -> object:
        """Return the next piece, or what reading it has raised."""
        try:
            if self._pieces is None:
                self._pieces = iter(self._content)
            piece: object = next(self._pieces, _END)
        except Exception as exc:  # noqa: BLE001 -- it is raised where the piece is wanted
            piece = exc
        self.is_over = piece is _END or isinstance(piece, Exception)
        return piece


class _Body(_Reader):
    """A request's body."""

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._content)


class _Stream:
    """A response's body: blocking in threads, and still asynchronous in the loop."""

    def __init__(self, stream: Any, exchange: _Exchange) -> None:
        self._stream = stream
        self._exchange = exchange
        self._chunks: AsyncIterator[bytes] | None = None
        self._is_closed = False

    @property
    def elapsed(self) -> Any:
        """What httpx2's responses look for here."""
        return getattr(self._stream, "elapsed", None)

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._exchange.run(self._next)) is not None:
            yield chunk

    def close(self) -> None:
        """Close, and wait until it is; from the loop itself (a generator that is dropped), soon."""
        if not self._is_closed:
            self._exchange.finish(self.aclose)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        """Close."""
        self._is_closed = True
        await self._stream.aclose()
        if isinstance(self._chunks, AsyncGenerator):
            with contextlib.suppress(RuntimeError):  # another thread is reading: it has its error now
                await self._chunks.aclose()

    async def _next(self) -> bytes | None:
        """Return the next chunk; close at the end, which saves the trip for it."""
        if self._chunks is None:
            self._chunks = aiter(self._stream)
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            await self.aclose()
            return None


# The way to the loop.


@final
class _Loop:
    """The event loop that a client belongs to, and the request that calls are made for."""

    def __init__(self, client: Any) -> None:
        """Must be made in the loop, by the request."""
        self.client = client
        self._token = current_token()
        self._thread = get_ident()
        self._request = asyncio.current_task() if runs_asyncio() else None

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """
        Do the work in the loop and wait for it.

        Raises:
            CalledInEventLoop: This is the loop's own thread.
            ClientClosed: There is no loop any more, or it ended meanwhile.
        """
        if self.client.is_closed:
            raise self._closed()
        if get_ident() == self._thread:
            raise CalledInEventLoop
        try:
            from_thread.check_cancelled()
        except anyio.NoEventLoopError:
            return self._run_from_elsewhere(work)
        except asyncio.CancelledError as exc:
            # anyio before 4.14 words it so that the cancelled scope does not take it for its own (its issue 1113).
            raise asyncio.CancelledError(str(exc).replace("Cancelled by", "Cancelled via")) from None
        return from_thread.run(self._while_requested, work)

    def finish(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work in the loop, whatever happens to the request, and wait for it; in the loop itself, start it."""
        if get_ident() == self._thread:
            _spawn(partial(_quietly, work))
            return
        with contextlib.suppress(anyio.RunFinishedError):  # its connections have ended with it
            from_thread.run(finish, work, token=self._token)

    def _run_from_elsewhere(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the same for a thread that anyio did not start: nothing cancels it, but the end of the loop."""

        async def run() -> T:
            return await work()

        try:
            return from_thread.run(run, token=self._token)
        except (anyio.RunFinishedError, asyncio.CancelledError, concurrent.futures.CancelledError):
            raise self._closed() from None

    async def _while_requested(self, work: Callable[[], Awaitable[T]]) -> T:
        """
        End the work with the request's task.

        anyio does it for its own cancellation. A plain ``task.cancel()``, which is what
        ``asyncio.timeout`` and servers use, leaves the thread alone with its call.
        """
        request = self._request
        if request is None or request.done():
            if request is not None and request.cancelled():
                raise asyncio.CancelledError("the request was cancelled")
            return await work()
        trip = asyncio.current_task()

        def end(_: object) -> None:
            cast("asyncio.Task[Any]", trip).cancel()

        request.add_done_callback(end)
        try:
            return await work()
        finally:
            request.remove_done_callback(end)

    def _closed(self) -> ClientClosed:
        return ClientClosed(getattr(self.client, "pool_name", DEFAULT_NAME))


_spawned: set[asyncio.Task[None]] = set()


def _spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start something in this loop that nobody waits for here; without a running loop, do nothing."""
    if runs_asyncio():
        task = asyncio.get_running_loop().create_task(work())
        _spawned.add(task)  # asyncio itself may forget it
        task.add_done_callback(_spawned.discard)
    elif runs_trio():
        sys.modules["trio"].lowlevel.spawn_system_task(work, context=copy_context())


async def _quietly(work: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(Exception):
        await finish(work)
