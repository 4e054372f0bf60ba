"""What a policy refuses to be, and what a proxy refuses to be given."""

from typing import Any

import httpx
import pytest
from starlette.requests import Request

from fastapi_httpx_pool import ClientSettings, ProxyPolicy, ProxyRequest, ReverseProxy, StreamingProxyResponse
from fastapi_httpx_pool.messages import Timeouts


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("forwarded", "sett", "forwarded is 'sett'; it must be one of 'set', 'append', 'off'"),
        ("forwarded_style", "rfc", "one of 'x-forwarded', 'forwarded', 'both'"),
        ("trusted_proxies", ["10.0.0.1/8"], "has host bits set; write networks like '10.0.0.0/8', or 'unix'"),
        ("via", "two words", "via is 'two words'; a name in Via has only letters"),
        ("max_request_body", -1, "max_request_body is -1; it must be a number of bytes from 0"),
        ("heartbeat", -0.5, "heartbeat is -0.5; it must be a number of seconds from 0"),
        ("max_hops", 0, "max_hops is 0; it must be at least 1"),
        ("request_headers", {"x y": "1"}, "'x y' is not a name that HTTP knows"),
        ("response_headers", {"x": "a\r\nb"}, "has a line break or NUL"),
    ],
)
def test_what_a_policy_refuses(field: str, value: Any, text: str) -> None:
    """Each impossible value is told by its field, when the policy is made."""
    with pytest.raises(ValueError, match=text):
        ProxyPolicy(**{field: value})


def test_a_policy_refuses_one_network_for_a_list() -> None:
    """A string is a list of characters, and none of them is a network."""
    with pytest.raises(TypeError, match=r"give a list of networks: \['10.0.0.0/8'\]"):
        ProxyPolicy(trusted_proxies="10.0.0.0/8")


def test_policies_are_values() -> None:
    """Two of the same fields are equal, also when one has been used already."""
    used = ProxyPolicy(via="edge")
    ReverseProxy("http://upstream.example", policy=used)
    assert used == ProxyPolicy(via="edge")
    assert repr(used) == repr(ProxyPolicy(via="edge"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"policy": {"via": "edge"}}, "is not a ProxyPolicy; write policy=ProxyPolicy"),
        ({"on_request": "hook"}, "on_request is 'hook', which cannot be called"),
        ({"client": "api", "settings": ClientSettings()}, "not both"),
        ({"client": httpx}, "is not an httpx.AsyncClient or httpx2.AsyncClient"),
        ({"settings": {"timeout": 5}}, "is not ClientSettings"),
    ],
)
def test_what_a_proxy_refuses(options: dict[str, Any], text: str) -> None:
    """Each argument that is not what it should be is told at once."""
    with pytest.raises(TypeError, match=text):
        ReverseProxy("http://upstream.example", **options)


def test_a_response_for_one_url_does_not_rewrite() -> None:
    """It does not know which paths are public; the error names who does."""
    request = Request({"type": "http", "method": "GET", "headers": []})
    with pytest.raises(ValueError, match=r"they work with ReverseProxy\(...\).response\(request\)"):
        StreamingProxyResponse(request, "http://upstream.example", policy=ProxyPolicy(rewrite_location=True))


def test_what_they_show_of_themselves() -> None:
    """A proxy shows its upstream without the query; a request shows where it goes, likewise."""
    assert repr(ReverseProxy("https://upstream.example/v2?key=1")) == "<ReverseProxy [https://upstream.example/v2]>"
    inbound = Request({"type": "http", "method": "GET", "headers": []})
    request = ProxyRequest("GET", "https://upstream.example/v2?token=1", [], Timeouts(), inbound)
    assert repr(request) == "<ProxyRequest [GET https://upstream.example/v2]>"
