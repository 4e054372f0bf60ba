"""What an engine tells: events that do not change, and a name for all of them."""

import dataclasses
from typing import get_args

import pytest

from fastapi_httpx_pool import events
from fastapi_httpx_pool.events import Event, RequestQueued
from fastapi_httpx_pool.messages import Origin


def test_event() -> None:
    """``Event`` is any of the events there are."""
    found = {thing for thing in vars(events).values() if dataclasses.is_dataclass(thing)}

    assert set(get_args(Event)) == found
    assert {event.__name__ for event in get_args(Event)} == set(events.__all__) - {"Event", "Observer"}


def test_frozen() -> None:
    """Whoever is told something cannot change it for the next."""
    event = RequestQueued(Origin(b"http", b"a.example", 80))

    with pytest.raises(dataclasses.FrozenInstanceError):
        event.origin = Origin(b"http", b"b.example", 80)  # type: ignore[misc] # that is the point
    assert all(event.__dataclass_params__.frozen for event in get_args(Event))
