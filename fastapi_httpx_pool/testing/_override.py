"""Another client, or another transport, for a block, in an app that may be running already."""

import copy
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, final

from starlette.applications import Starlette
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import dependencies
from .._state import key_in
from ..exceptions import ClientNotStarted
from ..proxy import ReverseProxy
from ..transports import Family, family_of
from ._upstream import Upstream

__all__ = ("client_override",)


@contextmanager
def client_override(app: Any, client_or_transport: Any, name: str | None = None) -> Iterator[None]:
    """
    Replace a client of an app, or only its transport, for the requests that come in during a block.

    Injected clients are replaced, those of ``def`` routes too, and those that proxied routes send through.
    The app may be running or not, and need not have opened any clients. An override of
    ``get_client`` in ``app.dependency_overrides`` is put aside for the block.

    Args:
        app: FastAPI, Starlette, a router, a ``ReverseProxy``, or middleware around one of them or any app.
        client_or_transport: An ``AsyncClient`` of either family, which stays open. Or an asynchronous
            transport, for example ``httpx.MockTransport``: a client with the app's settings sends through it.
            Or an ``Upstream``: the client, which the app must have opened, sends everything there, whatever
            the URL says.
        name: Of a named client; None for the default one.

    Raises:
        TypeError: It is none of these; or the app has no place for it.
    """
    replacement = _Replacement(client_or_transport)
    with _overrides_aside(app, name):
        restore = _install(app, replacement, name)
        try:
            yield
        finally:
            restore()


@final
class _Replacement:
    """What stands in for clients."""

    def __init__(self, given: Any) -> None:
        self._client: Any = None
        self._given = given
        self._family: Family | None = None
        if not isinstance(given, Upstream):
            try:
                self._family = family_of(given)
                self._client = given
            except TypeError:
                self._family = _family_of_transport(given)
        self._copies: dict[int, tuple[Any, Any]] = {}

    def of(self, client: Any | None) -> Any:
        """Return what stands in for a client, or for none at all."""
        if self._client is not None:
            return self._client
        if id(client) not in self._copies:
            # The client is kept, so that nothing else gets its number.
            self._copies[id(client)] = (client, self._new_client(client))
        return self._copies[id(client)][1]

    def _new_client(self, client: Any | None) -> Any:
        if client is None:
            return self._client_without_settings()
        family = family_of(client)
        if self._family is not None and family is not self._family:
            raise TypeError(
                f"{self._given!r} is a transport of {self._family.name}, and {client!r} is not of that family; "
                f"take the transport from {family.name}, or override with a client"
            )
        # With its base_url, headers, timeout and all else that is its own.
        found = copy.copy(client)
        found._transport = self._given if self._family else _rerouted(family, client._transport, self._given)
        found._mounts = {}
        return found

    def _client_without_settings(self) -> Any:
        if self._family is None:
            raise ClientNotStarted("The client to send to the test's upstream with")
        return self._family.module.AsyncClient(transport=self._given)


def _rerouted(family: Family, transport: Any, upstream: Upstream) -> Any:
    """Return a transport that sends everything to an upstream, through a client's own transport."""
    module = family.module
    base: Any = module.AsyncBaseTransport

    class Rerouted(base):  # type: ignore[misc] # of either family
        async def handle_async_request(self, request: Any) -> Any:
            url = request.url.copy_with(scheme=module.URL(upstream.url).scheme, host=upstream.host, port=upstream.port)
            rerouted = module.Request(
                request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
            )
            rerouted.method = request.method  # as it is; the constructor writes it in capitals
            return await transport.handle_async_request(rerouted)

    return Rerouted()


def _family_of_transport(given: Any) -> Any:
    try:
        return family_of(given, "AsyncBaseTransport")
    except TypeError:
        raise TypeError(
            f"{given!r} is neither an AsyncClient nor an asynchronous transport of httpx or httpx2, nor an Upstream; "
            "for a function that answers requests, write httpx.MockTransport(function)"
        ) from None


# Where it is put.


def _install(app: Any, replacement: _Replacement, name: str | None) -> Callable[[], None]:
    """Put the replacement before the app's routes, and return what takes it away."""
    owner, attribute = _seam_of(app)
    there = getattr(owner, attribute)
    if isinstance(owner, ReverseProxy):
        return _replace(owner, attribute, _of_proxy(there, replacement))
    if isinstance(there, _Override):
        return there.add(replacement, name)
    override = _Override(there)
    override.add(replacement, name)
    return _replace(owner, attribute, override)


def _replace(owner: Any, attribute: str, new: Any) -> Callable[[], None]:
    was_own, old = attribute in vars(owner), getattr(owner, attribute)
    setattr(owner, attribute, new)

    def restore() -> None:
        if was_own:
            setattr(owner, attribute, old)
        else:
            delattr(owner, attribute)

    return restore


def _layers(app: Any) -> Iterator[Any]:
    """Give the app and what it is around, from outside to inside, down to where routes are."""
    while app is not None:
        yield app
        app = None if isinstance(app, Router | Starlette) else getattr(app, "app", None)


def _seam_of(app: Any) -> tuple[Any, str]:
    """
    Return the place before the app's routes, and behind all middleware: the object and its attribute.

    Behind, because ``ClientMiddleware`` may put its clients into each request's state.
    """
    *around, innermost = _layers(app)
    if isinstance(innermost, ReverseProxy):
        return innermost, "_client_for"
    if isinstance(innermost, Router | Starlette):
        return getattr(innermost, "router", innermost), "middleware_stack"
    if not around:
        raise TypeError(
            f"{app!r} has no place for another client; give FastAPI(), Starlette(), a router, a ReverseProxy, "
            "or the ClientMiddleware around an app"
        )
    return around[-1], "app"


def _of_proxy(client_for: Callable[[Scope], Any], replacement: _Replacement) -> Callable[[Scope], Any]:
    def replaced(scope: Scope) -> Any:
        try:
            client = client_for(scope)
        except ClientNotStarted:
            client = None
        return replacement.of(client)

    return replaced


@final
class _Override:
    """ASGI middleware that puts replacements into each request's state, and takes them out again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._entries: list[tuple[_Replacement, str | None]] = []

    def add(self, replacement: _Replacement, name: str | None) -> Callable[[], None]:
        """Take one more, which goes before the others of its name; return what takes it away."""
        entry = (replacement, name)
        self._entries.append(entry)
        return lambda: self._entries.remove(entry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        original = {key: state[key] for _, name in self._entries if (key := key_in(state, name)) in state}
        put = {key_in(state, name): replacement for replacement, name in self._entries}
        state.update({key: replacement.of(original.get(key)) for key, replacement in put.items()})
        try:
            await self._app(scope, receive, send)
        finally:
            # Some servers give every request the same object.
            for key in put:
                del state[key]
            state.update(original)


@contextmanager
def _overrides_aside(app: Any, name: str | None) -> Iterator[None]:
    """Take away overrides of the dependency that gives the client: its own answer is the replacement."""
    *_, innermost = _layers(app)
    overrides: MutableMapping[Any, Any] = getattr(innermost, "dependency_overrides", {})
    ours = [found for (known, _), found in dependencies._dependencies.items() if known == name]
    aside = {
        dependency: overrides.pop(dependency)
        for dependency in (*ours, *([dependencies.get_client] if name is None else []))
        if dependency in overrides
    }
    try:
        yield
    finally:
        overrides.update(aside)
