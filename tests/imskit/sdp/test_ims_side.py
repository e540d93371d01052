"""Offers and answers of the IMS profile: IR.92, TS 26.114, TS 34.229-1 cases 12.12, 12.13, 15.11, 15.12, 16.2-16.4."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sdp import ims_side, preconditions
from imskit.sdp.attributes import Direction
from imskit.sdp.codec import codecs_of
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import next_offer
from imskit.sdp.profile import AMR, AMR_WB, IMS, IMS_FORMATS, IMS_FORMATS_WITH_G711

type Sample = Callable[[str], SessionDescription]

PEER = ImsEndpoint("10.46.0.2", 60000, 99)


def edited(description: SessionDescription, *changes: tuple[str, str]) -> SessionDescription:
    text = description.encode().decode()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return SessionDescription.parse(text)


def test_the_offer_to_the_letter(ims_endpoint: ImsEndpoint) -> None:
    offer = ims_side.make_offer(ims_endpoint, preconditions=preconditions.first_offer(False))
    assert offer.encode().decode().split("\r\n") == [
        "v=0",
        "o=- 4711 1 IN IP4 10.45.0.2",
        "s=-",
        "c=IN IP4 10.45.0.2",
        "b=AS:41",
        "t=0 0",
        "m=audio 50000 RTP/AVP 96 97 98 99 100 101",
        "b=AS:41",
        "b=RS:512",
        "b=RR:1537",
        "a=rtpmap:96 AMR-WB/16000",
        "a=fmtp:96 mode-change-capability=2;max-red=0",
        "a=rtpmap:97 AMR-WB/16000",
        "a=fmtp:97 octet-align=1;mode-change-capability=2;max-red=0",
        "a=rtpmap:98 AMR/8000",
        "a=fmtp:98 mode-change-capability=2;max-red=0",
        "a=rtpmap:99 AMR/8000",
        "a=fmtp:99 octet-align=1;mode-change-capability=2;max-red=0",
        "a=rtpmap:100 telephone-event/16000",
        "a=fmtp:100 0-15",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=ptime:20",
        "a=maxptime:240",
        "a=curr:qos local none",
        "a=curr:qos remote none",
        "a=des:qos mandatory local sendrecv",
        "a=des:qos optional remote sendrecv",
        "a=sendrecv",
        "",
    ]
    assert IMS.violations(offer) == []


def test_ipv6_and_an_rtcp_port_elsewhere() -> None:
    offer = ims_side.make_offer(ImsEndpoint("2001:db8::2", 50000, 1, rtcp_port=50007), [AMR])
    text = offer.encode().decode()
    assert "o=- 1 1 IN IP6 2001:db8::2\r\n" in text and "c=IN IP6 2001:db8::2\r\n" in text
    assert "b=AS:37\r\n" in text  # TS 26.114: AMR 12.2 on IPv6
    assert "a=rtcp:50007\r\n" in text
    _, leg = ims_side.make_answer(offer, PEER)
    assert (leg.remote_address, leg.remote_port, leg.rtcp_port) == ("2001:db8::2", 50000, 50007)


def test_answer_to_the_field_offer(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    """One format with its telephone-event; octet-align and /1 as offered."""
    answer, leg = ims_side.make_answer(sample("field_volte_offer"), ims_endpoint)
    assert answer.encode().decode().split("\r\n")[6:-1] == [
        "m=audio 50000 RTP/AVP 107 111",
        "b=AS:41",
        "b=RS:512",
        "b=RR:1537",
        "a=rtpmap:107 AMR-WB/16000/1",
        "a=fmtp:107 octet-align=1;mode-change-capability=2;max-red=0",
        "a=rtpmap:111 telephone-event/16000",
        "a=fmtp:111 0-15",
        "a=ptime:20",
        "a=maxptime:240",
        "a=sendrecv",
    ]
    assert IMS.violations(answer, offer=False) == []
    assert leg.codec.amr is not None and leg.codec.amr.octet_align
    assert leg.telephone_event is not None and leg.telephone_event.clock_rate == 16000
    assert (leg.remote_address, leg.remote_port, leg.rtcp_port) == ("10.20.30.41", 41234, 41235)
    assert leg.rtcp_bandwidths == (512, 1537)
    assert leg.direction is Direction.SENDRECV and not leg.rtcp_mux


def test_answer_to_the_conformance_offer_with_preconditions(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    """TS 34.229-1 case 12.13a: bandwidth-efficient AMR-WB; RS 0 is taken as it is; the table of the 183."""
    offer = sample("conformance_mt_offer")
    peer = preconditions.read(offer.media[0])
    assert peer is not None
    table = preconditions.answer(peer, True)
    answer, leg = ims_side.make_answer(offer, ims_endpoint, preconditions=table)
    assert answer.media[0].formats == ["97", "98"]
    assert answer.media[0].attributes("curr") == ["qos local sendrecv", "qos remote sendrecv"]
    assert leg.rtcp_bandwidths == (0, 2000)
    assert preconditions.read(answer.media[0]) == table


def test_evs_and_capabilities_are_passed_over(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    """TS 26.114 annex A.14: EVS is not had here; tcap and pcfg may be ignored: the answer is plain AVP."""
    answer, leg = ims_side.make_answer(sample("evs_offer"), ims_endpoint)
    assert answer.media[0].protocol == "RTP/AVP"
    assert answer.media[0].formats == ["97", "101"]
    assert leg.codec.encoding == "AMR-WB"
    assert "acfg" not in answer.encode().decode()


@pytest.mark.parametrize(
    ("modes", "session"), [("0,1,2", 30), ("0,1,2,8", 41), ("0", 24)], ids=["12.65", "23.85", "6.60"]
)
def test_bandwidth_of_a_mode_set(sample: Sample, ims_endpoint: ImsEndpoint, modes: str, session: int) -> None:
    """Cases 16.3, 16.4: a selected mode set comes back unmodified and sets the bandwidth."""
    offer = edited(sample("conformance_mt_offer"), ("fmtp:97 ", f"fmtp:97 mode-set={modes}; "))
    answer, leg = ims_side.make_answer(offer, ims_endpoint)
    assert answer.media[0].bandwidths["AS"] == session
    assert f"mode-set={modes};" in (answer.media[0].attribute("fmtp") or "")
    assert leg.codec.amr is not None and leg.codec.amr.mode_set == tuple(map(int, modes.split(",")))


def test_both_sides_agree(ims_endpoint: ImsEndpoint) -> None:
    offer = ims_side.make_offer(ims_endpoint, IMS_FORMATS_WITH_G711)
    answer, theirs = ims_side.make_answer(offer, PEER, IMS_FORMATS)
    ours = ims_side.read_answer(offer, answer)
    assert ours.codec.is_same_format(theirs.codec)
    assert ours.codec.send_payload_type == theirs.codec.receive_payload_type
    assert ours.telephone_event is not None and theirs.telephone_event is not None
    assert ours.telephone_event.send_payload_type == theirs.telephone_event.receive_payload_type
    assert (ours.remote_address, ours.remote_port) == ("10.46.0.2", 60000)
    assert (theirs.remote_address, theirs.remote_port) == ("10.45.0.2", 50000)


@pytest.mark.parametrize("formats", [[AMR], IMS_FORMATS_WITH_G711[4:], IMS_FORMATS[1:2]])
def test_selected_formats(sample: Sample, ims_endpoint: ImsEndpoint, formats: list[object]) -> None:
    offer = ims_side.make_offer(PEER, formats)  # type: ignore[arg-type]
    answer, leg = ims_side.make_answer(offer, ims_endpoint, IMS_FORMATS_WITH_G711)
    assert leg.codec.encoding == formats[0].encoding  # type: ignore[attr-defined]
    assert leg.telephone_event is not None
    assert leg.telephone_event.clock_rate == leg.codec.clock_rate
    assert len(answer.media[0].formats) == 2


def test_other_lines_are_refused_in_place(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    """RFC 3264 section 6: same lines in the same order, port 0 for what is not had; case 17.1's video."""
    text = sample("field_volte_offer").encode().decode()
    audio = text[text.index("m=audio") :]
    offer = SessionDescription.parse(
        text.replace("m=audio", "m=video 5002 RTP/AVP 99\r\na=rtpmap:99 H264/90000\r\nm=audio")
        + "m=message 2855 TCP/MSRP *\r\n"
        + audio.replace("41234", "41300")
    )
    answer, leg = ims_side.make_answer(offer, ims_endpoint)
    assert leg.index == 1
    assert [(media.media, media.port) for media in answer.media] == [
        ("video", 0),
        ("audio", 50000),
        ("message", 0),
        ("audio", 0),
    ]
    assert answer.media[2].formats == ["*"]
    assert SessionDescription.parse(answer.encode()).encode() == answer.encode()


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (("RTP/AVP 107 116 96 118 111 110", "RTP/AVP 111 110"), 305),
        (("RTP/AVP", "RTP/SAVP"), 302),
        (("RTP/AVP", "UDP/TLS/RTP/SAVPF"), 302),
        (("m=audio", "m=video"), 304),
        (("m=audio 41234", "m=audio 0"), 304),
    ],
)
def test_nothing_acceptable(sample: Sample, ims_endpoint: ImsEndpoint, change: tuple[str, str], warning: int) -> None:
    with pytest.raises(SdpError) as caught:
        ims_side.make_answer(edited(sample("field_volte_offer"), change), ims_endpoint)
    assert (caught.value.status, caught.value.warning) == (488, warning)
    if warning != 304:
        assert caught.value.line == 6


