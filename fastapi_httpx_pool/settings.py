"""
Settings of a client, from code, from the environment and from ``.env``.

``ClientSettings`` reads the environment; the models inside it do not, so that a value set for one
client never slips into another through its parts. Everything is checked when it is built, and an
error names the field, the value and the environment variable.
"""

import re
import ssl
from collections.abc import Iterable, Mapping
from importlib import import_module
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast, overload
from urllib.parse import urlsplit

import httpx
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    DirectoryPath,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ._settings_errors import (
    HIDDEN,
    URLS,
    impossible_setting,
    invalid_settings,
    unknown_setting,
    unreadable_setting,
    without_credentials,
)

if TYPE_CHECKING:
    import httpx2

__all__ = (
    "AllowedAddresses",
    "ClientSettings",
    "FamilyName",
    "LimitSettings",
    "TLSSettings",
    "TimeoutSettings",
    "allowed_addresses_of",
)

FamilyName = Literal["httpx", "httpx2"]
"""The package whose ``AsyncClient`` is opened; chosen, never guessed from what is installed."""

AllowedAddresses = Literal["any", "public"] | tuple[Literal["public"] | IPv4Network | IPv6Network, ...]
"""Where a client may connect to: anywhere, to public addresses, or into networks, of which ``public`` is one."""

DEFAULT_PREFIX = "HTTPX_POOL_"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_UNSAFE_IN_VALUE = re.compile(r"[\r\n\0]")  # RFC 9110, section 5.5

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def _none_from_text(value: object) -> object:
    # The environment knows text only: "none" there is what None is in code.
    return None if isinstance(value, str) and value.strip().lower() in ("none", "null") else value


_NoneAllowed = BeforeValidator(_none_from_text)
Count = Annotated[Annotated[int, Field(ge=0)] | None, _NoneAllowed]
PositiveCount = Annotated[Annotated[int, Field(ge=1)] | None, _NoneAllowed]
Seconds = Annotated[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, _NoneAllowed]
PositiveSeconds = Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, _NoneAllowed]


def allowed_addresses_of(value: Any) -> AllowedAddresses:
    """
    Return what ``allowed_addresses`` means, from each form that is accepted.

    Raises:
        ValueError: It is none of them.
    """
    if isinstance(value, str) and value in ("any", "public"):
        return cast("AllowedAddresses", value)
    entries = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | _Network) else (value,)
    if not entries:
        raise ValueError("an empty list allows no address at all; write 'public', or the networks")
    networks: list[Literal["public"] | IPv4Network | IPv6Network] = [
        "public" if entry == "public" else _network(entry) for entry in entries
    ]
    return tuple(networks)


_Network = IPv4Network | IPv6Network


def _network(entry: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(entry))
    except ValueError as exc:
        raise ValueError(
            f"{entry!r} is not what addresses can be allowed by: write 'any' or 'public', or a list of networks, "
            f"in which 'public' can stand too, such as ['public', '10.0.0.0/8'] ({exc})"
        ) from None


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class LimitSettings(_Part):
    """
    How many connections a client keeps; httpx's names, defaults and meanings, and two more.

    ``None`` is no limit. What httpx calls ``Limits`` is accepted wherever this is.
    """

    max_connections: PositiveCount = 100
    """Connections at a time, over all hosts."""
    max_keepalive_connections: Count = 20
    """Idle connections that are kept for the next request."""
    keepalive_expiry: Seconds = 5.0
    """Seconds that an idle connection is kept."""
    max_connections_per_host: PositiveCount = None
    """Exchanges at a time with one origin, so that one slow upstream cannot take every slot."""
    connection_lifetime: PositiveSeconds = None
    """Seconds (less up to a tenth, at random) after which a connection is replaced: DNS changes are seen."""

    @model_validator(mode="before")
    @classmethod
    def _accept_httpx_limits(cls, value: Any) -> Any:
        names = ("max_connections", "max_keepalive_connections", "keepalive_expiry")
        if not isinstance(value, cls | Mapping) and all(hasattr(value, name) for name in names):
            # httpx's own default differs from ours in nothing, so what it leaves open stays open.
            return {name: getattr(value, name) for name in names}
        return value

    @model_validator(mode="after")
    def _keepalive_within_connections(self) -> Self:
        most, kept = self.max_connections, self.max_keepalive_connections
        # The default is no contradiction: httpx lowers it by itself.
        given = "max_keepalive_connections" in self.model_fields_set
        if given and most is not None and kept is not None and kept > most:
            raise PydanticCustomError(
                "keepalive_above_connections",
                "max_keepalive_connections ({kept}) is above max_connections ({most}); "
                "lower it, or raise max_connections",
                {"kept": kept, "most": most},
            )
        return self

    @overload
    def as_limits(self, family: Literal["httpx"] = "httpx") -> httpx.Limits: ...
    @overload
    def as_limits(self, family: Literal["httpx2"]) -> "httpx2.Limits": ...
    @overload
    def as_limits(self, family: FamilyName) -> "httpx.Limits | httpx2.Limits": ...

    def as_limits(self, family: FamilyName = "httpx") -> "httpx.Limits | httpx2.Limits":
        """Return the family's own ``Limits``; what only this package knows is left out."""
        return cast(
            "httpx.Limits | httpx2.Limits",
            import_module(family).Limits(
                max_connections=self.max_connections,
                max_keepalive_connections=self.max_keepalive_connections,
                keepalive_expiry=self.keepalive_expiry,
            ),
        )


