"""The PIN commands of a card (ETSI TS 102 221 clauses 11.1.9 to 11.1.13)."""

from __future__ import annotations

import pytest

from imskit.secrets import Secret
from imskit.uicc.pin import CardPin

RIGHT, NEW, WRONG = (digits.ljust(8, b"\xff") for digits in (b"1234", b"567890", b"0000"))
PUK = b"12345678"


def pin(tries: int = 3) -> CardPin:
    return CardPin(Secret("1234"), tries, Secret("12345678"))


def test_change() -> None:
    card = pin()
    assert [card.change(WRONG + NEW), card.change(b""), card.change(RIGHT)] == [0x63C2, 0x6700, 0x6700]
    assert card.change(RIGHT + NEW) == 0x9000 and card.verified
    assert [card.verify(RIGHT), card.verify(NEW)] == [0x63C2, 0x9000]


def test_disable_and_enable() -> None:
    card = pin()
    assert [card.enable(RIGHT), card.disable(WRONG), card.disable(RIGHT)] == [0x6985, 0x63C2, 0x9000]
    assert card.satisfied and not card.enabled
    assert [card.verify(RIGHT), card.change(RIGHT + NEW), card.disable(RIGHT)] == [0x6984] * 3
    assert [card.enable(WRONG), card.enable(RIGHT)] == [0x63C2, 0x9000]
    assert card.enabled


def test_unblock() -> None:
    card = pin()
    assert [card.verify(WRONG) for _ in range(4)] == [0x63C2, 0x63C1, 0x63C0, 0x6983]
    assert [card.unblock(b""), card.unblock(WRONG + NEW), card.unblock(b"")] == [0x63CA, 0x63C9, 0x63C9]
    assert card.unblock(PUK + NEW) == 0x9000
    assert (card.tries_left, card.puk_tries_left, card.verify(NEW)) == (3, 10, 0x9000)


def test_the_puk_blocks_too() -> None:
    card = pin(0)
    assert [card.unblock(WRONG * 2) for _ in range(11)][-3:] == [0x63C1, 0x6983, 0x6983]
    assert card.unblock(PUK + NEW) == 0x6983
    assert CardPin(Secret("1234"), 0, None).unblock(PUK + NEW) == 0x6983, "no PUK at all"


@pytest.mark.parametrize("length", [1, 7, 9])
def test_lengths(length: int) -> None:
    card = pin()
    assert {card.verify(bytes(length)), card.disable(bytes(length)), card.unblock(bytes(length))} == {0x6700}
    assert card.tries_left == 3
