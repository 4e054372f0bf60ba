"""``PoolTransport`` alone, in a client of the user's own."""

import logging
import ssl
from importlib import import_module
from typing import Any

import anyio
import pytest

from fastapi_httpx_pool import ClientFactory, ClientSettings, pool_statistics
from fastapi_httpx_pool.exceptions import CloseError
from fastapi_httpx_pool.messages import Response
from fastapi_httpx_pool.transports._httpcore import (
    PRIVATE_NAMES,
    PoolKeeper,
    _close_all,
    _connection_of,
    _has_unread_records,
)
from tests.support.carriers import on_both_engines
from tests.support.families import FAMILIES, module_of
from tests.support.upstream import Connection, answering, ok, scripted
from tests.support.watched import Held

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("family", FAMILIES)]


def _transport_class(family: str) -> Any:
    return import_module(f"fastapi_httpx_pool.transports.{family}").PoolTransport


@on_both_engines
async def test_stands_where_the_familys_stands(family: Any, engine: Any) -> None:
    """It is an AsyncHTTPTransport, takes its arguments, and serves as a transport or a mount."""
    module = module_of(family)
    transport = _transport_class(family)(engine=engine, limits=module.Limits(max_connections=3), retries=1, http2=False)
    assert isinstance(transport, module.AsyncHTTPTransport)
    with scripted(answering(ok())) as upstream:
        async with module.AsyncClient(transport=transport) as client:
            assert (await client.get(upstream.url)).text == "ok"
        async with module.AsyncClient(mounts={"http://": _transport_class(family)(engine=engine)}) as client:
            assert (await client.get(upstream.url)).text == "ok"


@on_both_engines
async def test_around(family: Any, engine: Any) -> None:
    """``around`` puts a policy of the user's own around the transport's handler."""
    seen = []

    def around(handler: Any) -> Any:
        async def noting(request: Any) -> Any:
            seen.append(request.target)
            return await handler(request)

        return noting

    with scripted(answering(ok())) as upstream:
        async with module_of(family).AsyncClient(
            transport=_transport_class(family)(engine=engine, around=around)
        ) as client:
            await client.get(upstream.url + "/a?b")
    assert seen == [b"/a?b"]


def test_private_names_exist(family: Any) -> None:
    """The installed httpcore has every private name that guarding it needs."""
    pool = _transport_class(family)()._pool
    assert [name for name in PRIVATE_NAMES if not hasattr(pool, name)] == []


async def test_the_way_to_the_connection(family: Any) -> None:
    """A response's stream leads to the connection and the parser whose leftovers are looked at."""
    module = module_of(family)
    with scripted(answering(ok())) as upstream:
        async with module.AsyncHTTPTransport() as transport:
            response = await transport.handle_async_request(module.Request("GET", upstream.url))
            assert _connection_of(response.stream)._h11_state.trailing_data == (b"ok", False)
            await response.aclose()


