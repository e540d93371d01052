"""From one profile to the other [R-MUX, S7-RMF, S7-SIF]: whole calls, both ways, as the agent makes them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from imskit.sdp import ims_side, preconditions, web_side
from imskit.sdp.attributes import Direction, Fingerprint
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.interworking import ims_answer, ims_offer, plan, web_answer, web_offer
from imskit.sdp.negotiation import MediaMode, next_offer
from imskit.sdp.profile import (
    AMR,
    AMR_WB,
    G722,
    IMS,
    IMS_FORMATS,
    IMS_FORMATS_WITH_G711,
    OPUS,
    PCMA,
    PCMU,
    WEBRTC,
    Format,
)
from imskit.sdp.web_side import WebEndpoint

type Sample = Callable[[str], SessionDescription]

PHONE = ImsEndpoint("10.46.0.2", 60000, 99)
BROWSER_NAMES = [
    "chromium_audio",
    "chromium_audio_hold",
    "chromium_audio_max_bundle",
    "chromium_audio_trickle",
    "chromium_audio_video_data",
    "firefox_like_audio",
]


@pytest.fixture
def page() -> WebEndpoint:
    """The page's side of a call to it."""
    return WebEndpoint(7, "page", "p" * 22, (), (Fingerprint("sha-256", ":".join(["CD"] * 32)),))


@pytest.mark.parametrize("name", BROWSER_NAMES)
def test_nothing_of_the_browser_reaches_ims(sample: Sample, ims_endpoint: ImsEndpoint, name: str) -> None:
    """[R-MUX] and every other WebRTC attribute: the IMS offer keeps its profile whatever the page offers."""
    offer = ims_offer(sample(name), ims_endpoint, preconditions=preconditions.first_offer(False))
    assert IMS.violations(offer) == []
    assert len(offer.media) == 1
    text = offer.encode().decode()
    for word in ("BUNDLE", "mux", "ice-", "candidate", "fingerprint", "SAVP", "msid", "ssrc", "extmap", "opus"):
        assert word not in text


@pytest.mark.parametrize(
    ("phone", "web_formats", "mode"),
    [
        ((AMR_WB,), ["111", "110"], MediaMode.TRANSCODE),
        ((AMR,), ["111", "110"], MediaMode.TRANSCODE),
        ((PCMA,), ["8", "126"], MediaMode.RELAY),
        ((PCMU,), ["0", "126"], MediaMode.RELAY),
    ],
)
def test_call_from_the_page(
    sample: Sample,
    ims_endpoint: ImsEndpoint,
    web_endpoint: WebEndpoint,
    phone: tuple[Format, ...],
    web_formats: list[str],
    mode: MediaMode,
) -> None:
    page_offer = sample("chromium_audio")
    offer = ims_offer(page_offer, ims_endpoint)
    answer, _ = ims_side.make_answer(offer, PHONE, phone)
    ims = ims_side.read_answer(offer, answer)
    page_answer, web = web_answer(page_offer, ims, web_endpoint)
    assert page_answer.media[0].formats == web_formats
    assert WEBRTC.violations(page_answer) == []
    media = plan(web, ims)
    assert media.mode is mode
    assert media.web_to_ims and media.ims_to_web
    assert ims.telephone_event is not None and web.telephone_event is not None
    assert ims.telephone_event.clock_rate == ims.codec.clock_rate
    assert web.telephone_event.clock_rate == web.codec.clock_rate


@pytest.mark.parametrize("configured", [OPUS, G722])
def test_formats_that_are_configured_are_relayed(
    sample: Sample, ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint, configured: Format
) -> None:
    page_offer = sample("chromium_audio")
    offer = ims_offer(page_offer, ims_endpoint, (*IMS_FORMATS, configured))
    answer, _ = ims_side.make_answer(offer, PHONE, [configured])
    ims = ims_side.read_answer(offer, answer)
    _, web = web_answer(page_offer, ims, web_endpoint)
    assert plan(web, ims).mode is MediaMode.RELAY
    assert ims.telephone_event is not None and ims.telephone_event.clock_rate == configured.clock_rate


@pytest.mark.parametrize("name", ["field_volte_offer", "conformance_mt_offer", "evs_offer"])
def test_call_to_the_page_answered_early(
    sample: Sample, ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint, page: WebEndpoint, name: str
) -> None:
    """A 183 with preconditions goes out before the page rings: IMS is answered first."""
    offer = sample(name)
    answer, ims = ims_answer(offer, ims_endpoint)
    assert IMS.violations(answer, offer=False) == []
    page_offer = web_offer(ims, web_endpoint)
    assert WEBRTC.violations(page_offer) == []
    for word in ("qos", "AMR", "tcap", "EVS", "AS:"):
        assert word not in page_offer.encode().decode()
    page_answer, _ = web_side.make_answer(page_offer, page)
    web = web_side.read_answer(page_offer, page_answer)
    assert plan(web, ims).mode is MediaMode.TRANSCODE
    assert web.codec.encoding == "opus"


def test_call_to_the_page_answered_late(
    sample: Sample, ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint, page: WebEndpoint
) -> None:
    """Without preconditions the page may answer first; its direction passes to IMS."""
    page_offer = web_offer(None, web_endpoint)
    page_answer, _ = web_side.make_answer(page_offer, page, direction=Direction.RECVONLY)
    web = web_side.read_answer(page_offer, page_answer)
    assert web.direction is Direction.SENDONLY
    answer, ims = ims_answer(sample("field_volte_offer"), ims_endpoint, web=web)
    assert answer.direction_of(answer.media[0]) is Direction.RECVONLY
    media = plan(web, ims)
    assert media.ims_to_web and not media.web_to_ims


