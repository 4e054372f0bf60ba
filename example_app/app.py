"""The application: the lifespan, the routes, the front page."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from .failures import add_failure_handlers
from .front import router as front
from .lifespan import make_lifespan
from .mounts import mount_site
from .routes import ROUTERS
from .settings import ExampleSettings

__all__ = ("create_app",)

STATIC = Path(__file__).parent / "static"


def create_app(settings: ExampleSettings | None = None) -> FastAPI:
    """Return the application; without settings, those of the environment."""
    settings = settings or ExampleSettings()
    app = FastAPI(title="fastapi-httpx-pool by example", lifespan=make_lifespan(settings))
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(front)
    mount_site(app, settings)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    add_failure_handlers(app)
    return app
