"""
An open WebSocket: messages both ways, until one side ends it; then the other side is told.

The rules:

1. One message at a time in each direction, and the next is not taken before the other side has
   taken the last one: whoever is slow slows the other down. ASGI has whole messages only, so what
   the upstream sends in fragments is put together, up to a limit.
2. Each hop answers its own pings, and so do we. An upstream that is silent for long is pinged, and
   is dead if it stays silent; the client's side is watched by its server.
3. A client that does not take a message for too long is broken off.
4. Codes and reasons of closing go to the other side (``_goodbyes``).
5. Whatever happens, the upstream's connection is closed by whoever closes the response.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, final

import anyio
import anyio.lowlevel
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN

from .._cancellation import runs_asyncio
from ..exceptions import ReadTimeout, TransportError
from ..transports import NetworkStream
from ._goodbyes import (
    DEAD,
    IDLE,
    LEAVING,
    LOST_CLIENT,
    SHUTDOWN,
    Ending,
    Goodbye,
    of_broken,
    of_client,
    of_garbled,
    of_lost,
    of_upstream,
    stalled,
)
from ._policy import ProxyPolicy
from ._servers import says_gone

__all__ = ("Bridge",)

FRAGMENT: Final = 256 * 1024
"""Bytes of a longer message that go to the upstream in one frame."""
READ_SIZE: Final = 16 * 1024
"""Bytes that are read at a time: they may be thousands of frames."""
TURN: Final = 256
"""Frames after which others have their turn, and messages after which it is asked who else has stopped us."""
SLOWEST: Final = 1024 * 1024
"""Bytes a second that a client may take a message in."""
LONGEST_CONTROL: Final = 131
"""Bytes of a control frame; whatever comes in more at a time has something of a message."""
GOODBYE: Final = 2.0
"""Seconds that the upstream has to close the connection after the last frame."""
SOON: Final = 0.05
"""Seconds between two looks at the client, at least."""

_WITH_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


@final
class Bridge:
    """One open WebSocket."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        protocol: ClientProtocol,
        stream: NetworkStream,
        policy: ProxyPolicy,
    ) -> None:
        self._receive = receive
        self._send = send
        self._protocol = protocol
        self._stream = stream
        self._ping_interval = policy.websocket_ping_interval
        self._ping_timeout = policy.websocket_ping_timeout
        self._idle = policy.websocket_idle
        # Half a message is none: who takes nothing of one is idle, too.
        self._client_idle = _shorter(policy.client_idle, policy.websocket_idle)
        self._write_limit = _sum(policy.websocket_ping_interval, policy.websocket_ping_timeout)
        self._client_timer: asyncio.TimerHandle | None = None
        self._sending_since: float | None = None
        self._last_length = 0
        self._turns = 0
        self._begun: bytearray | None = None
        """What has come of a message in fragments; not a list of them, for there may be millions."""
        self._is_text = False
        self._last_message = monotonic()
        self._pinged_at: float | None = None
        self._scope = anyio.CancelScope()
        self._ending: Ending | None = None

    async def run(self) -> Ending:
        """Carry messages until the end; return how it came."""
        self._stream.on_drain = self._go_away
        if self._stream.draining:
            self._go_away()
        if self._client_idle is not None and runs_asyncio():
            self._look_at_client(asyncio.get_running_loop(), self._client_idle)
        try:
            await self._carry()
        except BaseException:
            # The server has cancelled the application: there is time for a word to each, but not for an answer.
            await self._tell_upstream(LEAVING)
            with suppress(Exception):  # what stopped us is what counts
                await self._tell_client(LEAVING, shield=True)
            raise
        finally:
            self._stream.on_drain = None
            if self._client_timer is not None:
                self._client_timer.cancel()
            # The library's objects are a circle, and would wait for the garbage collector with all they hold.
            self._protocol.reader.discard()
            self._begun = None
        ending = self._ending
        assert ending is not None
        if ending.upstream is not None:
            await self._tell_upstream(ending.upstream)
        if ending.client is not None:
            await self._tell_client(ending.client)
        await self._wait_for_the_end()
        return ending

    async def _carry(self) -> None:
        with self._scope:
            async with anyio.create_task_group() as group:
                group.start_soon(self._run, self._to_upstream)
                await self._run(self._to_client)

    async def _run(self, carry: Callable[[], Awaitable[Ending]]) -> None:
        self._end(await carry())

    def _end(self, ending: Ending) -> None:
        """Stop both directions; the first reason counts."""
        if self._ending is None:
            self._ending = ending
            self._scope.cancel()

    def _go_away(self) -> None:
        self._end(SHUTDOWN)

    async def _heed(self) -> None:
        """Stop here if it is over: who never has to wait, because there is always more, is not told so by anyio."""
        self._turns += 1
        if self._ending is not None or not self._turns % TURN:  # asking each time would cost a tenth of it all
            await anyio.lowlevel.checkpoint_if_cancelled()

    # From the client to the upstream.

    async def _to_upstream(self) -> Ending:
        try:
            while True:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    return of_client(message)
                await self._send_on(message)
                del message  # the next one may take long to come, and this one may be large
                await self._heed()
        except TransportError as exc:
            # What the upstream said before may still be on its way to the client.
            await anyio.sleep(GOODBYE)
            return of_lost(exc)

    async def _send_on(self, message: Message) -> None:
        text, protocol = message.get("text"), self._protocol
        send = protocol.send_binary if text is None else protocol.send_text
        data = memoryview(message["bytes"] if text is None else text.encode())
        start = 0
        # Once the upstream has said goodbye, everything comes too late.
        while protocol.state is OPEN:
            self._last_message = monotonic()
            fragment, last = data[start : start + FRAGMENT], start + FRAGMENT >= len(data)
            if start:
                protocol.send_continuation(fragment, fin=last)
            else:
                send(fragment, fin=last)
            await self._flush()
            if last:
                break
            start += FRAGMENT

    async def _flush(self) -> None:
        stream = self._stream
        for data in self._protocol.data_to_send():
            if not stream.write_nowait(data):
                await stream.write(data, self._write_limit)
                if self._pinged_at is not None:
                    self._pinged_at = monotonic()  # it reads, and may not have come to the ping yet

    # From the upstream to the client.

    async def _to_client(self) -> Ending:
        try:
            while True:
                try:
                    data = await self._stream.read(READ_SIZE, self._patience())
                except ReadTimeout:
                    ending = await self._look()
                else:
                    self._pinged_at = None
                    ending = await self._take(data)
                    del data
                if ending is not None:
                    return ending
                await self._heed()
        except UnicodeDecodeError as exc:
            return of_garbled(exc)
        except TransportError as exc:
            return of_lost(exc)
        except ClientDisconnect:
            # What it said when it left may still be on its way to the other direction.
            await anyio.sleep(GOODBYE)
            return LOST_CLIENT

    async def _take(self, data: bytes) -> Ending | None:
        """Take what the upstream has sent; return how it ended, if that was the end."""
        protocol = self._protocol
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        if len(data) > LONGEST_CONTROL:
            self._last_message = monotonic()  # a piece of one, at least
        answers = protocol.data_to_send()
        if answers:
            with suppress(TransportError):  # what was said before comes first; the next read tells of the loss
                await self._write_soon(answers)
        for number, event in enumerate(protocol.events_received(), 1):
            assert isinstance(event, Frame)
            if event.opcode in _WITH_DATA:
                await self._pass_on(event)
            if not number % TURN:
                await anyio.lowlevel.checkpoint()
        if protocol.parser_exc is not None:
            return of_broken(protocol.parser_exc)
        if protocol.close_rcvd is not None:
            return of_upstream(protocol.close_rcvd.code, protocol.close_rcvd.reason)
        return None

    async def _pass_on(self, frame: Frame) -> None:
        data: Any = frame.data
        frame.data = b""  # the parser keeps the last frame until the next one comes
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if self._begun is not None:
            self._begun += data
            data = self._begun
        if not frame.fin:
            self._begun = bytearray(data) if self._begun is None else self._begun
            return
        self._begun = None
        length, now = len(data), monotonic()
        # Some servers let the next message wait for the last one.
        self._sending_since, self._last_message = now + (length + self._last_length) / SLOWEST, now
        self._last_length = length
        try:
            await self._deliver({"text": str(data, "utf-8")} if self._is_text else {"bytes": bytes(data)})
        finally:
            self._sending_since = None

    async def _deliver(self, message: Message) -> None:
        try:
            await self._send({"type": "websocket.send", **message})
        except Exception as exc:
            if says_gone(exc):
                raise ClientDisconnect from None
            raise

    # Control frames.

    async def _write_soon(self, frames: Sequence[bytes]) -> None:
        # Not behind what the other direction waits to get rid of: who would wait there would not read. Of
        # several pongs the last one is enough (RFC 6455, section 5.5.3), and a goodbye is always the last.
        if not self._stream.write_nowait(b"".join(frames)):
            await self._stream.write_soon(next((frame for frame in reversed(frames) if frame), b""))

    # Silence.

    def _patience(self) -> float | None:
        """Return for how many seconds the upstream may be silent before somebody has a look."""
        if self._pinged_at is None and self._idle is None:
            return self._ping_interval  # as nearly always
        now, limits = monotonic(), []
        if self._idle is not None:
            limits.append(self._last_message + self._idle - now)
        if self._ping_interval is not None and (self._pinged_at is None or self._ping_timeout is None):
            limits.append(self._ping_interval)
        elif self._pinged_at is not None and self._ping_timeout is not None:
            limits.append(self._pinged_at + self._ping_timeout - now)
        return max(0.0, min(limits)) if limits else None

    async def _look(self) -> Ending | None:
        """See what a silence of the upstream's means: it is pinged, or else has been for long."""
        now = monotonic()
        if self._idle is not None and now >= self._last_message + self._idle:
            return IDLE
        if self._pinged_at is not None and self._ping_timeout is not None:
            return DEAD if now >= self._pinged_at + self._ping_timeout else None
        if self._ping_interval is not None:
            self._pinged_at = now
            self._protocol.send_ping(b"")
            await self._write_soon(self._protocol.data_to_send())
        return None

    def _look_at_client(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        """See whether the client has not taken a message for too long."""
        since, now = self._sending_since, monotonic()
        if since is not None and now >= since + limit:
            self._end(stalled(limit))
        else:
            rest = limit if since is None else since + limit - now
            self._client_timer = loop.call_later(max(rest, SOON), self._look_at_client, loop, limit)

    # The end.

    async def _tell_upstream(self, close: Goodbye) -> None:
        with suppress(InvalidState, TransportError), anyio.move_on_after(GOODBYE, shield=True):
            self._protocol.send_close(close.code, close.reason)
            await self._write_soon(self._protocol.data_to_send())

    async def _tell_client(self, close: Goodbye, *, shield: bool = False) -> None:
        with anyio.move_on_after(GOODBYE, shield=shield):  # it may not have taken what came before
            try:
                await self._send({"type": "websocket.close", "code": close.code, "reason": close.reason})
            except Exception as exc:
                if not says_gone(exc):
                    raise

    async def _wait_for_the_end(self) -> None:
        """Let the upstream close the connection, as servers do: a reset could overtake the last frame."""
        with suppress(TransportError), anyio.move_on_after(GOODBYE):
            while await self._stream.read(READ_SIZE):
                await anyio.lowlevel.checkpoint_if_cancelled()  # as in `_heed`


def _shorter(one: float | None, other: float | None) -> float | None:
    limits = [limit for limit in (one, other) if limit is not None]
    return min(limits) if limits else None


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