def test_a_shared_format_is_offered_to_the_page_first(
    ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint, page: WebEndpoint
) -> None:
    offer = ims_side.make_offer(PHONE, [PCMU, AMR_WB])
    _, ims = ims_answer(offer, ims_endpoint)
    assert ims.codec.encoding == "PCMU"
    page_offer = web_offer(ims, web_endpoint)
    assert page_offer.media[0].formats[0] == "0"
    page_answer, _ = web_side.make_answer(page_offer, page)
    assert plan(web_side.read_answer(page_offer, page_answer), ims).mode is MediaMode.RELAY


def test_a_call_without_an_offer(ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint) -> None:
    """TS 34.229-5 case 7.10: both offers are made from nothing."""
    to_ims = ims_side.make_offer(ims_endpoint, IMS_FORMATS_WITH_G711)
    answer, _ = ims_side.make_answer(to_ims, PHONE)
    assert ims_side.read_answer(to_ims, answer).accepted
    assert WEBRTC.violations(web_offer(None, web_endpoint)) == []


def test_hold_and_resume_from_the_page(sample: Sample, ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint) -> None:
    page_offer = sample("chromium_audio")
    offer = ims_offer(page_offer, ims_endpoint)
    answer, _ = ims_side.make_answer(offer, PHONE)
    ims = ims_side.read_answer(offer, answer)
    page_answer, _ = web_answer(page_offer, ims, web_endpoint)

    _, direction = web_side.check_offer(sample("chromium_audio_hold"))
    hold = next_offer(offer, ims, direction=direction)
    assert hold.direction_of(hold.media[0]) is Direction.SENDONLY
    assert IMS.violations(hold) == []
    answer, _ = ims_side.make_answer(hold, PHONE, previous=answer)
    ims = ims_side.read_answer(hold, answer)
    held, web = web_answer(sample("chromium_audio_hold"), ims, web_endpoint, previous=page_answer)
    assert held.direction_of(held.media[0]) is Direction.RECVONLY
    assert (held.origin.session_id, held.origin.version) == (web_endpoint.session_id, 2)
    media = plan(web, ims)
    assert media.web_to_ims and not media.ims_to_web

    resume = next_offer(hold, ims, direction=Direction.SENDRECV)
    assert resume.origin.version == 3
    answer, _ = ims_side.make_answer(resume, PHONE, previous=answer)
    media = plan(web_answer(page_offer, ims_side.read_answer(resume, answer), web_endpoint)[1], ims)
    assert media.web.direction is Direction.SENDRECV


def test_hold_from_ims(sample: Sample, ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint, page: WebEndpoint) -> None:
    """IMS holds: the page is asked with the same direction, or IMS is answered at once: both ways fit."""
    offer = sample("field_volte_offer")
    answer, ims = ims_answer(offer, ims_endpoint)
    page_offer = web_offer(ims, web_endpoint)
    page_answer, _ = web_side.make_answer(page_offer, page)
    web = web_side.read_answer(page_offer, page_answer)

    held = SessionDescription.parse(offer.encode().replace(b"a=sendrecv", b"a=sendonly"))
    to_page = next_offer(page_offer, web, direction=held.direction_of(held.media[0]))
    from_page, _ = web_side.make_answer(to_page, page, previous=page_answer)
    web = web_side.read_answer(to_page, from_page)
    assert web.direction is Direction.SENDONLY
    second, ims = ims_answer(held, ims_endpoint, web=web, previous=answer)
    assert second.direction_of(second.media[0]) is Direction.RECVONLY
    assert second.origin.version == 2
    media = plan(web, ims)
    assert media.ims_to_web and not media.web_to_ims


def test_a_page_without_sound_is_refused_before_ims_is_troubled(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    offer = SessionDescription.parse(sample("chromium_audio").encode().replace(b"m=audio", b"m=video"))
    with pytest.raises(SdpError) as caught:
        ims_offer(offer, ims_endpoint)
    assert caught.value.status == 488


def test_ims_refuses_the_sound(sample: Sample, ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint) -> None:
    offer = ims_offer(sample("chromium_audio"), ims_endpoint)
    answer, _ = ims_side.make_answer(offer, PHONE)
    answer.media[0].port = 0
    ims = ims_side.read_answer(offer, answer)
    assert not ims.accepted
    with pytest.raises(SdpError) as caught:
        web_answer(sample("chromium_audio"), ims, web_endpoint)
    assert caught.value.status == 488


def test_forked_answers_share_an_offer(sample: Sample, ims_endpoint: ImsEndpoint, web_endpoint: WebEndpoint) -> None:
    """Two early dialogs answer one offer, each for itself."""
    offer = ims_offer(sample("chromium_audio"), ims_endpoint)
    legs = []
    for phone, formats in ((PHONE, [AMR]), (replace(PHONE, port=61000), [AMR_WB])):
        answer, _ = ims_side.make_answer(offer, phone, formats)
        legs.append(ims_side.read_answer(offer, answer))
    assert [(leg.codec.encoding, leg.remote_port) for leg in legs] == [("AMR", 60000), ("AMR-WB", 61000)]
    for leg in legs:
        _, web = web_answer(sample("chromium_audio"), leg, web_endpoint)
        assert plan(web, leg).mode is MediaMode.TRANSCODE
