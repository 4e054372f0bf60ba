"""``fan_out``: many requests, at most so many at a time, in order, and ended together."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import pytest

from fastapi_httpx_pool import FanOutError, LimitSettings, TimeoutSettings, fan_out
from tests.support.carriers import ASYNCIO
from tests.support.families import FAMILIES, module_of, needs_httpx2
from tests.support.fanned import Backwards, Silent, Waves, client_of, echo, everywhere, nothing_under_way, replying
from tests.support.patience import with_patience
from tests.support.ports import refusing_port
from tests.support.upstream import LIMIT, ok, scripted
from tests.support.watched import Held

pytestmark = pytest.mark.anyio

POOL_OF_TWO = LimitSettings(max_connections=2, max_keepalive_connections=2)
POOL_OF_FOUR = LimitSettings(max_connections=4, max_keepalive_connections=4)

asyncio_only = pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])


def _texts(responses: list[Any]) -> list[str]:
    return [response.text for response in responses]


# What goes in, and what comes out.


@everywhere
async def test_in_the_order_of_the_inputs(family: str) -> None:
    """Responses stand where their inputs stand, whichever comes first; they have been read and closed."""
    with scripted(Backwards(4)) as upstream:
        async with client_of(family) as client:
            responses = await fan_out(client, [f"{upstream.url}/{number}" for number in range(4)])

    assert _texts(responses) == ["0", "1", "2", "3"]
    assert all(response.is_closed for response in responses)


@everywhere
async def test_kinds_of_inputs(family: str) -> None:
    """URLs, requests and tuples are sent as the client would send them, relative to its base URL."""
    module = module_of(family)

    def reply(target: str, headers: dict[bytes, bytes], body: bytes) -> bytes:
        return ok(b" ".join((target.encode("ascii"), headers.get(b"x-mine", b"-"), body)))

    with scripted(replying(reply)) as upstream:
        async with client_of(family, base_url=upstream.url) as client:
            responses = await fan_out(
                client,
                [
                    "/text",
                    module.URL(upstream.url + "/url"),
                    client.build_request("PUT", "/request", content=b"body"),
                    ("DELETE", "/pair"),
                    (
                        "POST",
                        module.URL("/triple"),
                        {"content": b"body", "headers": {"x-mine": "1"}, "params": {"a": 1}},
                    ),
                ],
            )

    assert _texts(responses) == ["/text - ", "/url - ", "/request - body", "/pair - ", "/triple?a=1 1 body"]
    assert [response.request.method for response in responses] == ["GET", "GET", "PUT", "DELETE", "POST"]


@everywhere
async def test_async_iterator(family: str) -> None:
    """Inputs may come from an async iterator; it is read to its end."""

    async def urls() -> AsyncIterator[str]:
        for number in range(3):
            await anyio.lowlevel.checkpoint()
            yield f"{upstream.url}/{number}"

    with scripted(replying(echo)) as upstream:
        async with client_of(family) as client:
            assert _texts(await fan_out(client, urls())) == ["/0", "/1", "/2"]


@asyncio_only
async def test_nothing_to_do() -> None:
    """Of no inputs there are no responses."""
    async with client_of("httpx") as client:
        assert await fan_out(client, []) == []


@everywhere
async def test_layers_of_the_client(family: str) -> None:
    """Auth, redirects and event hooks play their part, those of the client and those of one request's options."""
    seen: list[str] = []

    def reply(target: str, headers: dict[bytes, bytes], body: bytes) -> bytes:
        if target == "/there":
            return ok(headers.get(b"authorization", b"nobody"))
        return b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"

    async def hook(response: Any) -> None:
        seen.append(response.request.url.path)

    with scripted(replying(reply)) as upstream:
        async with client_of(family, base_url=upstream.url, follow_redirects=True) as client:
            client.auth = ("user", "password")
            client.event_hooks = {"response": [hook]}
            followed, left, stranger = await fan_out(
                client, ["/here", ("GET", "/here", {"follow_redirects": False}), ("GET", "/there", {"auth": None})]
            )

    assert followed.text.startswith("Basic ")
    assert len(followed.history) == 1
    assert left.status_code == 302
    assert stranger.text == "nobody"
    assert sorted(seen) == ["/here", "/here", "/there", "/there"]


# How many at a time.


@everywhere
async def test_at_most_so_many(family: str) -> None:
    """As many as the limit says are under way at once, and never more."""
    waves = Waves(3)
    with scripted(waves) as upstream:
        async with client_of(family) as client:
            await fan_out(client, [upstream.url] * 9, limit=3)

    assert waves.most == 3


