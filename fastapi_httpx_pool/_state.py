"""
Step 2 of a request: the clients lie in the ASGI state, under keys that only this module knows.

``state["client"]`` is the default client, as in every published recipe; ``state["client_github"]``
the one named "github". Each stands for itself, so the states of several owners merge.
"""

from collections.abc import Mapping
from typing import Any, cast

import httpx
from starlette.requests import HTTPConnection

from .clients import ClientFactory
from .exceptions import ClientNotStarted, StateKeyConflict, UnknownClient
from .transports import PooledClient

__all__ = ("STATE_KEY", "check_state_key", "client_in", "key_in", "merge", "state_of")

STATE_KEY = "client"

# Where the key is kept, because another one can be chosen.
_KEY_OF_KEY = "fastapi_httpx_pool.state_key"


def check_state_key(key: str) -> str:
    """Return the key, or raise ValueError if ``request.state.<key>`` cannot be written."""
    if not key.isidentifier():
        raise ValueError(f"state_key={key!r} is not an identifier, so request.state.{key} could not be written")
    return key


def state_of(factory: ClientFactory, key: str) -> dict[str, Any]:
    """Return the state entries of an open factory."""
    clients = factory.clients()
    state = {key if name is None else _key_of(key, name): client for name, client in clients.items()}
    return {**state, _KEY_OF_KEY: key}


def merge(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return both states in one.

    Where both have a pooled client under a key, two owners are nested, and the inner one counts.

    Raises:
        StateKeyConflict: Under a key of ours stands something else in the other.
    """
    for key in outer.keys() & inner.keys():
        values = (outer[key], inner[key])
        pooled = [isinstance(value, PooledClient) for value in values]
        if any(pooled) and not all(pooled):
            raise StateKeyConflict(key)
    return {**outer, **inner}


def client_in(connection: HTTPConnection, name: str | None = None) -> httpx.AsyncClient:
    """
    Return a client from a connection's state.

    Raises:
        ClientNotStarted: There is none at all.
        UnknownClient: There are others, but none of this name.
    """
    state: Mapping[str, Any] = connection.scope.get("state", {})
    base = state.get(_KEY_OF_KEY, STATE_KEY)
    key = base if name is None else _key_of(base, name)
    client = state.get(key)
    if client is not None:
        return cast("httpx.AsyncClient", client)
    if name is None or base not in state:
        raise ClientNotStarted(f"request.state.{key}")
    clients = [(found, value.pool_name) for found, value in state.items() if isinstance(value, PooledClient)]
    names = sorted(known for found, known in clients if found == _key_of(base, known))
    raise UnknownClient(name, tuple(names))


def key_in(state: Mapping[str, Any], name: str | None = None) -> str:
    """Return the key under which a client lies, or would lie, in a connection's state."""
    base: str = state.get(_KEY_OF_KEY, STATE_KEY)
    return base if name is None else _key_of(base, name)


def _key_of(base: str, name: str) -> str:
    return f"{base}_{name}"
