"""What the routes ask for, beside the clients."""

from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from .settings import ExampleSettings

__all__ = ("SettingsDep",)


def get_settings(connection: HTTPConnection) -> ExampleSettings:
    """Return what the app's own lifespan yielded; it lies in the state beside the clients."""
    return cast("ExampleSettings", connection.state.settings)


SettingsDep = Annotated[ExampleSettings, Depends(get_settings)]