def test_avpf_is_answered_as_it_is(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    offer = edited(sample("field_volte_offer"), ("RTP/AVP", "RTP/AVPF"), ("a=ptime:20", "a=rtcp-mux"))
    answer, leg = ims_side.make_answer(offer, ims_endpoint)
    assert answer.media[0].protocol == "RTP/AVPF"
    assert not leg.rtcp_mux and answer.media[0].attribute("rtcp-mux") is None  # [R-MUX]


@pytest.mark.parametrize(
    ("offered", "answered"),
    [("sendonly", "recvonly"), ("inactive", "inactive"), ("recvonly", "sendonly"), ("sendrecv", "sendrecv")],
)
def test_hold(sample: Sample, ims_endpoint: ImsEndpoint, offered: str, answered: str) -> None:
    """Cases 15.11, 15.12."""
    offer = edited(sample("field_volte_offer"), ("a=sendrecv", f"a={offered}"))
    answer, leg = ims_side.make_answer(offer, ims_endpoint)
    assert answer.direction_of(answer.media[0]) == answered == leg.direction


def test_hold_of_old(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    """RFC 3264 section 8.4: c=0.0.0.0 is tolerated and means that the peer does not receive."""
    offer = edited(sample("field_volte_offer"), ("c=IN IP4 10.20.30.41", "c=IN IP4 0.0.0.0"))
    _, leg = ims_side.make_answer(offer, ims_endpoint)
    assert leg.direction is Direction.RECVONLY
    assert leg.remote_address is None


def test_rtcp_turned_off(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    """TS 34.229-5 case 7.13: RS and RR 0."""
    offer = edited(sample("field_volte_offer"), ("b=RS:512", "b=RS:0"), ("b=RR:1537", "b=RR:0"))
    assert ims_side.make_answer(offer, ims_endpoint)[1].rtcp_bandwidths == (0, 0)


def test_version_of_a_later_answer(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    """RFC 3264 section 8: unchanged, so unchanged; a hold is one up; the session id stays."""
    offer = sample("field_volte_offer")
    first, _ = ims_side.make_answer(offer, ims_endpoint)
    again, _ = ims_side.make_answer(offer, replace(ims_endpoint, session_id=5), previous=first)
    assert again.encode() == first.encode()
    held, _ = ims_side.make_answer(edited(offer, ("a=sendrecv", "a=sendonly")), ims_endpoint, previous=first)
    assert (held.origin.session_id, held.origin.version) == (4711, 2)


def test_next_offer_holds_and_resumes(ims_endpoint: ImsEndpoint) -> None:
    """Only the agreed format is offered again, under its number; the precondition is not open again."""
    offer = ims_side.make_offer(ims_endpoint, preconditions=preconditions.first_offer(False))
    answer, _ = ims_side.make_answer(offer, PEER)
    leg = ims_side.read_answer(offer, answer)
    table = preconditions.offer(preconditions.first_offer(True), True)
    hold = next_offer(offer, leg, direction=Direction.SENDONLY, preconditions=table)
    assert (hold.origin.session_id, hold.origin.version) == (4711, 2)
    assert hold.media[0].formats == ["96", "100"]
    assert hold.media[0].attributes("rtpmap") == ["96 AMR-WB/16000", "100 telephone-event/16000"]
    assert len(hold.media[0].attributes("fmtp")) == 2
    assert hold.direction_of(hold.media[0]) is Direction.SENDONLY
    assert hold.media[0].attributes("curr") == ["qos local sendrecv", "qos remote none"]
    assert IMS.violations(hold) == []
    resume = next_offer(hold, leg, direction=Direction.SENDRECV)
    assert resume.origin.version == 3
    assert resume.media[0].attribute("curr") is None
    assert next_offer(resume, leg).origin.version == 3


def test_next_offer_after_having_answered(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    """The answerer's later offer keeps every line and number of the session."""
    text = sample("field_volte_offer").encode().decode() + "m=video 5002 RTP/AVP 99\r\n"
    answer, leg = ims_side.make_answer(SessionDescription.parse(text), ims_endpoint)
    offer = next_offer(answer, leg, direction=Direction.INACTIVE)
    assert [(media.media, media.port) for media in offer.media] == [("audio", 50000), ("video", 0)]
    assert offer.media[0].formats == ["107", "111"]
    assert offer.origin.version == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("RTP/AVP 96 100", "RTP/SAVP 96 100"), "protocol"),
        (("AMR-WB/16000", "EVS/16000"), "no format"),
        (("m=audio", "m=video"), "lines"),
    ],
)
def test_bad_answers(ims_endpoint: ImsEndpoint, change: tuple[str, str], message: str) -> None:
    offer = ims_side.make_offer(ims_endpoint)
    answer, _ = ims_side.make_answer(offer, PEER)
    with pytest.raises(SdpError, match=message) as caught:
        ims_side.read_answer(offer, edited(answer, change))
    assert caught.value.status == 488


def test_a_refused_sound_line(ims_endpoint: ImsEndpoint) -> None:
    offer = ims_side.make_offer(ims_endpoint)
    answer, _ = ims_side.make_answer(offer, PEER)
    refused = edited(answer, ("m=audio 60000", "m=audio 0"))
    assert not ims_side.read_answer(offer, refused).accepted


def test_an_answer_with_several_formats(ims_endpoint: ImsEndpoint) -> None:
    """RFC 3264 section 6.1 allows it: the first is sent, all are understood."""
    offer = ims_side.make_offer(ims_endpoint)
    answer = edited(ims_side.make_offer(PEER), ("o=- 99 1", "o=- 99 7"))
    leg = ims_side.read_answer(offer, answer)
    assert [codec.receive_payload_type for codec in leg.codecs] == [96, 97, 98, 99]
    assert {event.clock_rate for event in leg.telephone_events} == {8000, 16000}


def test_rtcp_attribute_of_the_peer(sample: Sample, ims_endpoint: ImsEndpoint) -> None:
    offer = edited(sample("field_volte_offer"), ("a=ptime:20", "a=rtcp:50099 IN IP4 10.9.9.9"))
    _, leg = ims_side.make_answer(offer, ims_endpoint)
    assert (leg.rtcp_address, leg.rtcp_port) == ("10.9.9.9", 50099)


DATA = st.sampled_from(["field_volte_offer", "conformance_mt_offer", "evs_offer", "chromium_audio_video_data"])


@given(name=DATA, data=st.data())
def test_hostile_offers_raise_only_sdp_error(sample: Sample, name: str, data: st.DataObject) -> None:
    lines = sample(name).encode().split(b"\r\n")
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        cut = data.draw(st.integers(0, len(line)))
        lines[index] = line[:cut] + data.draw(st.binary(max_size=6)) + line[cut + data.draw(st.integers(0, 3)) :]
    try:
        offer = SessionDescription.parse(b"\r\n".join(lines))
        answer, leg = ims_side.make_answer(offer, PEER)
    except SdpError:
        return
    assert len(answer.media) == len(offer.media)
    assert SessionDescription.parse(answer.encode()).encode() == answer.encode()
    offered = {codec.payload_type: codec for codec in codecs_of(offer.media[leg.index])}
    for codec in codecs_of(answer.media[leg.index]):
        assert codec.is_same_format(offered[codec.payload_type])


def test_late_offer_is_answered_in_the_ack_or_prack() -> None:
    """An INVITE without SDP (TS 34.229-5 case 7.10): the offer is made from nothing, here or there."""
    offer = ims_side.make_offer(PEER, [AMR_WB])
    _, leg = ims_side.make_answer(offer, ImsEndpoint("10.45.0.2", 50000, 1))
    assert leg.accepted
