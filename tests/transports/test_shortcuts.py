"""The short way of a plain request through the family's client: the same request, the same response, in all there is to see."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from gzip import compress
from importlib import import_module
from typing import Any

import pytest

from fastapi_httpx_pool import ClientFactory, ClientSettings
from fastapi_httpx_pool.transports import _shortcuts, family_named
from fastapi_httpx_pool.transports._shortcuts import Shortcuts, shortcuts_of
from tests.support.carriers import ASYNCIO
from tests.support.families import FAMILIES, module_of
from tests.support.upstream import Connection, ok, scripted

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("family", FAMILIES),
    pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"]),
]

ANSWERS = {
    b"/moved": b"HTTP/1.1 302 Found\r\nLocation: /there?a=b\r\nSet-Cookie: a=1\r\nContent-Length: 5\r\n\r\nmoved",
    b"/nowhere": b"HTTP/1.1 302 Found\r\nContent-Length: 5\r\n\r\nmoved",
    b"/gzip": ok(compress(b"squeezed", mtime=0), b"Content-Encoding: gzip"),
    b"/not-gzip": ok(b"none", b"content-encoding: gzip"),
    b"/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n",
    b"/latin": ok(b"\xe9t\xe9", b"Content-Type: text/plain; charset=latin-1", b"X-L: \xe9", b"Set-Cookie: a=1"),
    b"/missing": b"HTTP/1.1 404 Nowhere To Be Seen\r\nContent-Length: 2\r\n\r\nno",
    b"/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut",
    b"/none": b"HTTP/1.1 204\r\n\r\n",
}


ATTRIBUTES = (
    "status_code",
    "reason_phrase",
    "http_version",
    "is_closed",
    "is_stream_consumed",
    "num_bytes_downloaded",
    "default_encoding",
    "charset_encoding",
    "encoding",
    "content",
    "text",
    "is_redirect",
    "has_redirect_location",
)


class Noting:
    """A script that answers by the path, and keeps the requests."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while True:
            head, body = connection.read_request()
            if not head:
                return
            self.seen.append(head + body)
            path = head.split(b" ")[1].partition(b"?")[0]
            answer = ANSWERS.get(path, ok(b"ok", b"X-A: b", b"x-a: c"))
            connection.send(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD") else answer)
            if path == b"/cut":
                return


@asynccontextmanager
async def asking(family: Any, *, short: bool, **settings: Any) -> AsyncIterator[tuple[Any, Noting, list[str], str]]:
    """Give a client, which may not take the short way or notes when it does, and an upstream."""
    taken: list[str] = []
    script = Noting()
    with scripted(script) as upstream:
        chosen = {"base_url": f"{upstream.url}/base/", "headers": {"X-App": "yes"}, **settings}
        async with ClientFactory(ClientSettings(family=family, trust_env=False, **chosen)) as factory:
            client: Any = factory.get(None, module_of(family).AsyncClient)
            plainly = client._send_plainly

            def noting(*args: Any, **arguments: Any) -> Any:
                taken.append("sent")
                return plainly(*args, **arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(client, "_send_plainly", noting)
                if not short:
                    patch.setattr(client._shortcuts, "_usable", False)
                yield client, script, taken, upstream.url


def described(value: Any, url: str) -> Any:
    """Return all that there is to see of a request or response, or of an error."""
    if isinstance(value, Exception):
        return type(value), str(value), described(value.request, url)  # type: ignore[attr-defined] # the families' have it
    seen = {
        "headers": (value.headers.raw, value.headers.multi_items(), value.headers.encoding),
        "url": str(value.url).replace(url, "http://upstream"),
    }
    if hasattr(value, "method"):
        attributes = dict(vars(value))
        assert isinstance(attributes.pop("stream"), type(value.stream))
        seen |= {name: attributes[name] for name in attributes if name not in ("url", "headers")}
        seen["headers"] = [line for line in value.headers.raw if line[0] != b"Host"]
        return seen
    extensions = {name: found for name, found in value.extensions.items() if name != "network_stream"}
    return seen | {
        "request": described(value.request, url),
        "next": value.next_request and described(value.next_request, url),
        "extensions": extensions,
        "history": [earlier.status_code for earlier in value.history],
        "attributes": [getattr(value, name) for name in ATTRIBUTES],
        "cookies": dict(value.cookies),
        "elapsed": value.elapsed.total_seconds() > 0,
    }


REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("GET", "/", {}),
    "HEAD": ("HEAD", "/", {}),
    "OPTIONS": ("OPTIONS", "/", {}),
    "DELETE": ("DELETE", "/", {}),
    "query": ("GET", "/a%2Fb/ü?a=b&a=c d", {}),
    "fragment": ("GET", "/a#part", {}),
    "headers": ("GET", "/", {"headers": {"x-app": "no", "X-More": "1"}}),
    "header pairs": ("GET", "/", {"headers": [("X-Twice", "1"), ("x-twice", "2")]}),
    "timeout": ("GET", "/", {"timeout": 7.0}),
    "no timeout": ("GET", "/", {"timeout": None}),
    "redirect": ("GET", "/moved", {}),
    "redirect to nowhere": ("GET", "/nowhere", {}),
    "redirect that is not wanted": ("GET", "/moved", {"follow_redirects": False}),
    "gzip": ("GET", "/gzip", {}),
    "gzip that is none": ("GET", "/not-gzip", {}),
    "chunks": ("GET", "/chunks", {}),
    "latin-1": ("GET", "/latin", {}),
    "404": ("GET", "/missing", {}),
    "cut": ("GET", "/cut", {}),
    "204": ("GET", "/none", {}),
    "json": ("POST", "/", {"json": {"a": 1}}),
    "bytes": ("PUT", "/", {"content": b"bytes"}),
    "empty": ("POST", "/", {}),
    "form": ("POST", "/", {"data": {"a": "1"}}),
    "parameters": ("GET", "/?a=b", {"params": {"c": "d"}}),
    "small letters": ("get", "/", {}),
    "own host": ("GET", "/", {"headers": {"Host": "other.example"}}),
    "own length": ("DELETE", "/", {"headers": {"Content-Length": "0"}}),
    "extensions": ("GET", "/", {"extensions": {"x": 1}}),
}
LONG: dict[str, tuple[str, str, dict[str, Any]]] = {
    "redirect that is followed": ("GET", "/moved", {"follow_redirects": True}),
    "auth": ("GET", "/", {"auth": ("user", "pass")}),
    "no auth": ("GET", "/", {"auth": None}),
}
"""Those that take the long way."""


async def _outcome(family: Any, request: tuple[str, str, dict[str, Any]], *, short: bool, stream: bool) -> Any:
    method, path, arguments = request
    module = module_of(family)
    async with asking(family, short=short) as (client, script, taken, url):
        try:
            if stream:
                async with client.stream(method, url + path, **arguments) as value:
                    assert not value.is_closed
                    await value.aread()
            else:
                value = await client.request(method, url + path, **arguments)
        except module.RequestError as exc:
            value = exc
        sent = [head.replace(url.partition("//")[2].encode(), b"upstream") for head in script.seen]
        return described(value, url), sent, taken


@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize("name", [*REQUESTS, *LONG])
async def test_the_same(family: Any, name: str, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What is sent, what comes of it, and what is logged are the same, whichever way it went."""
    outcomes, logged = [], []
    for short in (True, False):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger=family):
            outcomes.append(await _outcome(family, {**REQUESTS, **LONG}[name], short=short, stream=stream))
        records = [record for record in caplog.records if record.name == family]
        logged.append([(record.msg, record.levelno, len(record.args or ())) for record in records])
    (ours, sent, taken), (theirs, sent_by_theirs, not_taken) = outcomes
    assert ours == theirs
    assert sent == sent_by_theirs
    assert logged[0] == logged[1]
    assert bool(taken) is (name in REQUESTS)
    assert not not_taken


@pytest.mark.parametrize("path", ["relative", "/rooted", "//127.0.0.1:9/other", ""])
async def test_relative_urls(family: Any, path: str) -> None:
    """A path is merged with the base URL, as ever, and each client's with its own."""
    async with asking(family, short=True) as (client, _, _, _), asking(family, short=True) as (other, _, _, _):
        for each in (client, other):
            theirs = module_of(family).AsyncClient(
                base_url=each.base_url, verify=client.pool_settings.tls.as_ssl_context()
            )
            for _ in range(2):
                assert each.build_request("GET", path).url == theirs.build_request("GET", path).url


async def test_urls_are_parsed_once(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text gives the same URL; not too many are kept."""
    monkeypatch.setattr(_shortcuts, "MOST_URLS", 3)
    async with asking(family, short=True) as (client, _, _, _):
        known = client.build_request("GET", "http://a.example/").url
        assert client.build_request("HEAD", "http://a.example/").url is known
        for number in range(5):
            assert client.build_request("GET", f"http://a.example/{number}").url == f"http://a.example/{number}"
        assert len(client._shortcuts._urls) <= 3
        with pytest.raises(module_of(family).InvalidURL):
            client.build_request("GET", "http://a.example:port/")


async def test_the_clients_own_things(family: Any) -> None:
    """Hooks, cookies, parameters and auth of the client's own are minded: such requests take the long way."""
    seen: list[Any] = []

    async def on_response(response: Any) -> None:
        seen.append(response)

    async with asking(family, short=True) as (client, script, taken, url):
        client.event_hooks = {"response": [on_response]}
        assert (await client.get(url)).text == "ok"
        client.event_hooks = {}
        client.auth = ("user", "pass")
        await client.get(url)
        client.auth = None
        client.params = {"a": "b"}
        await client.get(url)
        client.params = {}
        client.cookies.set("c", "d")
        await client.get(url)
        client.cookies.clear()
        await client.get(url.replace("//", "//user:pass@"))
        client.follow_redirects = True
        assert (await client.get(f"{url}/moved")).text == "ok"
        client.follow_redirects = False
    assert len(seen) == 1
    heads = [head.decode("latin-1") for head in script.seen]
    assert ["Authorization: Basic" in head for head in heads] == [False, True, False, False, True, False, False]
    assert heads[2].startswith("GET /?a=b ")
    assert "Cookie: c=d\r\n" in heads[3]
    assert len(taken) == 2  # parameters and cookies are in the request by then, and nothing is left to do


async def test_shared_cookies(family: Any) -> None:
    """A shared jar takes what is set, on the short way too."""
    async with asking(family, short=True, cookies="shared") as (client, script, taken, url):
        await client.get(f"{url}/latin")
        await client.get(url)
    assert len(taken) == 2
    assert b"Cookie: a=1\r\n" in script.seen[1]


async def test_a_request_without_limits(family: Any) -> None:
    """A request that somebody else has made, without any timeouts, is sent as it is."""
    async with asking(family, short=True) as (client, _, taken, url):
        response = await client.send(module_of(family).Request("GET", url))
        assert (response.text, taken) == ("ok", [])


@pytest.mark.parametrize(
    "name", ["send", "_send_handling_auth", "_send_single_request", "build_request", "_merge_headers"]
)
async def test_whoever_replaces_a_method(family: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who replaces a method of the family's client sees every request, and none when it has been put back."""
    calls: list[str] = []
    client_class = module_of(family).AsyncClient
    genuine = getattr(client_class, name)

    def replaced(self: Any, *args: Any, **arguments: Any) -> Any:
        calls.append(name)
        return genuine(self, *args, **arguments)

    async with asking(family, short=True) as (client, _, taken, url):
        with monkeypatch.context() as patch:
            patch.setattr(client_class, name, replaced)
            assert (await client.get(url, headers={"X-A": "b"})).text == "ok"
        assert calls
        assert not taken
        before = len(calls)
        assert (await client.get(url)).text == "ok"
        assert (len(calls), len(taken)) == (before, 1)


@pytest.mark.parametrize("what", ["request", "response", "neither"])
async def test_another_release(family: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the family makes its requests or responses otherwise than we do, or cannot be asked, no short way is taken."""
    record = family_named(family)
    assert Shortcuts(record).may_be_taken()

    def otherwise(self: Any, *args: Any, **arguments: Any) -> None:
        genuine(self, *args, **arguments)
        self.something_new = 1

    def fails(*args: Any, **arguments: Any) -> None:
        raise TypeError

    classes = {"request": record.module.Request, "response": record.module.Response, "neither": record.module.Request}
    genuine = classes[what].__init__
    with monkeypatch.context() as patch:
        patch.setattr(classes[what], "__init__", fails if what == "neither" else otherwise)
        changed = Shortcuts(record)
    assert not changed.may_be_taken()
    assert Shortcuts(record).may_be_taken()


async def test_a_family_that_is_patched_already(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first client is made while a method is replaced, the short way stays closed, which is slow and right."""

    def send(*args: Any, **arguments: Any) -> Any:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(module_of(family).AsyncClient, "send", send)
        assert not Shortcuts(family_named(family)).may_be_taken()


async def test_they_are_made_once(family: Any) -> None:
    """All clients of a family share them."""
    assert shortcuts_of(family_named(family)) is shortcuts_of(family_named(family))
    assert import_module(f"{family}._client").BoundAsyncStream is shortcuts_of(family_named(family))._bound
