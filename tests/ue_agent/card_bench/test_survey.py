"""Everything of a card that matters to IMS."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.config.model import parse
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from ue_agent.card_bench.survey import CardInfo, survey
from ue_agent.uicc.apdu import CardChannel
from ue_agent.uicc.errors import UiccError
from ue_agent.uicc.in_process import InProcessReader

CARD = """
imsi = "234150999999999"
k = "00112233445566778899aabbccddeeff"
opc = "00112233445566778899aabbccddeeff"
"""
ISIM = """
[isim]
impi = "user@ims.example"
domain = "ims.example"
impu = ["sip:user@ims.example", "tel:+15550100"]
pcscf = ["10.45.0.1", "2001:db8::1", "pcscf.ims.example"]
webrtc_uri = ["https://portal.ims.example/"]
"""


class Altered:
    """A card with an oddity."""

    def __init__(self, text: str, change: Callable[[bytes, bytes], bytes] = lambda _, answer: answer) -> None:
        self.card = Uicc(parse(CardProfile, text))
        self.change = change
        self.commands: list[bytes] = []

    def reset(self) -> None:
        self.card.reset()

    def transmit(self, apdu: bytes) -> bytes:
        self.commands.append(apdu)
        return self.change(apdu, self.card.transmit(apdu))


def look(card: Altered, *, brief: bool = False) -> CardInfo:
    return survey(CardChannel(InProcessReader(card).connect()), brief=brief)


def test_a_whole_card() -> None:
    """X-CARDLAB: EF_DIR, applications, identities, services by name, P-CSCF, EF_WebRTCURI, PIN."""
    card = Altered(CARD + "gba = true\n" + ISIM)
    info = look(card)
    assert (info.iccid, info.imsi, info.plmn) == ("89001010000000000010", "234150999999999", ("234", "15"))
    usim, isim = info.applications
    assert (usim.name, usim.label, isim.name, isim.label) == ("USIM", "USim1", "ISIM", "ISim1")
    assert usim.services == [(27, "GSM access"), (68, "GBA")]
    assert isim.services == [(1, "P-CSCF address"), (2, "GBA"), (20, "WebRTC URI")]
    assert isim.values == {
        "EF_IMPI": ["user@ims.example"],
        "EF_DOMAIN": ["ims.example"],
        "EF_IMPU": ["sip:user@ims.example", "tel:+15550100"],
        "EF_P-CSCF": ["10.45.0.1", "2001:db8::1", "pcscf.ims.example"],
        "EF_WebRTCURI": ["https://portal.ims.example/"],
    }
    assert not isim.blank and usim.notes == isim.notes == info.notes == []
    assert usim.pin is not None and (usim.pin.enabled, usim.pin.verified) == (False, True)
    assert not any(command[1] == 0x20 and len(command) > 5 for command in card.commands), "no PIN is sent"
    assert not any(command[1] in (0xD6, 0xDC, 0x88) for command in card.commands), "nothing is written or run"


def test_brief_reads_no_isim() -> None:
    info = look(Altered(CARD + ISIM), brief=True)
    assert info.imsi == "234150999999999" and [a.values for a in info.applications][1] == {}


@pytest.mark.parametrize("isim", ["[isim]\n", '[isim]\nimpi = "a@b"\ndomain = "b"\n'])
def test_a_blank_isim_is_recognised(isim: str) -> None:
    """TS 24.229 5.1.1.1A: also half an ISIM is none."""
    info = look(Altered(CARD + isim))
    assert [application.blank for application in info.applications] == [False, True]


def test_behind_the_pin() -> None:
    info = look(Altered(f'pin = "1234"\npuk = "12345678"\n{CARD}{ISIM}'))
    usim, isim = info.applications
    assert usim.locked == ["EF_IMSI", "EF_UST"] and "EF_IMPI" in isim.locked
    assert not isim.blank, "who cannot look does not say that there is nothing"
    assert usim.pin is not None
    assert (usim.pin.enabled, usim.pin.verified, usim.pin.tries, usim.pin.unblock_tries) == (True, False, 3, 10)
    blocked = look(Altered(f'pin = "1234"\npin_tries = 0\n{CARD}')).applications[0].pin
    assert blocked is not None and (blocked.tries, blocked.unblock_tries) == (0, 0)


def test_announced_files_that_are_absent() -> None:
    """As on a real sysmoISIM-SJA2."""
    without = ISIM.replace('pcscf = ["10.45.0.1", "2001:db8::1", "pcscf.ims.example"]\n', "")
    announcing = Altered(
        CARD + without, lambda _, answer: b"\x01\0\x08\x90\0" if answer == b"\0\0\x08\x90\0" else answer
    )
    notes = look(announcing).applications[1].notes
    assert notes == ["EF_P-CSCF: 6A82 file or application not found"]


def test_without_ef_dir() -> None:
    hidden = Altered(CARD + ISIM, lambda c, answer: b"\x6a\x82" if c[5:] == b"\x2f\x00" else answer)
    info = look(hidden)
    assert [a.name for a in info.applications] == ["USIM", "ISIM"]
    assert info.notes == ["EF_DIR: 6A82 file or application not found"]
    assert info.imsi == "234150999999999"


def test_broken_files_are_noted() -> None:
    broken = Altered(
        CARD + ISIM, lambda c, answer: b"\x80\x7f\x41\x90\0" if answer.startswith(b"\x80\x10user") else answer
    )
    assert look(broken).applications[1].notes == ["EF_IMPI: EF_IMPI (TS 31.103 4.2.2) is cut off inside tag 80"]


def test_no_mnc_length() -> None:
    info = look(Altered("mnc_length = 0\n" + CARD))
    assert info.plmn is None and info.operator is None and info.applications[0].values["EF_AD"] == []


def test_no_sim_card() -> None:
    info = look(Altered(CARD, lambda c, _: b"\x6a\x82" if c[1] == 0xA4 else b"\x6d\0"))
    assert info.applications == [] and info.notes == ["no MF: 6A82"]


def test_the_operators_name_on_the_card_comes_first() -> None:
    """TS 31.102 clause 4.2.12."""
    info = look(Altered('spn = "Lab Mobile"\n' + CARD), brief=True)
    assert info.operator == "Lab Mobile"
    assert look(Altered(CARD.replace("234150999999999", "001010000000001"))).operator == "test network"


class Hostile:
    """Answers whatever it likes."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.number = 0

    def reset(self) -> None: ...

    def transmit(self, apdu: bytes) -> bytes:
        self.number += 1
        return self.answers[self.number % len(self.answers)]


