"""
Step 4 of a request: the route calls the client, which adds what its settings say and nobody's cookies.

What both families' clients share: settings, isolated cookies, and an owner who closes them.
"""

import logging
import ssl
from time import perf_counter
from typing import Any, ClassVar, Final

from ..engine import PoolStatistics
from ..exceptions import ClientClosed
from ..settings import ClientSettings
from ._family import Family, family_named
from ._shortcuts import shortcuts_of
from ._transport import Around, HandlerTransport

__all__ = ("PooledClient",)

_logger = logging.getLogger("fastapi_httpx_pool.clients")

_CLIENT_DEFAULT: Final = object()
"""Says that nothing was said; None says that there is no limit."""

# Without a body they have no Content-Length either.
_BODILESS = frozenset(("GET", "HEAD", "OPTIONS", "DELETE"))


class PooledClient:
    """
    Mixed in before a family's ``AsyncClient``.

    The transports are made in the hooks that the family calls for them, not given as an argument:
    with ``transport=`` it would ignore environment proxies, ``NO_PROXY`` and ``verify``.
    """

    transport_class: ClassVar[Any]

    def __init__(
        self,
        name: str,
        settings: ClientSettings,
        ssl_context: ssl.SSLContext,
        around: Around,
        around_family: Around,
    ) -> None:
        self.pool_name = name
        self.pool_settings = settings
        self._around = around
        self._around_family = around_family
        self._own: list[HandlerTransport] = []
        family = family_named(settings.family)
        # Set by the family's constructor too, through attributes that it does not know to be ours.
        self._new_jar = family.module.Cookies if settings.cookies == "shared" else _isolated_jar(family)
        arguments: dict[str, Any] = {
            "base_url": settings.base_url,
            "headers": settings.headers,
            "limits": settings.limits.as_limits(settings.family),
            "timeout": settings.timeout.as_timeout(settings.family),
            "verify": ssl_context,
            "http2": settings.http2,
            "proxy": settings.proxy,
            "trust_env": settings.trust_env,
            "follow_redirects": settings.follow_redirects,
        }
        super().__init__(**arguments)
        self._cookies = self._new_jar()
        self._timeout_class = family.module.Timeout
        self._request_error = family.module.RequestError
        self._shortcuts = shortcuts_of(family)

    @property
    def cookies(self) -> Any:
        """
        Cookies sent with every request; with isolated cookies, those that the app put here itself.
        """
        return self._cookies

    @cookies.setter
    def cookies(self, cookies: Any) -> None:
        self._cookies = self._new_jar(cookies)

    def _init_transport(self, *args: Any, **arguments: Any) -> Any:
        del arguments["transport"]  # always None: the constructor above gives none
        return self._new_transport(
            engine=self.pool_settings.engine,
            uds=self.pool_settings.uds,
            local_address=self.pool_settings.local_address,
            retries=self.pool_settings.retries,
            allowed_addresses=self.pool_settings.allowed_addresses,
            **arguments,
        )

    def _init_proxy_transport(self, proxy: Any, *args: Any, **arguments: Any) -> Any:
        transport = self._new_transport(engine="httpcore", proxy=proxy, **arguments)
        if self.pool_settings.allowed_addresses != "any":
            # The proxy would look the name up. Not to obey the environment would be as wrong: whoever
            # set the proxy there may not want this machine to connect by itself.
            transport.seal()
        return transport

    def _get_proxy_map(self, *args: Any, **arguments: Any) -> Any:
        # A socket of this machine is not reached through a proxy, whatever the environment says.
        return super()._get_proxy_map(*args, **arguments) if self.pool_settings.uds is None else {}  # type: ignore[misc] # the family's

    def _new_transport(self, **arguments: Any) -> HandlerTransport:
        limits = self.pool_settings.limits
        transport: HandlerTransport = self.transport_class(
            around=self._around,
            around_family=self._around_family,
            connection_lifetime=limits.connection_lifetime,
            max_connections_per_host=limits.max_connections_per_host,
            **arguments,
        )
        transport.default_total = self.pool_settings.timeout.total
        self._own.append(transport)
        return transport

    def pool_statistics(self) -> PoolStatistics:
        """Return a snapshot of the client's connections; of those to its upstreams, not through proxies."""
        return self._own[0].statistics()

    async def drain(self, seconds: float) -> int:
        """Wait for the exchanges in flight, at most so long; return how many are left. For its owner."""
        return await self._own[0].drain(seconds)

    def build_request(
        self,
        method: str,
        url: Any,
        *,
        content: Any = None,
        data: Any = None,
        files: Any = None,
        json: Any = None,
        params: Any = None,
        headers: Any = None,
        cookies: Any = None,
        timeout: Any = _CLIENT_DEFAULT,
        extensions: Any = None,
    ) -> Any:
        """Build a request, as the family's ``build_request`` does."""
        if (
            type(url) is str
            and method in _BODILESS
            and content is data is files is json is params is cookies is extensions is None
        ):
            request = self._build_plainly(method, url, headers, timeout)
            if request is not None:
                return request
        return super().build_request(  # type: ignore[misc] # the family's own
            method,
            url,
            content=content,
            data=data,
            files=files,
            json=json,
            params=params,
            headers=headers,
            cookies=cookies,
            timeout=self._shortcuts.default if timeout is _CLIENT_DEFAULT else timeout,
            extensions=extensions,
        )

    def _build_plainly(self, method: str, url: str, headers: Any, timeout: Any) -> Any | None:
        shortcuts = self._shortcuts
        if self._params or self._cookies or not shortcuts.may_be_taken():  # type: ignore[attr-defined] # the family's own
            return None
        is_default = timeout is _CLIENT_DEFAULT or timeout is shortcuts.default
        return shortcuts.request(
            method,
            shortcuts.url(self, url),
            self._headers if headers is None else self._merge_headers(headers),  # type: ignore[attr-defined] # likewise
            self._timeout if is_default else self._timeout_class(timeout),  # type: ignore[attr-defined] # likewise
        )

    async def send(self, request: Any, *, stream: bool = False, **arguments: Any) -> Any:
        """Send a request, as the family's ``send`` does; every other way to send comes through here."""
        if self.is_closed:  # type: ignore[attr-defined] # the family's own
            raise ClientClosed(self.pool_name)
        transport = self._plain_way(request, arguments)
        if transport is None:
            return await super().send(request, stream=stream, **arguments)  # type: ignore[misc] # likewise
        try:
            return await self._send_plainly(transport, request, stream=stream)
        except self._request_error as exc:
            exc.request = request
            raise

    async def _send_plainly(self, transport: HandlerTransport, request: Any, *, stream: bool) -> Any:
        start = perf_counter()
        shortcuts = self._shortcuts
        ours, body = await transport.open(request)
        response = shortcuts.response(ours, request, body, self._default_encoding)  # type: ignore[attr-defined] # the family's own
        try:
            self._cookies.extract_cookies(response)
            shortcuts.log(request, response)
            is_plain = shortcuts.is_plain(ours)
            if not is_plain and response.has_redirect_location:
                response.next_request = self._build_redirect_request(request, response)  # type: ignore[attr-defined] # likewise
            if is_plain and not stream:
                await shortcuts.read(response, start)
                return response
            shortcuts.bind(response, start)
            if not stream:
                await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response

    def _plain_way(self, request: Any, arguments: dict[str, Any]) -> HandlerTransport | None:
        """Return the transport for a request that nobody does anything to on its way; else None."""
        default = self._shortcuts.default
        if (
            arguments.get("auth", default) is not default
            or arguments.get("follow_redirects", default) not in (default, False)
            or self.follow_redirects  # type: ignore[attr-defined] # the family's own
            or self._auth is not None  # type: ignore[attr-defined] # likewise
            or any(self._event_hooks.values())  # type: ignore[attr-defined] # likewise
            or request.url.userinfo
            or "timeout" not in request.extensions
            or not self._shortcuts.may_be_taken()
        ):
            return None
        transport = self._transport_for_url(request.url)  # type: ignore[attr-defined] # likewise
        return transport if isinstance(transport, HandlerTransport) and transport.is_untouched() else None

    async def aclose(self) -> None:
        """
        Do nothing: the client belongs to its factory, and others are using it.

        SDKs that were handed the client close it when they are closed themselves.
        """
        _logger.debug("aclose() of the %s client is left to the application that opened it", self.pool_name)

    async def close_pool(self) -> None:
        """Close the client in earnest; for its owner."""
        await super().aclose()  # type: ignore[misc] # the family's own

    def __repr__(self) -> str:
        settings = self.pool_settings
        state = "closed" if self.is_closed else "open"  # type: ignore[attr-defined] # the family's own
        return f"<{settings.family}.AsyncClient {self.pool_name!r} [{state}, engine: {self._own[0].engine_name}]>"


_isolated_jars: dict[str, Any] = {}


def _isolated_jar(family: Family) -> Any:
    if family.name not in _isolated_jars:
        _isolated_jars[family.name] = type("IsolatedCookies", (_IsolatedCookies, family.module.Cookies), {})
    return _isolated_jars[family.name]


class _IsolatedCookies:
    """A jar that takes only what the app itself puts in."""

    def extract_cookies(self, response: Any) -> None:
        """Keep nothing of a response: its next reader may be another user."""
