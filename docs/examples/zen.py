"""A small app, for the tests beside it."""

from fastapi import FastAPI, Request
from fastapi.responses import Response

from fastapi_httpx_pool import ClientDep, StreamingProxyResponse, create_lifespan


def make_app(github: str = "https://api.github.com") -> FastAPI:
    """Return the app."""
    app = FastAPI(lifespan=create_lifespan())

    @app.get("/zen")
    async def zen(client: ClientDep) -> str:
        response = await client.get(f"{github}/zen")
        return response.text

    @app.get("/page")
    async def page(request: Request) -> Response:
        return StreamingProxyResponse(request, "https://www.example.com/")

    return app


app = make_app()
