"""
Which engine carries a request, and when to step aside for somebody who has put themselves before it.

The package's own engine carries what it speaks. What it does not (HTTP/2, forward proxies, trio) the
family's httpcore carries. And whoever has replaced the family's transport or its pool meant to see
every request: pytest-httpx, vcrpy and OpenTelemetry replace ``AsyncHTTPTransport``'s method, respx
the one of httpcore's pool. Then the request goes to what they have put there.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, final

from .._cancellation import runs_asyncio
from ..engine import Engine
from ..exceptions import TransportError
from ..messages import Handler, Origin, Request, Response, Timeouts
from ._family import Family

__all__ = ("DEFAULT_PORTS", "Genuine", "core_error", "engine_or", "is_own", "put_engine_into")

DEFAULT_PORTS: Final = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}


@final
class Genuine:
    """Whether a class's ``handle_async_request`` is still the one that it came with."""

    def __init__(self, owner: type[Any]) -> None:
        self._owner = owner
        self._known: object = None

    def __call__(self) -> bool:
        """Ask; costs two attribute lookups while nothing changes."""
        method = self._owner.handle_async_request
        return method is self._known or self._is_own(method)

    def _is_own(self, method: Any) -> bool:
        # Not what it was at our import: it may have been replaced before, and put back since.
        own = is_own(method, _package_of(self._owner))
        if own:
            self._known = method
        return own


def is_own(method: Any, *packages: str) -> bool:
    """Whether a method of one of some packages is its own, and not what somebody has put in its place."""
    return _package_of(method) in packages and not hasattr(method, "__wrapped__")


def _package_of(thing: Any) -> str:
    # Public classes say that they live in the package itself, their methods tell the very module.
    name: str = getattr(thing, "__module__", None) or ""
    return name.partition(".")[0]


def engine_or(engine: Engine, genuine: tuple[Genuine, Genuine], other: Handler) -> Handler:
    """Return a handler that uses the engine while both are genuine and asyncio runs; else the other handler."""
    of_transport, of_pool = genuine

    def handle(request: Request) -> Awaitable[Response]:
        if of_transport() and of_pool() and runs_asyncio():
            return engine(request)
        return other(request)

    return handle


def put_engine_into(pool: Any, engine: Engine, genuine: Genuine, family: Family) -> None:
    """
    Have an httpcore pool send through the engine.

    Whoever has wrapped the family's transport calls the original in the end, and that asks the
    pool; so their users have the engine too, and its one set of limits.
    """
    name = type(pool).__name__
    pool.__class__ = type(name, (_EnginePool, type(pool)), {"__module__": type(pool).__module__})
    pool._of_engine = _OfEngine(engine, genuine, family)


class _OfEngine:
    def __init__(self, engine: Engine, genuine: Genuine, family: Family) -> None:
        self.engine = engine
        self.genuine = genuine
        self.core = family.core
        self.byte_stream_class = family.module.ByteStream


class _EnginePool:
    """Mixed in before httpcore's pool."""

    _of_engine: _OfEngine

    async def handle_async_request(self, request: Any) -> Any:
        ours = self._of_engine
        if not ours.genuine() or not runs_asyncio():
            return await super().handle_async_request(request)  # type: ignore[misc] # httpcore's, or respx's
        with _errors_of(ours.core):
            response = await ours.engine(_our_request(request, ours.byte_stream_class))
        return ours.core.Response(
            response.status,
            headers=response.headers,
            content=_CoreStream(response, ours.core),
            extensions=response.extensions,
        )

    @property
    def connections(self) -> list[Any]:
        """The engine's, for those who count them, and those that httpcore has opened itself."""
        origins = self._of_engine.engine.statistics().origins
        ours = [
            _SeenConnection(origin, idle=idle)
            for origin, found in origins.items()
            for idle, count in ((False, found.active), (True, found.idle))
            for _ in range(count)
        ]
        return [*ours, *super().connections]  # type: ignore[misc] # httpcore's

    def __repr__(self) -> str:
        found = self._of_engine.engine.statistics()
        return (
            f"<{type(self).__name__} [Requests: {found.active} active, {found.queued} queued | "
            f"Connections: {found.active} active, {found.idle} idle]>"
        )


@final
class _SeenConnection:
    """What httpcore's connections tell of themselves, told of one of the engine's."""

    def __init__(self, origin: str, *, idle: bool) -> None:
        self._origin = origin
        self._idle = idle

    def is_idle(self) -> bool:
        return self._idle

    def is_available(self) -> bool:
        return self._idle

    def is_closed(self) -> bool:
        return False

    def has_expired(self) -> bool:
        return False

    def info(self) -> str:
        return f"{self._origin!r}, HTTP/1.1, {'IDLE' if self._idle else 'ACTIVE'}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self.info()}]>"


def _our_request(request: Any, byte_stream_class: type[Any]) -> Request:
    url, stream = request.url, request.stream
    extensions = dict(request.extensions)
    limits = extensions.pop("timeout", {})
    return Request(
        method=request.method,
        origin=Origin(url.scheme, url.host, url.port or DEFAULT_PORTS.get(url.scheme, 0)),
        target=extensions.pop("target", None) or url.target,
        headers=request.headers,
        body=b"".join(stream) if type(stream) is byte_stream_class else stream,
        timeouts=Timeouts(*(limits.get(name) for name in Timeouts._fields)),
        extensions=extensions,
    )


@final
class _CoreStream:
    """Our response's body as httpcore's, with httpcore's errors."""

    def __init__(self, response: Response, core: Any) -> None:
        self._response = response
        self._chunks = aiter(response.body)
        self._core = core

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with _errors_of(self._core):
            return await anext(self._chunks)

    async def aclose(self) -> None:
        with _errors_of(self._core):
            await self._response.aclose()


@final
class _errors_of:  # noqa: N801 -- reads as a phrase
    """Turns our errors into those of the same name of httpcore's."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, TransportError):
            raise core_error(exc, self._core) from exc


def core_error(error: TransportError, core: Any) -> Exception:
    """Return httpcore's error for one of ours: its namesake, or that of the nearest ancestor."""
    for ours in type(error).__mro__:
        theirs: Callable[[str], Exception] | None = getattr(core, ours.__name__, None)
        if theirs is not None:
            return theirs(str(error))
    raise TypeError(f"{error!r} has no counterpart in {core.__name__}")
