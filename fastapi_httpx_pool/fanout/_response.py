"""A Starlette response made of several upstreams' answers."""

import base64
import codecs
import json
from collections.abc import Mapping
from typing import Any, Final, Literal, final, get_args

import anyio
from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ._arrivals import Arrivals
from ._merging import StreamPart

__all__ = ("MergedStreamResponse",)

EVENTS: Final = "text/event-stream"
_MediaType = Literal["text/event-stream", "application/x-ndjson"]
_Encoding = Literal["text", "base64"]


class _ClientLeft(Exception):
    """How the server says so, if it says it at all."""


class MergedStreamResponse(Response):
    """
    Sends what ``merge_streams`` gives, as server-sent events or as one JSON object in each line.

    Each record has a ``kind``, and says whose it is (``source``): ``start`` (with ``status`` and ``content_type``),
    ``chunk`` (with ``text``, or ``base64``), ``end`` (with ``truncated``) and ``error`` (with ``error``, the name
    of its class; the rest is in the log). The last one, of all sources, is ``done`` (with the numbers of
    ``sources`` and of those that ``failed``). In an event, ``event:`` is the kind, ``id:`` the source, and
    ``data:`` the record.

    Nothing is read from an upstream before the browser has taken what came before. When the browser leaves, also in
    a silence, all upstreams are closed.
    """

    def __init__(
        self,
        parts: Arrivals[StreamPart[Any]],
        *,
        media_type: Literal["text/event-stream", "application/x-ndjson"] = "text/event-stream",
        encoding: Literal["text", "base64"] = "text",
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        """
        Take the parts; nothing is requested before the response is sent.

        Args:
            parts: What ``merge_streams`` returns.
            media_type: ``application/x-ndjson`` for lines.
            encoding: ``text`` decodes the bodies by their own charset, or UTF-8, and puts replacement characters for
                what is none; ``base64`` is for bodies that are not text.
            status_code: Of the whole, sent at once: each upstream's own is in its ``start``.
            headers: Of the whole.
            background: Runs when the browser has everything.

        Raises:
            TypeError: The parts do not come from ``merge_streams``.
            ValueError: An unknown media type or encoding.
        """
        if not isinstance(parts, Arrivals):
            raise TypeError(f"{parts!r} is not what merge_streams(client, requests) returns; pass that")
        _check("media_type", media_type, get_args(_MediaType))
        _check("encoding", encoding, get_args(_Encoding))
        self.status_code = status_code
        self.media_type = media_type
        self.background = background
        # It is made now, and no proxy on the way may hold it back.
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})
        self._parts = parts
        self._encoder = _Encoder(is_events=media_type == EVENTS, is_text=encoding == "text")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts as they come, then run the background task."""
        failure: BaseException | None = None
        complete = False
        async with anyio.create_task_group() as group:
            group.start_soon(_wait_for_departure, receive, group.cancel_scope)
            try:
                await self._send(send, with_body=scope["method"] != "HEAD")
                complete = True
            except _ClientLeft:
                pass
            except Exception as exc:  # noqa: BLE001 -- raised again where no group wraps it
                failure = exc
            group.cancel_scope.cancel()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure
        if complete and self.background is not None:
            await self.background()

    async def _send(self, send: Send, *, with_body: bool) -> None:
        async def pass_on(message: Any) -> None:
            try:
                await send(message)
            except OSError:
                raise _ClientLeft from None

        await pass_on({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if with_body:
            async with self._parts:
                await self._send_parts(pass_on)
        await pass_on({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_parts(self, send: Send) -> None:
        encoder = self._encoder

        async def pass_on(record: bytes) -> None:
            if record:
                await send({"type": "http.response.body", "body": record, "more_body": True})

        try:
            async for part in self._parts:
                await pass_on(encoder.encode(part))
        except TimeoutError:
            # Whoever reads this may begin again; a connection that is broken off says less.
            await pass_on(encoder.record("error", None, error="TimeoutError"))
        await pass_on(encoder.done())


async def _wait_for_departure(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, known))}")


@final
class _Encoder:
    """Makes records of parts."""

    def __init__(self, *, is_events: bool, is_text: bool) -> None:
        self._is_events = is_events
        self._is_text = is_text
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        """Of the sources that have started and not ended: a character may begin in one chunk and end in the next."""
        self._sources = 0
        self._failed = 0

    def encode(self, part: StreamPart[Any]) -> bytes:
        """Return the records of a part; none, if it holds only the beginning of a character."""
        source = part.source
        if part.kind == "start":
            return self._start(source, part.response)
        if part.kind == "chunk":
            return self._chunk(source, part.chunk)
        self._sources += 1
        decoder = self._decoders.pop(source, None)
        if part.kind == "error":
            self._failed += 1
            return self.record("error", source, error=type(part.error).__name__)
        rest = "" if decoder is None or part.truncated else decoder.decode(b"", final=True)
        before = self.record("chunk", source, text=rest) if rest else b""
        return before + self.record("end", source, truncated=part.truncated)

    def done(self) -> bytes:
        """Return the last record."""
        return self.record("done", None, sources=self._sources, failed=self._failed)

    def record(self, kind: str, source: str | None, **fields: object) -> bytes:
        """Return a record; ``source`` is None if it is about all of them."""
        about = {} if source is None else {"source": source}
        # ASCII only, so nothing in it can be taken for the end of a line.
        text = json.dumps({"kind": kind, **about, **fields}, separators=(",", ":"))
        if self._is_events:
            tag = "" if source is None else f"id: {json.dumps(source)[1:-1]}\n"
            text = f"event: {kind}\n{tag}data: {text}\n"
        return f"{text}\n".encode("ascii")

    def _start(self, source: str, response: Any) -> bytes:
        if self._is_text:
            self._decoders[source] = _decoder_for(response.encoding or "utf-8")
        content_type = response.headers.get("content-type")
        return self.record("start", source, status=response.status_code, content_type=content_type)

    def _chunk(self, source: str, chunk: bytes) -> bytes:
        if not self._is_text:
            return self.record("chunk", source, base64=base64.b64encode(chunk).decode("ascii"))
        text = self._decoders[source].decode(chunk)
        return self.record("chunk", source, text=text) if text else b""


def _decoder_for(charset: str) -> codecs.IncrementalDecoder:
    try:
        # An upstream may name one that is no charset of texts, as hex, or that can replace nothing.
        b"ab".decode(charset, "replace")
        decoder = codecs.getincrementaldecoder(charset)
    except (LookupError, UnicodeError):
        decoder = codecs.getincrementaldecoder("utf-8")
    return decoder("replace")