PIECES = st.sampled_from(
    [
        *(b"\x90\0", b"\x61\x10", b"\x6c\x05", b"\x6a\x82", b"\x69\x82", b"\x63\xc2", b"\x62\x83", b"\x91\x10"),
        bytes.fromhex("61094F07A00000008710029000"),
        bytes.fromhex("61094F07A00000008710049000"),
        bytes.fromhex("620582054221000502 9000"),
        bytes.fromhex("62178202412180020009 C60990018083010183010A9000"),
        bytes.fromhex("800501 0A2D0001 9000"),
        bytes.fromhex("10" + "11" * 16 + "0341404203FFFFFF 9000"),
    ]
)


@given(st.lists(st.one_of(PIECES, st.binary(min_size=2, max_size=40)), min_size=1, max_size=12), st.booleans())
def test_whatever_the_card_answers(answers: list[bytes], brief: bool) -> None:
    """Only this package's errors escape, and there is an end."""
    card = Hostile(answers)
    try:
        survey(CardChannel(InProcessReader(card).connect()), brief=brief)
    except UiccError:
        pass
    assert card.number < 200_000


@pytest.mark.parametrize("position", range(1, 60))
def test_every_file_cut_off(position: int) -> None:
    """Each answer cut at each octet: what cannot be read is noted."""
    look(Altered(CARD + ISIM, lambda _, answer: answer[:-2][:position] + answer[-2:]))
