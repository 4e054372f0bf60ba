"""Messages by hand, there and back, and a run of all of it in small."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import loops, websockets
from benchmarks.contenders import WEBSOCKETS, WEBSOCKETS_BASE, Contender, Place
from benchmarks.echo import CLOSE, PING, PONG, Echo, accept_for, first_frame, frame, masked
from benchmarks.generator import Measured
from benchmarks.report import write_into
from benchmarks.talkers import BINARY, TEXT, NoEcho, Talkers
from tests.support.contenders import answering_otherwise

FIN = 0x80
KEY = b"\x01\x80\xff\x7f"
SECONDS = 0.05
LIMIT = 10.0
BY_NAME = {contender.name: contender for contender in WEBSOCKETS}
HANDSHAKE = b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: %b\r\n\r\n"
SAMPLE_KEY, SAMPLE_ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _echo() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _serving(serve: Serve) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Shake hands with a talker."""
    head = await reader.readuntil(b"\r\n\r\n")
    key = head.partition(b"sec-websocket-key: ")[2].split(b"\r\n")[0]
    writer.write(b"HTTP/1.1 101 Yes\r\nsec-websocket-accept: %b\r\n\r\n" % accept_for(key))


def test_accept() -> None:
    """A key has the answer of the RFC's example."""
    assert accept_for(SAMPLE_KEY) == SAMPLE_ACCEPT


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
def test_frames(length: int) -> None:
    """A frame is read when it is whole and not before, masked or not, whatever its length takes."""
    payload = bytes(number % 251 for number in range(length))
    plain, hidden = frame(FIN | BINARY, payload), masked(BINARY, payload, KEY)

    for data in (plain, hidden):
        assert first_frame(data[:-1]) is None
        assert first_frame(data + b"more") == (FIN | BINARY, payload, len(data))
    assert len(hidden) == len(plain) + 4


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_echo(step: int) -> None:
    """The upstream shakes hands, sends frames and parts back as they came, answers pings, and closes when asked."""
    sent = [masked(TEXT, b"some text", KEY), masked(PING, b"ping", KEY), masked(PONG, b"", KEY)]
    part = bytearray(masked(BINARY, b"a part", KEY))
    part[0] &= 0x7F
    data = HANDSHAKE % SAMPLE_KEY + b"".join((*sent, bytes(part), masked(CLOSE, b"\x03\xe8", KEY)))

    async def main() -> bytes:
        async with _echo() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for start in range(0, len(data), step):
                writer.write(data[start : start + step])
                await asyncio.sleep(0)
            answer = await asyncio.wait_for(reader.read(-1), LIMIT)
            writer.close()
            return answer

    head, _, frames = loops.run(main()).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 101 ")
    assert SAMPLE_ACCEPT in head
    expected = [
        frame(FIN | TEXT, b"some text"),
        frame(FIN | PONG, b"ping"),
        frame(BINARY, b"a part"),
        frame(FIN | CLOSE, b"\x03\xe8"),
    ]
    assert frames == b"".join(expected)


def test_echo_of_something_else() -> None:
    """Who does not want a WebSocket is refused."""

    async def main() -> bytes:
        async with _echo() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(-1), LIMIT)
            writer.close()
            return answer

    assert loops.run(main()).startswith(b"HTTP/1.1 426 ")


