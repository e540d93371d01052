"""The PIN by hand: tries are never lost by surprise."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from ue_agent.card_bench.pins import PinState, operate, pin_state
from ue_agent.uicc.apdu import CardChannel, select_aid
from ue_agent.uicc.errors import CardError, PinBlockedError, PinLastTryError, PinRequiredError
from ue_agent.uicc.files import USIM_AID
from ue_agent.uicc.in_process import InProcessReader

KEY = Secret("00112233445566778899aabbccddeeff")
PIN, NEW, PUK = Secret("1234"), Secret("567890"), Secret("12345678")


def make(**fields: Any) -> tuple[Uicc, CardChannel]:
    card = Uicc(CardProfile(**{"imsi": "001010000000001", "k": KEY, "opc": KEY, "pin": PIN, "puk": PUK, **fields}))
    return card, CardChannel(InProcessReader(card).connect())


def state(channel: CardChannel) -> PinState:
    return pin_state(channel, channel.require(select_aid(USIM_AID)))


def test_state() -> None:
    _, channel = make()
    assert state(channel) == PinState(1, True, False, 3, 10)
    _, channel = make(pin=None, puk=None)
    assert state(channel) == PinState(1, False, True, None, 0)


def test_every_operation() -> None:
    card, channel = make()
    operate(channel, "verify", state(channel), PIN)
    operate(channel, "change", state(channel), PIN, NEW)
    operate(channel, "disable", state(channel), NEW)
    assert not card.pin.enabled
    operate(channel, "enable", state(channel), NEW)
    assert card.pin.enabled
    card.pin_tries_left = 0
    operate(channel, "unblock", state(channel), PUK, PIN)
    assert card.pin_tries_left == 3
    operate(channel, "verify", state(channel), PIN)


def test_a_wrong_one_costs_one_try_and_the_last_is_kept() -> None:
    card, channel = make()
    for left in (2, 1):
        with pytest.raises(PinRequiredError, match=rf"the PIN is wrong; tries left: {left} \(63C{left}\)"):
            operate(channel, "verify", state(channel), NEW)
    for operation in ("verify", "change", "disable"):
        with pytest.raises(PinLastTryError, match="one PIN try is left; --last-try uses it"):
            operate(channel, operation, state(channel), PIN, NEW if operation == "change" else None)
    assert card.pin_tries_left == 1
    operate(channel, "verify", state(channel), PIN, last_try=True)
    assert card.pin_tries_left == 3


def test_blocked() -> None:
    card, channel = make(pin_tries=1)
    with pytest.raises(PinRequiredError, match=r"tries left: 0 \(63C0\)"):
        operate(channel, "verify", state(channel), NEW, last_try=True)
    with pytest.raises(PinBlockedError, match="imsbridge card pin unblock"):
        operate(channel, "verify", state(channel), PIN, last_try=True)
    card.pin.puk_tries_left = 1
    with pytest.raises(PinLastTryError, match="one PUK try is left"):
        operate(channel, "unblock", state(channel), PUK, NEW)
    with pytest.raises(PinBlockedError, match=r"the PUK is blocked now \(6983\)"):
        operate(channel, "unblock", state(channel), Secret("00000000"), NEW, last_try=True)
    with pytest.raises(PinBlockedError, match="of no use any more"):
        operate(channel, "unblock", state(channel), PUK, NEW, last_try=True)


def test_a_card_that_does_not_tell_its_tries() -> None:
    _, channel = make()
    with pytest.raises(PinLastTryError, match="does not say how many"):
        operate(channel, "verify", PinState(1, True, False, None, None), PIN)


def test_other_refusals() -> None:
    _, channel = make()
    with pytest.raises(CardError, match="ENABLE PIN with 6985"):
        operate(channel, "enable", state(channel), PIN)


@pytest.mark.parametrize(
    ("operation", "code", "new"),
    [
        ("verify", "123", None),
        ("verify", "123456789", None),
        ("verify", "12a4", None),
        ("verify", "1234", "5678"),
        ("change", "1234", None),
        ("change", "1234", "٣٣٣٣"),
        ("unblock", "1234", "5678"),
    ],
)
def test_codes_that_are_none_are_not_sent(operation: Any, code: str, new: str | None) -> None:
    card, channel = make()
    with pytest.raises(ValueError):
        operate(channel, operation, state(channel), Secret(code), None if new is None else Secret(new))
    assert card.pin_tries_left == 3 and card.pin.puk_tries_left == 10
