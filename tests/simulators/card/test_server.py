"""The card's side of the virtual reader, against a reader of the test's own (vpcd's protocol)."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from simulators.card.server import CardPulled, VirtualCard


class Echo:
    """Answers with the command and 9000."""

    atr = bytes.fromhex("3b00")

    def __init__(self) -> None:
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def transmit(self, apdu: bytes) -> bytes:
        if apdu == b"pull":
            raise CardPulled
        return apdu + b"\x90\x00"


class Reader:
    """What vpcd does: listens, writes length and body separately."""

    def __init__(self) -> None:
        self.cards: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.cards.put((reader, writer))


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    slot = Reader()
    server = await asyncio.start_server(slot.accept, "127.0.0.1", 0)
    slot.port = server.sockets[0].getsockname()[1]
    yield slot
    server.close()


async def exchange(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], body: bytes) -> bytes:
    reader, writer = streams
    writer.write(len(body).to_bytes(2))
    await writer.drain()
    writer.write(body)
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))


async def test_controls_and_commands(reader: Reader) -> None:
    echo = Echo()
    async with VirtualCard(echo, reader.port) as card:
        slot = await reader.cards.get()
        assert card.inserted
        slot[1].write(b"\0\1\1" + b"\0\1\2" + b"\0\1\0")  # power on, reset, power off: no answer
        assert await exchange(slot, b"\4") == Echo.atr
        assert echo.resets == 2
        assert await exchange(slot, b"\0\xa4\0\0") == b"\0\xa4\0\0\x90\0"
        assert await exchange(slot, bytes(261)) == bytes(261) + b"\x90\0"
    assert await slot[0].read() == b""
    slot[1].close()
    assert not card.inserted


async def test_in_and_out_again(reader: Reader) -> None:
    card = VirtualCard(Echo(), reader.port)
    for _ in range(3):
        await card.insert()
        with pytest.raises(RuntimeError, match="already"):
            await card.insert()
        slot = await reader.cards.get()
        assert await exchange(slot, b"hello") == b"hello\x90\0"
        await card.remove()
        assert await slot[0].read() == b""
        slot[1].close()
    await card.remove()


async def test_pulled_during_a_command(reader: Reader) -> None:
    async with VirtualCard(Echo(), reader.port) as card:
        slot = await reader.cards.get()
        slot[1].write(b"\0\4pull")
        await card.wait_removed()
        assert not card.inserted
        assert await slot[0].read() == b""
        slot[1].close()


async def test_the_reader_goes_away(reader: Reader) -> None:
    async with VirtualCard(Echo(), reader.port) as card:
        _, writer = await reader.cards.get()
        writer.close()
        await card.wait_removed()
        assert not card.inserted


async def test_no_reader() -> None:
    with pytest.raises(ConnectionRefusedError):
        await VirtualCard(Echo(), 1).insert()