@pytest.mark.parametrize("loop", loops.LOOPS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_talkers(loop: str, opcode: int) -> None:
    """Messages are counted and timed, on each loop, and talkers can talk again."""

    async def main() -> list[Measured]:
        async with _echo() as port:
            talkers = await Talkers.open(port, 3, 1024, opcode)
            try:
                return [await talkers.talk(SECONDS) for _ in range(2)]
            finally:
                talkers.close()

    for measured in loops.run(main(), loop):
        assert measured.rate * SECONDS >= 3
        assert measured.errors == 0
        assert measured.p50 is not None
        assert measured.p99 is not None
        assert 0 < measured.p50 <= measured.p99


def test_talkers_answer_pings() -> None:
    """A server that wants a pong before it sends the message back gets it; frames may come in pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _accept(reader, writer)
        message = await reader.readexactly(len(masked(BINARY, b"xxxx", KEY)))
        assert first_frame(message) == (FIN | BINARY, b"xxxx", len(message))
        writer.write(frame(FIN | PING, b"well?"))
        pong = await reader.readexactly(len(masked(PONG, b"well?", KEY)))
        assert first_frame(pong) == (FIN | PONG, b"well?", len(pong))
        answer = frame(FIN | PONG, b"") + frame(FIN | BINARY, b"xxxx")
        writer.write(answer[:5])
        await asyncio.sleep(0)
        writer.write(answer[5:])
        await reader.read(-1)
        writer.close()

    async def main() -> None:
        async with _serving(serve) as port:
            (await Talkers.open(port, 1, 4)).close()

    loops.run(main())


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")
    writer.close()


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def _change(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _accept(reader, writer)
    writer.write(frame(FIN | BINARY, b"other"))
    writer.close()


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _accept(reader, writer)
    writer.write(frame(FIN | CLOSE, b"\x03\xf3trouble"))
    writer.close()


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        (_refuse, "it answers 'HTTP/1.1 403 No'"),
        (_hang_up, "hung up"),
        (_change, "it sends back something else"),
        (_close, "the server closed it: trouble"),
    ],
)
def test_no_echo(serve: Serve, said: str) -> None:
    """What does not open, or does not send the message back, is told."""

    async def main() -> None:
        async with _serving(serve) as port:
            await Talkers.open(port, 2, 5)

    with pytest.raises(NoEcho, match=said):
        loops.run(main())


def test_nobody_listens() -> None:
    """A server that is not there is told, too."""

    async def main() -> None:
        async with _echo() as port:
            pass
        await Talkers.open(port, 1, 5)

    with pytest.raises(NoEcho):
        loops.run(main())


def test_broken_talkers() -> None:
    """A WebSocket that breaks while its talker talks is an error, not an exception."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _accept(reader, writer)
        message = await reader.readexactly(len(masked(BINARY, b"xxxxx", KEY)))
        writer.write(frame(FIN | BINARY, b"xxxxx"))
        await reader.readexactly(len(message))
        writer.close()

    async def main() -> Measured:
        async with _serving(serve) as port:
            talkers = await Talkers.open(port, 2, 5)
            try:
                return await talkers.talk(SECONDS)
            finally:
                talkers.close()

    measured = loops.run(main())

    assert (measured.rate, measured.errors) == (0, 2)


def _dying(place: Place) -> list[str]:
    return [sys.executable, "-c", "import sys; sys.exit('no luck')"]


def test_run() -> None:
    """Contenders are measured in each round, and their memory; those that cannot be are skipped, with the reason."""
    contenders = [
        websockets.DIRECT,
        BY_NAME["ours-proxy"],
        Contender("missing", "needs what nobody has", _dying, needs=("no_such_package",)),
        Contender("dying", "does not start", _dying),
        Contender("deaf", "knows no WebSockets", answering_otherwise),
    ]
    said: list[str] = []
    options = websockets.Options(rounds=2, seconds=0.05, warm_up=0.02, idle=4)

    wall, own, alone, memory = websockets.measure(contenders, options, said.append)

    assert [row[0] for row in wall.rows] == [f"`{contender.name}`" for contender in contenders]
    assert "median of 2 rounds" in wall.title
    for row in wall.rows[:2]:
        assert all(float(cell.removeprefix("≥ ").replace(",", "")) > 0 for cell in row[2:])
    assert [row[2:] for row in wall.rows[2:4]] == [
        ("skipped: no_such_package not installed", ""),
        ("skipped: it does not start: no luck", ""),
    ]
    assert "skipped: it answers 'HTTP/1.0 200" in wall.rows[4][2]
    assert [row[0] for row in own.rows] == [row[0] for row in wall.rows[1:]]
    assert [row[0] for row in alone.rows] == ["`direct`", "`ours-proxy`"]
    assert [row[0] for row in memory.rows] == [row[0] for row in own.rows]
    assert float(memory.rows[0][1]) >= 0
    assert memory.rows[1][1] == "skipped: no_such_package not installed"
    assert said[:2] == ["round 1 of 2, echo-1k-1", "round 1 of 2, echo-1k-50"]
    assert said[-1] == "4 idle, deaf"


def test_run_without_memory() -> None:
    """The memory can be left out."""
    options = websockets.Options(rounds=1, seconds=0.02, warm_up=0.01, idle=0)

    tables = websockets.measure([websockets.DIRECT], options, lambda _: None)

    assert len(tables) == 3
    assert "median of 1 round;" in tables[0].title


def test_registry() -> None:
    """Contenders have names of their own, and the short form and the base name some of them."""
    names = [contender.name for contender in websockets.ALL]

    assert len(set(names)) == len(names)
    assert {WEBSOCKETS_BASE, *websockets.SHORT} <= set(names)


def test_page_is_filled(tmp_path: Path) -> None:
    """The page has a place for these tables, and one for the others."""
    page = tmp_path / "performance.md"
    real = Path(__file__).parents[2] / "docs" / "performance.md"
    page.write_text(real.read_text(encoding="utf-8"), encoding="utf-8")

    write_into(page, "about requests")
    write_into(page, "about messages", websockets.COMMAND)

    text = page.read_text(encoding="utf-8")
    before, _, after = text.partition("## WebSockets")
    assert "about requests" in before
    assert "about messages" in after
    assert text.count("<!-- benchmarks: to here -->") == 2
