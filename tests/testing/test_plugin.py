"""The plugin as users have it: found by pytest itself, silent until it is asked, with guards that can be switched."""

import os
import subprocess
import sys
from pathlib import Path

import fastapi.testclient
import pytest

import fastapi_httpx_pool.testing

pytest_plugins = ["pytester"]

PRELOADED = (fastapi.testclient, fastapi_httpx_pool.testing)
"""pytester forgets what its runs import, and they would import these again, each time."""

APP = """
import pytest
from fastapi import FastAPI, Request

from fastapi_httpx_pool import ClientDep, ClientSettings, StreamingProxyResponse, create_lifespan

app = FastAPI(lifespan=create_lifespan(ClientSettings(base_url="http://api.test", trust_env=False, drain=0)))
kept = []


@app.get("/injected")
async def injected(client: ClientDep) -> str:
    return (await client.get("/x")).text


@app.get("/proxied")
async def proxied(request: Request) -> StreamingProxyResponse:
    return StreamingProxyResponse(request, "http://api.test/x")


@app.get("/leaking")
async def leaking(client: ClientDep) -> None:
    kept.append(await client.send(client.build_request("GET", "/x"), stream=True))


@app.get("/outside")
async def outside(request: Request) -> StreamingProxyResponse:
    return StreamingProxyResponse(request, "http://192.0.2.1/")
"""


@pytest.fixture(name="users")
def _users(pytester: pytest.Pytester) -> pytest.Pytester:
    """A user's project with an app in it, in which warnings are errors."""
    pytester.makepyfile(users_app=APP)
    pytester.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings =\n    error\n    ignore:Using `httpx` with `starlette.testclient`\n"
    )
    pytester.syspathinsert()
    return pytester


