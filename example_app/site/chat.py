"""A chat: everybody in the room hears what anybody says."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response, WebSocket, WebSocketDisconnect, WebSocketException
from starlette.requests import HTTPConnection

__all__ = ("Rooms", "router")

router = APIRouter()

LONGEST = 2000
"""Characters of a message."""
REMEMBERED = 20
"""Messages that newcomers are told."""
WAITING = 100
"""Messages that may wait for somebody who is slow."""
MOST_PEOPLE = 200
"""In one room."""
MOST_ROOMS = 100

Message = dict[str, Any]
Name = Annotated[str, Query(min_length=1, max_length=40)]


class Rooms:
    """All rooms in which there is somebody."""

    def __init__(self) -> None:
        self._rooms: dict[str, Room] = {}

    @contextmanager
    def entered(self, room: str) -> Iterator["Room"]:
        """Return a room, which is made for the first one and forgotten after the last."""
        if room not in self._rooms and len(self._rooms) >= MOST_ROOMS:
            raise WebSocketException(1013, "there is no room left")
        found = self._rooms.setdefault(room, Room())
        try:
            yield found
        finally:
            if found.empty:
                self._rooms.pop(room, None)


class Room:
    """Who is there, and what was said last."""

    def __init__(self) -> None:
        self._people: dict[str, asyncio.Queue[Message | None]] = {}
        self._said: deque[Message] = deque(maxlen=REMEMBERED)

    @property
    def empty(self) -> bool:
        """Whether nobody is there."""
        return not self._people

    def enter(self, name: str) -> tuple[str, asyncio.Queue[Message | None]]:
        """Return the name under which somebody is there now, and what is to be told to them."""
        if len(self._people) >= MOST_PEOPLE:
            raise WebSocketException(1013, "the room is full")
        free = next(candidate for candidate in _variants(name) if candidate not in self._people)
        queue: asyncio.Queue[Message | None] = asyncio.Queue(WAITING + REMEMBERED)
        self._people[free] = queue
        queue.put_nowait({"kind": "welcome", "name": free})
        for message in self._said:
            queue.put_nowait(message)
        self._tell({"kind": "came", "name": free})
        return free, queue

    def say(self, name: str, text: str) -> None:
        """Tell everybody what somebody says."""
        message = {"kind": "said", "name": name, "text": text}
        self._said.append(message)
        self._tell(message)

    def leave(self, name: str) -> None:
        """Forget somebody, and tell the others."""
        if self._people.pop(name, None):
            self._tell({"kind": "left", "name": name})

    def _tell(self, message: Message) -> None:
        people = len(self._people)
        for name, queue in list(self._people.items()):
            if queue.full():  # too slow: everything is forgotten but that it is over
                del self._people[name]
                queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait({**message, "people": people})


def _variants(name: str) -> Iterator[str]:
    yield name
    for number in range(2, MOST_PEOPLE + 2):
        yield f"{name} {number}"


def get_rooms(connection: HTTPConnection) -> Rooms:
    """Return the app's rooms."""
    rooms: Rooms = connection.app.state.rooms
    return rooms


RoomsDep = Annotated[Rooms, Depends(get_rooms)]


@router.websocket("/chat/room")
async def chat(websocket: WebSocket, rooms: RoomsDep, name: Name = "Guest", room: Name = "lobby") -> None:
    """Let somebody take part until they leave."""
    await websocket.accept()
    with rooms.entered(room) as entered:
        await _take_part(websocket, entered, name)


@router.get("/chat/room")
async def reason(name: Name = "Guest", room: Name = "lobby") -> Response:
    """Say whether the WebSocket of the same URL is refused, and why; of its refusal a page is told nothing."""
    return Response(status_code=204)


async def _take_part(websocket: WebSocket, room: Room, name: str) -> None:
    name, queue = room.enter(name)
    telling = asyncio.create_task(_tell(websocket, queue))
    try:
        async for text in websocket.iter_text():
            if text.strip():
                room.say(name, text.strip()[:LONGEST])
    except KeyError:
        await websocket.close(1003, "only text here")
    finally:
        room.leave(name)
        telling.cancel()
        await asyncio.wait([telling])


async def _tell(websocket: WebSocket, queue: asyncio.Queue[Message | None]) -> None:
    with suppress(WebSocketDisconnect):
        while (message := await queue.get()) is not None:
            await websocket.send_json(message)
        await websocket.close(1013, "too slow")
