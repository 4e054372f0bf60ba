"""
httpx and httpx2 as data: the same names from two unrelated packages.

A family is looked up by the name in the settings, or from a client that somebody made. Its module
is imported when it is first asked for, so httpx2 may be missing.
"""

import sys
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, cast, final, get_args

from .. import exceptions
from ..exceptions import FamilyNotInstalled, TotalTimeout, TransportError
from ..settings import FamilyName

__all__ = ("URL_KEY", "Family", "family_named", "family_of")

URL_KEY = "fastapi_httpx_pool.url"
"""Where a request's extensions keep the family's URL: it says more than is sent, and mocks look at it."""

# Most specific first, so that a subclass of the user's own finds its nearest ancestor.
_ERROR_NAMES = (
    "ConnectTimeout",
    "ReadTimeout",
    "WriteTimeout",
    "PoolTimeout",
    "TimeoutException",
    "ConnectError",
    "ReadError",
    "WriteError",
    "CloseError",
    "NetworkError",
    "LocalProtocolError",
    "RemoteProtocolError",
    "ProtocolError",
    "ProxyError",
    "UnsupportedProtocol",
    "TransportError",
)


@final
@dataclass(frozen=True)
class Family:
    """One of the two packages, with its errors put beside ours."""

    name: FamilyName
    module: Any
    """The package itself: ``httpx`` or ``httpx2``."""

    @cached_property
    def core(self) -> Any:
        """What its transports are made of: ``httpcore`` or ``httpcore2``."""
        return import_module({"httpx": "httpcore", "httpx2": "httpcore2"}[self.name])

    @cached_property
    def _theirs(self) -> dict[type[TransportError], type[Exception]]:
        theirs: dict[type[TransportError], type[Exception]] = {
            getattr(exceptions, name): getattr(self.module, name) for name in _ERROR_NAMES
        }
        theirs[TotalTimeout] = self.module.TimeoutException
        return theirs

    def their_error(self, error: TransportError) -> Exception:
        """
        Return the family's error for one of ours.

        If ours was made from an error of this family, that is the one: it comes out as it went in.
        """
        cause = error.__cause__
        if isinstance(cause, self.module.TransportError):
            return cast("Exception", cause)
        their_class = next(self._theirs[ours] for ours in type(error).__mro__ if ours in self._theirs)
        their_error = their_class(str(error))
        their_error.__cause__ = error
        return their_error

    def our_error(self, error: Exception) -> TransportError:
        """Return ours for a ``TransportError`` of the family, which it keeps as its cause."""
        for name in _ERROR_NAMES:
            if isinstance(error, getattr(self.module, name)):
                our_error: TransportError = getattr(exceptions, name)(str(error))
                our_error.__cause__ = error
                return our_error
        raise TypeError(f"{error!r} is not an error of {self.name}'s transports")


_families: dict[str, Family] = {}


def family_named(name: FamilyName) -> Family:
    """
    Return the family of that name.

    Raises:
        FamilyNotInstalled: The package is missing.
    """
    if name not in _families:
        try:
            _families[name] = Family(name, import_module(name))
        except ModuleNotFoundError as exc:
            if exc.name != name:
                raise  # it is installed, and something that it needs is not
            raise FamilyNotInstalled(name) from None
    return _families[name]


def family_of(thing: object, class_name: str = "AsyncClient") -> Family:
    """
    Return the family that a client (or another of a family's objects) belongs to.

    Raises:
        TypeError: It is not of that class in either family.
    """
    for name in get_args(FamilyName):
        # The package of an object that exists has been imported.
        if name in sys.modules and isinstance(thing, getattr(sys.modules[name], class_name)):
            return family_named(name)
    raise TypeError(
        f"{thing!r} is not an httpx.{class_name} or httpx2.{class_name}. "
        "If it is a coroutine, an `await` is missing; if it is a synchronous client, or the result of one, "
        "use the asynchronous one: it would block the event loop."
    )
