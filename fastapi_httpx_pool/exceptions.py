"""
Every error this package raises, each with a text that says what to do.

    ClientError (RuntimeError)       the client cannot be used here and now
      ClientNotStarted                 nobody opened it
      UnknownClient                    no client of that name
      ClientClosed                     it is shutting down, or shut down
      WrongEventLoop                   another event loop opened it
      CalledInEventLoop                a sync client would make the event loop wait for itself
      ForkedProcess                    another process opened it
      StateKeyConflict                 two owners want the same key of the lifespan state
    FamilyNotInstalled (ImportError) httpx2 was asked for and is not installed
    FanOutError                      one of many requests failed, and the others were given up

    TransportError                   an exchange with an upstream failed
      TimeoutException
        ConnectTimeout ReadTimeout WriteTimeout PoolTimeout TotalTimeout
      NetworkError
        ConnectError ReadError WriteError CloseError
          AddressForbidden               a ConnectError: the upstream is where the client must not go
      ProtocolError
        LocalProtocolError RemoteProtocolError
      ProxyError
      UnsupportedProtocol

The second tree belongs to the family-neutral core (``messages.Handler``) and has httpx's names on
purpose: the transports turn each of them into the class of the same name of the client's own
family, so code that calls a client catches ``httpx.ReadTimeout`` as ever and never sees ours.
"""

__all__ = (
    "AddressForbidden",
    "CalledInEventLoop",
    "ClientClosed",
    "ClientError",
    "ClientNotStarted",
    "CloseError",
    "ConnectError",
    "ConnectTimeout",
    "FamilyNotInstalled",
    "FanOutError",
    "ForkedProcess",
    "LocalProtocolError",
    "NetworkError",
    "PoolTimeout",
    "ProtocolError",
    "ProxyError",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
    "StateKeyConflict",
    "TimeoutException",
    "TotalTimeout",
    "TransportError",
    "UnknownClient",
    "UnsupportedProtocol",
    "WriteError",
    "WriteTimeout",
    "WrongEventLoop",
)


class ClientError(RuntimeError):
    """The client cannot be used here and now; the text says why and what to do."""


class ClientNotStarted(ClientError):
    """Nobody opened the clients: no lifespan of ours ran for this application."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is missing: nobody opened the pooled clients. "
            "In an app, pass FastAPI(lifespan=create_lifespan()) or call app.add_middleware(ClientMiddleware); "
            "a mounted app's own lifespan is not run, so open the clients in the outermost app. "
            "In a test, enter `with TestClient(app)` (httpx.ASGITransport runs no lifespan: use asgi-lifespan's "
            "LifespanManager), or override the dependency: app.dependency_overrides[get_client]."
        )


class UnknownClient(ClientError, LookupError):
    """No client of that name was configured."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        names = ", ".join(repr(known_name) for known_name in known) or "none"
        super().__init__(
            f"There is no client named {name!r}; named clients here: {names}. "
            f"Add it where the clients are opened: create_lifespan(clients={{{name!r}: ClientSettings(...)}}). "
            "If it is there, another lifespan than that one opened the clients of this app."
        )


class ClientClosed(ClientError):
    """A request was sent after shutdown had begun."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The {name} client takes no new requests: its owner is shutting down or has shut down. "
            "Send before the lifespan ends (the app's own lifespan is left while the clients are still open), "
            "or keep no reference to a client beyond the app that opened it."
        )


class WrongEventLoop(ClientError):
    """A client was used from another event loop than the one that opened it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The {name} client was opened in another event loop, to which its connections belong. "
            "Open one in this loop: `async with ClientFactory() as factory`. "
            "In tests, this means that a client outlived the test whose loop opened it: open it per test."
        )