class TimeoutSettings(_Part):
    """
    Time limits of a client in seconds; ``None`` is no limit.

    ``TimeoutSettings(default=5.0, read=15.0)`` means what ``httpx.Timeout(5.0, read=15.0)`` means:
    ``default`` is for the four that are not given. ``total`` is this package's own.
    """

    default: Seconds = 5.0
    """For each of the next four that is not given."""
    connect: Seconds = 5.0
    """To make a connection."""
    read: Seconds = 5.0
    """Between two pieces of the response."""
    write: Seconds = 5.0
    """Between two pieces of the request."""
    pool: Seconds = 5.0
    """In the queue, while all connections are busy."""
    total: PositiveSeconds = None
    """
    For the whole exchange: queue, connection, request, and response to its last byte. A redirect is
    another exchange.
    """

    @model_validator(mode="before")
    @classmethod
    def _fill_from_default(cls, value: Any) -> Any:
        if value is None or isinstance(value, int | float | str):
            value = {"default": value}
        elif hasattr(value, "as_dict"):  # httpx.Timeout, httpx2.Timeout
            value = value.as_dict()
        if isinstance(value, Mapping):
            default = value.get("default", 5.0)
            value = {**dict.fromkeys(("connect", "read", "write", "pool"), default), **value}
        return value

    @overload
    def as_timeout(self, family: Literal["httpx"] = "httpx") -> httpx.Timeout: ...
    @overload
    def as_timeout(self, family: Literal["httpx2"]) -> "httpx2.Timeout": ...
    @overload
    def as_timeout(self, family: FamilyName) -> "httpx.Timeout | httpx2.Timeout": ...

    def as_timeout(self, family: FamilyName = "httpx") -> "httpx.Timeout | httpx2.Timeout":
        """Return the family's own ``Timeout``; ``total``, which it does not know, is left out."""
        return cast(
            "httpx.Timeout | httpx2.Timeout",
            import_module(family).Timeout(connect=self.connect, read=self.read, write=self.write, pool=self.pool),
        )


