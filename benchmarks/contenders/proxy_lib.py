"""fastapi-proxy-lib's reverse proxy, which is made for one origin."""

from fastapi_proxy_lib.fastapi.app import reverse_http_app

from ._addresses import first

__all__ = ("app",)

app = reverse_http_app(base_url=first() + "/")
