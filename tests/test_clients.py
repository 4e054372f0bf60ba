"""ClientFactory: opens all clients or none, and closes them whatever happens."""

import asyncio
import gc
import os
import ssl
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme

import fastapi_httpx_pool.clients as clients_module
from fastapi_httpx_pool import (
    ClientClosed,
    ClientFactory,
    ClientNotStarted,
    ClientSettings,
    LimitSettings,
    TimeoutSettings,
    TLSSettings,
    UnknownClient,
)

from .support.families import FAMILIES, module_of, needs_httpx2
from .support.upstream import Connection, Script, Upstream, answering, ok, scripted
from .support.watched import SOON, Held, Watched

pytestmark = pytest.mark.anyio

ON_ASYNCIO = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
on_asyncio = pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)


@pytest.fixture(name="watched")
def _watched() -> Watched:
    return Watched(answering(ok(b"hello")))


@pytest.fixture(name="upstream")
def _upstream(watched: Watched) -> Iterator[Upstream]:
    with scripted(watched) as upstream:
        yield upstream


# A script's use


@pytest.mark.parametrize("family", FAMILIES)
async def test_script_use(family: Any, upstream: Upstream, watched: Watched) -> None:
    """A script enters the factory, gets its client of the family asked for, and leaves no socket."""
    async with ClientFactory(ClientSettings(family=family)) as factory:
        client: Any = factory.get()
        assert isinstance(client, module_of(family).AsyncClient)
        assert [(await client.get(upstream.url)).text for _ in range(3)] == ["hello"] * 3
        assert upstream.accepted == 1
        assert not client.is_closed
    assert client.is_closed
    assert await watched.none_open()


async def test_entered_again_after_it_was_left() -> None:
    """The second time there are new clients, and the first ones stay closed."""
    factory = ClientFactory()
    async with factory:
        first = factory.get()
    async with factory:
        second = factory.get()
        assert first.is_closed
        assert not second.is_closed
    assert first is not second


async def test_entered_twice_is_refused() -> None:
    """Entering an open factory is a RuntimeError, and its clients stay open."""
    async with ClientFactory() as factory:
        with pytest.raises(RuntimeError, match="is open already"):
            await factory.__aenter__()
        assert not factory.get().is_closed


