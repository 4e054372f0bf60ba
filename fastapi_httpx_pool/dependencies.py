"""
Step 3 of a request: a route asks for a client and gets the one that the lifespan opened.

Reads the ASGI state. Opens nothing, closes nothing, keeps nothing. The dependencies are coroutine
functions because FastAPI calls any other function in a thread, which takes longer than a request.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar, overload

import httpx
from fastapi import Depends
from starlette.requests import HTTPConnection

from ._state import client_in
from .clients import check_client_class

__all__ = ("ClientDep", "get_client", "named_client")

ClientT = TypeVar("ClientT")
_Dependency = Callable[[HTTPConnection], Coroutine[Any, Any, Any]]


async def get_client(connection: HTTPConnection) -> httpx.AsyncClient:
    """
    Return the application's default client; a dependency for HTTP and WebSocket routes alike.

    A Starlette endpoint awaits it: ``await get_client(request)``. For a default client of the other
    family, write ``Annotated[httpx2.AsyncClient, Depends(get_client)]``.

    Raises:
        ClientNotStarted: No lifespan of ours ran for this application.
    """
    return client_in(connection)


ClientDep = Annotated[httpx.AsyncClient, Depends(get_client)]
"""``client: ClientDep`` in a route is short for ``Depends(get_client)``."""


@overload
def named_client(name: str) -> Callable[[HTTPConnection], Coroutine[Any, Any, httpx.AsyncClient]]: ...
@overload
def named_client(
    name: str, client_class: type[ClientT]
) -> Callable[[HTTPConnection], Coroutine[Any, Any, ClientT]]: ...


def named_client(name: str, client_class: type[Any] | None = None) -> _Dependency:
    """
    Return the dependency for a named client; the same object for the same arguments.

    So ``app.dependency_overrides[named_client("github")]`` finds it.

    Args:
        name: As given to ``create_lifespan(clients={name: ...})``.
        client_class: ``httpx2.AsyncClient`` if the client is of that family.

    Raises:
        ClientNotStarted: From the dependency: no lifespan of ours ran for this application.
        UnknownClient: From the dependency: the lifespan opened no client of this name.
        TypeError: From the dependency: the client is not of that class.
    """
    key = (name, client_class)
    if key not in _dependencies:
        _dependencies[key] = _dependency(name, client_class)
    return _dependencies[key]


_dependencies: dict[tuple[str, type[Any] | None], _Dependency] = {}


def _dependency(name: str, client_class: type[Any] | None) -> _Dependency:
    async def get_named_client(connection: HTTPConnection) -> Any:
        client = client_in(connection, name)
        check_client_class(client, client_class)
        return client

    return get_named_client
