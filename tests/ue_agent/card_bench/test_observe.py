"""The transport that lets somebody look on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ue_agent.card_bench.observe import Exchange, ObservedTransport
from ue_agent.uicc.errors import CardRemovedError


class Transport:
    """A card that is pulled at the second command; another program changes its protocol."""

    t0 = True

    def __init__(self) -> None:
        self.number = 0
        self.calls: list[str] = []

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        self.number += 1
        if self.number == 2:
            raise CardRemovedError("pulled")
        return b"\xaa", 0x9000

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.t0 = False
        self.calls.append("begin")
        yield
        self.calls.append("end")

    def reset(self) -> None:
        self.t0 = True
        self.calls.append("reset")

    def close(self) -> None:
        self.calls.append("close")


def test_it_tells_and_passes_on() -> None:
    seen: list[Exchange] = []
    inner = Transport()
    transport = ObservedTransport(inner, seen.append)
    assert transport.t0
    with transport.transaction():
        assert not transport.t0, "the protocol may have changed with another program's reset"
        assert transport.transmit(b"\0\xa4\0\0") == (b"\xaa", 0x9000)
        with pytest.raises(CardRemovedError):
            transport.transmit(b"\0\xa4\0\0")
    transport.reset()
    assert transport.t0
    transport.close()
    assert inner.calls == ["begin", "end", "reset", "close"]
    (exchange,) = seen
    assert (exchange.command, exchange.answer, exchange.sw) == (b"\0\xa4\0\0", b"\xaa", 0x9000)
    assert exchange.at > 1e9 and 0 <= exchange.seconds < 1
    assert "a4" not in repr(exchange), "no octets in a log"