async def test_entered_by_two_tasks_at_once_opens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tasks that enter at the same moment one gets in; the other is refused and leaves nothing open."""
    opened = _note_opened(monkeypatch)
    factory = ClientFactory(ClientSettings(tls=_own_authority(tmp_path)))
    outcomes: list[str] = []

    async def enter() -> None:
        try:
            await factory.__aenter__()
        except RuntimeError:
            outcomes.append("refused")
        else:
            outcomes.append("entered")

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        group.start_soon(enter)
    await factory.__aexit__(None, None, None)
    assert sorted(outcomes) == ["entered", "refused"]
    assert all(client.is_closed for client in opened)


async def test_left_without_being_entered() -> None:
    """Leaving a factory that is not open does nothing."""
    factory = ClientFactory()
    await factory.__aexit__(None, None, None)
    assert repr(factory) == "<ClientFactory [closed: default]>"


async def test_repr_tells_the_names_and_the_state() -> None:
    """repr() shows whether it is open and its clients."""
    factory = ClientFactory(clients={"github": ClientSettings()})
    assert repr(factory) == "<ClientFactory [closed: default, github]>"
    async with factory:
        assert repr(factory) == "<ClientFactory [open: default, github]>"
    assert factory.names == ("github",)


# Getting a client


async def test_get_by_name() -> None:
    """get(name) gives the client of that name, each time the same."""
    named = {"a": ClientSettings(base_url="http://a"), "b": ClientSettings(base_url="http://b")}
    async with ClientFactory(clients=named) as factory:
        assert factory.get("a").base_url == "http://a"
        assert factory.get("b").base_url == "http://b"
        assert factory.get("a") is factory.get("a")
        assert factory.get() is factory.get(None)
        assert set(factory.clients()) == {None, "a", "b"}


async def test_unknown_name_lists_those_that_exist() -> None:
    """An unknown name is a LookupError that lists the names and shows how to add one."""
    async with ClientFactory(clients={"github": ClientSettings(), "gitlab": ClientSettings()}) as factory:
        with pytest.raises(UnknownClient) as caught:
            factory.get("gihtub")
    text = str(caught.value)
    assert "no client named 'gihtub'; named clients here: 'github', 'gitlab'" in text
    assert "clients={'gihtub': ClientSettings(...)}" in text
    assert isinstance(caught.value, LookupError)


async def test_unknown_name_where_there_are_none() -> None:
    """Without any named client the text says so."""
    async with ClientFactory() as factory:
        with pytest.raises(UnknownClient, match="named clients here: none"):
            factory.get("github")


async def test_get_outside_is_an_error_that_helps() -> None:
    """Before it is entered and after it was left there is no client to get."""
    factory = ClientFactory()
    with pytest.raises(ClientNotStarted, match="nobody opened"):
        factory.get()
    async with factory:
        pass
    with pytest.raises(ClientNotStarted, match="nobody opened"):
        factory.get()
    assert factory.clients() == {}


@needs_httpx2
async def test_class_of_the_other_family_is_refused() -> None:
    """Asking for a class that the client is not of is a TypeError that names both and the setting."""
    httpx2 = module_of("httpx2")
    async with ClientFactory(clients={"new": ClientSettings(family="httpx2")}) as factory:
        assert isinstance(factory.get("new", httpx2.AsyncClient), httpx2.AsyncClient)
        assert isinstance(factory.get(None, httpx.AsyncClient), httpx.AsyncClient)
        with pytest.raises(TypeError, match=r"<httpx.AsyncClient 'default' .*> is not a httpx2.AsyncClient.*family="):
            factory.get(None, httpx2.AsyncClient)
        with pytest.raises(TypeError, match=r"<httpx2.AsyncClient 'new' .*> is not a httpx.AsyncClient"):
            factory.get("new", httpx.AsyncClient)


# Opening fails


async def test_one_that_cannot_open_closes_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a client cannot be opened, those before it are closed and the factory stays closed."""
    opened = _note_opened(monkeypatch)
    certificate = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(certificate))
    vanishing = ClientSettings(tls=TLSSettings(ca_file=certificate))
    certificate.unlink()
    factory = ClientFactory(clients={"good": ClientSettings(), "bad": vanishing})
    with pytest.raises(OSError, match=r"ca\.pem"):
        await factory.__aenter__()
    assert [client.is_closed for client in opened] == [True, True]
    with pytest.raises(ClientNotStarted):
        factory.get()


async def test_cancelled_opening_closes_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opening that is cancelled half-way by a cancel scope leaves nothing open."""
    opened, building, go_on = _slow_second(monkeypatch)
    factory = ClientFactory(clients={"slow": ClientSettings(tls=_own_authority(tmp_path))})

    async def script() -> None:
        async with factory:
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(script)
        assert await anyio.to_thread.run_sync(building.wait, 10)
        group.cancel_scope.cancel()
        go_on.set()
    assert opened
    assert all(client.is_closed for client in opened)
    with pytest.raises(ClientNotStarted):
        factory.get()


@on_asyncio
async def test_opening_cancelled_by_its_task_closes_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for task.cancel()."""
    opened, building, go_on = _slow_second(monkeypatch)
    factory = ClientFactory(clients={"slow": ClientSettings(tls=_own_authority(tmp_path))})
    task = asyncio.get_running_loop().create_task(factory.__aenter__())
    assert await anyio.to_thread.run_sync(building.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert [client.is_closed for client in opened] == [True]
    with pytest.raises(ClientNotStarted):
        factory.get()


def _slow_second(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], threading.Event, threading.Event]:
    """Make the second client wait for its context; return those opened, and events for "waits" and "go on"."""
    opened = _note_opened(monkeypatch)
    build, building, go_on = TLSSettings.as_ssl_context, threading.Event(), threading.Event()

    def slow(self: TLSSettings, *args: Any, **kwargs: Any) -> ssl.SSLContext:
        if opened:
            building.set()
            go_on.wait(10)
        return build(self, *args, **kwargs)

    monkeypatch.setattr(TLSSettings, "as_ssl_context", slow)
    return opened, building, go_on


