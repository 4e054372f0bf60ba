"""The lifespan factory: opens the clients with the app and closes them with it."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, final

import anyio

from ._state import STATE_KEY, check_state_key, merge, state_of
from .clients import ClientFactory, check_settings
from .exceptions import ClientNotStarted
from .settings import ClientSettings

__all__ = ("ClientLifespan", "create_lifespan")


def create_lifespan(
    settings: ClientSettings | None = None,
    *,
    clients: Mapping[str, ClientSettings] | None = None,
    lifespan: Callable[[Any], Any] | None = None,
    state_key: str = STATE_KEY,
) -> "ClientLifespan":
    """
    Return a lifespan for ``FastAPI(lifespan=...)``, ``Starlette(lifespan=...)``, ``APIRouter(lifespan=...)``.

    Args:
        settings: Of the default client. None reads the environment when the app starts.
        clients: Of further clients, by name; see ``named_client``.
        lifespan: The app's own, in any form that FastAPI accepts: it is entered when the clients
            are open and left before they close, and its state is merged.
        state_key: Where the default client lies: ``request.state.client``. A client named
            "github" lies beside it: ``request.state.client_github``.

    Raises:
        TypeError: Something else than settings was given.
        ValueError: ``state_key`` is not an identifier.
    """
    check_settings(settings, clients)
    return ClientLifespan(settings, clients, lifespan, check_state_key(state_key))


@final
class ClientLifespan:
    """
    A lifespan that opens clients: what ``create_lifespan`` returns.

    One object may serve several routers and apps. Each app that starts has clients of its own;
    within one start of an app they are opened once, however many of its routers share the object.
    """

    def __init__(
        self,
        settings: ClientSettings | None,
        clients: Mapping[str, ClientSettings] | None,
        lifespan: Callable[[Any], Any] | None,
        state_key: str,
    ) -> None:
        self._settings = settings
        self._clients = clients
        self._inner = lifespan
        self._state_key = state_key
        self._started: dict[tuple[int, int], tuple[ClientFactory, dict[str, Any]]] = {}

    @property
    def factory(self) -> ClientFactory:
        """
        The open factory (of the app that started last): the app's own lifespan and tests get clients from it.

        Raises:
            ClientNotStarted: No app with this lifespan is running.
        """
        if not self._started:
            raise ClientNotStarted("The lifespan's factory")
        return list(self._started.values())[-1][0]

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[Mapping[str, Any]]:
        """Open the clients, enter the app's own lifespan, yield both states; and the other way round."""
        # The routers of an app enter their lifespans one in the other, in one task; another server
        # that starts the same app does so in another.
        start = (id(app), anyio.get_current_task().id)
        if start in self._started:
            yield self._started[start][1]  # a second router with this object; the first one closes
            return
        async with ClientFactory(self._settings, self._clients) as factory:
            state = state_of(factory, self._state_key)
            self._started[start] = (factory, state)
            try:
                if self._inner is not None:
                    async with _entered(self._inner, app) as inner_state:
                        state.update(merge(state, inner_state))
                        yield state
                else:
                    yield state
            finally:
                del self._started[start]


@asynccontextmanager
async def _entered(lifespan: Callable[[Any], Any], app: Any) -> AsyncIterator[Mapping[str, Any]]:
    async with _context_manager(lifespan, app) as state:
        if not isinstance(state, Mapping | None):
            raise TypeError(
                f"The lifespan {_name_of(lifespan)} yielded {state!r}; "
                "yield a mapping, which becomes request.state, or nothing"
            )
        yield {} if state is None else state


def _context_manager(lifespan: Callable[[Any], Any], app: Any) -> AbstractAsyncContextManager[Any]:
    context = lifespan(app)
    if hasattr(context, "__aenter__"):
        manager: AbstractAsyncContextManager[Any] = context
        return manager
    if inspect.isasyncgen(context):
        return asynccontextmanager(lambda: context)()
    if inspect.isgenerator(context):
        return _lifted(context)
    if inspect.iscoroutine(context):
        context.close()
    raise TypeError(
        f"The lifespan {_name_of(lifespan)} gave {context!r}, which cannot be entered. "
        "Write it as an async function with one `yield`, decorated with @asynccontextmanager; "
        "if it is, pass the function itself, not its result."
    )


@asynccontextmanager
async def _lifted(generator: Iterator[Any]) -> AsyncIterator[Any]:
    with contextmanager(lambda: generator)() as state:
        yield state


def _name_of(lifespan: Callable[[Any], Any]) -> str:
    return getattr(lifespan, "__qualname__", repr(lifespan))
