"""SDES in descriptions: RFC 4568's own examples, what must be refused, and no key in any text."""

from __future__ import annotations

import base64
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.sdp import ims_side, sdes
from imskit.sdp.description import MediaDescription, SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import next_offer
from imskit.sdp.sdes import CryptoKey, CryptoLine, Suite
from imskit.secrets import Secret

# RFC 4568 section 4 and 10.2.
RFC = "1 AES_CM_128_HMAC_SHA1_80 inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR|2^20"
ANSWER = "1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20"
KEY = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"


def key(suite: Suite, octet: int) -> CryptoKey:
    return CryptoKey(suite, Secret(bytes([octet]) * suite.octets))


def keys(octet: int, *suites: Suite) -> tuple[CryptoKey, ...]:
    return tuple(key(suite, octet + index) for index, suite in enumerate(suites or Suite))


def media(*lines: str) -> MediaDescription:
    section = MediaDescription("audio", 4000, "RTP/SAVP", ["0"])
    for line in lines:
        section.add_attribute("crypto", line)
    return section


def test_the_examples_of_the_rfc() -> None:
    """Sections 4 and 7.1.2: 16 octets of key, 14 of salt."""
    line = CryptoLine.parse(RFC)
    assert (line.tag, line.key.suite) == (1, Suite.AES_CM_128_HMAC_SHA1_80)
    assert line.key.key.reveal() == b"=-n@%^x!Bjufr9)?,#5h\\`=&]{qiPQ"


def test_padding_may_be_left_out() -> None:
    """28 octets of AEAD_AES_128_GCM (RFC 7714 14.3) take padding, which some writers discard."""
    octets = bytes(range(28))
    text = base64.b64encode(octets).decode()
    assert text.endswith("==")
    for spelled in (text, text.rstrip("=")):
        line = CryptoLine.parse(f"7 AEAD_AES_128_GCM inline:{spelled} WSH=128")
        assert line.key.key.reveal() == octets and line.tag == 7


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        f"x AES_CM_128_HMAC_SHA1_80 inline:{KEY}",
        f"1234567890 AES_CM_128_HMAC_SHA1_80 inline:{KEY}",
        f"1 F8_128_HMAC_SHA1_80 inline:{KEY}",
        f"1 AES_CM_128_HMAC_SHA1_80 uri:{KEY}",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY[:-1]}",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}AAAA",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY[:-4]}!!!!",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|1:4",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|1:4",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|1:4;inline:{KEY}|2^20|2:4",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^10",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^49",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^999999999999999",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|0",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} UNENCRYPTED_SRTP",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} UNAUTHENTICATED_SRTP",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} KDR=4",
        f"1 AEAD_AES_128_GCM inline:{KEY}",
        "1 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 60000,
    ],
)
def test_lines_that_are_refused(value: str) -> None:
    with pytest.raises(SdpError) as error:
        CryptoLine.parse(value)
    assert KEY[:20] not in str(error.value)
    with pytest.raises(SdpError) as refusal:
        sdes.choose(media(value), keys(1))
    assert refusal.value.status == 488


def test_the_offerers_order_counts_and_unusable_lines_are_passed_over() -> None:
    """Section 5.1.2; the answer has the tag and suite of the line taken, and our own key."""
    offer = media("1 F8_128_HMAC_SHA1_80 inline:AAAA", RFC.replace("_80", "_32").replace("1 ", "5 ", 1), "2" + RFC[1:])
    ours = keys(1)
    line, agreed = sdes.choose(offer, ours)
    assert (line.tag, agreed.suite) == (5, Suite.AES_CM_128_HMAC_SHA1_32)
    assert agreed.send == next(item.key for item in ours if item.suite is Suite.AES_CM_128_HMAC_SHA1_32)
    assert agreed.receive == CryptoLine.parse(RFC).key.key
    line, agreed = sdes.choose(offer, keys(1, Suite.AES_CM_128_HMAC_SHA1_80))
    assert (line.tag, agreed.suite) == (2, Suite.AES_CM_128_HMAC_SHA1_80)
    with pytest.raises(SdpError, match="no usable"):
        sdes.choose(offer, keys(1, Suite.AEAD_AES_128_GCM))