@everywhere
async def test_inputs_are_taken_when_it_is_their_turn(family: str) -> None:
    """A generator is not asked for more than can be under way."""
    taken = []

    def urls() -> Iterator[str]:
        for number in range(20):
            taken.append(number)
            yield upstream.url

    held = Held()
    with scripted(held) as upstream:
        async with client_of(family) as client, anyio.create_task_group() as group:
            group.start_soon(lambda: fan_out(client, urls(), limit=3))
            await held.arrived(3)
            await anyio.wait_all_tasks_blocked()
            assert len(taken) <= 4
            held.release()

    assert len(taken) == 20


@everywhere
@pytest.mark.parametrize("limit", [None, 50])
async def test_siblings_do_not_time_out_in_the_pool(family: str, limit: int | None) -> None:
    """Whatever the limit, no request waits in the pool's queue for its siblings: the shortest time there is enough."""
    timeout = TimeoutSettings(default=LIMIT, pool=0.001)
    with scripted(Waves(1)) as upstream:
        async with client_of(family, limits=POOL_OF_TWO, timeout=timeout) as client:
            assert len(await fan_out(client, [upstream.url] * 40, limit=limit)) == 40


@asyncio_only
async def test_a_gather_fails_this() -> None:
    """The test above can fail: the same requests without a bound time out in the pool."""
    held = Held()
    with scripted(held) as upstream:
        async with client_of("httpx", limits=POOL_OF_TWO, timeout=TimeoutSettings(default=LIMIT, pool=0.001)) as client:
            calls = [asyncio.ensure_future(client.get(upstream.url)) for _ in range(3)]
            await held.arrived(2)
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT)
            assert [type(call.exception()) for call in done] == [httpx.PoolTimeout]
            held.release()
            await asyncio.gather(*calls, return_exceptions=True)


@everywhere
async def test_siblings_do_not_time_out_at_a_host(family: str) -> None:
    """Nor does one wait in the queue of its host, where a client has a limit for each."""
    limits = LimitSettings(max_connections_per_host=1)
    first, second = Waves(1), Waves(1)
    with scripted(first) as one, scripted(second) as other:
        async with client_of(family, limits=limits, timeout=TimeoutSettings(default=LIMIT, pool=0.001)) as client:
            responses = await fan_out(client, [one.url, one.url, other.url] * 5, limit=10)

    assert len(responses) == 15
    assert (first.most, second.most) == (1, 1)


@everywhere
async def test_others_find_a_connection(family: str) -> None:
    """By default a fan-out leaves a quarter of the pool to others."""
    held = Held()
    with scripted(held) as upstream, scripted(replying(echo)) as other:
        async with client_of(family, limits=POOL_OF_FOUR) as client, anyio.create_task_group() as group:
            group.start_soon(lambda: fan_out(client, [upstream.url] * 12))
            await held.arrived(3)
            await anyio.wait_all_tasks_blocked()
            assert client.pool_statistics().active == 3
            assert (await client.get(other.url + "/other")).text == "/other"
            held.release()


@pytest.mark.parametrize("family", FAMILIES)
@asyncio_only
async def test_ten_thousand(family: str) -> None:
    """Ten thousand URLs go through a pool of 20, in order, over the same few connections; no more are ever taken."""
    taken = answered = ahead = 0

    def urls() -> Iterator[str]:
        nonlocal taken, ahead
        for number in range(10_000):
            taken += 1
            ahead = max(ahead, taken - answered)
            yield f"{upstream.url}/{number}"

    def note(done: int, failed: int, total: int | None) -> None:
        nonlocal answered
        answered = done

    with scripted(replying(echo)) as upstream:
        limits = LimitSettings(max_connections=20, max_keepalive_connections=20)
        async with client_of(family, limits=limits, timeout=TimeoutSettings(default=LIMIT, pool=0.001)) as client:
            responses = await fan_out(client, urls(), on_progress=note)

    assert _texts(responses) == [f"/{number}" for number in range(10_000)]
    assert upstream.accepted <= 20
    assert ahead <= 16


# Failures.


@everywhere
async def test_failure_cancels_the_rest(family: str) -> None:
    """One failure ends all: a plain error that names the URL without its secrets, and says what to do."""
    module = module_of(family)
    silent = Silent()
    bad = f"http://user:password@127.0.0.1:{refusing_port()}/path?key=secret#fragment"
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            with pytest.raises(FanOutError) as caught:
                await fan_out(client, [upstream.url, upstream.url, bad, upstream.url])
            await nothing_under_way(client)
            assert await silent.none_open()

    text = str(caught.value)
    assert text.startswith("GET http://**********@127.0.0.1:")
    assert "/path (input 2, counted from 0) failed with ConnectError" in text
    assert "return_exceptions=True" in text
    assert not any(secret in text for secret in ("user", "password", "secret", "fragment"))
    assert caught.value.index == 2
    assert isinstance(caught.value.__cause__, module.ConnectError)


