"""What a peer's process is told by the program that starts it."""

import os

__all__ = ("LIMIT", "ORIGIN")

ORIGIN = os.environ["MATRIX_ORIGIN"]
"""The upstream: ``http://127.0.0.1:9100``."""

LIMIT = float(os.environ["MATRIX_LIMIT"])
"""Seconds after which an upstream, or a client, should be given up."""
