"""What the browser is told when a route's own request to the upstream fails: not 500, which would mean our bug."""

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

__all__ = ("add_failure_handlers",)


def add_failure_handlers(app: FastAPI) -> None:
    """Answer the upstream's failures with the statuses that gateways use."""
    app.add_exception_handler(httpx.TransportError, answer_for_upstream)


async def answer_for_upstream(request: Request, error: Exception) -> JSONResponse:
    """Return 503 if our pool is full, 504 if the upstream took too long, 502 for everything else."""
    if isinstance(error, httpx.PoolTimeout):
        return JSONResponse({"detail": "All connections are busy"}, 503)
    if isinstance(error, httpx.TimeoutException):
        return JSONResponse({"detail": "The upstream took too long"}, 504)
    return JSONResponse({"detail": "The upstream failed"}, 502)
