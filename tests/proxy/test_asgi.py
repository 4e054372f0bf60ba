"""What only a server written by hand can show: the proxy response driven through ASGI itself."""

import inspect
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request

from fastapi_httpx_pool import ClientFactory, StreamingProxyResponse
from tests.support.upstream import answering, ok, scripted


async def _speak(response: StreamingProxyResponse, send: Any) -> None:
    """Drive a response as an ASGI server of version 2.4 does: ``send`` raises when the client has left."""

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    await response({"type": "http", "method": "GET"}, receive, send)


@pytest.mark.anyio
async def test_f11_a_server_whose_send_raises(caplog: pytest.LogCaptureFixture) -> None:
    """An OSError from ``send`` is a client that has left: no error, and no background task."""
    ran: list[bool] = []

    async def send(message: Any) -> None:
        raise OSError

    caplog.set_level("DEBUG", "fastapi_httpx_pool.proxy")
    made = httpx.Response(200, content=b"hello")
    await _speak(StreamingProxyResponse.from_response(made, background=BackgroundTask(ran.append, True)), send)

    assert ran == []
    assert "client_left" in caplog.text


@pytest.mark.anyio
async def test_a_hook_that_returns_something_else() -> None:
    """A hook that returns neither kind of response is told what it may return."""

    async def send(message: Any) -> None:
        raise AssertionError

    made = httpx.Response(200, content=b"hello")
    hook: Any = lambda response: {"status": 200}  # noqa: E731 -- as short as a route's
    with pytest.raises(TypeError, match="on_response returned"):
        await _speak(StreamingProxyResponse.from_response(made, on_response=hook), send)


def test_a_response_of_a_synchronous_client() -> None:
    """A response that only blocking code can read is refused by name."""
    with pytest.raises(TypeError, match="synchronous client"):
        StreamingProxyResponse.from_response(httpx.Response(200, content=iter([b"x"])))


@pytest.mark.anyio
async def test_a_failure_behind_the_last_byte(caplog: pytest.LogCaptureFixture) -> None:
    """What the upstream breaks after the client has all it was told of is nobody's trouble any more."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"ok"
        raise httpx.ReadError("reset")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    caplog.set_level("DEBUG", "fastapi_httpx_pool.proxy")
    made = httpx.Response(200, headers={"content-length": "2"}, content=chunks())
    await _speak(StreamingProxyResponse.from_response(made), send)

    assert [message.get("body") for message in sent] == [None, b"ok"]
    assert "after the end of the answer: ReadError: reset" in caplog.text


@pytest.mark.anyio
async def test_an_error_while_the_body_is_read() -> None:
    """What ``receive`` raises, as a limit on bodies does, reaches the app's own handlers."""

    async def receive() -> Any:
        raise ZeroDivisionError

    async def send(message: Any) -> None:
        raise AssertionError

    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "http_version": "1.1",
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", b"front.example"), (b"content-length", b"5")],
    }
    with scripted(answering(ok())) as upstream:
        async with ClientFactory() as factory:
            response = StreamingProxyResponse(Request(scope, receive), upstream.url, client=factory.get())
            with pytest.raises(ZeroDivisionError):
                await response(scope, receive, send)


def test_arguments_the_wrong_way_round() -> None:
    """A URL where the request belongs is told at once."""
    with pytest.raises(TypeError, match=r"StreamingProxyResponse\(request, url\)"):
        StreamingProxyResponse("http://api.example/", None)  # type: ignore[arg-type] # what the test is about


def test_the_default_timeout_says_what_it_is() -> None:
    """Signatures show that the client's own limits are the default, not some numbers."""
    assert "timeout: " in (shown := str(inspect.signature(StreamingProxyResponse)))
    assert "= the client's own" in shown
