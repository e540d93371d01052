"""Offers and answers of the WebRTC profile: JSEP (RFC 9429), RFC 8839, RFC 8842, RFC 9143, RFC 8858."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sdp import web_side
from imskit.sdp.attributes import Candidate, Direction, Fingerprint
from imskit.sdp.codec import codecs_of
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.negotiation import AgreedCodec, next_offer
from imskit.sdp.profile import OPUS, PCMA, WEBRTC
from imskit.sdp.web_side import WebEndpoint

type Sample = Callable[[str], SessionDescription]


def edited(description: SessionDescription, *changes: tuple[str, str]) -> SessionDescription:
    text = description.encode().decode()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return SessionDescription.parse(text)


def test_the_answer_to_chromium_to_the_letter(sample: Sample, web_endpoint: WebEndpoint) -> None:
    answer, leg = web_side.make_answer(sample("chromium_audio"), web_endpoint)
    assert answer.encode().decode().split("\r\n") == [
        "v=0",
        "o=- 1234567890123456789 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "a=msid-semantic:WMS call",
        "m=audio 40000 UDP/TLS/RTP/SAVPF 111 110",
        "c=IN IP4 203.0.113.2",
        "a=rtcp:40000 IN IP4 203.0.113.2",
        "a=candidate:1 1 udp 2130706431 203.0.113.2 40000 typ host",
        "a=end-of-candidates",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:active",
        "a=mid:0",
        "a=sendrecv",
        "a=msid:call sound",
        "a=rtcp-mux",
        "a=rtcp-rsize",
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:111 minptime=10;useinbandfec=1",
        "a=rtpmap:110 telephone-event/48000",
        "a=fmtp:110 0-15",
        "a=ptime:20",
        "a=ssrc:77 cname:agent",
        "",
    ]
    assert WEBRTC.violations(answer) == []
    assert leg.codec == AgreedCodec(
        "opus", 48000, 2, 111, 111, "minptime=10;useinbandfec=1", "minptime=10;useinbandfec=1"
    )
    assert leg.telephone_event is not None and leg.telephone_event.clock_rate == 48000
    assert len(leg.telephone_events) == 1
    assert leg.ice is not None and leg.ice.ufrag == "humq" and len(leg.ice.candidates) == 4
    assert leg.ice.trickle
    assert leg.fingerprints[0].value.startswith("52:B1:66")
    assert (leg.dtls_client, leg.rtcp_mux, leg.rtcp_reduced_size, leg.mid) == (True, True, True, "0")
    assert leg.remote_address is None
    assert "4y9D" not in repr(leg) and "abcdefghij" not in repr(web_endpoint)


def test_firefox_inherits_from_the_session_and_has_one_event_clock(sample: Sample, web_endpoint: WebEndpoint) -> None:
    answer, leg = web_side.make_answer(sample("firefox_like_audio"), web_endpoint)
    assert answer.media[0].formats == ["109", "101"]
    assert leg.fingerprints[0].value.startswith("0D:C1")
    assert leg.ice is not None and not leg.ice.trickle
    assert leg.telephone_event is not None and leg.telephone_event.clock_rate == 8000


def test_video_and_data_are_refused_in_place(sample: Sample, web_endpoint: WebEndpoint) -> None:
    answer, leg = web_side.make_answer(sample("chromium_audio_video_data"), web_endpoint)
    assert [(media.media, media.port) for media in answer.media] == [
        ("audio", 40000),
        ("video", 0),
        ("application", 0),
    ]
    assert [media.attribute("mid") for media in answer.media] == ["0", "1", "2"]
    assert answer.attribute("group") == "BUNDLE 0"
    assert answer.media[2].formats == ["webrtc-datachannel"]
    assert answer.direction_of(answer.media[1]) is Direction.INACTIVE
    assert leg.index == 0


def test_max_bundle_gets_a_bundle(sample: Sample, web_endpoint: WebEndpoint) -> None:
    answer, _ = web_side.make_answer(sample("chromium_audio_max_bundle"), web_endpoint)
    assert answer.attribute("group") == "BUNDLE 0"


def test_no_bundle_where_none_was_offered(sample: Sample, web_endpoint: WebEndpoint) -> None:
    offer = edited(sample("chromium_audio"), ("a=group:BUNDLE 0\r\n", ""))
    answer, _ = web_side.make_answer(offer, web_endpoint)
    assert answer.attribute("group") is None


def test_the_other_legs_format_is_taken(sample: Sample, web_endpoint: WebEndpoint) -> None:
    """Relay where both sides have the format; its telephone-event follows the clock."""
    pcma = AgreedCodec("PCMA", 8000, 1, 8, 8)
    answer, leg = web_side.make_answer(sample("chromium_audio"), web_endpoint, relayed=pcma)
    assert answer.media[0].formats == ["8", "126"]
    assert leg.codec.is_same_format(pcma)
    amr = AgreedCodec("AMR-WB", 16000, 1, 96, 96)
    answer, _ = web_side.make_answer(sample("chromium_audio"), web_endpoint, relayed=amr)
    assert answer.media[0].formats == ["111", "110"]


@pytest.mark.parametrize(
    ("setup", "answered", "client"),
    [("actpass", "active", True), ("active", "passive", False), ("passive", "active", True)],
)
def test_dtls_roles(sample: Sample, web_endpoint: WebEndpoint, setup: str, answered: str, client: bool) -> None:
    """RFC 8842 section 5.3."""
    offer = edited(sample("chromium_audio"), ("setup:actpass", f"setup:{setup}"))
    answer, leg = web_side.make_answer(offer, web_endpoint)
    assert answer.media[0].attribute("setup") == answered
    assert leg.dtls_client == client


def test_candidates_not_known_yet(sample: Sample, web_endpoint: WebEndpoint) -> None:
    """RFC 8839 section 4.2.1: port 9 and the null address stand for no default candidate."""
    answer, _ = web_side.make_answer(sample("chromium_audio_trickle"), replace(web_endpoint, candidates=()))
    assert answer.media[0].port == 9
    assert answer.media[0].attribute("end-of-candidates") is None
    assert "c=IN IP4 0.0.0.0" in answer.encode().decode()


def test_hold_of_the_page(sample: Sample, web_endpoint: WebEndpoint) -> None:
    offer = sample("chromium_audio_hold")
    answer, leg = web_side.make_answer(offer, web_endpoint)
    assert answer.direction_of(answer.media[0]) is Direction.RECVONLY is leg.direction
    assert answer.media[0].attribute("msid") is None


def test_null_address_is_no_hold_here(sample: Sample, web_endpoint: WebEndpoint) -> None:
    offer = sample("chromium_audio_trickle")
    assert "c=IN IP4 0.0.0.0" in offer.encode().decode()
    assert web_side.make_answer(offer, web_endpoint)[1].direction is Direction.SENDRECV


def test_the_offer(web_endpoint: WebEndpoint) -> None:
    """A call to the page: one telephone-event for each clock rate used, actpass, BUNDLE of one."""
    offer = web_side.make_offer(web_endpoint)
    (media,) = offer.media
    assert [(codec.encoding, codec.clock_rate) for codec in codecs_of(media)] == [
        ("opus", 48000),
        ("G722", 8000),
        ("PCMA", 8000),
        ("PCMU", 8000),
        ("telephone-event", 48000),
        ("telephone-event", 8000),
    ]
    assert media.attribute("setup") == "actpass"
    assert WEBRTC.violations(offer) == []


def test_reading_the_pages_answer(web_endpoint: WebEndpoint) -> None:
    offer = web_side.make_offer(web_endpoint)
    page = replace(web_endpoint, ice_ufrag="pagepage", fingerprints=(Fingerprint("sha-256", ":".join(["CD"] * 32)),))
    answer, theirs = web_side.make_answer(offer, page)
    ours = web_side.read_answer(offer, answer)
    assert ours.codec.is_same_format(theirs.codec)
    assert ours.dtls_client is False and theirs.dtls_client is True
    assert ours.ice is not None and ours.ice.ufrag == "pagepage"
    assert ours.fingerprints == page.fingerprints


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("a=setup:active", "a=setup:actpass"), "actpass"),
        (("a=setup:active", "a=setup:holdconn"), "holdconn"),
        (("a=fingerprint:", "a=x-fingerprint:"), "no a=fingerprint"),
        (("a=ice-pwd:abcdefghijklmnopqrstuv", "a=ice-pwd:short"), "ice-pwd"),
        (("a=ice-ufrag:abcd", "a=ice-ufrag:ab d"), "ice-ufrag"),
        (("a=rtcp-mux\r\n", ""), "rtcp-mux"),
        (("opus/48000/2", "L16/48000/2"), "no format"),
        (("UDP/TLS/RTP/SAVPF", "RTP/AVP"), "protocol"),
        (("m=audio", "m=video"), "lines"),
    ],
)
def test_bad_answers(web_endpoint: WebEndpoint, change: tuple[str, str], message: str) -> None:
    offer = web_side.make_offer(web_endpoint, [OPUS])
    answer, _ = web_side.make_answer(offer, web_endpoint)
    with pytest.raises(SdpError, match=message) as caught:
        web_side.read_answer(offer, edited(answer, change))
    assert caught.value.status == 488


def test_a_refused_call(web_endpoint: WebEndpoint) -> None:
    offer = web_side.make_offer(web_endpoint)
    answer, _ = web_side.make_answer(offer, web_endpoint)
    assert not web_side.read_answer(offer, edited(answer, ("m=audio 40000", "m=audio 0"))).accepted


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (("a=fingerprint:", "a=x-fingerprint:"), 399),
        (("a=ice-ufrag:humq", "a=ice-ufrag:hu"), 399),
        (("a=rtcp-mux\r\n", ""), 399),
        (("a=setup:actpass", "a=setup:holdconn"), 399),
        (("UDP/TLS/RTP/SAVPF", "RTP/AVP"), 302),
        (("SAVPF 111 63 9 0 8 13 110 126", "SAVPF 63 13 110 126"), 305),
        (("m=audio", "m=video"), 304),
    ],
)
def test_offers_that_cannot_be_answered(
    sample: Sample, web_endpoint: WebEndpoint, change: tuple[str, str], warning: int
) -> None:
    offer = edited(sample("chromium_audio"), change)
    for attempt in (
        lambda: web_side.make_answer(offer, web_endpoint),
        lambda: web_side.check_offer(offer),
    ):
        with pytest.raises(SdpError) as caught:
            attempt()
        assert (caught.value.status, caught.value.warning) == (488, warning)
        assert warning == 304 or caught.value.line == 8


def test_broken_text_stays_400(sample: Sample, web_endpoint: WebEndpoint) -> None:
    for change in (("a=fingerprint:sha-256", "a=fingerprint:!"), ("a=rtpmap:111 opus", "a=rtpmap:opus")):
        with pytest.raises(SdpError) as caught:
            web_side.make_answer(edited(sample("chromium_audio"), change), web_endpoint)
        assert caught.value.status == 400


def test_a_refresh_changes_nothing(sample: Sample, web_endpoint: WebEndpoint) -> None:
    """rtpengine#226: the same offer again gets the same answer, version and credentials included."""
    offer = sample("chromium_audio")
    first, _ = web_side.make_answer(offer, web_endpoint)
    again, _ = web_side.make_answer(offer, web_endpoint, previous=first)
    assert again.encode() == first.encode()