def run(users: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run the user's tests in this process."""
    return users.runpytest_inprocess("-p", "no:cacheprovider", *options)


def text_of(result: pytest.RunResult) -> str:
    """Return what was printed, without line breaks."""
    return " ".join(line.removeprefix("E").strip() for line in result.outlines)


def test_unused_plugin_imports_nothing(pytester: pytest.Pytester) -> None:
    """Whoever has the package installed and does not use it waits neither for httpx nor for FastAPI."""
    pytester.makepyfile(
        """
        import sys

        def test_imports(request):
            assert request.config.pluginmanager.has_plugin("fastapi_httpx_pool.pytest_plugin")
            ours = {name for name in sys.modules if name.startswith("fastapi_httpx_pool")}
            assert ours == {"fastapi_httpx_pool", "fastapi_httpx_pool.pytest_plugin"}
            others = {"httpx", "httpx2", "fastapi", "starlette", "pydantic", "anyio", "respx", "trustme", "vcr"}
            assert others & set(sys.modules) == set()
        """
    )
    command = [sys.executable, "-m", "pytest", "-p", "fastapi_httpx_pool.pytest_plugin", "-p", "no:cacheprovider"]
    # The plugins of other tools import httpx.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=pytester.path, env=environment)
    assert "1 passed" in result.stdout, result.stdout + result.stderr


def test_pytest_finds_it(pytestconfig: pytest.Config) -> None:
    """The plugin needs no configuration: the package's metadata name it."""
    assert pytestconfig.pluginmanager.has_plugin("fastapi_httpx_pool")


def test_fixtures_in_every_kind_of_test(users: pytest.Pytester) -> None:
    """The fixtures serve synchronous tests, anyio's, and pytest-asyncio's; in functions and fixtures."""
    users.makepyfile(
        test_sync="""
        import unittest

        import pytest
        from fastapi.testclient import TestClient
        from users_app import app

        def test_upstream(upstream, client_override):
            upstream.get("/x").respond(text="real")
            with TestClient(app) as browser, client_override(app, upstream):
                assert browser.get("/injected").json() == "real"
                assert browser.get("/proxied").text == "real"
            assert [request.path for request in upstream.requests] == ["/x", "/x"]

        def test_tls(tls_upstream):
            assert tls_upstream.url.startswith("https://")

        class TestOwn:
            @pytest.fixture
            def upstream(self):
                return "a fixture of the user's own counts"

            def test_own(self, upstream):
                assert upstream == "a fixture of the user's own counts"

        @pytest.mark.usefixtures("leak_guard", "network_guard")
        class TestUnit(unittest.TestCase):
            def test_guarded(self):
                with TestClient(app):
                    pass
        """,
        test_anyio="""
        import pytest
        from users_app import app

        pytestmark = [pytest.mark.anyio, pytest.mark.httpx_pool(leak_guard=True, network_guard=True)]

        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.fixture
        async def browser(lifespan_client, client_override, upstream):
            upstream.get("/x").respond(text="real")
            async with lifespan_client(app) as browser:
                with client_override(app, upstream):
                    yield browser

        async def test_function(lifespan_client):
            async with lifespan_client(app) as browser:
                assert (await browser.get("/docs")).status_code == 200

        async def test_fixture(browser):
            assert (await browser.get("/injected")).json() == "real"
            assert (await browser.get("/proxied")).text == "real"
        """,
    )
    run(users, "-W", "ignore::pytest.PytestRemovedIn10Warning").assert_outcomes(passed=8)


def test_pytest_asyncio(users: pytest.Pytester) -> None:
    """Under pytest-asyncio a fixture may hold the lifespan, though it is left in another task."""
    users.makepyfile(
        """
        import pytest
        import pytest_asyncio
        from users_app import app

        pytestmark = [pytest.mark.asyncio, pytest.mark.httpx_pool(leak_guard=True, network_guard=True)]

        @pytest_asyncio.fixture
        async def browser(lifespan_client, client_override, upstream):
            upstream.get("/x").respond(text="real")
            async with lifespan_client(app) as browser:
                with client_override(app, upstream):
                    yield browser

        async def test_fixture(browser):
            assert (await browser.get("/injected")).json() == "real"

        async def test_function(lifespan_client):
            async with lifespan_client(app) as browser:
                assert (await browser.get("/docs")).status_code == 200
        """
    )
    run(users).assert_outcomes(passed=2)


LEAKING = """
import pytest
from fastapi.testclient import TestClient
from users_app import app

def leak(upstream, client_override):
    upstream.get("/x").hang(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\n")
    with TestClient(app) as browser, client_override(app, upstream):
        browser.get("/leaking")

def test_plain(upstream, client_override):
    leak(upstream, client_override)

@pytest.mark.httpx_pool(leak_guard=True)
def test_on(upstream, client_override):
    leak(upstream, client_override)

@pytest.mark.httpx_pool(network_guard=False)
@pytest.mark.httpx_pool(leak_guard=False)
def test_off(upstream, client_override):
    leak(upstream, client_override)

@pytest.mark.usefixtures("leak_guard")
def test_used(upstream, client_override):
    leak(upstream, client_override)

@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.httpx_pool(leak_guard=False)), 3])
@pytest.mark.httpx_pool(leak_guard=True)
def test_parametrised(n, upstream, client_override):
    leak(upstream, client_override)
"""


def test_leak_guard(users: pytest.Pytester) -> None:
    """Off by itself, it is switched on by a marker or a fixture, and off by the nearest marker."""
    path = users.makepyfile(LEAKING)
    result = run(users, "-rE")
    result.assert_outcomes(passed=7, errors=4)
    failed = sorted(line.split()[1].partition("::")[2] for line in result.outlines if line.startswith("ERROR test"))
    assert failed == ["test_on", "test_parametrised[1]", "test_parametrised[3]", "test_used"]
    line = 1 + next(number for number, line in enumerate(APP.splitlines()) if "client.send(" in line)
    text = text_of(result)
    assert "was not closed before its client was: " in text
    # The line in the app is told, not that in the test.
    assert f"users_app.py:{line - 1} in leaking: kept.append(await client.send(" in text
    assert f"{path.name}:" not in text.partition("Left behind:")[2].partition("Close responses")[0]


def test_leak_guard_in_the_settings(users: pytest.Pytester) -> None:
    """An option of the project's switches it on for every test that no marker takes out."""
    users.makepyfile(LEAKING)
    result = run(users, "-o", "httpx_pool_leak_guard=true", "-k", "plain or off")
    result.assert_outcomes(passed=2, errors=1, deselected=5)


def test_fixtures_of_wider_scopes_outlive_the_guard(users: pytest.Pytester) -> None:
    """What a module's fixture opened is no leak of the test that happened to be the first; nor are doctests tests."""
    users.makepyfile(
        '''
        """
        >>> 1 + 1
        2
        """
        import pytest
        from fastapi.testclient import TestClient
        from fastapi_httpx_pool.testing import Upstream, client_override
        from users_app import app

        pytestmark = pytest.mark.httpx_pool(leak_guard=True)

        @pytest.fixture(scope="module")
        def browser():
            with Upstream() as upstream, TestClient(app) as browser, client_override(app, upstream):
                upstream.get("/x").respond(text="real")
                yield browser

        @pytest.fixture(autouse=True)
        def other():
            pass

        @pytest.mark.parametrize("n", [1, 2])
        def test_one(browser, n):
            assert browser.get("/injected").json() == "real"
        '''
    )
    run(users, "--doctest-modules").assert_outcomes(passed=3)


def test_network_guard(users: pytest.Pytester) -> None:
    """A connection to another machine fails the test, though the app makes a 502 of it."""
    users.makepyfile(
        """
        import pytest
        from fastapi.testclient import TestClient
        from users_app import app

        def test_outside():
            with TestClient(app) as browser:
                assert browser.get("/outside").status_code == 502

        def test_inside(upstream, client_override):
            upstream.get("/x").respond(text="real")
            with TestClient(app) as browser, client_override(app, upstream):
                assert browser.get("/injected").json() == "real"
        """
    )
    result = run(users, "-o", "httpx_pool_network_guard=true")
    result.assert_outcomes(passed=2, errors=1)
    assert "192.0.2.1:80, from " in text_of(result)


@pytest.mark.parametrize("arguments", ["leaks=True", "True"])
def test_wrong_marker(users: pytest.Pytester, arguments: str) -> None:
    """A marker with anything else than the guards is a mistake, and told."""
    users.makepyfile(f"import pytest\n\n@pytest.mark.httpx_pool({arguments})\ndef test_x(): pass\n")
    result = run(users)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pytest.mark.httpx_pool takes leak_guard and network_guard only" in " ".join(result.errlines)


def test_help(users: pytest.Pytester) -> None:
    """Fixtures, marker and options are listed by pytest, each with what it does."""
    fixtures = text_of(users.runpytest_inprocess("--fixtures"))
    for name in ("upstream", "tls_upstream", "client_override", "lifespan_client", "leak_guard", "network_guard"):
        assert f"{name} -- " in fixtures
    assert "no docstring" not in fixtures.partition("fastapi_httpx_pool.pytest_plugin")[2].partition("----")[0]
    assert "@pytest.mark.httpx_pool(*, leak_guard" in text_of(users.runpytest_inprocess("--markers"))
    assert "httpx_pool_network_guard" in text_of(users.runpytest_inprocess("--help"))


def test_pytest_is_needed_by_the_plugin_only() -> None:
    """The kit itself is used without pytest, from unittest for example."""
    code = "import sys; sys.modules['pytest'] = None; import fastapi_httpx_pool.testing"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
