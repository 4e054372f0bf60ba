"""What a type checker makes of the settings; checked, never run."""

import ssl
from ipaddress import IPv4Network, ip_network
from typing import assert_type

import httpx
import httpx2

from fastapi_httpx_pool import ClientSettings, LimitSettings, TimeoutSettings, TLSSettings
from fastapi_httpx_pool.settings import AllowedAddresses, FamilyName

limits = LimitSettings(max_connections=10, max_keepalive_connections=None)
assert_type(limits.as_limits(), httpx.Limits)
assert_type(limits.as_limits("httpx"), httpx.Limits)
assert_type(limits.as_limits("httpx2"), httpx2.Limits)
assert_type(limits.max_connections, int | None)

timeout = TimeoutSettings(default=5.0, read=None)
assert_type(timeout.as_timeout(), httpx.Timeout)
assert_type(timeout.as_timeout("httpx"), httpx.Timeout)
assert_type(timeout.as_timeout("httpx2"), httpx2.Timeout)
assert_type(timeout.read, float | None)


def of_either_family(family: FamilyName) -> None:
    """A family that is known only at run time gives one of both."""
    assert_type(limits.as_limits(family), httpx.Limits | httpx2.Limits)
    assert_type(timeout.as_timeout(family), httpx.Timeout | httpx2.Timeout)


assert_type(TLSSettings().as_ssl_context("httpx2", trust_env=False), ssl.SSLContext)

settings = ClientSettings(base_url="http://x", limits=limits, timeout=timeout, tls=TLSSettings())
assert_type(settings.limits, LimitSettings)
assert_type(settings.timeout, TimeoutSettings)
assert_type(settings.tls, TLSSettings)
assert_type(settings.drain, float)
assert_type(settings.headers, dict[str, str])

assert_type(settings.allowed_addresses, AllowedAddresses)
ClientSettings(allowed_addresses="public")
ClientSettings(allowed_addresses=["public", "10.0.0.0/8"])
ClientSettings(allowed_addresses=("public", IPv4Network("10.0.0.0/8")))
ClientSettings(allowed_addresses=[ip_network("10.0.0.0/8")])
