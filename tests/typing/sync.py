"""What a type checker makes of sync clients; checked, never run."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, assert_type

import httpx
import httpx2
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from fastapi_httpx_pool import SyncClient, SyncClientDep, get_sync_client, named_sync_client

app = FastAPI()


async def dependencies(connection: HTTPConnection) -> None:
    """The default client is ours, which is httpx's; a named one likewise, or of the class that was asked for."""
    assert_type(await get_sync_client(connection), SyncClient)
    assert_type(named_sync_client("x"), Callable[[HTTPConnection], Coroutine[Any, Any, SyncClient]])
    assert_type(await named_sync_client("x")(connection), SyncClient)
    assert_type(await named_sync_client("x", httpx.Client)(connection), httpx.Client)
    assert_type(await named_sync_client("x", client_class=httpx2.Client)(connection), httpx2.Client)


@app.get("/")
def route(
    client: SyncClientDep,
    github: Annotated[SyncClient, Depends(named_sync_client("github"))],
    llm: Annotated[httpx2.Client, Depends(named_sync_client("llm", httpx2.Client))],
) -> None:
    """In a route each call has the types of its family."""
    assert_type(client, SyncClient)
    assert_type(client.get("/"), httpx.Response)
    assert_type(github.post("/", content=b"x"), httpx.Response)
    assert_type(llm.get("/"), httpx2.Response)
    assert_type(client.build_request("GET", "/"), httpx.Request)
    assert_type(client.send(client.build_request("GET", "/"), stream=True), httpx.Response)
    assert_type(client.headers, httpx.Headers)
    assert_type(client.base_url, httpx.URL)
    assert_type(client.timeout, httpx.Timeout)
    with client.stream("GET", "/") as response:
        assert_type(response, httpx.Response)
        assert_type(response.iter_lines(), Iterator[str])
    with llm.stream("GET", "/") as other:
        assert_type(other, httpx2.Response)


def many(client: SyncClient) -> None:
    """fan_out says whether errors stand among the responses."""
    assert_type(client.fan_out(["/a", "/b"]), list[httpx.Response])
    assert_type(client.fan_out(["/a"], return_exceptions=True), list[httpx.Response | Exception])


def wants_httpx(client: httpx.Client) -> None:
    """Take what stands wherever httpx's Client stands."""


def a_sync_client_is_one(client: SyncClient) -> None:
    """It is passed where httpx's Client is asked for."""
    wants_httpx(client)


app.dependency_overrides[get_sync_client] = httpx.Client
app.dependency_overrides[named_sync_client("github")] = httpx.Client