class CalledInEventLoop(ClientError):
    """A sync client was called in the thread of the event loop that it would wait for."""

    def __init__(self) -> None:
        super().__init__(
            "This sync client was called in the event loop's own thread, which would wait for itself for ever. "
            "In an `async def` route, take `client: ClientDep` and await its methods; SyncClientDep is for `def` "
            "routes, which run in a thread. "
            "If a `def` function was called from async code, call it in a thread: await run_in_threadpool(function)."
        )


class ForkedProcess(ClientError):
    """A client was used in a forked child of the process that opened it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The {name} client was opened before this process was forked; its sockets are the parent's and were "
            "not touched. Open the clients in the child: in a lifespan (each worker of a server runs it) or with "
            "`async with ClientFactory() as factory`; with preloading servers, do not open clients at import time."
        )


class StateKeyConflict(ClientError):
    """Somebody else keeps another object under our key of the lifespan state."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The application's own lifespan yields a state key {key!r} too, and one would hide the other. "
            "Remove that client (this package opens one there), "
            "or move ours: create_lifespan(state_key='http') gives request.state.http."
        )


class FamilyNotInstalled(ImportError):
    """A client of a family was asked for whose package is not installed."""

    def __init__(self, family: str) -> None:
        super().__init__(
            f"The client is set to family={family!r}, but the package {family!r} is not installed. "
            f"Install it: pip install 'fastapi-httpx-pool[{family}]'. "
            "If it was installed just now, this process may run another virtual environment."
        )


class FanOutError(Exception):
    """One request of a ``fan_out`` failed; the family's own error is the ``__cause__``."""

    index: int
    """The input's position, counted from 0."""

    def __init__(self, request: str, index: int, error: Exception) -> None:
        # The error's own text is left to the traceback: it may have the whole URL, secrets included.
        super().__init__(
            f"{request} (input {index}, counted from 0) failed with {type(error).__name__}, "
            "so the other requests were cancelled. The error itself is the __cause__ of this one. "
            "To have the other responses all the same, pass return_exceptions=True, or use as_completed()."
        )
        self.index = index


class TransportError(Exception):
    """An exchange with an upstream failed; the text is the transport's own."""


class TimeoutException(TransportError):
    """A time limit passed."""


class ConnectTimeout(TimeoutException):
    """No connection was made in time."""


class ReadTimeout(TimeoutException):
    """The upstream sent nothing for too long."""


class WriteTimeout(TimeoutException):
    """The upstream took nothing for too long."""


class PoolTimeout(TimeoutException):
    """No connection of the pool became free in time."""


class TotalTimeout(TimeoutException):
    """The whole exchange (queue, connection, request and response) took too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The exchange was not complete within its total timeout of {seconds:g} s.")


class NetworkError(TransportError):
    """The network failed."""


class ConnectError(NetworkError):
    """No connection could be made: DNS, refusal, TLS."""


class AddressForbidden(ConnectError):
    """The upstream has no address that ``allowed_addresses`` lets the client connect to; nothing was sent."""

    addresses: tuple[str, ...]
    """Those that it has. They are not in the text, which may be shown to whoever asked for them."""

    def __init__(self, host: str, addresses: tuple[str, ...] = ()) -> None:
        super().__init__(
            f"{host} was not connected to: none of its addresses is within the client's allowed networks. "
            "If it is an upstream of your own, add its network to allowed_addresses. "
            "If it should be a public one, its DNS was tampered with, or a resolver answers with private addresses."
        )
        self.addresses = addresses


class ReadError(NetworkError):
    """The connection broke while reading."""


class WriteError(NetworkError):
    """The connection broke while writing."""


class CloseError(NetworkError):
    """The connection could not be closed."""


class ProtocolError(TransportError):
    """HTTP was violated."""


class LocalProtocolError(ProtocolError):
    """HTTP was violated by the request."""


class RemoteProtocolError(ProtocolError):
    """HTTP was violated by the upstream."""


class ProxyError(TransportError):
    """The forward proxy refused or failed."""


class UnsupportedProtocol(TransportError):
    """The URL's scheme is neither http nor https."""
