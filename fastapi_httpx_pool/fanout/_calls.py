"""Whole answers: all of them in the order of the inputs, or each as soon as it is there."""

# ruff: noqa: ASYNC109 -- a timeout that ends them in order, and says how far they came

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, final, overload

import anyio
import httpx

from ..exceptions import FanOutError
from ._arrivals import Arrivals, Sink
from ._fan import Fan, OnProgress
from ._requests import Call, InputT, RequestLike, check_inputs, shown

if TYPE_CHECKING:
    import httpx2

__all__ = ("Outcome", "as_completed", "fan_out")

ResponseT = TypeVar("ResponseT")


@final
@dataclass(frozen=True, slots=True)
class Outcome(Generic[InputT, ResponseT]):
    """What has become of one request: a response, of whatever status, or an error."""

    index: int
    """The input's position, counted from 0."""
    input: InputT
    """What was given."""
    response: ResponseT | None
    error: Exception | None
    """The client's own: ``httpx.ConnectError``, say."""
    elapsed: float
    """Seconds, from the moment that it was its turn."""

    def result(self) -> ResponseT:
        """Return the response, or raise the error."""
        if self.error is not None:
            raise self.error
        return cast("ResponseT", self.response)


@overload
async def fan_out(
    client: httpx.AsyncClient,
    requests: Iterable[RequestLike] | AsyncIterable[RequestLike],
    *,
    limit: int | None = None,
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
    on_progress: OnProgress | None = None,
) -> list[httpx.Response]: ...
@overload
async def fan_out(
    client: httpx.AsyncClient,
    requests: Iterable[RequestLike] | AsyncIterable[RequestLike],
    *,
    limit: int | None = None,
    timeout: float | None = None,
    return_exceptions: Literal[True],
    on_progress: OnProgress | None = None,
) -> list[httpx.Response | Exception]: ...
@overload
async def fan_out(
    client: "httpx2.AsyncClient",
    requests: Iterable[RequestLike] | AsyncIterable[RequestLike],
    *,
    limit: int | None = None,
    timeout: float | None = None,
    return_exceptions: Literal[False] = False,
    on_progress: OnProgress | None = None,
) -> "list[httpx2.Response]": ...
@overload
async def fan_out(
    client: "httpx2.AsyncClient",
    requests: Iterable[RequestLike] | AsyncIterable[RequestLike],
    *,
    limit: int | None = None,
    timeout: float | None = None,
    return_exceptions: Literal[True],
    on_progress: OnProgress | None = None,
) -> "list[httpx2.Response | Exception]": ...


async def fan_out(
    client: Any,
    requests: Any,
    *,
    limit: int | None = None,
    timeout: float | None = None,
    return_exceptions: bool = False,
    on_progress: OnProgress | None = None,
) -> list[Any]:
    """
    Send many requests, at most so many at a time, and return their responses in the order of the inputs.

    Each goes through all of the client's layers, as ``client.request`` does: auth, redirects, event hooks. The
    responses have been read; statuses of 400 and above are responses like any other.

    Args:
        client: Of either family.
        requests: URLs (fetched with GET), the family's requests, ``(method, url)`` or ``(method, url, options)``
            with the arguments of ``client.request``. An iterable or an async one, which may make them as they
            are asked for: none is taken before it is its turn.
        limit: How many are under way at once. By default three quarters of the client's ``max_connections``, and
            of its ``max_connections_per_host`` with each host, so that others find connections too; a pool
            without a limit, or one that cannot be read, counts as one of 100 connections. More than the
            pool can carry is as much as it can carry: none of them ever waits in the pool's queue for
            its siblings and times out there.
        timeout: Seconds for all of them together; None for no limit.
        return_exceptions: Have a failed request's own error stand in its place, instead of giving up.
        on_progress: Called after each request with the numbers of those done, those of them that failed, and all
            (None while a lazy iterable has not told).

    Raises:
        FanOutError: A request failed; it names which, and the family's own error is its cause. All others have
            been cancelled and closed.
        TimeoutError: They were not done in time; likewise.
        TypeError: Not a client, or not an input of its family.
        ValueError: The limit or the timeout is impossible.
    """
    check_inputs(requests)
    fan: Fan[Any] = Fan(client, requests, limit, timeout, on_progress)
    results: dict[int, Any] = {}

    async def attend(call: Call[Any]) -> None:
        outcome = await _outcome_of(fan, call, stream=False)
        fan.note(failed=outcome.error is not None)
        if outcome.error is not None and not return_exceptions:
            raise FanOutError(shown(call), call.index, outcome.error) from outcome.error
        results[call.index] = outcome.response if outcome.error is None else outcome.error

    await fan.run(attend)
    return [results[index] for index in range(len(results))]


