"""
How a connection is made: names, addresses, sockets, TLS.

Nothing here happens for a request that finds an idle connection. Names are looked up in threads of
their own, because the loop's are the application's too, and kept for ten seconds; of several
addresses the quickest wins (Happy Eyeballs, RFC 8305). One time limit covers all of it.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, final

from aiohappyeyeballs import start_connection

from ..exceptions import AddressForbidden, ConnectError, ConnectTimeout
from ..messages import Origin
from ._addresses import IPAddress
from ._connection import Connection
from ._tunnel import ConnectionInfo

__all__ = ("ConnectOptions", "Connector", "SocketOption")

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
"""The arguments of one ``socket.setsockopt``."""

NAMES_KEPT: Final = 10.0
"""Seconds that a looked-up name is used."""
MOST_NAMES: Final = 1000
"""Names that are kept at a time."""
LOOKUPS: Final = 8
"""Names that are looked up at a time."""
HEAD_START: Final = 0.25
"""Seconds that an address has before the next one is tried as well (RFC 8305, section 5)."""
QUEUED: Final = 0.02
"""Seconds after which a Unix domain socket whose queue is full is tried again."""
LIVELY: Final = 60
"""Seconds of silence after which the kernel asks whether the peer is there: NATs forget silent connections."""
GOODBYE: Final = 1.0
"""Seconds that a TLS peer has to answer our close."""
HIGHEST_PORT: Final = 65535
LONGEST_NAME: Final = 255
"""Bytes of a name that TLS can ask for."""
NO_LIMIT: Final = 24 * 3600.0
"""For what cannot be told that there is no limit."""

Address = tuple[Any, ...]


@dataclass(frozen=True)
class ConnectOptions:
    """How connections are made."""

    ssl_context: ssl.SSLContext | None = None
    """For https; without one, https is refused."""
    uds: str | None = None
    """Path of a Unix domain socket, whatever the origin's host."""
    local_address: str | None = None
    """Address to connect from."""
    retries: int = 0
    """Further attempts, after 0, 0.5, 1, 2, ... seconds."""
    socket_options: tuple[SocketOption, ...] = ()
    allowed: Callable[[IPAddress], bool] | None = None
    """Says of each address whether it may be connected to; None allows all."""

    def __post_init__(self) -> None:
        if self.allowed is not None and self.uds is not None:
            raise ValueError("uds excludes allowed addresses: a Unix domain socket has none that could be checked")
        if self.ssl_context is not None:
            # Once, and not for each handshake: with some contexts each call costs for ever.
            self.ssl_context.set_alpn_protocols(["http/1.1"])


