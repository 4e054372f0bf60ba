"""How rows are asked: what becomes of their exceptions, and of a proxy that does not survive them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from fastapi_httpx_pool.conformance import (
    TABLES,
    Level,
    Outcome,
    Place,
    Result,
    Row,
    _run as running,
    passed,
    run,
    select,
)
from fastapi_httpx_pool.conformance._kit import Lab, NotApplicable, NotMet, Upstream, UpstreamConnection, expect
from fastapi_httpx_pool.conformance._preflight import alive
from fastapi_httpx_pool.conformance._rows import all_rows, invisible, row
from tests.support.conformance import LIMIT, NaiveProxy, listening
from tests.support.ports import free_port

ALL = {"A": 15, "B": 14, "C": 14, "D": 12, "E": 19, "F": 19, "G": 10, "H": 8, "I": 11}


async def fine(lab: Lab) -> None:
    """Ask for something that must come."""
    expect((await lab.exchange()).response.complete, "it did not")


async def wrong(lab: Lab) -> None:
    """Ask for what cannot be."""
    expect(condition=False, text="it is wrong")


async def confused(lab: Lab) -> None:
    """Fail otherwise."""
    raise ValueError("confused")


async def elsewhere(lab: Lab) -> None:
    """Have no meaning here."""
    raise NotApplicable("not here")


async def endless(lab: Lab) -> None:
    """Never end."""
    await asyncio.Event().wait()


async def wrong_behind(lab: Lab) -> None:
    """See what is wrong at the upstream, while the client only sees that there is no answer."""

    async def script(connection: UpstreamConnection) -> None:
        expect(condition=False, text="the upstream saw it")

    expect((await lab.exchange(answer=script)).response.status, "no answer")


def asked(*asks: Callable[[Lab], Awaitable[None]], level: Level = Level.MUST) -> list[Result]:
    """Return what becomes of these as rows."""
    rows = [Row(f"A{number}", "a row", level=level, ask=ask) for number, ask in enumerate(asks, 1)]

    async def ask() -> list[Result]:
        upstream = free_port()
        async with listening(lambda reader, writer: NaiveProxy().serve(upstream, reader, writer)) as (_, port):
            return await run(Place("127.0.0.1", port, "/p", upstream_port=upstream, timeout=LIMIT), rows)

    return asyncio.run(ask())


def test_outcomes() -> None:
    """Each exception has its own, and the next row is asked whatever it was."""
    results = asked(fine, wrong, confused, elsewhere, wrong_behind, fine)

    assert [(result.outcome, result.text) for result in results] == [
        (Outcome.MET, ""),
        (Outcome.NOT_MET, "it is wrong"),
        (Outcome.NOT_MET, "the row itself failed: ValueError: confused"),
        (Outcome.NOT_APPLICABLE, "not here"),
        (Outcome.NOT_MET, "the upstream saw it"),
        (Outcome.MET, ""),
    ]
    assert not passed(results)


def test_an_option_never_counts() -> None:
    """It is not met, and that is all."""
    results = asked(wrong, level=Level.OPTION)

    assert (results[0].outcome, results[0].failed, passed(results)) == (Outcome.NOT_MET, False, True)


def test_a_row_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that waits for nothing with a limit of its own."""
    monkeypatch.setattr(running, "_WAITS", 0.05)

    assert asked(endless)[0].text == "it was not over after 0.1 s"


def test_stopping_is_no_result() -> None:
    """A run that is stopped ends, whatever went wrong behind the proxy at that moment."""
    upstream = free_port()
    results: list[Result] = []

    async def stopped(lab: Lab) -> None:
        async def script(connection: UpstreamConnection) -> None:
            raise NotMet("the upstream saw it")

        await lab.exchange(answer=script)
        this = asyncio.current_task()
        assert this is not None
        this.cancel()
        await endless(lab)

    async def ask() -> None:
        async with listening(lambda reader, writer: NaiveProxy().serve(upstream, reader, writer)) as (_, port):
            rows = [Row("A1", "a row", ask=stopped), Row("A2", "a row", ask=fine)]
            await run(Place("127.0.0.1", port, "/p", upstream_port=upstream, timeout=LIMIT), rows, results.append)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ask())
    assert results == []


