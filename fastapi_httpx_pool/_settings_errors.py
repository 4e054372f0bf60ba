"""
What is said about settings that cannot be: the field, the value and the environment variable.

Values that may hold credentials are shown without them, or not at all.
"""

import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

__all__ = (
    "HIDDEN",
    "URLS",
    "impossible_setting",
    "invalid_settings",
    "unknown_setting",
    "unreadable_setting",
    "without_credentials",
)

HIDDEN = "**********"

URLS = ("base_url", "proxy")
"""Fields that are shown without the user information in them."""
SECRET = (*URLS, "headers", "tls")
"""Fields of which nothing else is shown in an error."""

# What httpx.AsyncClient calls otherwise, or takes as an object.
_ELSEWHERE = {
    "verify": "tls=TLSSettings(verify=..., ca_file=...)",
    "cert": "tls=TLSSettings(cert_file=..., key_file=...)",
    "max_connections": "limits=LimitSettings(max_connections=...)",
    "max_keepalive_connections": "limits=LimitSettings(max_keepalive_connections=...)",
    "keepalive_expiry": "limits=LimitSettings(keepalive_expiry=...)",
    "proxies": "proxy",
    "auth": "client.auth, set in the app's own lifespan",
    "event_hooks": "client.event_hooks, set in the app's own lifespan",
    "params": "client.params, set in the app's own lifespan",
}


def without_credentials(url: str) -> str:
    """Return a URL with its user information, which ends at the last ``@``, starred out."""
    return re.sub(r"//[^/?#]*@", f"//{HIDDEN}@", url)


def unknown_setting(name: str, model: type[BaseModel]) -> InitErrorDetails:
    """Return the error for an argument that is no setting; tell those that there are, or what is meant."""
    error = PydanticCustomError(
        "unknown_setting",
        "{model} has no setting of this name; {hint}",
        {
            "model": model.__name__,
            "hint": f"that is {_ELSEWHERE[name]}" if name in _ELSEWHERE else f"it has: {', '.join(model.model_fields)}",
        },
    )
    # The value may be a secret under a misspelt name.
    return InitErrorDetails(type=error, loc=(name,), input=HIDDEN)


def impossible_setting(error: Any, prefix: str) -> InitErrorDetails:
    """Return one of pydantic's errors with the environment variable added and secrets taken out."""
    loc: tuple[int | str, ...] = error["loc"]
    secret = not loc or loc[0] in SECRET
    text = error["msg"].removeprefix("Value error, ")
    if loc:
        text += f" (environment variable: {prefix}{'__'.join(str(part) for part in loc).upper()})"
    told = PydanticCustomError(error["type"], "{text}", {"text": text})
    shown = error["input"]
    if loc and loc[0] in URLS and isinstance(shown, str):
        shown = without_credentials(shown)
    elif secret:
        shown = HIDDEN
    return InitErrorDetails(type=told, loc=loc, input=shown)


def unreadable_setting(text: str, prefix: str) -> InitErrorDetails:
    """Return the error for a variable that pydantic-settings could not read; its own text names the field only."""
    found = re.search(r'field "(\w+)"', text)
    field = found[1] if found else "settings"
    error = PydanticCustomError(
        "unreadable_setting",
        "the value is not JSON, which this setting takes from the environment: a number, or an object such as "
        "{example} (environment variable: {variable})",
        {"example": """'{"Name": "value"}'""", "variable": prefix + field.upper()},
    )
    return InitErrorDetails(type=error, loc=(field,), input=HIDDEN)


def invalid_settings(model: type[BaseModel], errors: list[InitErrorDetails]) -> ValidationError:
    """Return the exception to raise: pydantic's own, as everybody expects."""
    return ValidationError.from_exception_data(model.__name__, errors)
