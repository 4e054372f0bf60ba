"""The recipes, by theme. Each docstring's first line is the title of a card on the front page, the rest its text."""

from . import failing, fan_out, reading, streaming, websocket

__all__ = ("ROUTERS",)

ROUTERS = (
    reading.router,
    streaming.router,
    fan_out.router,
    websocket.router,
    failing.router,
)
