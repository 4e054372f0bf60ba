"""What a policy has to undo when a response is closed."""

from collections.abc import AsyncIterator, Callable

from ..messages import Body

__all__ = ("ReleasingBody",)


class ReleasingBody:
    """Passes the chunks on; calls ``release`` once, when the body has been closed or failed to close."""

    def __init__(self, body: Body, release: Callable[[], None]) -> None:
        self._body = body
        self._release: Callable[[], None] | None = release

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._body)

    async def aclose(self) -> None:
        """Close the body, then release."""
        release, self._release = self._release, None
        try:
            await self._body.aclose()
        finally:
            if release is not None:
                release()