class TLSSettings(_Part):
    """
    How upstreams are verified, and how this client shows who it is.

    Without ``ca_file`` and ``ca_dir`` the family's own trust applies: certifi's list for httpx, the
    operating system's for httpx2, and ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` for both.
    """

    # A password given as plain text would stand in the error for the whole model.
    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    verify: bool = True
    """False accepts every certificate: for tests only."""
    ca_file: FilePath | None = None
    """PEM file of the authorities to trust, instead of the family's."""
    ca_dir: DirectoryPath | None = None
    """Directory of such files, as OpenSSL's ``c_rehash`` makes it."""
    cert_file: FilePath | None = None
    """PEM file of the client's own certificate (mutual TLS)."""
    key_file: FilePath | None = None
    """PEM file of its key, if it is not in ``cert_file``."""
    key_password: SecretStr | None = None
    """Password of the key."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not self.verify and (self.ca_file or self.ca_dir):
            raise ValueError("verify is off, so ca_file and ca_dir would not be used; remove one or the other")
        if self.cert_file is None and (self.key_file or self.key_password):
            raise ValueError("key_file and key_password need cert_file, the certificate that they belong to")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            self._load(context)
        except OSError as exc:  # ssl.SSLError is one
            files = ", ".join(str(path) for path in (self.ca_file, self.ca_dir, self.cert_file, self.key_file) if path)
            raise ValueError(f"cannot load {files}: {exc}") from exc
        return self

    def as_ssl_context(self, family: FamilyName = "httpx", *, trust_env: bool = True) -> ssl.SSLContext:
        """
        Build a context: 30 to 40 ms with the family's own trust, so not on an event loop.

        The clients of this package share one for each setting, built in a thread.
        """
        if self.ca_file is None and self.ca_dir is None:
            context = cast(
                "ssl.SSLContext", import_module(family).create_ssl_context(verify=self.verify, trust_env=trust_env)
            )
        else:
            context = ssl.create_default_context(cafile=self.ca_file, capath=self.ca_dir)
        if self.cert_file is not None:
            self._load_own_certificate(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        if self.ca_file or self.ca_dir:
            context.load_verify_locations(cafile=self.ca_file, capath=self.ca_dir)
        if self.cert_file is not None:
            self._load_own_certificate(context)

    def _load_own_certificate(self, context: ssl.SSLContext) -> None:
        # Without a password OpenSSL would ask for one on the terminal and wait.
        password = "" if self.key_password is None else self.key_password.get_secret_value()
        context.load_cert_chain(cast("Any", self.cert_file), self.key_file, password)


class ClientSettings(BaseSettings):
    """
    Everything about one client.

    Values given in code win over the environment, and that over ``.env``. The variables begin
    with ``HTTPX_POOL_``; parts are reached with two underscores: ``HTTPX_POOL_TIMEOUT__READ=15``.

    Every ``ClientSettings`` reads them for what the code leaves open. So give a second client
    variables of its own through pydantic-settings' ``_env_prefix``, or the first one's base URL and
    credentials are its too: ``ClientSettings(_env_prefix="GITHUB_")`` reads ``GITHUB_BASE_URL``.

    Raises:
        pydantic.ValidationError: A value is unknown or impossible. The text has the field, the
            value (unless it may be secret) and the environment variable.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=DEFAULT_PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        # A .env file holds other programs' variables too; unknown arguments are refused below.
        extra="ignore",
        frozen=True,
    )

    family: FamilyName = "httpx"
    """Which ``AsyncClient``: ``httpx.AsyncClient`` or ``httpx2.AsyncClient``."""
    base_url: str = ""
    """Put before relative URLs, as in httpx."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every request; values are not shown in ``repr``."""
    limits: LimitSettings = Field(default_factory=LimitSettings)
    """How many connections; an ``httpx.Limits`` is accepted too."""
    timeout: TimeoutSettings = Field(default_factory=TimeoutSettings)
    """How long; a number sets all four limits, as in httpx, whose ``Timeout`` is accepted too."""
    tls: TLSSettings = Field(default_factory=TLSSettings)
    """Whom to trust, and the client's own certificate."""
    http2: bool = False
    """Offer HTTP/2 (needs the extra ``http2``)."""
    proxy: Annotated[str | None, _NoneAllowed] = None
    """URL of a forward proxy: ``http``, ``https``, ``socks5`` or ``socks5h``."""
    uds: str | None = None
    """Path of a Unix domain socket to connect to, whatever the URL's host; no proxy is used then."""
    local_address: str | None = None
    """Address to connect from; not through a proxy."""
    allowed_addresses: AllowedAddresses = "any"
    """
    Where it may connect to, for URLs from strangers: ``any``; ``public``, which is every globally
    routable unicast address; or a list of networks, of which ``public`` can be one. The addresses
    that a name has are checked, at each connection. Excludes what httpcore would have to carry, and ``uds``.
    """
    retries: int = Field(default=0, ge=0)
    """Further attempts to make a connection (not through a proxy); requests are not repeated."""
    trust_env: bool = True
    """Obey ``HTTP_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE`` and their kin."""
    follow_redirects: bool = False
    """Off, as in httpx; a request can ask for it."""
    cookies: Literal["isolated", "shared"] = "isolated"
    """
    ``isolated``: what an upstream sets is readable on its response, and never stored nor sent
    again. ``shared``: httpx's jar, one for all callers of this client.
    """
    engine: Literal["auto", "native", "httpcore"] = "auto"
    """
    What carries the requests: ``native`` is this package's own engine, ``httpcore`` the family's,
    guarded. ``auto`` takes the native one for what it speaks: HTTP/1.1 without a forward proxy, on asyncio.
    """
    drain: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    """Seconds that exchanges in flight may take to end at shutdown."""

    if TYPE_CHECKING:
        # For type checkers and editors: every setting, in each form that is accepted, and
        # pydantic-settings' own switches. None of them is required.
        def __init__(
            self,
            *,
            family: FamilyName = ...,
            base_url: str = ...,
            headers: Mapping[str, str] = ...,
            limits: "LimitSettings | httpx.Limits | httpx2.Limits | Mapping[str, Any]" = ...,
            timeout: "TimeoutSettings | httpx.Timeout | httpx2.Timeout | float | Mapping[str, Any] | None" = ...,
            tls: TLSSettings | Mapping[str, Any] = ...,
            http2: bool = ...,
            proxy: str | None = ...,
            uds: str | None = ...,
            local_address: str | None = ...,
            allowed_addresses: AllowedAddresses | Iterable[str | IPv4Network | IPv6Network] = ...,
            retries: int = ...,
            trust_env: bool = ...,
            follow_redirects: bool = ...,
            cookies: Literal["isolated", "shared"] = ...,
            engine: Literal["auto", "native", "httpcore"] = ...,
            drain: float = ...,
            _env_prefix: str = ...,
            _env_file: str | Path | None = ...,
        ) -> None: ...

    else:

        def __init__(self, **values: Any) -> None:
            prefix = values.get("_env_prefix", self.model_config.get("env_prefix", DEFAULT_PREFIX))
            unknown = [name for name in values if not name.startswith("_") and name not in type(self).model_fields]
            if unknown:
                raise invalid_settings(type(self), [unknown_setting(name, type(self)) for name in unknown])
            if isinstance(values.get("headers"), Mapping):
                # Two dicts would be merged, and the variables' headers sent along with the code's.
                values["headers"] = MappingProxyType(dict(values["headers"]))
            try:
                super().__init__(**values)
            except ValidationError as exc:
                errors = [impossible_setting(error, prefix) for error in exc.errors()]
                raise invalid_settings(type(self), errors) from None
            except SettingsError as exc:
                raise invalid_settings(type(self), [unreadable_setting(str(exc), prefix)]) from None

    @field_validator("base_url")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if value:
            _check_url(value, ("http", "https"))
        return value

    @field_validator("proxy")
    @classmethod
    def _known_proxy_scheme(cls, value: str | None) -> str | None:
        if value is not None:
            _check_url(value, _PROXY_SCHEMES)
        return value

    @field_validator("allowed_addresses", mode="before")
    @classmethod
    def _known_networks(cls, value: object) -> AllowedAddresses:
        return allowed_addresses_of(value)

    @field_validator("headers")
    @classmethod
    def _sendable(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is not a header name")
            if _UNSAFE_IN_VALUE.search(text):
                raise ValueError(f"the value of {name!r} has a line break or NUL in it")
        return value

    @model_validator(mode="after")
    def _spoken_by_the_engine(self) -> Self:
        if self.engine == "native" and (self.http2 or self.proxy is not None):
            raise ValueError(
                "engine 'native' speaks HTTP/1.1 without a forward proxy; leave it at 'auto', "
                "which takes httpcore for the rest, or drop http2 and proxy"
            )
        return self

    @model_validator(mode="after")
    def _one_way_out(self) -> Self:
        if self.uds is not None and self.proxy is not None:
            raise ValueError(
                "uds and proxy exclude each other: a socket of this machine is not reached through a proxy"
            )
        return self

    @model_validator(mode="after")
    def _checked_addresses(self) -> Self:
        unchecked = [
            name
            for name, is_used in (
                ("http2", self.http2),
                ("proxy", self.proxy is not None),
                ("engine 'httpcore'", self.engine == "httpcore"),
                ("uds", self.uds is not None),
            )
            if is_used
        ]
        if self.allowed_addresses != "any" and unchecked:
            raise ValueError(
                f"allowed_addresses and {' and '.join(unchecked)} exclude each other: addresses are checked by this "
                "package's own engine only, over HTTP/1.1 and without a forward proxy, and a Unix domain socket has none"
            )
        return self

    def __repr_args__(self) -> Any:
        """Leave out what may be secret: credentials in URLs, values of headers."""
        for name, value in super().__repr_args__():
            if name in URLS and value:
                yield name, without_credentials(value)
            elif name == "headers":
                yield name, dict.fromkeys(value, HIDDEN)
            else:
                yield name, value


def _check_url(value: str, schemes: tuple[str, ...]) -> None:
    parts = urlsplit(value)
    if parts.scheme not in schemes or not parts.hostname:
        expected = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"the URL must begin with {expected} and name a host")