def test_a_look_whether_it_lives_has_an_end() -> None:
    """After a row the proxy may send without end; it lives, and what it sends is not read."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(4000):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 1

    async def look() -> bool:
        async with listening(flood) as (_, port):
            place = Place("127.0.0.1", port, "/p", timeout=LIMIT)
            return await alive(place, Upstream(LIMIT))

    assert asyncio.run(look())
    assert sent < 1000


def mortal(*, comes_back: bool) -> list[Result]:
    """Ask a proxy that ends at a request for ``/deadly``, and that may be brought back."""
    upstream = free_port()

    async def deadly(lab: Lab) -> None:
        await lab.exchange(target=b"/deadly")

    rows = [
        Row("A1", "fine", ask=fine),
        Row("A2", "deadly", ask=deadly, level=Level.OPTION),
        Row("A3", "unseen", why="it is inside"),
        Row("A4", "fine", ask=fine),
        Row("A5", "fine", ask=fine),
    ]

    async def ask() -> list[Result]:
        servers: list[asyncio.Server] = []

        def end(head: bytes) -> bytes | None:
            if b"/deadly" in head:
                servers.pop().close()
            return None

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await NaiveProxy(answer=end).serve(upstream, reader, writer)

        async with AsyncExitStack() as stack:
            server, port = await stack.enter_async_context(listening(serve))
            servers.append(server)

            async def again() -> None:
                await stack.enter_async_context(listening(serve, port))

            place = Place("127.0.0.1", port, "/p", upstream_port=upstream, timeout=LIMIT / 4)
            return await run(place, rows, revive=again if comes_back else None)

    return asyncio.run(ask())


def test_a_proxy_that_ends() -> None:
    """The row that ended it is not met, an option's as well; the rest is not asked, and counts."""
    results = mortal(comes_back=False)

    assert [result.outcome.value for result in results] == ["met", "not met", "invisible", "not asked", "not asked"]
    assert results[1].text == "the proxy takes no connections any more"
    assert results[4].text == "the proxy takes no connections since A2"
    assert not passed(results)


def test_a_proxy_that_is_brought_back() -> None:
    """The next rows are asked of the new one."""
    results = mortal(comes_back=True)

    assert [result.outcome.value for result in results] == ["met", "not met", "invisible", "met", "met"]
    assert results[1].text == "the proxy takes no connections any more"


def test_a_proxy_that_takes_no_connections() -> None:
    """A row that comes to it is told so."""
    lab = Lab(Place("127.0.0.1", free_port(), ""), None)  # type: ignore[arg-type]  # nothing gets so far

    with pytest.raises(Exception, match=r"^the proxy takes no connections: "):
        asyncio.run(lab.client())


def test_the_list_is_complete() -> None:
    """It has every row of each table once, in their order."""
    assert [row.id for row in all_rows()] == [
        f"{table}{number}" for table in ALL for number in range(1, ALL[table] + 1)
    ]
    assert list(TABLES) == list(ALL)


@pytest.mark.parametrize("each", all_rows(), ids=lambda row: row.id)
def test_every_row_says_what_it_is(each: Row) -> None:
    """Either there is a question, or a reason why there is none; texts are no sentences with a full stop."""
    assert (each.ask is None) == bool(each.why)
    assert each.title
    assert not each.title.endswith(".")
    assert not each.why.endswith(".")
    assert len(each.title) <= 100


def test_rows_are_chosen_by_name() -> None:
    """By a whole table's letter, or one by one, in any case, and in the list's order."""
    assert [row.id for row in select(["b1", " a2", "A1"])] == ["A1", "A2", "B1"]
    assert {row.id[0] for row in select("C")} == {"C"}
    assert select([]) == all_rows()
    with pytest.raises(KeyError, match="A99"):
        select(["A1", "A99"])


def test_a_name_is_given_once() -> None:
    """Two rows of one name would hide each other."""
    with pytest.raises(ValueError, match=r"^there are two rows A1$"):
        row("A1", "again")(fine)
    with pytest.raises(ValueError, match=r"^there are two rows A14$"):
        invisible("A14", "again", "it is there")
