"""Table I of the conformance suite: the one row that can be seen, and those that cannot."""

import asyncio

from fastapi_httpx_pool.conformance import Outcome, Place, Result, run, select
from tests.support.ports import free_port
from tests.support.tunnel import tunnelling


def asked() -> list[Result]:
    """Return what becomes of the table behind a tunnel, which asks over a connection of its own each time."""

    async def ask() -> list[Result]:
        upstream = free_port()
        async with tunnelling(upstream) as port:
            return await run(Place("127.0.0.1", port, "/p", upstream_port=upstream), select(["I"]))

    return asyncio.run(ask())


def test_connections_that_are_not_kept_are_seen_and_do_not_count() -> None:
    """A proxy need not have a pool; everything else of the table is told of with a reason."""
    kept, *others = asked()
    assert (kept.row.id, kept.outcome, kept.failed) == ("I1", Outcome.NOT_MET, False)
    assert kept.text == "four requests one after the other took four connections"
    assert [result.row.id for result in others] == [f"I{number}" for number in range(2, 12)]
    assert all(result.outcome is Outcome.INVISIBLE and result.text for result in others)
