"""From what callers give (URLs, requests, tuples) to requests of the client's family."""

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Hashable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, cast, final, get_args

import anyio
import httpx

from .._settings_errors import without_credentials
from ..settings import FamilyName
from ..transports import Family

if TYPE_CHECKING:
    import httpx2

__all__ = ("END", "Call", "InputT", "Inputs", "RequestLike", "check_inputs", "count_of", "prepare", "shown")

_Url: TypeAlias = "str | httpx.URL | httpx2.URL"
RequestLike: TypeAlias = (
    "_Url | httpx.Request | httpx2.Request | tuple[str, _Url] | tuple[str, _Url, Mapping[str, Any]]"
)
"""
A URL, which is fetched with GET; a request; or ``(method, url)`` or ``(method, url, options)``.

The options are the arguments of ``client.request``. Objects are of the client's own family.
"""

InputT = TypeVar("InputT", bound=RequestLike)

END: Final = object()
"""Comes after the last input."""

_OF_SENDING = ("auth", "follow_redirects")
"""The options that are about sending a request, not about what it is."""

_LONGEST = 200
"""Characters of a URL that are shown."""


@final
@dataclass(slots=True)
class Call(Generic[InputT]):
    """One input, and the request that it stands for."""

    index: int
    input: InputT
    method: str
    url: str
    """For errors: as it was given, or as it is."""
    request: Any = None
    """The family's; None if there is an error."""
    options: dict[str, Any] = field(default_factory=dict)
    """For ``client.send``."""
    error: Exception | None = None
    """Why there is no request."""

    @property
    def host(self) -> Hashable:
        """Where it goes, for counting."""
        if self.request is None:
            return None
        url = self.request.url
        return url.scheme, url.host, url.port


def prepare(client: Any, family: Family, index: int, given: InputT) -> Call[InputT]:
    """
    Make the request that an input stands for.

    What is wrong with its values (a URL that is none, say) is the call's own error.

    Raises:
        TypeError: It is nothing that stands for a request to this client.
    """
    module = family.module
    if isinstance(given, module.Request):
        request: Any = given
        return Call(index, given, request.method, str(request.url), request)
    method, url, options = _parts(given)
    if not (isinstance(method, str) and isinstance(url, str | module.URL) and isinstance(options, Mapping)):
        raise TypeError(_text_about(family, index, given, url))
    call = Call(index, given, method, str(url))
    building = dict(options)
    call.options = {name: building.pop(name) for name in _OF_SENDING if name in building}
    try:
        call.request = client.build_request(method, url, **building)
    except Exception as exc:  # noqa: BLE001 -- as if sending it had failed
        call.error = exc
    else:
        call.url = str(call.request.url)
    return call


def _parts(given: Any) -> tuple[Any, Any, Any]:
    match given:
        case (method, url):
            return method, url, {}
        case (method, url, options):
            return method, url, options
        case _:
            return "GET", given, {}


def _text_about(family: Family, index: int, given: object, url: object) -> str:
    for thing in (given, url):
        package = type(thing).__module__.partition(".")[0]
        if package in get_args(FamilyName) and package != family.name:
            return (
                f"Input {index}, counted from 0, is of {package}, and the client of {family.name}; the two do not mix. "
                f"Take {family.name}.{type(thing).__name__}, a URL as text, or a client of {package}."
            )
    return (
        f"Input {index}, counted from 0, is {type(given).__name__}, which stands for no request. Give a URL, "
        f"{family.name}.Request, (method, url) or (method, url, options), with the options as client.request() "
        "takes them, by name."
    )


def shown(call: Call[Any]) -> str:
    """Return method and URL without what may be secret: user information, query and fragment."""
    url = without_credentials(call.url.partition("#")[0].partition("?")[0])
    text = f"{call.method} {url[:_LONGEST]}"
    return "".join(character if character.isprintable() else "?" for character in text)


def check_inputs(requests: Any, names: str = "") -> None:
    """
    Look whether these are inputs.

    Raises:
        TypeError: It is one thing, or nothing that can be iterated over.
    """
    if isinstance(requests, str | bytes | Mapping) or not isinstance(requests, Iterable | AsyncIterable):
        raise TypeError(
            f"requests is {type(requests).__name__}; give an iterable or an async iterable of them: a single URL "
            f"stands in a list, [url]; of a dict, give its values(){names}"
        )


def count_of(requests: Any) -> int | None:
    """Return how many inputs there are, if they can tell."""
    return len(requests) if isinstance(requests, Sized) else None


@final
class Inputs:
    """Takes inputs one by one, and none before it is asked to."""

    def __init__(self, requests: Any) -> None:
        self._is_async = isinstance(requests, AsyncIterable)
        self._iterator: Any = aiter(requests) if self._is_async else iter(requests)

    async def next(self) -> Any:
        """Return the next one, or ``END``."""
        if self._is_async:
            return await anext(cast("AsyncIterator[Any]", self._iterator), END)
        return next(cast("Iterator[Any]", self._iterator), END)

    async def aclose(self) -> None:
        """Let a generator that is not to go on clean up after itself, while it is known when."""
        if inspect.isasyncgen(self._iterator):
            with anyio.CancelScope(shield=True):
                await self._iterator.aclose()
