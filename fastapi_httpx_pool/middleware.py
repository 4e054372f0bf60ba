"""The same as the lifespan, for any ASGI app, around it instead of inside."""

import logging
from collections.abc import Mapping
from typing import Any, final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._state import STATE_KEY, check_state_key, merge, state_of
from .clients import ClientFactory, check_settings
from .exceptions import StateKeyConflict
from .settings import ClientSettings

__all__ = ("ClientMiddleware",)

_logger = logging.getLogger("fastapi_httpx_pool.clients")


@final
class ClientMiddleware:
    """
    ASGI middleware that opens clients with the server and puts them into each request's state.

    ``app.add_middleware(ClientMiddleware)`` is enough, or ``ClientMiddleware(app)`` around any
    ASGI app, also around one that does not know the lifespan protocol. The app's own lifespan runs
    while the clients are open.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ClientSettings | None = None,
        *,
        clients: Mapping[str, ClientSettings] | None = None,
        state_key: str = STATE_KEY,
    ) -> None:
        """
        Take the arguments of ``create_lifespan``.

        Raises:
            TypeError: Something else than settings was given.
            ValueError: ``state_key`` is not an identifier.
        """
        check_settings(settings, clients)
        self.app = app
        self._settings = settings
        self._clients = clients
        self._state_key = check_state_key(state_key)
        # For servers that hand no lifespan state on to requests.
        self._state: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap the lifespan; add the clients to the state of everything else."""
        if scope["type"] == "lifespan":
            await _Lifespan(self, scope, receive, send).run()
            return
        if self._state:
            scope.setdefault("state", {}).update(self._state)
        await self.app(scope, receive, send)

    def _new_factory(self) -> ClientFactory:
        """Return a factory for one start of the server."""
        return ClientFactory(self._settings, self._clients)

    def _publish(self, factory: ClientFactory, scope: Scope) -> dict[str, Any]:
        """Put the clients where the app's lifespan and its requests find them."""
        state = state_of(factory, self._state_key)
        if "state" in scope:
            scope["state"].update(merge(scope["state"], state))
        else:
            self._state = state
        return state

    def _withdraw(self) -> None:
        """Offer the clients to no further request."""
        self._state = {}


@final
class _Lifespan:
    """
    One run of the lifespan protocol.

    The app is told of the start-up when the clients are open, and its word that shutdown is
    complete is held back until they are closed.
    """

    def __init__(self, middleware: ClientMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._factory = middleware._new_factory()
        self._ours: dict[str, Any] = {}
        self._startup: Message | None = None
        self._answered: set[str] = set()
        self._told_to_stop = False

    async def run(self) -> None:
        self._startup = await self._receive()
        try:
            await self._open()
            await self._run_app()
        finally:
            await self._close()

    async def _open(self) -> None:
        try:
            await self._factory.__aenter__()
            self._ours = self._middleware._publish(self._factory, self._scope)
        except BaseException as exc:
            await self._refuse(exc)
            raise

    async def _refuse(self, error: BaseException) -> None:
        await self._send_for_app({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})

    async def _run_app(self) -> None:
        try:
            await self._middleware.app(self._scope, self._receive_for_app, self._send_for_app)
        except Exception:
            if self._answered:
                raise
            _logger.debug("the app does not speak the lifespan protocol", exc_info=True)
        await self._answer_for_app()

    async def _answer_for_app(self) -> None:
        """Say to the server what the app left unsaid."""
        if not self._answered:
            await self._send_for_app({"type": "lifespan.startup.complete"})
        if self._answered == {"lifespan.startup.complete"}:
            if not self._told_to_stop:
                await self._receive()
            await self._send_for_app({"type": "lifespan.shutdown.complete"})

    async def _receive_for_app(self) -> Message:
        if self._startup is not None:
            message, self._startup = self._startup, None
            return message
        message = await self._receive()
        self._told_to_stop = True
        return message

    async def _send_for_app(self, message: Message) -> None:
        if "lifespan.startup.failed" in self._answered:
            return  # said already, for a reason of ours
        if message["type"] == "lifespan.startup.complete":
            await self._check_state()
        else:
            await self._close()
        self._answered.add(message["type"])
        await self._send(message)

    async def _check_state(self) -> None:
        # The app's own lifespan may have put its state over ours.
        state = self._scope.get("state", {})
        try:
            merge(self._ours, {key: state[key] for key in self._ours if key in state})
        except StateKeyConflict as exc:
            await self._refuse(exc)
            raise

    async def _close(self) -> None:
        self._middleware._withdraw()
        await self._factory.__aexit__(None, None, None)