def test_offers_that_are_refused() -> None:
    for lines in ((), (RFC,) * 65, (RFC.replace("_80", "_32"), RFC)):
        with pytest.raises(SdpError) as refusal:
            sdes.choose(media(*lines), keys(1, Suite.AES_CM_128_HMAC_SHA1_80))
        assert refusal.value.status == 488


@pytest.mark.parametrize(
    "answer",
    [
        (),
        (ANSWER, ANSWER),
        ("2" + ANSWER[1:],),
        (ANSWER.replace("_80", "_32"),),
        (ANSWER + " UNENCRYPTED_SRTP",),
        (RFC,),  # our own key given back
    ],
)
def test_answers_that_are_refused(answer: tuple[str, ...]) -> None:
    """Section 5.1.3: one line, of an offered tag and its suite; never our own key (two-time pad)."""
    with pytest.raises(SdpError) as refusal:
        sdes.accepted(media(RFC), media(*answer))
    assert refusal.value.status == 488


def test_offer_and_answer_of_the_profile() -> None:
    """RTP/SAVP on both; each sends with what the other receives with; a later offer keeps the keys."""
    one = ImsEndpoint("192.0.2.1", 4000, 1, crypto=keys(1))
    two = ImsEndpoint("192.0.2.2", 5000, 2, crypto=keys(9, Suite.AEAD_AES_128_GCM, Suite.AES_CM_128_HMAC_SHA1_32))
    offer = SessionDescription.parse(str(ims_side.make_offer(one)))
    assert offer.media[0].protocol == "RTP/SAVP" and len(offer.media[0].attributes("crypto")) == 3
    answer, theirs = ims_side.make_answer(offer, two)
    mine = ims_side.read_answer(offer, SessionDescription.parse(str(answer)))
    assert mine.srtp is not None and theirs.srtp is not None
    assert mine.srtp.suite is theirs.srtp.suite is Suite.AEAD_AES_128_GCM
    assert mine.srtp.send == theirs.srtp.receive and theirs.srtp.send == mine.srtp.receive
    assert mine.srtp.send != mine.srtp.receive
    again = next_offer(answer, theirs)
    _, agreed = ims_side.make_answer(again, one, previous=offer)
    assert agreed.srtp == mine.srtp


def test_no_downgrade() -> None:
    """A side with keys takes no plain RTP, and one without takes no SRTP."""
    plain, secured = ImsEndpoint("192.0.2.1", 4000, 1), ImsEndpoint("192.0.2.1", 4000, 1, crypto=keys(1))
    for offerer, answerer in ((plain, secured), (secured, plain)):
        with pytest.raises(SdpError) as refusal:
            ims_side.make_answer(ims_side.make_offer(offerer), answerer)
        assert (refusal.value.status, refusal.value.warning) == (488, 302)
    offer = ims_side.make_offer(secured)
    answer, _ = ims_side.make_answer(offer, secured_with(40))
    answer.media[0].protocol = "RTP/AVP"
    with pytest.raises(SdpError):
        ims_side.read_answer(offer, answer)


def secured_with(octet: int) -> ImsEndpoint:
    return ImsEndpoint("192.0.2.3", 6000, 3, crypto=keys(octet))


def test_no_key_is_shown() -> None:
    endpoint = secured_with(65)
    offer = ims_side.make_offer(endpoint)
    answer, leg = ims_side.make_answer(offer, secured_with(70))
    for shown in (repr(endpoint), repr(leg), repr(answer.media[0].lines), repr(CryptoLine.parse(RFC))):
        assert "AAAA" not in shown and "QUFB" not in shown and "RkZG" not in shown and "PS1u" not in shown
    try:
        CryptoLine.parse(RFC + " KDR=1")
    except SdpError:
        assert "PS1u" not in "".join(traceback.format_exc(limit=0))


@settings(deadline=None)
@given(st.integers(0, len(RFC)), st.text(max_size=40))
def test_fuzz(cut: int, noise: str) -> None:
    """A valid beginning, then noise: a line, or SdpError and nothing else."""
    try:
        CryptoLine.parse(RFC[:cut] + noise)
    except SdpError:
        pass
