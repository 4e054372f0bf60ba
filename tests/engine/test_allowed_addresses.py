"""Where connections may go: which addresses are public, and that no other one is connected to (G9)."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fastapi_httpx_pool.engine import AddressRule, ConnectOptions, Engine, IPAddress, Limits, allowing
from fastapi_httpx_pool.engine._addresses import is_public
from fastapi_httpx_pool.exceptions import AddressForbidden
from fastapi_httpx_pool.messages import Origin, Request
from tests.support.connecting import Names, Steps, needs_ipv6
from tests.support.engines import LIMIT, assert_quiet, both_loops, fetch, read, running
from tests.support.tls import Authority
from tests.support.upstream import Upstream, answering, ok, scripted

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "168.63.129.17",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80f::200e",
    "2001:200::1",
]
FORBIDDEN = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.0",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "100::1",
    "2001:1::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "64:ff9b:1::808:808",
]


def embedded(address: str) -> dict[str, str]:
    """Return the IPv6 addresses that stand for an IPv4 address."""
    packed = ip_address(address).packed
    public = ip_address("8.8.8.8").packed
    turned = bytes(255 - byte for byte in packed)
    return {
        "mapped": f"::ffff:{address}",
        "nat64": f"64:ff9b::{address}",
        "6to4": str(ip_address(b"\x20\x02" + packed + bytes(10))),
        "teredo": str(ip_address(b"\x20\x01\0\0" + public + bytes(4) + turned)),
        "teredo-server": str(ip_address(b"\x20\x01\0\0" + packed + bytes(4) + bytes(255 - byte for byte in public))),
    }


def rules(*networks: str) -> list[AddressRule]:
    """Return rules: networks, and ``public``."""
    return ["public" if network == "public" else ip_network(network) for network in networks]


# What is public.


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    """Hosts on the Internet are public."""
    assert allowing(["public"])(ip_address(address))


@pytest.mark.parametrize("address", FORBIDDEN)
def test_not_public(address: str) -> None:
    """Nothing is that is this machine's, private, link-local, shared, reserved, multicast or for examples."""
    assert not allowing(["public"])(ip_address(address))


@pytest.mark.parametrize("form", embedded("8.8.8.8"))
def test_stands_for_another(form: str) -> None:
    """An IPv6 address that stands for an IPv4 address is judged by that one."""
    for address in (address for address in PUBLIC if "." in address):
        assert allowing(["public"])(ip_address(embedded(address)[form]))
    for address in (address for address in FORBIDDEN if "." in address):
        assert not allowing(["public"])(ip_address(embedded(address)[form]))


@settings(max_examples=300, deadline=None)
@given(st.ip_addresses())
def test_never_more_than_python_calls_global(address: IPAddress) -> None:
    """What is public is global and unicast to ``ipaddress`` too."""
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


# What is listed.


@pytest.mark.parametrize(
    ("listed", "address", "is_allowed"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.0.0.0", False),
        (["10.0.0.0/8"], "8.8.8.8", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "64:ff9b::10.1.2.3", True),
        (["10.0.0.0/8"], "64:ff9b::11.1.2.3", False),
        (["10.0.0.0/8"], "2001:db8::a01:203", False),
        (["10.0.0.0/8", "public"], "8.8.8.8", True),
        (["10.0.0.0/8", "public"], "10.1.2.3", True),
        (["10.0.0.0/8", "public"], "192.168.0.1", False),
        (["10.0.0.0/8", "public"], embedded("10.1.2.3")["teredo"], True),
        (["127.0.0.1/32"], "127.0.0.2", False),
        (["fd00::/8"], "fd00:ec2::254", True),
        (["fe80::/10"], "fe80::1%lo", True),
        (["64:ff9b::/96"], "64:ff9b::127.0.0.1", True),
        (["::/0"], "::1", True),
        (["::/0"], "::ffff:127.0.0.1", False),
        (["::/0"], "127.0.0.1", False),
        (["0.0.0.0/0"], "::1", False),
    ],
)
def test_listed(listed: list[str], address: str, is_allowed: bool) -> None:
    """Networks allow what is in them, public or not; a mapped address is an IPv4 address and nothing else."""
    assert allowing(rules(*listed))(ip_address(address)) is is_allowed


# What is connected to.

ONLY_ONE = ConnectOptions(allowed=allowing(rules("127.0.0.1/32")))
"""127.0.0.2 is as near, and not allowed."""


@contextmanager
def neighbours() -> Iterator[tuple[Upstream, Upstream]]:
    """Run an upstream on 127.0.0.1, and one on 127.0.0.2 with the same port."""
    with scripted(answering(ok(b"one"))) as one:
        listener = socket.create_server(("127.0.0.2", one.port))
        with scripted(answering(ok(b"two")), listener=listener) as two:
            yield one, two


async def refused(engine: Engine, host: str, port: int, scheme: bytes = b"http", **extensions: Any) -> AddressForbidden:
    """Send a request to a host and return the error."""
    origin = Origin(scheme, host.encode(), port)
    request = Request(b"GET", origin, b"/", [(b"Host", b"host")], extensions=extensions)
    async with asyncio.timeout(LIMIT):
        with pytest.raises(AddressForbidden) as raised:
            await read(await engine(request))
    return raised.value


