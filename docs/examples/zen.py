"""A small app, for the tests beside it."""

from fastapi import FastAPI

from fastapi_httpx_pool import ClientDep, create_lifespan

app = FastAPI(lifespan=create_lifespan())


@app.get("/zen")
async def zen(client: ClientDep) -> str:
    """Return a line of wisdom."""
    response = await client.get("https://api.github.com/zen")
    return response.text