def test_a_later_offer_of_ours(sample: Sample, web_endpoint: WebEndpoint) -> None:
    """The setup is open again, credentials and fingerprint stay: no new handshake (RFC 8842 section 5.2)."""
    answer, leg = web_side.make_answer(sample("chromium_audio_video_data"), web_endpoint)
    offer = next_offer(answer, leg, direction=Direction.SENDONLY)
    assert offer.origin.version == 2
    assert [media.port for media in offer.media] == [40000, 0, 0]
    assert offer.media[0].attribute("setup") == "actpass"
    assert offer.media[0].attribute("ice-ufrag") == "abcd"
    assert offer.media[0].formats == ["111", "110"]
    assert offer.direction_of(offer.media[0]) is Direction.SENDONLY


def test_relay_candidate_as_default(web_endpoint: WebEndpoint) -> None:
    candidate = Candidate("2", 1, "udp", 16777215, "2001:db8::9", 50001, "relay", "::", 9)
    offer = web_side.make_offer(replace(web_endpoint, candidates=(candidate,)), [PCMA])
    assert offer.media[0].port == 50001
    assert offer.media[0].connection is not None and offer.media[0].connection.address == "2001:db8::9"


@given(name=st.sampled_from(["chromium_audio", "chromium_audio_video_data", "firefox_like_audio"]), data=st.data())
def test_hostile_offers_raise_only_sdp_error(sample: Sample, name: str, data: st.DataObject) -> None:
    lines = sample(name).encode().split(b"\r\n")
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        cut = data.draw(st.integers(0, len(line)))
        lines[index] = line[:cut] + data.draw(st.binary(max_size=6)) + line[cut + data.draw(st.integers(0, 3)) :]
    endpoint = WebEndpoint(1, "abcd", "a" * 22, (), (Fingerprint("sha-256", "AB"),))
    try:
        offer = SessionDescription.parse(b"\r\n".join(lines))
        answer, leg = web_side.make_answer(offer, endpoint)
    except SdpError:
        return
    assert len(answer.media) == len(offer.media)
    assert SessionDescription.parse(answer.encode()).encode() == answer.encode()
    assert leg.ice is not None and leg.fingerprints