@pytest.mark.anyio
@both_loops
@pytest.mark.parametrize("host", ["127.0.0.2", "127.2", "2130706434", "0x7f.2", "::ffff:127.0.0.2", "evil.example"])
async def test_g9_forbidden(names: Names, host: str) -> None:
    """However an address is written, and whatever name leads to it: if it is not allowed, nobody connects."""
    names.know("evil.example", "127.0.0.2")
    with neighbours() as (one, two):
        async with running(options=ONLY_ONE) as engine:
            error = await refused(engine, host, two.port)
            assert_quiet(engine)
            assert [origin.failures for origin in engine.statistics().origins.values()] == [{"AddressForbidden": 1}]
    assert (one.accepted, two.accepted) == (0, 0)
    assert str(error).startswith(f"{host} was not connected to: none of its addresses is within the client's allowed")
    assert "127.0.0.2" in error.addresses[0] or "7f00:2" in error.addresses[0]


@pytest.mark.anyio
@both_loops
async def test_g9_addresses_are_not_told(names: Names) -> None:
    """The text does not tell the addresses: whoever sent the URL may read it, and learn what is inside."""
    names.know("inside.example", "10.11.12.13", "fd00::1")
    async with running(options=ConnectOptions(allowed=allowing(["public"]))) as engine:
        error = await refused(engine, "inside.example", 80)
    assert error.addresses == ("10.11.12.13", "fd00::1")
    assert "10.11.12.13" not in str(error)


@pytest.mark.anyio
@both_loops
async def test_g9_only_the_allowed_ones(names: Names) -> None:
    """Of a name's addresses, those that are not allowed are not tried, wherever they stand."""
    names.know("mixed.example", "127.0.0.2", "127.0.0.1")
    with neighbours() as (one, two):
        async with running(options=ONLY_ONE) as engine:
            assert await fetch(engine, f"http://mixed.example:{one.port}") == b"one"
    assert (one.accepted, two.accepted) == (1, 0)


@pytest.mark.anyio
@both_loops
async def test_g9_all_that_are_allowed_are_tried(names: Names) -> None:
    """If the first of the allowed ones refuses, the next one is tried."""
    names.know("mixed.example", "127.0.0.3", "127.0.0.2", "127.0.0.1")
    with neighbours() as (one, two):
        allowed = ConnectOptions(allowed=allowing(rules("127.0.0.1/32", "127.0.0.3/32")))
        async with running(options=allowed) as engine:
            assert await fetch(engine, f"http://mixed.example:{one.port}") == b"one"
    assert two.accepted == 0


@pytest.mark.anyio
@needs_ipv6
@both_loops
async def test_g9_ipv6() -> None:
    """IPv6 addresses are checked likewise."""
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    with scripted(answering(ok()), listener=listener) as upstream:
        async with running(options=ConnectOptions(allowed=allowing(rules("::1/128")))) as engine:
            assert await fetch(engine, f"http://::1:{upstream.port}") == b"ok"
        async with running(options=ONLY_ONE) as engine:
            await refused(engine, "::1", upstream.port)
    assert upstream.accepted == 1


@pytest.mark.anyio
@both_loops
async def test_g9_rebinding(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check and the connection nobody looks again, and what is looked up later is checked again."""
    names.know_in_turn("rebind.example", "127.0.0.1", "127.0.0.2")
    loop = asyncio.get_running_loop()
    time, later = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: time() + later)
    with neighbours() as (one, two):
        async with running(Limits(max_idle=0), ONLY_ONE) as engine:
            url = f"http://rebind.example:{one.port}"
            assert await fetch(engine, url) == b"one"
            assert names.count("rebind.example") == 1
            assert await fetch(engine, url) == b"one"
            assert names.count("rebind.example") == 1
            later = 11.0  # the first answer is forgotten
            await refused(engine, "rebind.example", one.port)
            assert names.count("rebind.example") == 2
    assert (one.accepted, two.accepted) == (2, 0)


@pytest.mark.anyio
@both_loops
async def test_g9_not_tried_again(names: Names) -> None:
    """A refusal is not among what ``retries`` repeats."""
    names.know("evil.example", "127.0.0.2")
    steps = Steps()
    options = ConnectOptions(allowed=ONLY_ONE.allowed, retries=3)
    async with running(options=options) as engine:
        await refused(engine, "evil.example", 80, trace=steps)
    assert steps.names == ["connect_tcp.started", "connect_tcp.failed"]


@pytest.mark.anyio
@both_loops
async def test_g9_tls(names: Names) -> None:
    """For https as well: before a byte of TLS."""
    names.know("evil.example", "127.0.0.2")
    authority = Authority()
    options = ConnectOptions(authority.client(), allowed=ONLY_ONE.allowed)
    with neighbours() as (_, two):
        async with running(options=options) as engine:
            await refused(engine, "evil.example", two.port, b"https")
    assert two.accepted == 0


@pytest.mark.anyio
@both_loops
async def test_g9_not_where_it_connects_from() -> None:
    """The address to connect from is the application's own, and not checked."""
    with neighbours() as (one, _):
        options = ConnectOptions(allowed=ONLY_ONE.allowed, local_address="127.0.0.3")
        async with running(options=options) as engine:
            assert await fetch(engine, one.url) == b"one"


def test_g9_unix_socket() -> None:
    """A Unix domain socket has no address, so both together mean nothing."""
    with pytest.raises(ValueError, match="uds excludes allowed addresses"):
        ConnectOptions(uds="/socket", allowed=ONLY_ONE.allowed)