@overload
def as_completed(
    client: httpx.AsyncClient,
    requests: Iterable[InputT] | AsyncIterable[InputT],
    *,
    limit: int | None = None,
    timeout: float | None = None,
    stream: bool = False,
    on_progress: OnProgress | None = None,
) -> Arrivals[Outcome[InputT, httpx.Response]]: ...
@overload
def as_completed(
    client: "httpx2.AsyncClient",
    requests: Iterable[InputT] | AsyncIterable[InputT],
    *,
    limit: int | None = None,
    timeout: float | None = None,
    stream: bool = False,
    on_progress: OnProgress | None = None,
) -> "Arrivals[Outcome[InputT, httpx2.Response]]": ...


def as_completed(
    client: Any,
    requests: Any,
    *,
    limit: int | None = None,
    timeout: float | None = None,
    stream: bool = False,
    on_progress: OnProgress | None = None,
) -> Arrivals[Any]:
    """
    Send many requests, at most so many at a time, and give the outcome of each as it finishes.

    ``async for outcome in as_completed(client, urls)``. A failed request is an outcome too, and does not
    disturb the others. Leaving the loop cancels and closes the rest.

    Args:
        client: Of either family.
        requests: As in ``fan_out``.
        limit: As in ``fan_out``. An outcome that the loop has not fetched yet counts as under way.
        timeout: Seconds for all of them together, the loop's own work included; None for no limit. It ends
            the requests; the loop is told when it asks for the next outcome, and not interrupted.
        stream: Give responses that are open and not read yet. Each is closed when the loop asks for the next one.
        on_progress: As in ``fan_out``.

    Raises:
        TimeoutError: From the loop: they were not done in time. The others have been cancelled and closed.
        TypeError: Not a client; or, from the loop, not an input of its family.
        ValueError: The limit or the timeout is impossible.
    """
    check_inputs(requests)
    fan: Fan[Any] = Fan(client, requests, limit, timeout, on_progress)
    return Arrivals(partial(_give_outcomes, fan, stream))


async def _give_outcomes(fan: Fan[Any], stream: bool, sink: Sink[Any]) -> None:
    async def attend(call: Call[Any]) -> None:
        outcome = await _outcome_of(fan, call, stream=stream)
        try:
            fan.note(failed=outcome.error is not None)
            await sink.put(outcome, lend=stream)
        finally:
            if stream and outcome.response is not None:
                with anyio.CancelScope(shield=True):
                    await outcome.response.aclose()

    await fan.run(attend)


async def _outcome_of(fan: Fan[Any], call: Call[Any], *, stream: bool) -> Outcome[Any, Any]:
    start = anyio.current_time()
    response: Any = None
    error: Exception | None = None
    try:
        response = await fan.send(call, stream=stream)
    except Exception as exc:  # noqa: BLE001 -- whoever is given the outcome decides
        error = exc
    try:
        return Outcome(call.index, call.input, response, error, anyio.current_time() - start)
    finally:
        del error  # its traceback has this frame, and would keep itself alive
