"""Which application, whose identities, the PIN, AKA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.aka.sqn import join
from imskit.aka.vector import AuthenticationVector, MacFailure, Success, SyncFailure
from imskit.secrets import Secret
from imskit.uicc.profile import IsimProfile
from imskit.uicc.uicc import Uicc
from ue_agent.uicc.application import ImsIdentities, UiccSession
from ue_agent.uicc.errors import (
    CardDataError,
    CardError,
    PinBlockedError,
    PinLastTryError,
    PinRequiredError,
    WrongCardError,
)
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.uicc.pin import Pin

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
type MakeCard = Callable[..., Uicc]
type MakeVector = Callable[[], AuthenticationVector]


class Altered:
    """A card with an oddity: ``change`` sees each command and the answer, and returns what is answered instead."""

    def __init__(self, card: Any, change: Callable[[bytes, bytes], bytes]) -> None:
        self.card = card
        self.change = change
        self.commands: list[bytes] = []

    def reset(self) -> None:
        self.card.reset()

    def transmit(self, apdu: bytes) -> bytes:
        self.commands.append(apdu)
        return self.change(apdu, self.card.transmit(apdu))


def session(card: Any, pin: str | None = None, *, t0: bool = True) -> UiccSession:
    return UiccSession(InProcessReader(card, t0=t0).connect(), Pin(Secret(pin) if pin else None))


def identities(card: Any, pin: str | None = None) -> ImsIdentities:
    return session(card, pin).identities()[0]


def test_isim_first(make_card: MakeCard) -> None:
    """S7-UICC: the ISIM, if present, is the one."""
    found, iccid = session(make_card(iccid="8988211000000467343")).identities()
    assert found == ImsIdentities(
        impi=f"001010000000001@{DOMAIN}",  # type: ignore[arg-type]
        impus=(f"sip:+15550100@{DOMAIN}", "tel:+15550100"),  # type: ignore[arg-type]
        domain=DOMAIN,
        pcscf=("10.45.0.1", "pcscf.ims.example"),
        source="ISIM",
        imsi="001010000000001",  # type: ignore[arg-type]
        webrtc_uris=("https://portal.ims.example/",),
    )
    assert iccid == "8988211000000467343"
    assert "001010000000001" not in repr(found) and "15550100" not in repr(found)


@pytest.mark.parametrize(
    ("imsi", "mnc_length", "domain"),
    [
        ("001010000000001", 2, "ims.mnc001.mcc001.3gppnetwork.org"),
        ("234150999999999", 2, "ims.mnc015.mcc234.3gppnetwork.org"),  # TS 23.003 13.2's example
        ("310260123456789", 3, "ims.mnc260.mcc310.3gppnetwork.org"),
    ],
)
@pytest.mark.parametrize("isim", [None, IsimProfile()], ids=["no ISIM", "blank ISIM"])
def test_identities_derived_from_the_imsi(
    make_card: MakeCard, imsi: str, mnc_length: int, domain: str, isim: IsimProfile | None
) -> None:
    """TS 23.003 clauses 13.2, 13.3 and 13.4B."""
    found = identities(make_card(imsi=imsi, mnc_length=mnc_length, isim=isim))
    assert (found.impi, found.domain, found.source, found.imsi) == (f"{imsi}@{domain}", domain, "USIM", imsi)
    assert found.impus == (f"sip:{imsi}@{domain}",)


def test_half_an_isim_is_none(make_card: MakeCard) -> None:
    incomplete = IsimProfile(impi=f"x@{DOMAIN}", impu=["tel:+1"])
    assert identities(make_card(isim=incomplete)).source == "USIM"
    assert identities(make_card(isim=IsimProfile(impi="x@y", domain="y", impu=["x@y"]))).source == "USIM"


def test_without_mnc_length_nothing_is_guessed(make_card: MakeCard) -> None:
    with pytest.raises(CardDataError, match="EF_AD does not say how long the MNC is"):
        identities(make_card(isim=None, mnc_length=0))


def test_announced_but_absent_files(make_card: MakeCard, isim: IsimProfile) -> None:
    """As on a real sysmoISIM-SJA2: EF_IST announces what EF_P-CSCF does not hold, or is not there."""
    without = IsimProfile(impi=isim.impi, domain=isim.domain, impu=isim.impu)
    table = b"\x19\x02\x08"  # the real card's, and service 20
    announcing = Altered(make_card(isim=without), lambda _, a: table + a[3:] if a == b"\0\0\0\x90\0" else a)
    found = identities(announcing)
    assert (found.pcscf, found.webrtc_uris, found.source) == ((), (), "ISIM")
    assert {b"\x6f\x09", b"\x6f\xfa"} <= {c[5:] for c in announcing.commands if c[1] == 0xA4}, "it has tried"


def test_a_card_without_ef_dir(make_card: MakeCard) -> None:
    def hide(command: bytes, answer: bytes) -> bytes:
        return b"\x6a\x82" if command[1] == 0xA4 and command[5:7] == b"\x2f\x00" else answer

    card = Altered(make_card(), hide)
    assert identities(card).source == "ISIM"
    assert bytes.fromhex("00A4040407A0000000871004") in card.commands


def test_no_sim_card() -> None:
    class BankCard:
        def reset(self) -> None: ...

        def transmit(self, apdu: bytes) -> bytes:
            return b"\x6a\x82" if apdu[1] == 0xA4 else b"\x6d\x00"

    with pytest.raises(WrongCardError, match="no SIM card"):
        identities(BankCard())


def test_identities_and_aka_over_t1(make_card: MakeCard, make_vector: MakeVector) -> None:
    """T=1: Le travels with the command and the answer comes at once."""

    class T1Card:
        def __init__(self, card: Uicc) -> None:
            self.card = card

        def reset(self) -> None:
            self.card.reset()

        def transmit(self, apdu: bytes) -> bytes:
            answer = self.card.transmit(apdu)
            while answer[-2] in (0x61, 0x6C):
                again = bytes([apdu[0], 0xC0, 0, 0]) if answer[-2] == 0x61 else apdu[:4]
                answer = self.card.transmit(again + answer[-1:])
            return answer

    card = session(T1Card(make_card(pin=Secret("1234"))), "1234", t0=False)
    assert card.identities()[0].source == "ISIM"
    vector = make_vector()
    assert isinstance(card.authenticate("ISIM", vector.rand, vector.autn), Success)


# --- PIN


def test_pin_is_not_sent_unless_needed(make_card: MakeCard) -> None:
    card = Altered(make_card(), lambda _, answer: answer)
    identities(card, "1234")
    assert not any(command[1] == 0x20 for command in card.commands)


def test_pin_is_sent_once(make_card: MakeCard, make_vector: MakeVector) -> None:
    card = Altered(make_card(pin=Secret("1234")), lambda _, answer: answer)
    opened = session(card, "1234")
    opened.identities()
    opened.identities()
    vector = make_vector()
    assert isinstance(opened.authenticate("ISIM", vector.rand, vector.autn), Success)
    assert [c[4] for c in card.commands if c[1] == 0x20] == [0, 8], "one question, one PIN"


def test_pin_for_authenticate_alone(make_card: MakeCard, make_vector: MakeVector) -> None:
    vector = make_vector()
    result = session(make_card(pin=Secret("1234")), "1234").authenticate("USIM", vector.rand, vector.autn)
    assert isinstance(result, Success)


def test_missing_and_wrong_pin(make_card: MakeCard) -> None:
    card = make_card(pin=Secret("1234"))
    with pytest.raises(PinRequiredError, match=r"wants its PIN \(3 tries left\) and none is configured"):
        identities(card)
    wrong = session(card, "9999")
    with pytest.raises(PinRequiredError, match="is wrong; 2 tries left"):
        wrong.identities()
    with pytest.raises(PinRequiredError, match=r"is wrong \(2 tries left\); it is not sent again"):
        wrong.identities()
    assert card.pin_tries_left == 2


def test_never_the_last_try(make_card: MakeCard) -> None:
    """Not even with the right PIN: the agent cannot know that it is."""
    card = make_card(pin=Secret("1234"))
    for _ in range(3):
        with pytest.raises((PinRequiredError, PinLastTryError)):
            identities(card, "9999")
    assert card.pin_tries_left == 1
    with pytest.raises(PinLastTryError, match="one PIN try is left"):
        identities(card, "1234")
    assert card.pin_tries_left == 1


def test_blocked_pin(make_card: MakeCard) -> None:
    with pytest.raises(PinBlockedError, match="PUK"):
        identities(make_card(pin=Secret("1234"), pin_tries=0), "1234")


def test_a_card_that_does_not_tell_its_tries(make_card: MakeCard) -> None:
    card = make_card(pin=Secret("1234"))
    silent = Altered(card, lambda c, answer: b"\x67\x00" if c[1] == 0x20 and c[4] == 0 else answer)
    with pytest.raises(PinRequiredError, match=r"does not say how many tries are left \(6700: wrong length\)"):
        identities(silent, "1234")
    assert not any(c[1] == 0x20 and c[4] for c in silent.commands)


def test_another_access_condition_is_no_pin_loop(make_card: MakeCard) -> None:
    """6982 with the PIN verified or disabled: an administrative right is wanted."""
    locked = Altered(make_card(isim=None), lambda c, answer: b"\x69\x82" if c[1] == 0xB0 else answer)
    with pytest.raises(CardError, match="6982"):
        identities(locked, "1234")


def test_close_takes_the_verified_pin_back(make_card: MakeCard) -> None:
    card = make_card(pin=Secret("1234"))
    opened = session(card, "1234")
    opened.identities()
    opened.close()
    card.transmit(bytes.fromhex("00A4040C07A0000000871004"))
    card.transmit(bytes.fromhex("00A4000C026F02"))
    assert card.transmit(bytes.fromhex("00B0000080")) == b"\x69\x82"


# --- AKA


@pytest.mark.parametrize("source", ["ISIM", "USIM"])
def test_aka(make_card: MakeCard, make_vector: MakeVector, source: Any) -> None:
    """Success, used number, wrong MAC."""
    opened = session(make_card(sqn=[join(77, 0)]))
    vector = make_vector()
    result = opened.authenticate(source, vector.rand, vector.autn)
    assert isinstance(result, Success)
    assert (result.res, result.ck, result.ik) == (vector.xres, vector.ck, vector.ik)
    again = opened.authenticate(source, vector.rand, vector.autn)
    assert isinstance(again, SyncFailure) and len(again.auts) == 14
    assert opened.authenticate(source, vector.rand, bytes(16)) == MacFailure()
    with pytest.raises(ValueError, match="16 octets"):
        opened.authenticate(source, vector.rand, bytes(15))


@pytest.mark.parametrize("sw", ["9864", "6985", "6A86", "6F00", "9865"])
def test_other_refusals_of_authenticate(make_card: MakeCard, sw: str) -> None:
    refusing = Altered(make_card(), lambda c, answer: bytes.fromhex(sw) if c[1] == 0x88 else answer)
    with pytest.raises(CardError, match=f"AUTHENTICATE with {sw}"):
        session(refusing).authenticate("ISIM", bytes(16), bytes(16))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "DB",
        "DB0811",
        "DB03112233" + "10" + "00" * 16 + "10" + "00" * 16,
        "DB04" + "11" * 4 + "10" + "00" * 16,
        "DB04" + "11" * 4 + "0F" + "00" * 15 + "10" + "00" * 16,
        "DC0D" + "00" * 13,
        "DC",
        "DE00",
    ],
)
def test_nonsense_from_authenticate(make_card: MakeCard, answer: str) -> None:
    octets = bytes.fromhex(answer) + b"\x90\x00"
    broken = Altered(make_card(), lambda c, good: octets if c[1] == 0x88 else good)
    with pytest.raises(CardDataError, match=r"not one of TS 31\.103") as error:
        session(broken).authenticate("ISIM", bytes(16), bytes(16))
    assert "1122" not in str(error.value)


def test_a_short_res(make_card: MakeCard) -> None:
    """RES may have 4 to 16 octets (TS 33.102 6.3.7)."""
    octets = bytes.fromhex("DB04" + "11" * 4 + "10" + "22" * 16 + "10" + "33" * 16 + "9000")
    card = Altered(make_card(), lambda c, good: octets if c[1] == 0x88 else good)
    result = session(card).authenticate("ISIM", bytes(16), bytes(16))
    assert result == Success(Secret(b"\x11" * 4), Secret(b"\x22" * 16), Secret(b"\x33" * 16))
