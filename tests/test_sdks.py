"""SDKs that take an http_client: they work with the app's client of the httpx2 family, and do not close it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from fastapi_httpx_pool import ClientLifespan, ClientSettings, LimitSettings, create_lifespan

from .support.asgi import started
from .support.families import module_of, needs_httpx2
from .support.server import Running, serving

ON_ASYNCIO = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
# Under trio the SDKs' own generators are left to the garbage collector, which complains.
pytestmark = [pytest.mark.anyio, needs_httpx2, pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)]

WORDS = ("Hello", ", ", "world")


# An upstream that speaks both APIs as far as these tests need


def _completion(choice: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "c1", "object": kind, "created": 1, "model": "small", "choices": [{"index": 0, **choice}]}


async def openai_events() -> AsyncIterator[str]:
    """Give the events of a streamed chat completion."""
    for word in WORDS:
        chunk = _completion({"delta": {"content": word}, "finish_reason": None}, "chat.completion.chunk")
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def _message(content: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "small",
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


async def anthropic_events() -> AsyncIterator[str]:
    """Give the events of a streamed message."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": _message([])},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS
    ]
    events += [{"type": "content_block_stop", "index": 0}, {"type": "message_stop"}]
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


def check_key(request: Request) -> None:
    """Require the key that the SDK was given; which header it goes in is the SDK's affair."""
    keys = (request.headers.get("authorization", "").removeprefix("Bearer "), request.headers.get("x-api-key"))
    assert "key" in keys


def upstream_app() -> FastAPI:
    """Return the upstream."""
    app = FastAPI()

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> Any:
        check_key(request)
        if (await request.json()).get("stream"):
            return StreamingResponse(openai_events(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(WORDS)}
        return _completion({"message": message, "finish_reason": "stop"}, "chat.completion")

    @app.post("/v1/messages", response_model=None)
    async def messages(request: Request) -> Any:
        check_key(request)
        if (await request.json()).get("stream"):
            return StreamingResponse(anthropic_events(), media_type="text/event-stream")
        return _message([{"type": "text", "text": "".join(WORDS)}])

    @app.get("/plain")
    async def plain() -> str:
        return "still open"

    return app


@pytest.fixture(name="upstream", scope="module")
def _upstream() -> Iterator[Running]:
    with serving(upstream_app()) as running:
        yield running


# What each SDK is asked

HELLO = [{"role": "user", "content": "Say hello."}]


async def ask_openai(sdk: Any) -> str:
    """Return the text of a chat completion."""
    answer = await sdk.chat.completions.create(model="small", messages=HELLO)
    return str(answer.choices[0].message.content)


async def stream_openai(sdk: Any) -> list[str]:
    """Return the pieces of a streamed one."""
    stream = await sdk.chat.completions.create(model="small", messages=HELLO, stream=True)
    return [chunk.choices[0].delta.content async for chunk in stream]


async def ask_anthropic(sdk: Any) -> str:
    """Return the text of a message."""
    answer = await sdk.messages.create(model="small", max_tokens=9, messages=HELLO)
    return str(answer.content[0].text)


async def stream_anthropic(sdk: Any) -> list[str]:
    """Return the pieces of a streamed one."""
    async with sdk.messages.stream(model="small", max_tokens=9, messages=HELLO) as stream:
        return [text async for text in stream.text_stream]


@dataclass(frozen=True)
class SDK:
    """One SDK: where its client class is, and how it is asked."""

    package: str
    class_name: str
    path: str
    ask: Callable[[Any], Awaitable[str]]
    stream: Callable[[Any], Awaitable[list[str]]]

    def client(self, upstream: Running, http_client: Any) -> Any:
        """Return the SDK's client over the app's."""
        sdk_class = getattr(pytest.importorskip(self.package), self.class_name)
        return sdk_class(api_key="key", base_url=upstream.url + self.path, http_client=http_client, max_retries=0)


SDKS = [
    SDK("openai", "AsyncOpenAI", "/v1", ask_openai, stream_openai),
    SDK("anthropic", "AsyncAnthropic", "", ask_anthropic, stream_anthropic),
]
each_sdk = pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: sdk.package)


def app_client(lifespan: ClientLifespan) -> Any:
    """Return the app's client named "llm"."""
    return lifespan.factory.get("llm", module_of("httpx2").AsyncClient)


@each_sdk
async def test_sdk_with_the_apps_client(upstream: Running, sdk: SDK) -> None:
    """It completes and streams through the app's client; when it is closed, that client still works."""
    lifespan = create_lifespan(clients={"llm": ClientSettings(family="httpx2")})
    async with started(FastAPI(lifespan=lifespan)):
        client = app_client(lifespan)
        llm = sdk.client(upstream, client)
        assert await sdk.ask(llm) == "Hello, world"
        assert await sdk.stream(llm) == list(WORDS)
        await llm.close()
        assert not client.is_closed
        assert (await client.get(f"{upstream.url}/plain")).json() == "still open"
    assert client.is_closed


@each_sdk
async def test_sdk_as_a_context_manager(upstream: Running, sdk: SDK) -> None:
    """`async with` around the SDK leaves the app's client open, too; the next SDK can use it."""
    lifespan = create_lifespan(clients={"llm": ClientSettings(family="httpx2")})
    async with started(FastAPI(lifespan=lifespan)):
        for _ in range(2):
            async with sdk.client(upstream, app_client(lifespan)) as llm:
                assert await sdk.ask(llm) == "Hello, world"


@each_sdk
async def test_stream_left_early_gives_its_connection_back(upstream: Running, sdk: SDK) -> None:
    """With one connection for all: a stream that is left at its first piece does not keep the connection."""
    settings = ClientSettings(family="httpx2", limits=LimitSettings(max_connections=1))
    lifespan = create_lifespan(clients={"llm": settings})
    async with started(FastAPI(lifespan=lifespan)):
        client = app_client(lifespan)
        llm = sdk.client(upstream, client)
        for _ in range(3):
            async with client.stream("POST", f"{upstream.url}/v1/messages", **STREAM) as response:
                assert response.status_code == 200
            assert await sdk.ask(llm) == "Hello, world"


STREAM: dict[str, Any] = {"json": {"stream": True}, "headers": {"x-api-key": "key"}}


async def test_sdk_error_is_told_apart(upstream: Running) -> None:
    """A refused connection is the SDK's own connection error, with the family's error as its cause."""
    openai = pytest.importorskip("openai")
    lifespan = create_lifespan(ClientSettings(family="httpx2"))
    httpx2 = module_of("httpx2")
    async with started(FastAPI(lifespan=lifespan)):
        client: Any = lifespan.factory.get()
        assert not isinstance(client, httpx.AsyncClient)
        sdk = openai.AsyncOpenAI(api_key="key", base_url="http://127.0.0.1:9/v1", http_client=client, max_retries=0)
        with pytest.raises(openai.APIConnectionError) as caught:
            await ask_openai(sdk)
        assert isinstance(caught.value.__cause__, httpx2.ConnectError)