async def test_unknown_pool(family: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A pool of an unknown release is used unguarded, and that is logged."""

    class Unknown:
        pass

    with caplog.at_level(logging.WARNING):
        keeper = PoolKeeper(Unknown())

    assert "used unguarded" in caplog.text
    await keeper.after_failure(None)
    keeper.before_close(object())


async def test_a_connection_that_cannot_be_closed(family: Any) -> None:
    """An orphan whose closing fails does not keep the others from being closed."""

    class Orphan:
        closed = False

        async def aclose(self) -> None:
            self.closed = True
            raise OSError

    orphans = [Orphan(), Orphan()]
    await _close_all(orphans)

    assert all(orphan.closed for orphan in orphans)


async def test_an_error_while_closing(family: Any) -> None:
    """An error of ours while a response is closed is the family's too."""

    class Unclosable:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            raise CloseError("stuck")

    def around(_handler: Any) -> Any:
        async def answering_stuck(_request: Any) -> Response:
            return Response(200, [], Unclosable())

        return answering_stuck

    async with module_of(family).AsyncClient(transport=_transport_class(family)(around=around)) as client:
        with pytest.raises(module_of(family).CloseError, match="stuck"):
            await client.get("http://stuck.example/")


def test_a_broken_tls_layer_is_not_reused(family: Any) -> None:
    """If OpenSSL cannot say what is left on a connection, it is not reused."""

    class Broken:
        def read(self, count: int) -> bytes:
            raise ssl.SSLError

    assert _has_unread_records(Broken())  # type: ignore[arg-type] # as much of one as is needed


@on_both_engines
async def test_early_close(family: Any, engine: Any) -> None:
    """A response closed before its end closes its connection; the next one opens another."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
        assert connection.wait_until_closed()

    with scripted(script) as upstream:
        async with module_of(family).AsyncClient(transport=_transport_class(family)(engine=engine)) as client:
            for _ in range(2):
                async with client.stream("GET", upstream.url) as response:
                    await response.aclose()
                    await response.aclose()
        assert upstream.accepted == 2


@on_both_engines
async def test_closed_under_a_reader(family: Any, engine: Any) -> None:
    """A response that is closed while another task reads it ends that task's wait, and raises nothing itself."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
        assert connection.wait_until_closed()

    module = module_of(family)
    errors = []

    async def read(stream: Any) -> None:
        try:
            async for _ in stream:
                pass
        except module.TransportError as exc:
            errors.append(exc)

    with scripted(script) as upstream:
        async with _transport_class(family)(engine=engine) as transport:
            request = module.Request("GET", upstream.url)
            response = await transport.handle_async_request(request)
            async with anyio.create_task_group() as group:
                group.start_soon(read, response.stream)
                await anyio.wait_all_tasks_blocked()
                with anyio.fail_after(5):
                    await response.aclose()
    assert len(errors) == 1


@on_both_engines
async def test_statistics(family: Any, engine: Any) -> None:
    """What carries, waits and rests is counted for each origin, whichever engine it is."""
    module = module_of(family)
    held = Held()
    with scripted(held) as upstream, scripted(answering(ok())) as other:
        transport = _transport_class(family)(engine=engine, limits=module.Limits(max_connections=2))
        async with module.AsyncClient(transport=transport, timeout=None) as client:
            assert transport.statistics().origins == {}
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(client.get, upstream.url)
                await held.arrived(2)
                await anyio.wait_all_tasks_blocked()
                found = transport.statistics()
                assert (found.engine, found.max_connections) == (engine, 2)
                assert (found.active, found.idle, found.queued) == (2, 0, 1)
                of_origin = found.origins[upstream.url]
                assert (of_origin.active, of_origin.idle, of_origin.queued) == (2, 0, 1)
                held.release()
            await client.get(other.url)
            found = transport.statistics()
            assert (found.active, found.idle, found.queued) == (0, 2, 0)
            assert found.origins[other.url].idle == 1
            assert pool_statistics(client) == found


async def test_statistics_of_proxied_connections(family: Any) -> None:
    """Those through a forward proxy, which is httpcore's business, have no origin of their own."""
    with scripted(answering(ok())) as proxy:
        transport = _transport_class(family)(proxy=proxy.url)
        async with module_of(family).AsyncClient(transport=transport) as client:
            await client.get("http://far.example/")
            assert transport.statistics().origins["proxied"].idle == 1


async def test_statistics_of_whose_client(family: Any) -> None:
    """``pool_statistics`` takes an injected client, and says what to do about one that keeps none."""
    module = module_of(family)
    with scripted(answering(ok())) as upstream:
        async with ClientFactory(ClientSettings(family=family)) as factory:
            client = factory.get(None, module.AsyncClient)
            await client.get(upstream.url)
            assert pool_statistics(client).idle == factory.statistics().idle == 1
    async with module.AsyncClient() as bare:
        with pytest.raises(TypeError, match="keeps no statistics"):
            pool_statistics(bare)
    with pytest.raises(TypeError, match=r"is not an httpx\.AsyncClient"):
        pool_statistics(object())
