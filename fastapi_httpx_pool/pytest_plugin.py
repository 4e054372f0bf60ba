"""
pytest's fixtures and guards, found by pytest itself where the package is installed.

Nothing is imported here but pytest: whoever uses no fixture pays for none.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

    from .testing import Upstream

__all__ = ("pytest_addoption", "pytest_configure", "pytest_itemcollected")

_GUARDS = {
    "leak_guard": "fail tests that leave responses, connections or tasks of pooled clients behind",
    "network_guard": "refuse pooled clients every connection to another machine",
}


@pytest.fixture(name="upstream")
def _upstream() -> "Iterator[Upstream]":
    """A real HTTP server on 127.0.0.1 that the test scripts; it starts when its URL is asked for."""
    from .testing import Upstream  # noqa: PLC0415 -- with the first test that wants it

    with Upstream() as upstream:
        yield upstream


@pytest.fixture(name="tls_upstream")
def _tls_upstream() -> "Iterator[Upstream]":
    """The same over https; ``ca_file`` is what to trust. Needs trustme."""
    from .testing import Upstream  # noqa: PLC0415 -- likewise

    with Upstream(tls=True) as upstream:
        yield upstream


@pytest.fixture(name="client_override")
def _client_override() -> Callable[..., AbstractContextManager[None]]:
    """``with client_override(app, client_or_transport, name=None):`` replaces a client of the app's for the block."""
    from .testing import client_override  # noqa: PLC0415 -- likewise

    return client_override


@pytest.fixture(name="lifespan_client")
def _lifespan_client() -> "Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]":
    """``async with lifespan_client(app) as browser:`` runs the app's lifespan and gives a client that calls it."""
    from .testing import lifespan_client  # noqa: PLC0415 -- likewise

    return lifespan_client


@pytest.fixture(name="leak_guard")
def _leak_guard() -> Iterator[None]:
    """Fail the test if responses, connections or tasks of pooled clients are left behind after it."""
    __tracebackhide__ = True
    from .testing import forbid_leaks  # noqa: PLC0415 -- likewise

    with forbid_leaks():
        yield


@pytest.fixture(name="network_guard")
def _network_guard() -> Iterator[None]:
    """Refuse pooled clients every connection to another machine, and fail the test that tries."""
    __tracebackhide__ = True
    from .testing import forbid_network  # noqa: PLC0415 -- likewise

    with forbid_network():
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options that switch the guards on for all tests."""
    for guard, help_text in _GUARDS.items():
        parser.addini(f"httpx_pool_{guard}", help_text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known that switches the guards for a test, a class or a module."""
    config.addinivalue_line(
        "markers",
        "httpx_pool(*, leak_guard=None, network_guard=None): "
        "switch the guards of fastapi-httpx-pool on (True) or off (False); the nearest marker counts",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a test the guards that are switched on for it."""
    if not isinstance(item, pytest.Function):
        return
    for guard in _GUARDS:
        if guard not in item.fixturenames and _is_on(item, guard):
            _add(item, guard)


def _is_on(item: pytest.Function, guard: str) -> bool:
    said: list[tuple[Any, object]] = []
    for node, marker in item.iter_markers_with_node("httpx_pool"):
        unknown = set(marker.kwargs) - set(_GUARDS)
        if marker.args or unknown:
            raise pytest.UsageError(
                f"{item.nodeid}: pytest.mark.httpx_pool takes {' and '.join(_GUARDS)} only, by name, "
                f"not {', '.join(map(repr, (*marker.args, *sorted(unknown))))}"
            )
        if marker.kwargs.get(guard) is not None:
            said.append((node, marker.kwargs[guard]))
    if not said:
        return bool(item.config.getini(f"httpx_pool_{guard}"))
    # The nearest node's; and there the last, because those of parameters come after those of the function.
    return bool([value for node, value in said if node is said[0][0]][-1])


def _add(item: pytest.Function, guard: str) -> None:
    """Set a guard up behind fixtures of wider scopes, which outlive the test, and before all others."""
    found: dict[str, Any] = item._fixtureinfo.name2fixturedefs
    wide = [name for name in item.fixturenames if name in found and found[name][-1].scope != "function"]
    position = item.fixturenames.index(wide[-1]) + 1 if wide else 0
    # A list of its own: the tests of one parametrised function share theirs.
    item.fixturenames = [*item.fixturenames[:position], guard, *item.fixturenames[position:]]
