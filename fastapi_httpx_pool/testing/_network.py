"""Keeps tests from the real network: connections may only be made to this machine."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final
from unittest import mock

from ..engine._connect import Connector
from ..exceptions import ConnectError
from ._places import place_here

__all__ = ("NetworkForbidden", "NetworkUsed", "forbid_network")


class NetworkForbidden(ConnectError):
    """A test tried to connect to another machine; as an httpx client's error, it is an ``httpx.ConnectError``."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"The test tried to connect to {host}:{port}, which is not this machine; nothing was sent. "
            "Answer the request in the test: with the `upstream` fixture, with client_override, with respx or "
            "another mock. If it must go out, allow it for this test: "
            "@pytest.mark.httpx_pool(network_guard=False)."
        )


class NetworkUsed(AssertionError):
    """Connections to other machines were tried in a block that forbids them; the text says where."""

    def __init__(self, attempts: list[str]) -> None:
        super().__init__(
            "Connections to other machines were tried, and refused:\n"
            + "\n".join(f"  {attempt}" for attempt in attempts)
            + "\nAnswer these requests in the test, or allow the network for it: "
            "@pytest.mark.httpx_pool(network_guard=False)."
        )


_CONNECT: Final = "_tcp_socket"


@contextmanager
def forbid_network() -> Iterator[None]:
    """
    Refuse every connection to another machine during a block, whichever client of this package's it is for.

    Names are looked up, as some of them stand for this machine. Unix domain sockets are allowed. What
    other clients than this package's do, and what goes over the family's own engine (HTTP/2, forward
    proxies, trio), is not seen.

    Raises:
        NetworkUsed: At the end, if any was tried: an app may have answered the error itself.
    """
    __tracebackhide__ = True
    guard = _Guard(getattr(Connector, _CONNECT))

    async def connect(connector: Connector, host: str, port: int, local: str | None) -> Any:
        return await guard.connect(connector, host, port, local)

    with mock.patch.object(Connector, _CONNECT, connect):
        yield
    if guard.attempts:
        raise NetworkUsed(guard.attempts)


@final
class _Guard:
    """Stands before the place where the engine connects."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self.attempts: list[str] = []

    async def connect(self, connector: Connector, host: str, port: int, local: str | None) -> Any:
        """Connect, if every address of the host is this machine's."""
        try:
            addresses = await connector._names.look_up(host, port)
        except OSError:
            addresses = []  # on a machine without a network no name has any
        if not addresses or not all(_is_here(address[4][0]) for address in addresses):
            self.attempts.append(f"{host}:{port}, from {place_here()}")
            raise NetworkForbidden(host, port)
        return await self._original(connector, host, port, local)


def _is_here(address: str) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    return number.is_loopback or number.is_unspecified
