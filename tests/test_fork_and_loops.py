"""A client in a forked child or in another event loop: an error at once, and the owner is not harmed."""

import asyncio
import json
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme
from fastapi import FastAPI
from starlette.testclient import TestClient

from fastapi_httpx_pool import (
    ClientDep,
    ClientFactory,
    ClientSettings,
    ForkedProcess,
    WrongEventLoop,
    create_lifespan,
)

from .support import forking
from .support.families import FAMILIES
from .support.upstream import Connection, answering, ok, scripted

LIMIT = 60.0
"""Seconds after which the forking program is taken to hang."""


def _numbered(connection: Connection) -> None:
    """Answer each request with the number of its connection."""
    answering(ok(b"%d" % connection.number))(connection)


def _fork(*arguments: str) -> dict[str, str]:
    # The thread that built the TLS context is still there, idle, which later Pythons warn of.
    warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *warnings, "-m", forking.__name__, *arguments]
    root = Path(__file__).parent.parent
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_forked_child_is_refused_and_the_parent_goes_on() -> None:
    """The child gets ForkedProcess, never the parent's socket; the parent's kept-alive connection still works."""
    with scripted(_numbered) as upstream:
        told = _fork(upstream.url)
        assert upstream.accepted == 2
    assert told["before"] == "0"
    assert told["parents_client"].startswith("ForkedProcess: The default client was opened before this process was")
    assert "async with ClientFactory()" in told["parents_client"]
    assert told["own_client"] == "1"
    assert told["after"] == "0"


def test_forked_child_that_closes_does_not_end_the_parents_tls(tmp_path: Path) -> None:
    """A child that leaves the parent's factory sends no TLS goodbye on the parent's connection."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with scripted(_numbered, context) as upstream:
        told = _fork(upstream.url, str(ca_file))
        assert upstream.accepted == 2
    assert (told["before"], told["after"]) == ("0", "0")
    assert told["parents_client"].startswith("ForkedProcess")


def test_fork_while_another_thread_opens_a_client() -> None:
    """A child that was forked in that moment can still open a client of its own, and does not hang."""
    assert _fork("opening") == {"child": "opens"}


def test_error_texts_name_the_client_and_the_way_out() -> None:
    """Both errors are RuntimeErrors that name the client."""
    for error in (ForkedProcess("github"), WrongEventLoop("github")):
        assert isinstance(error, RuntimeError)
        assert str(error).startswith("The github client was opened")
        assert "async with ClientFactory() as factory" in str(error)


# Event loops


@pytest.mark.parametrize("family", FAMILIES)
def test_another_event_loop_is_refused(family: Any) -> None:
    """A client that outlived its loop raises WrongEventLoop in the next one, and opens no connection."""
    with scripted(_numbered) as upstream:
        factory = ClientFactory(ClientSettings(family=family))

        async def use() -> str:
            return str((await factory.get().get(upstream.url)).text)

        first = asyncio.new_event_loop()
        try:
            first.run_until_complete(factory.__aenter__())
            assert first.run_until_complete(use()) == "0"
            with pytest.raises(WrongEventLoop, match="The default client was opened in another event loop"):
                asyncio.run(use())
            assert first.run_until_complete(use()) == "0"
            first.run_until_complete(factory.__aexit__(None, None, None))
        finally:
            first.close()
        assert upstream.accepted == 1


def test_another_threads_loop_is_refused() -> None:
    """A client used from a loop in another thread, at the same time, is refused; the owner goes on."""
    with scripted(_numbered) as upstream:
        errors: list[BaseException] = []

        async def use(client: httpx.AsyncClient) -> None:
            await client.get(upstream.url)

        def elsewhere(client: httpx.AsyncClient) -> None:
            try:
                asyncio.run(use(client))
            except WrongEventLoop as exc:
                errors.append(exc)

        async def main() -> None:
            async with ClientFactory() as factory:
                await use(factory.get())
                thread = threading.Thread(target=elsewhere, args=(factory.get(),))
                thread.start()
                await asyncio.to_thread(thread.join, LIMIT)
                await use(factory.get())

        asyncio.run(main())
        assert len(errors) == 1
        assert upstream.accepted == 1


def test_another_library_is_refused() -> None:
    """A client that asyncio opened is refused under trio."""
    with scripted(_numbered) as upstream:

        async def use(client: httpx.AsyncClient) -> None:
            await client.get(upstream.url)

        async def main() -> None:
            async with ClientFactory() as factory:
                client = factory.get()

                def under_trio() -> None:
                    with pytest.raises(WrongEventLoop):
                        anyio.run(use, client, backend="trio")

                await asyncio.to_thread(under_trio)

        asyncio.run(main())
        assert upstream.accepted == 0


def test_client_kept_across_two_test_clients() -> None:
    """A client that a module keeps from the first start of an app is refused in the second start's loop."""
    kept: list[httpx.AsyncClient] = []
    app = FastAPI(lifespan=create_lifespan(lifespan=None))

    @app.get("/")
    async def route(client: ClientDep, url: str) -> str:
        kept.append(client)
        return (await kept[0].get(url)).text

    with scripted(_numbered) as upstream, TestClient(app) as first:
        assert first.get("/", params={"url": upstream.url}).json() == "0"
        with TestClient(app) as second, pytest.raises(WrongEventLoop, match="a client outlived the test"):
            second.get("/", params={"url": upstream.url})


def test_factory_left_in_another_loop_is_refused() -> None:
    """Leaving a factory in another loop than the one that opened it says what is wrong and never hangs."""
    factory = ClientFactory()
    with scripted(_numbered) as upstream:
        first = asyncio.new_event_loop()
        try:
            first.run_until_complete(factory.__aenter__())
            first.run_until_complete(factory.get().get(upstream.url))
            with pytest.raises(WrongEventLoop, match="default client"):
                asyncio.run(factory.__aexit__(None, None, None))
            first.run_until_complete(factory.__aexit__(None, None, None))
        finally:
            first.close()
