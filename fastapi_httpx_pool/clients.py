"""
Step 1 of a request: the clients that will carry it are opened, each from its settings.

The composition root: settings, then policies, then transport, then client; and the other way
round at the end: no new requests, wait for those in flight, close.
"""

import logging
import os
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from types import TracebackType
from typing import Any, Self, TypeVar, cast, final, overload

import anyio
import anyio.to_thread
import httpx

from ._cancellation import finish
from .engine import PoolStatistics
from .exceptions import ClientNotStarted, UnknownClient, WrongEventLoop
from .messages import Handler
from .policies import Gate, HostLimit, deadline
from .settings import ClientSettings, FamilyName, TLSSettings
from .transports import family_named

__all__ = ("ClientFactory", "check_client_class", "check_settings")

_logger = logging.getLogger("fastapi_httpx_pool.clients")

DEFAULT_NAME = "default"

ClientT = TypeVar("ClientT")


@final
class ClientFactory:
    """
    Opens clients and closes them; what lifespans and the middleware are made of.

    In a script or a worker, without any web app::

        async with ClientFactory() as factory:
            response = await factory.get().get("https://example.org")

    It can be entered again after it was left, and then opens new clients.
    """

    def __init__(
        self, settings: ClientSettings | None = None, clients: Mapping[str, ClientSettings] | None = None
    ) -> None:
        """
        Take the settings; nothing is opened yet.

        Args:
            settings: Of the default client. None reads the environment when the factory is entered.
            clients: Of further clients, by name.

        Raises:
            TypeError: Something else than settings was given.
            ValueError: A name is empty.
        """
        check_settings(settings, clients)
        self._settings = settings
        self._named_settings = dict(clients or {})
        if "" in self._named_settings:
            raise ValueError("A named client needs a name; the default client's settings are the first argument.")
        self._members: dict[str | None, _Member] | None = None
        self._entered = False

    async def __aenter__(self) -> Self:
        """
        Open all clients, or none.

        Raises:
            FamilyNotInstalled: ``family="httpx2"`` without the package.
            pydantic.ValidationError: The environment has an impossible value.
        """
        if self._entered:
            raise RuntimeError("This ClientFactory is open already; make another one for another owner.")
        opened: dict[str | None, _Member] = {}
        self._entered = True
        try:
            # Reading the environment may mean reading certificates, so not on the event loop.
            default = self._settings
            if default is None:
                default = await anyio.to_thread.run_sync(_settings_from_environment)
            wanted: dict[str | None, ClientSettings] = {None: default}
            wanted.update(self._named_settings)
            for name, settings in wanted.items():
                opened[name] = await _open(name or DEFAULT_NAME, settings)
        except BaseException:
            self._entered = False
            await finish(lambda: _close(list(opened.values())))
            raise
        self._members = opened
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Take no new requests, wait up to ``drain`` seconds for those in flight, close.

        Cancellation takes effect only afterwards.

        Raises:
            WrongEventLoop: It was entered in another event loop, which still has to leave it.
        """
        if self._members is not None and any(member.is_elsewhere() for member in self._members.values()):
            raise WrongEventLoop(DEFAULT_NAME)
        members, self._members = self._members, None
        if members is not None:
            self._entered = False
            await finish(lambda: _close(list(members.values())))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the named clients."""
        return tuple(self._named_settings)

    @overload
    def get(self, name: str | None = None) -> httpx.AsyncClient: ...
    @overload
    def get(self, name: str | None, client_class: type[ClientT]) -> ClientT: ...

    def get(self, name: str | None = None, client_class: type[Any] | None = None) -> Any:
        """
        Return an open client.

        Args:
            name: Of a named client; None for the default one.
            client_class: ``httpx2.AsyncClient`` for a client of that family; checked, and what
                type checkers go by.

        Raises:
            ClientNotStarted: The factory is not open.
            UnknownClient: No client has this name.
            TypeError: The client is not of that class.
        """
        if self._members is None:
            raise ClientNotStarted("ClientFactory.get()'s client")
        if name not in self._members:
            raise UnknownClient(cast("str", name), self.names)
        client = self._members[name].client
        check_client_class(client, client_class)
        return client

    def statistics(self, name: str | None = None) -> PoolStatistics:
        """
        Return a snapshot of a client's connections, and of what they have carried.

        Args:
            name: Of a named client; None for the default one.

        Raises:
            ClientNotStarted: The factory is not open.
            UnknownClient: No client has this name.
        """
        found: PoolStatistics = self.get(name, object).pool_statistics()  # type: ignore[attr-defined] # ours
        return found

    def clients(self) -> dict[str | None, Any]:
        """Return the open clients by name; the default one under None."""
        return {name: member.client for name, member in (self._members or {}).items()}

    def __repr__(self) -> str:
        state = "closed" if self._members is None else "open"
        names = ", ".join((DEFAULT_NAME, *self.names))
        return f"<ClientFactory [{state}: {names}]>"


