"""An application made with fastapi_httpx_pool: every recipe that the package replaces, as a route, with an upstream."""
