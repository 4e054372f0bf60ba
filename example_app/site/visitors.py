"""What a site knows about its visitors: sessions, cookies, and where they are sent."""

import html
import secrets
from string import Template
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.requests import HTTPConnection

from .pages import ASSETS, POLICY

__all__ = ("Sessions", "SessionsDep", "router")

router = APIRouter()

MOST_SESSIONS = 1000
LONGEST_FORM = 10_000
SESSION = "session"

MEMBERS = Template((ASSETS / "members.html").read_text(encoding="utf-8"))


class Sessions:
    """Who is signed in."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def begin(self, name: str) -> str:
        """Return the token of a new session; the oldest gives way where there are too many."""
        if len(self._names) >= MOST_SESSIONS:
            del self._names[next(iter(self._names))]
        token = secrets.token_urlsafe()
        self._names[token] = name
        return token

    def end(self, token: str) -> None:
        """Forget a session."""
        self._names.pop(token, None)

    def name_of(self, connection: HTTPConnection) -> str | None:
        """Return who sends a request or opens a WebSocket."""
        return self._names.get(connection.cookies.get(SESSION, ""))


def get_sessions(connection: HTTPConnection) -> Sessions:
    """Return the app's sessions."""
    sessions: Sessions = connection.app.state.sessions
    return sessions


SessionsDep = Annotated[Sessions, Depends(get_sessions)]


@router.get("/login")
async def login_page() -> FileResponse:
    """Answer with the form."""
    return FileResponse(ASSETS / "login.html", headers=POLICY)


@router.post("/login")
async def login(request: Request, sessions: SessionsDep) -> Response:
    """Begin a session and send the visitor on, by a path; without a name, back to the form."""
    name = await _field(request, "name")
    if not name:
        return RedirectResponse("/login", 303)
    response = RedirectResponse("/members", 303)
    response.set_cookie(SESSION, sessions.begin(name), httponly=True, samesite="lax")
    return response


@router.get("/members")
async def members(request: Request, sessions: SessionsDep) -> Response:
    """Answer with the page for those who are signed in; send others to the form, by a whole URL."""
    name = sessions.name_of(request)
    if name is None:
        return RedirectResponse(request.url_for("login_page"), 302)
    return HTMLResponse(MEMBERS.substitute(name=html.escape(name)), headers=POLICY | {"cache-control": "no-store"})


@router.post("/logout")
async def logout(request: Request, sessions: SessionsDep) -> Response:
    """End the session and send the visitor to the front page, by a relative URL."""
    sessions.end(request.cookies.get(SESSION, ""))
    response = RedirectResponse("./", 303)
    response.delete_cookie(SESSION, httponly=True, samesite="lax")
    return response


@router.post("/moved")
async def moved() -> Response:
    """Send the visitor on with method and body, and a mark in the URL."""
    return RedirectResponse("/parcel?from=moved", 307)


@router.post("/parcel")
async def parcel(request: Request) -> dict[str, str]:
    """Tell what arrived."""
    content = await _short_body(request)
    return {"query": request.url.query, "content": content.decode(errors="replace")}


@router.post("/jar")
async def fill_jar() -> Response:
    """Set three cookies: one that scripts see, one that they do not, one for a deeper path."""
    response = JSONResponse({"set": 3})
    response.set_cookie("crumb", "plain")
    response.set_cookie("hidden", "secret", httponly=True)
    response.set_cookie("deep", "down", path="/jar/deep")
    return response


@router.get("/jar")
@router.get("/jar/deep")
async def look_into_jar(request: Request) -> list[str]:
    """Tell which of them came."""
    return sorted(f"{name}={value}" for name, value in request.cookies.items() if name in ("crumb", "hidden", "deep"))


@router.delete("/jar")
async def empty_jar() -> Response:
    """Take them away again."""
    response = JSONResponse({"set": 0})
    response.delete_cookie("crumb")
    response.delete_cookie("hidden", httponly=True)
    response.delete_cookie("deep", path="/jar/deep")
    return response


async def _field(request: Request, name: str) -> str:
    fields = parse_qs((await _short_body(request)).decode(errors="replace"))
    return fields.get(name, [""])[0].strip()[:40]


async def _short_body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece[: LONGEST_FORM - len(body)]
    return body
