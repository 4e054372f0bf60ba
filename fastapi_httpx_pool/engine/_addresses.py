"""
Which addresses may be connected to, for clients that are given URLs by strangers.

The tables are IANA's registries of special-purpose addresses, kept here because what ``ipaddress``
calls global differs between Python's releases, and holds multicast and what is not assigned too.
"""

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Literal

__all__ = ("AddressRule", "IPAddress", "allowing", "is_public")

IPAddress = IPv4Address | IPv6Address
AddressRule = Literal["public"] | IPv4Network | IPv6Network
"""All public addresses, or one network."""

_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this machine
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by a carrier's customers; clouds keep services there
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # looks public, and is the host below each virtual machine of Azure
        "169.254.0.0/16",  # link-local; clouds keep credentials there
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # of protocols; clouds keep services there
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4, out of use
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

_UNICAST_6: Final = IPv6Network("2000::/3")
"""All that is given out; outside of it are loopback, private, link-local and multicast addresses."""
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # of protocols
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last four bytes are the IPv4 address behind the translator."""


def allowing(rules: Iterable[AddressRule]) -> Callable[[IPAddress], bool]:
    """
    Return a function that tells whether an address may be connected to.

    It may be if it is in one of the networks, or if each address that it stands for is: an
    IPv4-mapped, 6to4, NAT64 or Teredo address stands for the IPv4 addresses in it.
    """
    given = tuple(rules)
    networks = tuple(rule for rule in given if rule != "public")
    public = "public" in given

    def is_allowed(address: IPAddress) -> bool:
        # To the operating system a mapped address is the IPv4 address, so ::/0 does not allow it.
        address = getattr(address, "ipv4_mapped", None) or address
        return is_in(address) or all(is_in(meant) or (public and is_public(meant)) for meant in _meant_by(address))

    def is_in(address: IPAddress) -> bool:
        return any(address in network for network in networks)

    return is_allowed


def is_public(address: IPAddress) -> bool:
    """Whether an address is a host's on the Internet; of IPv6 only those that stand for no other one."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)


def _meant_by(address: IPAddress) -> Iterator[IPAddress]:
    """Give the addresses that one stands for; most for themselves."""
    if isinstance(address, IPv6Address):
        if address.teredo is not None:
            yield from address.teredo  # the server's and the client's
            return
        if address.sixtofour is not None:
            yield address.sixtofour
            return
        if address in _NAT64:
            yield IPv4Address(address.packed[-4:])
            return
    yield address