def check_settings(settings: object, clients: object) -> None:
    """Raise TypeError for what is not settings; the likely mistakes are told by name."""
    if settings is not None and not isinstance(settings, ClientSettings):
        raise TypeError(
            f"{settings!r} is not ClientSettings; write create_lifespan(ClientSettings(timeout=5)). "
            "An own lifespan goes by name, create_lifespan(lifespan=...), and FastAPI wants the result: "
            "FastAPI(lifespan=create_lifespan()), with the parentheses."
        )
    if clients is None:
        return
    if not isinstance(clients, Mapping) or not all(isinstance(value, ClientSettings) for value in clients.values()):
        raise TypeError(
            f"{clients!r} is not a mapping of names to ClientSettings; write clients={{'github': ClientSettings(...)}}"
        )


def check_client_class(client: object, client_class: type[Any] | None) -> None:
    """Raise TypeError if the client is not what the code that asks for it was written for."""
    if client_class is not None and not isinstance(client, client_class):
        raise TypeError(
            f"{client!r} is not a {client_class.__module__.partition('.')[0]}.{client_class.__name__}. "
            "Ask for the class of its family, or set ClientSettings(family=...) to the one you want; "
            "the default family is httpx, even where httpx2 is installed."
        )


@final
class _Member:
    """One open client and its gate."""

    def __init__(self, client: Any, gate: Gate) -> None:
        self.client = client
        self.gate = gate

    def is_elsewhere(self) -> bool:
        return self.gate.elsewhere and not self.gate.foreign

    async def close(self) -> None:
        self.gate.shut()
        if self.gate.foreign:
            # The sockets are the parent process's too: closing TLS ones would say goodbye for it.
            return
        drain: float = self.client.pool_settings.drain
        cut = await self._empty(drain)
        if cut:
            name = self.client.pool_name
            _logger.warning("the %s client is closed with %d exchanges in flight, after waiting %g s", name, cut, drain)
        await self.client.close_pool()

    async def _empty(self, seconds: float) -> int:
        cut = 0

        async def wait(empty: Callable[[float], Awaitable[int]]) -> None:
            nonlocal cut
            cut += await empty(seconds)

        async with anyio.create_task_group() as group:
            group.start_soon(wait, self.gate.empty)
            group.start_soon(wait, self.client.drain)
        return cut


def _settings_from_environment() -> ClientSettings:
    return ClientSettings()


async def _open(name: str, settings: ClientSettings) -> _Member:
    family_named(settings.family)  # before its context is built in a thread
    context = await _ssl_context(settings)
    client_class = import_module(f"{__package__}.transports.{settings.family}").Client
    gate = Gate(name)
    hosts = (
        None
        if settings.limits.max_connections_per_host is None
        else HostLimit(settings.limits.max_connections_per_host)
    )

    def around_family(handler: Handler) -> Handler:
        # The engine has its own limits of both kinds.
        if hosts is not None:
            handler = hosts.guard(handler)
        return gate.count(deadline(handler))

    client = client_class(name, settings, context, gate.guard, around_family)
    await client.__aenter__()
    return _Member(client, gate)


async def _close(members: list[_Member]) -> None:
    """Close all, whatever becomes of one; then raise the first error."""
    errors: list[Exception] = []

    async def close(member: _Member) -> None:
        try:
            await member.close()
        except Exception as exc:  # noqa: BLE001 -- raised again when the others are closed
            errors.append(exc)

    async with anyio.create_task_group() as group:
        for member in members:
            group.start_soon(close, member)
    if errors:
        raise errors[0]


# One context for each TLS setting and process: building one takes 30 to 40 ms.
_contexts: dict[tuple[Any, ...], ssl.SSLContext] = {}
_contexts_lock = threading.Lock()


def _renew_lock() -> None:
    # A fork may come while another thread holds it, and that thread does not exist in the child.
    global _contexts_lock  # noqa: PLW0603 -- there is nobody to hand it over
    _contexts_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows cannot fork
    os.register_at_fork(after_in_child=_renew_lock)


async def _ssl_context(settings: ClientSettings) -> ssl.SSLContext:
    tls, family, trust_env = settings.tls, settings.family, settings.trust_env
    # HTTP/2 is in the key because httpcore writes the protocols to offer into the context.
    key = (tls, family, trust_env, settings.http2, *_files_of(tls, trust_env))
    context = _contexts.get(key)
    if context is None:
        context = await anyio.to_thread.run_sync(_build_context, key, tls, family, trust_env)
    return context


def _build_context(key: tuple[Any, ...], tls: TLSSettings, family: FamilyName, trust_env: bool) -> ssl.SSLContext:
    with _contexts_lock:
        if key not in _contexts:
            _contexts[key] = tls.as_ssl_context(family, trust_env=trust_env)
        return _contexts[key]


def _files_of(tls: TLSSettings, trust_env: bool) -> list[object]:
    # A renewed certificate has the same path, so its time counts too.
    files = [tls.ca_file, tls.ca_dir, tls.cert_file, tls.key_file]
    stamps: list[object] = [path and path.stat().st_mtime_ns for path in files]
    if trust_env:
        stamps += [os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")]
    return stamps
