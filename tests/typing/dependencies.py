"""What a type checker makes of the dependencies; checked, never run."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, assert_type

import httpx
import httpx2
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from fastapi_httpx_pool import ClientDep, get_client, named_client

app = FastAPI()


async def get_client_takes_any_connection(connection: HTTPConnection, request: Request, websocket: WebSocket) -> None:
    """The default client is httpx's, from each kind of connection."""
    assert_type(await get_client(connection), httpx.AsyncClient)
    assert_type(await get_client(request), httpx.AsyncClient)
    assert_type(await get_client(websocket), httpx.AsyncClient)


async def named_clients(connection: HTTPConnection) -> None:
    """A named client is httpx's, or of the class that was asked for."""
    assert_type(named_client("x"), Callable[[HTTPConnection], Coroutine[Any, Any, httpx.AsyncClient]])
    assert_type(await named_client("x")(connection), httpx.AsyncClient)
    assert_type(await named_client("x", httpx.AsyncClient)(connection), httpx.AsyncClient)
    assert_type(
        named_client("x", httpx2.AsyncClient), Callable[[HTTPConnection], Coroutine[Any, Any, httpx2.AsyncClient]]
    )
    assert_type(await named_client("x", client_class=httpx2.AsyncClient)(connection), httpx2.AsyncClient)


@app.get("/")
async def route(
    client: ClientDep,
    github: Annotated[httpx.AsyncClient, Depends(named_client("github"))],
    llm: Annotated[httpx2.AsyncClient, Depends(named_client("llm", httpx2.AsyncClient))],
) -> None:
    """In a route each is of the family that its annotation says."""
    assert_type(client, httpx.AsyncClient)
    assert_type(await client.get("/"), httpx.Response)
    assert_type(await github.get("/"), httpx.Response)
    assert_type(await llm.get("/"), httpx2.Response)


app.dependency_overrides[get_client] = httpx.AsyncClient
app.dependency_overrides[named_client("github")] = httpx.AsyncClient