@final
class Connector:
    """Makes connections in one event loop."""

    def __init__(self, options: ConnectOptions, loop: asyncio.AbstractEventLoop) -> None:
        self._options = options
        self._loop = loop
        self._names = _Names(loop)

    async def connect(
        self,
        make: Callable[[], Connection],
        origin: Origin,
        sni: str | bytes | None = None,
        seconds: float | None = None,
        note: "Note | None" = None,
    ) -> Connection:
        """
        Connect.

        Args:
            make: Makes the protocol to connect; a new one for each attempt.
            origin: Where to.
            sni: The name to ask for and to verify in TLS, instead of the origin's host.
            seconds: Time limit for all of one attempt.
            note: Told of each step.

        Raises:
            AddressForbidden: No address of the host is allowed.
            ConnectError: It failed.
            ConnectTimeout: It took too long.
        """
        delays = _delays(self._options.retries)
        while True:
            try:
                return await self._attempt(make, origin, sni, seconds, note)
            except AddressForbidden:
                raise  # nothing was tried, so there is nothing to try again
            except (ConnectError, ConnectTimeout):
                delay = next(delays, None)
                if delay is None:
                    raise
                async with _noted(note, "connection.retry", {}):
                    await asyncio.sleep(delay)

    async def _attempt(
        self,
        make: Callable[[], Connection],
        origin: Origin,
        sni: str | bytes | None,
        seconds: float | None,
        note: "Note | None",
    ) -> Connection:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                with ExitStack() as undo:
                    sock = await self._socket(origin, seconds, note, undo)
                    connection = make()
                    connection.sock = sock
                    undo.callback(connection.give_up)
                    await self._attach(connection, sock, origin, sni, note)
                    undo.pop_all()
                return connection
        except TimeoutError as exc:
            if limit.expired():
                raise ConnectTimeout(f"no connection to {_where(origin)} within {seconds:g} s") from exc
            raise ConnectError(str(exc)) from exc
        except (OSError, ValueError, OverflowError) as exc:  # ssl.SSLError and UnicodeError among them
            raise ConnectError(str(exc) or f"{type(exc).__name__} while connecting to {_where(origin)}") from exc

    async def _socket(
        self, origin: Origin, seconds: float | None, note: "Note | None", undo: ExitStack
    ) -> socket.socket:
        """Return a connected socket, which ``undo`` closes."""
        path = self._options.uds
        limits: dict[str, Any] = {"timeout": seconds, "socket_options": self._options.socket_options}
        if path is not None:
            async with _noted(note, "connection.connect_unix_socket", {"path": path, **limits}) as outcome:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                undo.callback(_let_go, sock, _inode_of(sock))
                await self._connect_unix(sock, path)
                outcome["return_value"] = _SocketInfo(sock)
        else:
            host, port, local = origin.host.decode("ascii"), origin.port, self._options.local_address
            info = {"host": host, "port": port, "local_address": local, **limits}
            async with _noted(note, "connection.connect_tcp", info) as outcome:
                sock = await self._tcp_socket(host, port, local)
                undo.callback(_let_go, sock, _inode_of(sock))
                outcome["return_value"] = _SocketInfo(sock)
        return sock

    async def _connect_unix(self, sock: socket.socket, path: str) -> None:
        sock.setblocking(False)
        _set_options(sock, self._options.socket_options)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                # The server's queue is full. Nothing tells when there is room in it again, and the
                # event loop would take the socket for a connected one.
                await asyncio.sleep(QUEUED)
            else:
                return

    async def _tcp_socket(self, host: str, port: int, local: str | None) -> socket.socket:
        # What is checked is what is connected to: between the two nobody asks for the name again.
        addresses = self._only_allowed(host, await self._names.look_up(host, port))
        try:
            sock = await start_connection(
                addresses,
                local_addr_infos=None if local is None else await self._names.look_up(local, 0),
                happy_eyeballs_delay=HEAD_START,
                interleave=1,
                socket_factory=self._new_socket,
            )
        except RuntimeError as exc:
            # Somebody closed a socket and left its transport behind: the loop still knows the number.
            raise OSError(str(exc)) from exc
        self._names.prefer(host, port, sock.family)
        return sock

    def _only_allowed(self, host: str, addresses: list[Address]) -> list[Address]:
        is_allowed = self._options.allowed
        if is_allowed is None:
            return addresses
        found = [(address, ipaddress.ip_address(address[4][0])) for address in addresses]
        allowed = [address for address, number in found if is_allowed(number)]
        if not allowed:
            raise AddressForbidden(host, tuple(str(number) for _, number in found))
        return allowed

    def _new_socket(self, address: Address) -> socket.socket:
        family, kind, protocol = address[:3]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):  # pragma: no branch -- not everywhere
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LIVELY)
            _set_options(sock, self._options.socket_options)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _attach(
        self, connection: Connection, sock: socket.socket, origin: Origin, sni: str | bytes | None, note: "Note | None"
    ) -> None:
        """Give the socket to the event loop, with TLS around it for https."""
        if origin.scheme != b"https":
            await self._create(connection, sock, {})
            return
        context = self._options.ssl_context
        if context is None:
            raise ConnectError("https needs a TLS context, and this engine was given none")
        name = _tls_name(sni or origin.host)
        info = {"ssl_context": context, "server_hostname": name, "timeout": None}
        async with _noted(note, "connection.start_tls", info) as outcome:
            tls = {
                "ssl": context,
                "server_hostname": name,
                # The time limit is around all of this already.
                "ssl_handshake_timeout": NO_LIMIT,
                "ssl_shutdown_timeout": GOODBYE,
            }
            await self._create(connection, sock, tls)
            _check_protocol(connection)
            outcome["return_value"] = ConnectionInfo(connection)

    async def _create(self, connection: Connection, sock: socket.socket, tls: dict[str, Any]) -> None:
        if self._options.uds is not None:
            await self._loop.create_unix_connection(lambda: connection, sock=sock, **tls)
        else:
            await self._loop.create_connection(lambda: connection, sock=sock, **tls)


def _inode_of(sock: socket.socket) -> int:
    return 0 if os.name == "nt" else os.fstat(sock.fileno()).st_ino


def _let_go(sock: socket.socket, inode: int) -> None:
    """Close a socket that came to nothing, unless the event loop has done so."""
    # uvloop closes the descriptor below the socket object when TLS fails early, and does not say so.
    # The number may be somebody else's by now, and the object would close it in the end.
    try:
        is_ours = _inode_of(sock) == inode
    except OSError:
        is_ours = False
    if is_ours:
        sock.close()
    else:
        sock.detach()