@everywhere
async def test_failures_at_once(family: str) -> None:
    """Several failures at once are one plain error too, not a group."""
    url = f"http://127.0.0.1:{refusing_port()}/"
    async with client_of(family) as client:
        with pytest.raises(FanOutError):
            await fan_out(client, [url] * 10)


@everywhere
async def test_return_exceptions(family: str) -> None:
    """With ``return_exceptions`` a failed request's own error stands in its place, also if its URL is none."""
    module = module_of(family)
    with scripted(replying(echo)) as upstream:
        async with client_of(family) as client:
            first, bad_url, bad_options, refused, last = await fan_out(
                client,
                [
                    upstream.url + "/first",
                    "http://a\nb/",
                    ("GET", upstream.url, {"colour": "blue"}),
                    f"http://127.0.0.1:{refusing_port()}",
                    upstream.url + "/last",
                ],
                return_exceptions=True,
            )

    assert (first.text, last.text) == ("/first", "/last")
    assert isinstance(bad_url, module.InvalidURL)
    assert isinstance(bad_options, TypeError)
    assert isinstance(refused, module.ConnectError)


@asyncio_only
async def test_url_that_is_none() -> None:
    """A URL that cannot be parsed is shown as it is, on one line and not for ever."""
    async with client_of("httpx") as client:
        with pytest.raises(FanOutError, match=r"^GET http://\?x{192} \(input 0, .* InvalidURL") as caught:
            await fan_out(client, ["http://\n" + "x" * 100_000])

    assert isinstance(caught.value.__cause__, httpx.InvalidURL)


@everywhere
async def test_hook_that_raises(family: str) -> None:
    """Whatever an event hook raises is a failure of its request."""

    async def hook(response: Any) -> None:
        raise ZeroDivisionError

    with scripted(replying(echo)) as upstream:
        async with client_of(family) as client:
            client.event_hooks = {"response": [hook]}
            (error,) = await fan_out(client, [upstream.url], return_exceptions=True)

    assert isinstance(error, ZeroDivisionError)


class _Stop(BaseException):
    """More than an error."""


@everywhere
@pytest.mark.parametrize("kind", [ZeroDivisionError, _Stop])
async def test_inputs_that_fail(family: str, kind: type[BaseException]) -> None:
    """What the inputs themselves raise comes out as it is, and ends all."""

    def urls() -> Iterator[str]:
        yield upstream.url
        raise kind

    silent = Silent()
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            with pytest.raises(kind):
                await fan_out(client, urls(), return_exceptions=True)
            await nothing_under_way(client)
            assert await silent.none_open()


@everywhere
async def test_inputs_are_closed(family: str) -> None:
    """An async generator that is not to go on has cleaned up before the error is there."""
    cleaned = []

    async def urls() -> AsyncIterator[str]:
        try:
            while True:
                yield f"http://127.0.0.1:{refusing_port()}/"
        finally:
            await anyio.lowlevel.checkpoint()
            cleaned.append("up")

    async with client_of(family) as client:
        with pytest.raises(FanOutError):
            await fan_out(client, urls(), limit=2)

    assert cleaned == ["up"]


# Time.


@everywhere
@with_patience(0.3)
async def test_deadline(family: str, limit: float) -> None:
    """When the time for the whole is over, all is cancelled and closed, and the error says how far it came."""
    silent = Silent()
    with scripted(silent) as upstream, scripted(replying(echo)) as quick:
        async with client_of(family) as client:
            text = rf"not done within {limit:g} s: 1 were, 0 of which had failed"
            with pytest.raises(TimeoutError, match=text):
                await fan_out(client, [quick.url, upstream.url, upstream.url], timeout=limit)
            await nothing_under_way(client)
            assert await silent.none_open()


@everywhere
async def test_cancelled_from_outside(family: str) -> None:
    """Cancelled by a scope around it, a fan-out closes what is under way."""
    silent = Silent()
    with scripted(silent) as upstream:
        async with client_of(family, limits=POOL_OF_FOUR) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: fan_out(client, [upstream.url] * 10))
                await silent.arrived(3)
                group.cancel_scope.cancel()
            await nothing_under_way(client)
            assert await silent.none_open()