def _note_opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    opened: list[Any] = []
    enter = httpx.AsyncClient.__aenter__

    async def noting(self: Any) -> Any:
        opened.append(self)
        return await enter(self)

    monkeypatch.setattr(httpx.AsyncClient, "__aenter__", noting)
    return opened


# TLS contexts


def _own_authority(directory: Path) -> TLSSettings:
    """Return settings that no other test has used, so that nothing is remembered for them."""
    path = directory / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return TLSSettings(ca_file=path)


async def test_tls_context_is_built_once_and_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal TLS settings share one context over clients and starts; it is not built on the event loop."""
    build = TLSSettings.as_ssl_context
    threads: list[int] = []

    def noting(self: TLSSettings, *args: Any, **kwargs: Any) -> ssl.SSLContext:
        threads.append(threading.get_ident())
        return build(self, *args, **kwargs)

    monkeypatch.setattr(TLSSettings, "as_ssl_context", noting)
    settings = ClientSettings(tls=_own_authority(tmp_path))
    equal = ClientSettings(tls=TLSSettings(ca_file=tmp_path / "ca.pem"), base_url="http://else")
    factory = ClientFactory(settings, {"equal": equal})
    for _ in range(2):
        async with factory:
            pass
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_renewed_certificate_is_read_again(tmp_path: Path) -> None:
    """A file that was replaced under the same path counts at the next start."""
    authorities = [trustme.CA(), trustme.CA()]
    path = tmp_path / "ca.pem"
    for authority in authorities:
        path.unlink(missing_ok=True)
        authority.cert_pem.write_to_path(str(path))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        with scripted(answering(ok(b"secret")), context) as upstream:
            async with ClientFactory(ClientSettings(tls=TLSSettings(ca_file=path))) as factory:
                assert (await factory.get().get(upstream.url)).text == "secret"


async def test_settings_of_the_environment_do_not_block_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate file that the environment names is not loaded on the event loop either."""
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    monkeypatch.setenv("HTTPX_POOL_TLS__CA_FILE", str(path))
    threads: set[int] = set()
    load = ssl.SSLContext.load_verify_locations

    def noting(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
        threads.add(threading.get_ident())
        load(self, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", noting)
    async with ClientFactory():
        pass
    assert threads
    assert threading.get_ident() not in threads


# Closing


async def test_aclose_of_a_user_or_sdk_closes_nothing(upstream: Upstream) -> None:
    """client.aclose() leaves the app's client open: it belongs to its owner."""
    async with ClientFactory() as factory:
        client = factory.get()
        await client.get(upstream.url)
        await client.aclose()
        assert not client.is_closed
        assert (await client.get(upstream.url)).text == "hello"
    assert upstream.accepted == 1
    assert client.is_closed


async def test_async_with_client_closes_nothing(upstream: Upstream) -> None:
    """A route that enters the app's client by mistake does not close it for the others."""
    async with ClientFactory() as factory:
        client = factory.get()
        with pytest.raises(RuntimeError, match="Cannot open a client instance more than once"):
            async with client:
                pytest.fail("the client was opened twice")
        assert (await client.get(upstream.url)).text == "hello"


async def test_request_after_shutdown_is_an_error_that_helps() -> None:
    """A client that outlived its app says so, in our words."""
    async with ClientFactory() as factory:
        client = factory.get()
    with pytest.raises(ClientClosed, match="shutting down or has shut down"):
        await client.get("http://127.0.0.1:9")


# Draining


@asynccontextmanager
async def in_flight(
    script: Script, drain: float, requests: int = 1, **settings: Any
) -> AsyncIterator[tuple[ClientFactory, Upstream, list[Any], Watched]]:
    """Open a factory and send requests; when the block is left all of them must have ended."""
    watched, outcomes = Watched(script), list[Any]()
    with scripted(watched) as upstream:
        factory = ClientFactory(ClientSettings(drain=drain, timeout=TimeoutSettings(default=30.0), **settings))
        await factory.__aenter__()
        client = factory.get()

        async def send() -> None:
            try:
                outcomes.append((await client.get(upstream.url)).text)
            except (httpx.TransportError, ClientClosed) as exc:
                outcomes.append(exc)

        async with anyio.create_task_group() as group:
            for _ in range(requests):
                group.start_soon(send)
            yield factory, upstream, outcomes, watched
        await factory.__aexit__(None, None, None)


async def soon(condition: Callable[[], bool]) -> bool:
    """Return whether a condition comes true before the limit, which is below every timeout here."""
    with anyio.move_on_after(SOON):
        while not condition():
            await anyio.wait_all_tasks_blocked()
    return condition()


async def _leave(factory: ClientFactory) -> None:
    await factory.__aexit__(None, None, None)


async def test_exchange_in_flight_is_waited_for() -> None:
    """Shutdown waits for an exchange that ends in time; it is answered, then its socket closes."""
    held = Held()
    async with in_flight(held, drain=9.0) as (factory, _, outcomes, watched), anyio.create_task_group() as group:
        await held.arrived()
        group.start_soon(_leave, factory)
        await anyio.wait_all_tasks_blocked()
        assert outcomes == []
        held.release()
    assert outcomes == ["late"]
    assert await watched.none_open()


async def test_longer_exchange_is_cut_at_drain() -> None:
    """One that lasts longer is cut after `drain` seconds: its caller gets an error, its socket closes."""
    held = Held()
    async with in_flight(held, drain=0.2) as (factory, _, outcomes, watched):
        await held.arrived()
        begin = anyio.current_time()
        await _leave(factory)
        assert anyio.current_time() - begin >= 0.15
        assert await soon(lambda: bool(outcomes))
        held.release()
        assert await watched.none_open()
    assert isinstance(outcomes[0], httpx.TransportError | ClientClosed)


def test_a_name_is_needed() -> None:
    """An empty name is refused: it would be the default client's."""
    with pytest.raises(ValueError, match="needs a name"):
        ClientFactory(clients={"": ClientSettings()})


def test_contexts_without_the_environment() -> None:
    """Two threads that want the same context get the same one, and a fork renews their lock."""
    tls, lock = TLSSettings(), clients_module._contexts_lock
    key = (tls, "httpx", False, False, *clients_module._files_of(tls, trust_env=False))
    built = clients_module._build_context(key, tls, "httpx", trust_env=False)
    assert clients_module._build_context(key, tls, "httpx", trust_env=False) is built
    clients_module._renew_lock()
    assert clients_module._contexts_lock is not lock


async def test_nothing_is_closed_for_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving a factory in a forked child leaves the connections to the parent."""
    factory = ClientFactory()
    async with factory:
        client = factory.get()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            await factory.__aexit__(None, None, None)
        assert not client.is_closed
        await client.close_pool()  # type: ignore[attr-defined] # the owner's own


async def test_cut_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """How many exchanges were cut is in the log."""
    held = Held()
    async with in_flight(held, drain=0.0) as (factory, _, _, _):
        await held.arrived()
        await _leave(factory)
        held.release()
    assert "the default client is closed with 1 exchanges in flight" in caplog.text


async def test_new_requests_are_refused_while_draining() -> None:
    """From the beginning of shutdown a new request gets ClientClosed at once, and no connection."""
    held = Held()
    async with (
        in_flight(held, drain=9.0) as (factory, upstream, outcomes, _),
        anyio.create_task_group() as group,
    ):
        await held.arrived()
        client = factory.get()
        group.start_soon(_leave, factory)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(SOON), pytest.raises(ClientClosed, match="takes no new requests"):
            await client.get(upstream.url)
        held.release()
    assert outcomes == ["late"]
    assert upstream.accepted == 1


async def test_open_response_counts_as_in_flight() -> None:
    """An exchange lasts until the last byte of its response has come, not only until its head has."""
    leaving = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        assert leaving.wait(20)
        connection.send(b"x" * 1000)

    async with ClientFactory(ClientSettings(drain=9.0)) as factory:
        with scripted(script) as upstream:
            client = factory.get()
            response = await client.send(client.build_request("GET", upstream.url), stream=True)
            async with anyio.create_task_group() as group:
                group.start_soon(_leave, factory)
                await anyio.wait_all_tasks_blocked()
                assert not client.is_closed
                leaving.set()
                assert len(await response.aread()) == 1000
            assert client.is_closed


@pytest.mark.parametrize("limits", [LimitSettings(max_connections=1), LimitSettings(max_connections_per_host=1)])
async def test_queued_request_ends_with_the_drain(limits: LimitSettings) -> None:
    """A request that still waits for a connection, or a place at its host, does not wait on after the drain."""
    held = Held()
    async with in_flight(held, drain=0.1, requests=2, limits=limits) as (factory, _, outcomes, watched):
        await held.arrived()
        await _leave(factory)
        both_ended = await soon(lambda: len(outcomes) == 2)
        held.release()
        assert both_ended
        assert await watched.none_open()


async def test_connection_that_is_being_made_ends_with_the_drain() -> None:
    """A TLS handshake that hangs when the drain is over leaves no socket behind."""
    shaking = threading.Event()

    def silent(connection: Connection) -> None:
        assert connection.read_exactly(1)
        shaking.set()

    watched, outcomes = Watched(silent), list[BaseException]()
    with scripted(watched) as upstream:
        factory = ClientFactory(ClientSettings(drain=0.1, timeout=TimeoutSettings(default=30.0)))
        await factory.__aenter__()

        async def send(client: httpx.AsyncClient) -> None:
            try:
                await client.get(upstream.url.replace("http://", "https://"))
            except (httpx.TransportError, ClientClosed) as exc:
                outcomes.append(exc)

        async with anyio.create_task_group() as group:
            group.start_soon(send, factory.get())
            assert await anyio.to_thread.run_sync(shaking.wait, 10)
            await _leave(factory)
            none_open = await watched.none_open()
            group.cancel_scope.cancel()
    assert none_open
    assert len(outcomes) == 1


@pytest.mark.parametrize("busy", [None, "a", "b"])
async def test_clients_close_side_by_side(busy: str | None) -> None:
    """Several clients drain at the same time, not one after the other: whichever is busy holds none of them up."""
    held, settings = Held(), ClientSettings(drain=9.0, timeout=TimeoutSettings(default=30.0))
    with scripted(Watched(held)) as upstream:
        factory = ClientFactory(settings, dict.fromkeys("ab", settings))
        await factory.__aenter__()
        clients = factory.clients()
        draining = clients.pop(busy)

        async with anyio.create_task_group() as group:
            group.start_soon(draining.get, upstream.url)
            await held.arrived()
            group.start_soon(_leave, factory)
            assert await soon(lambda: all(client.is_closed for client in clients.values()))
            assert not draining.is_closed
            held.release()
        assert draining.is_closed


# Cancellation while closing


async def _closing_is_not_interrupted(close: Callable[[ClientFactory], Awaitable[None]]) -> None:
    """Run ``close``, which cancels the closing, while an exchange is in flight; then all must be closed."""
    held = Held()
    async with in_flight(held, drain=9.0) as (factory, _, outcomes, watched):
        client = factory.get()
        await held.arrived()

        async def release_when_closing() -> None:
            await anyio.wait_all_tasks_blocked()
            held.release()

        async with anyio.create_task_group() as group:
            group.start_soon(release_when_closing)
            await close(factory)
            assert client.is_closed
        assert await watched.none_open()
    assert outcomes == ["late"]


async def test_cancel_scope_does_not_interrupt_the_closing() -> None:
    """A cancelled anyio scope takes effect only after everything is closed."""

    async def close(factory: ClientFactory) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await _leave(factory)
            await anyio.lowlevel.checkpoint()
            pytest.fail("the cancellation was lost")
        assert scope.cancelled_caught

    await _closing_is_not_interrupted(close)


@on_asyncio
@pytest.mark.parametrize("times", [1, 2])
async def test_task_cancel_does_not_interrupt_the_closing(times: int) -> None:
    """task.cancel(), also twice, takes effect only after everything is closed, and then it does."""

    async def close(factory: ClientFactory) -> None:
        task = asyncio.get_running_loop().create_task(_leave(factory))
        for _ in range(times):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    await _closing_is_not_interrupted(close)


@on_asyncio
async def test_wait_for_does_not_interrupt_the_closing() -> None:
    """asyncio.timeout() around the closing is heard after it."""

    async def close(factory: ClientFactory) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await _leave(factory)

    await _closing_is_not_interrupted(close)


@on_asyncio
async def test_no_task_is_left(upstream: Upstream) -> None:
    """After the factory was left no task of its own is left."""
    before = asyncio.all_tasks()
    async with ClientFactory(clients={"a": ClientSettings()}) as factory:
        await factory.get().get(upstream.url)
        await factory.get("a").get(upstream.url)
    assert asyncio.all_tasks() == before


async def test_nothing_is_collected_unclosed(upstream: Upstream) -> None:
    """Nothing that a closed factory leaves to the garbage collector complains of being open."""
    async with ClientFactory() as factory:
        client = factory.get()
        await client.get(upstream.url)
        response = await client.send(client.build_request("GET", upstream.url), stream=True)
        await response.aclose()
    del factory, client, response
    gc.collect()


async def test_error_in_the_block_passes_and_everything_closes(upstream: Upstream, watched: Watched) -> None:
    """An exception inside the block comes out as it is, after the clients are closed."""
    error = ValueError("the script's own")

    async def script() -> None:
        async with ClientFactory() as factory:
            await factory.get().get(upstream.url)
            raise error

    with pytest.raises(ValueError, match="the script's own") as caught:
        await script()
    assert caught.value is error
    assert await watched.none_open()


async def test_client_that_fails_to_close_does_not_cut_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """If closing one client fails, the error comes out, and the others are drained and closed nevertheless."""
    held, texts = Held(), list[str]()
    with scripted(Watched(held)) as upstream:
        factory = ClientFactory(clients={"bad": ClientSettings(), "busy": ClientSettings(drain=9.0)})
        await factory.__aenter__()
        bad, busy = factory.get("bad"), factory.get("busy")
        monkeypatch.setattr(bad, "close_pool", _broken_close)

        async def send() -> None:
            texts.append((await busy.get(upstream.url)).text)

        async def leave() -> None:
            with pytest.raises((OSError, ExceptionGroup)) as caught:
                await _leave(factory)
            assert "cannot close" in "".join(traceback.format_exception(caught.value))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await held.arrived()
            group.start_soon(leave)
            await anyio.wait_all_tasks_blocked()
            cut = busy.is_closed
            held.release()
        assert not cut
        assert texts == ["late"]
        assert busy.is_closed


async def _broken_close() -> None:
    raise OSError("cannot close")
