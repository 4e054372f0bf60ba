"""One probe of one client on one loop, in a process of its own: prints its figures as JSON."""

import json
import sys
from importlib import import_module

from .. import loops
from ._clients import opened


async def _measure(probe: str, client_name: str, origin: str) -> list[float]:
    module = import_module(f"{__package__}.{probe.replace('-', '_')}")
    async with opened(client_name) as client:
        figures: list[float] = await module.measure(client, origin)
    return figures


if __name__ == "__main__":
    _probe, _client, _loop, _origin = sys.argv[1:]
    sys.stdout.write(json.dumps(loops.run(_measure(_probe, _client, _origin), _loop)) + "\n")