def _check_protocol(connection: Connection) -> None:
    tls = connection.ssl_object
    if tls is not None and tls.selected_alpn_protocol() == "h2":
        # Somebody else changed the context that was given to us.
        raise ConnectError("the server chose HTTP/2, which this engine does not speak; give it its own context")


def _set_options(sock: socket.socket, options: tuple[SocketOption, ...]) -> None:
    set_option: Callable[..., None] = sock.setsockopt  # of two forms, which come through here alike
    for option in options:
        set_option(*option)


def _where(origin: Origin) -> str:
    return f"{origin.host.decode('ascii', 'replace')}:{origin.port}"


def _tls_name(host: str | bytes) -> str:
    # A trailing dot and a zone are for the resolver; certificates have neither.
    name = (host.decode("ascii") if isinstance(host, bytes) else host).partition("%")[0].rstrip(".")
    # What is no name is refused here, because uvloop leaves the socket open if ssl refuses it.
    encoded = name.encode("idna")
    if not 0 < len(encoded) <= LONGEST_NAME or b"\0" in encoded:
        raise ValueError(f"TLS cannot ask for the name {name!r}")
    return name


def _delays(retries: int) -> Iterator[float]:
    # httpcore's: at once, then doubling from half a second.
    for attempt in range(retries):
        yield 0.0 if attempt == 0 else 0.5 * 2.0 ** (attempt - 1)


Note = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Told of a step, by its name and what is known of it; as httpx's ``trace`` extension."""


@asynccontextmanager
async def _noted(note: Note | None, name: str, info: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    outcome: dict[str, Any] = {"return_value": None}
    if note is None:
        yield outcome
        return
    await note(f"{name}.started", info)
    try:
        yield outcome
    except BaseException as exc:
        await note(f"{name}.failed", {"exception": exc})
        raise
    await note(f"{name}.complete", outcome)


@final
class _SocketInfo:
    """Tells about a connected socket, as a response's ``network_stream`` does later."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def get_extra_info(self, name: str) -> Any:
        """Return ``client_addr``, ``server_addr`` or ``socket``."""
        if name == "client_addr":
            return self._sock.getsockname()
        if name == "server_addr":
            return self._sock.getpeername()
        return self._sock if name == "socket" else None


@final
class _Names:
    """Looks names up, each only once at a time, and remembers the answers for a while."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._running: dict[tuple[str, int], asyncio.Future[list[Address]]] = {}

    async def look_up(self, host: str, port: int) -> list[Address]:
        """
        Return the addresses of a host, in the order in which to try them.

        Raises:
            OSError: There are none.
            ValueError: The port is none.
        """
        if not 0 <= port <= HIGHEST_PORT:
            raise ValueError(f"{port} is no port")  # uvloop would take the lower bits of it
        literal = _literal(host, port)
        if literal is not None:
            return [literal]
        key = (host, port)
        until, addresses = self._known.get(key, (0.0, []))
        if self._loop.time() < until:
            return addresses
        lookup = self._running.get(key)
        if lookup is None:
            lookup = self._running[key] = self._loop.run_in_executor(_threads(), _resolve, host, port)
            lookup.add_done_callback(lambda done: self._remember(key, done))
        # Others may wait for the same answer, so one who gives up does not cancel it.
        return await asyncio.shield(lookup)

    def prefer(self, host: str, port: int, family: int) -> None:
        """Try this family first next time: it answered."""
        known = self._known.get((host, port))
        if known is not None:
            known[1].sort(key=lambda address: address[0] != family)

    def _remember(self, key: tuple[str, int], done: asyncio.Future[list[Address]]) -> None:
        del self._running[key]
        if done.cancelled() or done.exception() is not None:
            return
        if len(self._known) >= MOST_NAMES:
            self._known.pop(next(iter(self._known)))
        self._known[key] = (self._loop.time() + NAMES_KEPT, done.result())


def _literal(host: str, port: int) -> Address | None:
    """Return the address if the host is one: those are not looked up."""
    try:
        version = ipaddress.ip_address(host.partition("%")[0]).version
    except ValueError:
        return None
    if "%" in host:
        return None  # the resolver knows what the zone means
    if version == 4:  # noqa: PLR2004
        return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))
    return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))


def _resolve(host: str, port: int) -> list[Address]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


_executor: ThreadPoolExecutor | None = None


def _threads() -> ThreadPoolExecutor:
    global _executor  # noqa: PLW0603 -- one for the process, made when it is first needed
    if _executor is None:
        _executor = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="httpx-pool-names")
    return _executor


def _forget_threads() -> None:
    # They do not exist in a forked child.
    global _executor  # noqa: PLW0603 -- as above
    _executor = None


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows cannot fork
    os.register_at_fork(after_in_child=_forget_threads)
