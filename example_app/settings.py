"""
Settings of the example, from the environment and from ``.env``.

Four prefixes: ``EXAMPLE_`` for the application, ``EXAMPLE_CLIENT_`` for its shared client,
``EXAMPLE_SLOW_CLIENT_`` and ``EXAMPLE_SITE_CLIENT_`` for the named ones, for example
``EXAMPLE_CLIENT_TIMEOUT__READ=30``.
"""

from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fastapi_httpx_pool import ClientSettings, LimitSettings, TimeoutSettings

__all__ = ("ExampleSettings", "SharedClientSettings", "SiteClientSettings", "SlowClientSettings")

HOST = "127.0.0.1"

NOBODY = f"http://{HOST}:9/"
"""A site that is down: port 9 was given to the discard service, which nobody runs any more."""

Port = Annotated[int, Field(ge=0, le=65535)]
Url = Annotated[str, Field(pattern=r"^https?://[^/]")]


class SharedClientSettings(ClientSettings):
    """The client that nearly every route uses."""

    model_config = SettingsConfigDict(
        env_prefix="EXAMPLE_CLIENT_",
        nested_model_default_partial_update=True,  # one variable changes one limit
    )

    limits: LimitSettings = LimitSettings(
        max_connections=10,
        max_keepalive_connections=5,
    )
    timeout: TimeoutSettings = TimeoutSettings(default=5.0, read=15.0)


class SlowClientSettings(ClientSettings):
    """The client named "slow": few connections, much patience."""

    model_config = SettingsConfigDict(env_prefix="EXAMPLE_SLOW_CLIENT_", nested_model_default_partial_update=True)

    limits: LimitSettings = LimitSettings(max_connections=2, max_keepalive_connections=1)
    timeout: TimeoutSettings = TimeoutSettings(default=5.0, read=60.0)


class SiteClientSettings(ClientSettings):
    """
    The client named "site", of the mounted site alone.

    Each open WebSocket keeps a connection, so there is room for many, and the other routes have their own.
    """

    model_config = SettingsConfigDict(
        env_prefix="EXAMPLE_SITE_CLIENT_",
        nested_model_default_partial_update=True,
    )

    limits: LimitSettings = LimitSettings(
        max_connections=100,
        max_keepalive_connections=10,
    )
    timeout: TimeoutSettings = TimeoutSettings(default=5.0, read=15.0, pool=2.0)


class ExampleSettings(BaseSettings):
    """Everything else."""

    model_config = SettingsConfigDict(env_prefix="EXAMPLE_", env_file=".env", extra="ignore", frozen=True)

    port: Port = 8000
    """Of the application; 0 takes a free one."""
    upstream_port: Port = 8001
    """Of the embedded upstream; 0 takes a free one."""
    upstream_url: Url | None = None
    """A real site to send requests to; None starts the embedded upstream."""
    page: str = Field(default="/page", pattern=r"^(/|https?://)")
    """What is read where a route reads "a page": a path on the upstream, or a URL."""
    sites: Annotated[tuple[str, ...], Field(max_length=20)] = ("/page", "/json", "/slow?lines=3", "/file", NOBODY)
    """What the fan-out reads: paths on the upstream, or URLs. The last one is down."""
    patience: float = Field(default=1.0, gt=0)
    """Seconds that the route around the flaky upstream waits for it."""

    @model_validator(mode="before")
    @classmethod
    def _fit_real_site(cls, values: dict[str, Any]) -> dict[str, Any]:
        # A real site does not have the embedded upstream's pages, but it has a first one.
        if values.get("upstream_url"):
            return {"page": "/", "sites": ("/",) * 4 + (NOBODY,), **values}
        return values

    @property
    def embedded(self) -> bool:
        """Whether the embedded upstream is what requests go to."""
        return self.upstream_url is None

    @property
    def upstream(self) -> str:
        """Where requests go."""
        return self.upstream_url or f"http://{HOST}:{self.upstream_port}"

    def shared_client(self) -> SharedClientSettings:
        """Return the shared client's settings, with the upstream as its base."""
        return SharedClientSettings(**self._base())

    def slow_client(self) -> SlowClientSettings:
        """Return the settings of the client named "slow", with the same base."""
        return SlowClientSettings(**self._base())

    def site_client(self) -> SiteClientSettings:
        """Return the settings of the client named "site", with the same base."""
        return SiteClientSettings(**self._base())

    def _base(self) -> dict[str, Any]:
        # A forward proxy from the environment could not reach an upstream on this machine.
        return {"base_url": self.upstream} | ({"trust_env": False} if self.embedded else {})
