"""
The machine behind all of this: takes inputs, sends requests, and ends everything together.

1. An input is taken only when there is a slot for it, so no more are taken than may be under way.
2. Each request has a task of its own, all of them in one group, which is over when the run is.
3. Nothing is raised inside the group: it would come out in an ``ExceptionGroup``. The first failure is kept,
   cancels the others, and is raised when they have ended.
4. A slot is free again when whoever attends to the request is done with it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, final

import anyio
from anyio.abc import TaskGroup

from ..transports import family_of
from ._requests import END, Call, Inputs, InputT, count_of, prepare
from ._slots import Slots, bounds_for

__all__ = ("Attend", "Fan", "OnProgress")

OnProgress = Callable[[int, int, int | None], object]
"""Is told how many are done, how many of these have failed, and how many there are (None while that is not known)."""

Attend = Callable[[Call[InputT]], Awaitable[None]]
"""Sees to one request from its beginning to its end."""


@final
class Fan(Generic[InputT]):
    """Many requests through one client; runs once."""

    def __init__(
        self, client: Any, requests: Any, limit: int | None, timeout: float | None, on_progress: OnProgress | None
    ) -> None:
        """
        Take the inputs; nothing is sent yet.

        Raises:
            TypeError: The client is not an ``AsyncClient`` of either family, or the timeout no number.
            ValueError: The limit or the timeout is impossible.
        """
        self._family = family_of(client)
        self._client = client
        self._requests = requests
        self._bounds = bounds_for(client, limit)
        self._timeout = _seconds(timeout)
        self._on_progress = on_progress
        self._total = count_of(requests)
        self._taken = 0
        self._done = 0
        self._failed = 0
        self._failure: BaseException | None = None

    async def run(self, attend: Attend[InputT]) -> None:
        """
        Attend to each of the requests.

        Raises:
            TimeoutError: They were not done in time.
            TypeError: An input stands for no request to this client.
            Exception: What ``attend`` or the inputs themselves raised first.
        """
        with anyio.move_on_after(self._timeout) as deadline:
            async with anyio.create_task_group() as group:
                await self._feed(group, attend)
        failure, self._failure = self._failure, None
        if failure is None and deadline.cancelled_caught:
            raise TimeoutError(
                f"The requests were not done within {self._timeout:g} s: {self._done} were, {self._failed} of which had "
                "failed, and those under way were cancelled."
            )
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback has this frame, and would keep itself alive

    async def send(self, call: Call[InputT], *, stream: bool = False) -> Any:
        """Send a request through all of the client's layers, and return its response."""
        if call.error is not None:
            raise call.error
        return await self._client.send(call.request, stream=stream, **call.options)

    def note(self, *, failed: bool) -> None:
        """Count one more that is done, and tell."""
        self._done += 1
        self._failed += failed
        if self._on_progress is not None:
            self._on_progress(self._done, self._failed, self._total)

    async def _feed(self, group: TaskGroup, attend: Attend[InputT]) -> None:
        slots = Slots(self._bounds)

        async def attended(call: Call[InputT]) -> None:
            try:
                await attend(call)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as exc:  # noqa: BLE001 -- raised again when all have ended
                self._fail(group, exc)
            finally:
                slots.give_back(call.host)

        try:
            inputs = Inputs(self._requests)
            try:
                await slots.wait()
                while (given := await inputs.next()) is not END:
                    call = self._prepared(given)
                    await slots.take(call.host)
                    group.start_soon(attended, call)
                    await slots.wait()
                self._total = self._taken
            finally:
                await inputs.aclose()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:  # noqa: BLE001 -- likewise
            self._fail(group, exc)

    def _prepared(self, given: InputT) -> Call[InputT]:
        call = prepare(self._client, self._family, self._taken, given)
        self._taken += 1
        if self._bounds.queues and call.request is not None:
            limits = call.request.extensions.get("timeout", self._client.timeout.as_dict())
            call.request.extensions = {**call.request.extensions, "timeout": {**limits, "pool": None}}
        return call

    def _fail(self, group: TaskGroup, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
            group.cancel_scope.cancel()


def _seconds(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if not isinstance(timeout, int | float):
        raise TypeError(
            f"timeout={timeout!r} is no number; it is in seconds and for all requests together. Limits for each of "
            "them are the client's, or stand in the options: (method, url, {'timeout': ...})"
        )
    if not timeout >= 0:
        raise ValueError(f"timeout={timeout!r} is no time that could pass")
    return float(timeout)
