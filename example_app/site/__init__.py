"""
A small real site: all that a browser asks of a server, on the embedded upstream.

Every URL in its pages is relative, so it is the same site at the upstream and under a path of a proxy.
"""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from . import chat, files, live, pages, socket, visitors

__all__ = ("add_site",)

ASSETS = Path(__file__).parent / "assets"


def add_site(app: FastAPI) -> None:
    """Add the site's pages, and what they keep while the app runs."""
    app.state.logbook = live.Logbook()
    app.state.rooms = chat.Rooms()
    app.state.sessions = visitors.Sessions()
    for module in (pages, visitors, files, live, socket, chat):
        app.include_router(module.router)
    app.mount("/assets", StaticFiles(directory=ASSETS))