@pytest.mark.parametrize("family", FAMILIES)
@asyncio_only
async def test_task_that_is_cancelled(family: str) -> None:
    """So it does when its task is cancelled, which is how asyncio's own timeouts and servers do it."""
    silent = Silent()
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            task = asyncio.ensure_future(fan_out(client, [upstream.url] * 5))
            await silent.arrived(5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await nothing_under_way(client)
            assert await silent.none_open()


# Progress.


@everywhere
async def test_progress(family: str) -> None:
    """The callback is told the numbers of done, failed and all; of a lazy iterable's, once it has ended."""
    told: list[tuple[int, int, int | None]] = []
    bad = f"http://127.0.0.1:{refusing_port()}/"
    with scripted(replying(echo)) as upstream:
        urls = [upstream.url, bad, upstream.url]
        async with client_of(family) as client:
            for inputs in (urls, iter(urls)):
                await fan_out(
                    client, inputs, limit=1, return_exceptions=True, on_progress=lambda *numbers: told.append(numbers)
                )

    assert told[:3] == [(1, 0, 3), (2, 1, 3), (3, 1, 3)]
    # Whether a generator has ended is known when the next one is asked for.
    assert [numbers[:2] for numbers in told[3:]] == [(1, 0), (2, 1), (3, 1)]
    assert {numbers[2] for numbers in told[3:]} <= {None, 3}


@everywhere
async def test_progress_that_raises(family: str) -> None:
    """A callback that raises ends all, and its error comes out as it is."""

    def callback(done: int, failed: int, total: int | None) -> None:
        raise ZeroDivisionError

    silent = Silent()
    with scripted(silent) as upstream, scripted(replying(echo)) as quick:
        async with client_of(family) as client:
            with pytest.raises(ZeroDivisionError):
                await fan_out(client, [upstream.url, quick.url], on_progress=callback)
            await nothing_under_way(client)
            assert await silent.none_open()


# What is wrong from the beginning.


@asyncio_only
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"requests": "http://127.0.0.1/"}, TypeError, r"requests is str; .* stands in a list, \[url\]"),
        ({"requests": b"http://127.0.0.1/"}, TypeError, "requests is bytes"),
        ({"requests": {"a": "http://127.0.0.1/"}}, TypeError, r"of a dict, give its values\(\)"),
        ({"requests": None}, TypeError, "requests is NoneType"),
        ({"limit": 0}, ValueError, "limit=0: at least one"),
        ({"timeout": -1}, ValueError, "timeout=-1 is no time"),
        ({"timeout": float("nan")}, ValueError, "timeout=nan is no time"),
        ({"timeout": httpx.Timeout(5)}, TypeError, "is no number; it is in seconds and for all requests together"),
        ({"client": object()}, TypeError, "is not an httpx.AsyncClient"),
        ({"client": httpx}, TypeError, "is not an httpx.AsyncClient"),
    ],
)
async def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    """What cannot be meant is refused with a text that says what is, before anything is sent."""
    async with client_of("httpx") as client:
        with pytest.raises(error, match=text):
            await fan_out(**{"client": client, "requests": [], **arguments})


@everywhere
@pytest.mark.parametrize("given", [3, None, ("GET",), ("GET", 3), (3, "/"), ("GET", "/", []), ("GET", "/", {}, 1)])
async def test_wrong_inputs(family: str, given: Any) -> None:
    """What stands for no request ends all, also with ``return_exceptions``: it is the program that is wrong."""
    silent = Silent()
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            with pytest.raises(TypeError, match=r"Input 1, counted from 0, is .* which stands for no request"):
                await fan_out(client, [upstream.url, given], return_exceptions=True)
            await nothing_under_way(client)
            assert await silent.none_open()


@needs_httpx2
@pytest.mark.parametrize(("family", "other"), [("httpx", "httpx2"), ("httpx2", "httpx")])
@asyncio_only
async def test_families_do_not_mix(family: str, other: str) -> None:
    """An object of the other family is refused by name."""
    theirs = module_of(other)
    for given in (theirs.Request("GET", "http://a/"), theirs.URL("http://a/"), ("GET", theirs.URL("http://a/"))):
        async with client_of(family) as client:
            with pytest.raises(TypeError, match=f"Input 0, .* is of {other}, and the client of {family}"):
                await fan_out(client, [given])


@asyncio_only
async def test_errors_are_freed() -> None:
    """An error that nobody holds is gone at once, and what hangs on it: no garbage collector is needed."""
    gone: weakref.ref[FanOutError] | None = None
    gc.disable()
    try:
        async with client_of("httpx") as client:
            try:
                await fan_out(client, [f"http://127.0.0.1:{refusing_port()}/"])
            except FanOutError as exc:
                gone = weakref.ref(exc)
            assert gone is not None
            assert gone() is None
    finally:
        gc.enable()
