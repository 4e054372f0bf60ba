"""At most so many exchanges at a time with one origin, so that a slow one cannot take every slot."""

from typing import final

import anyio

from ..exceptions import PoolTimeout
from ..messages import Handler, Origin, Request, Response
from ._body import ReleasingBody

__all__ = ("HostLimit",)


@final
class HostLimit:
    """
    One client's limit per origin, over all handlers that the client sends through.

    On HTTP/1.1 an exchange is a connection, so this is a limit of connections. Waiting counts
    towards the pool timeout, and waiters are served in the order they came.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._origins: dict[Origin, _Places] = {}

    def guard(self, handler: Handler) -> Handler:
        """
        Return a handler that waits for a place at the request's origin first.

        Raises:
            PoolTimeout: No place became free within ``request.timeouts.pool``.
        """

        async def limited(request: Request) -> Response:
            places = await self._enter(request)

            def release() -> None:
                places.free.release()
                self._forget(request.origin, places)

            try:
                response = await handler(request)
            except BaseException:
                release()
                raise
            response.body = ReleasingBody(response.body, release)
            return response

        return limited

    async def _enter(self, request: Request) -> "_Places":
        places = self._origins.get(request.origin)
        if places is None:
            places = self._origins[request.origin] = _Places(self._limit)
        places.users += 1
        seconds = request.timeouts.pool
        try:
            with anyio.move_on_after(seconds) as scope:
                await places.free.acquire()
                if seconds is not None:
                    left = max(0.0, scope.deadline - anyio.current_time())
                    request.timeouts = request.timeouts._replace(pool=left)
                return places
        except BaseException:
            self._forget(request.origin, places)
            raise
        self._forget(request.origin, places)
        host = request.origin.host.decode("ascii")
        raise PoolTimeout(f"None of the {self._limit} places for exchanges with {host} became free in {seconds:g} s.")

    def _forget(self, origin: Origin, places: "_Places") -> None:
        places.users -= 1
        if not places.users:
            del self._origins[origin]


class _Places:
    """The places of one origin, kept while somebody uses or awaits one."""

    def __init__(self, limit: int) -> None:
        self.free = anyio.Semaphore(limit)
        self.users = 0
