"""Offer/answer by format: RFC 3264, RFC 4867 section 8.3.1, RFC 4733."""

import pytest

from imskit.sdp.attributes import Direction
from imskit.sdp.codec import Codec
from imskit.sdp.description import Line, MediaDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.negotiation import (
    AgreedCodec,
    LegMedia,
    accepted_codecs,
    answer_codecs,
    answer_direction,
    answer_event,
    number_formats,
    packet_times,
)
from imskit.sdp.profile import (
    AMR,
    AMR_WB,
    AMR_WB_OCTET_ALIGNED,
    IMS_FORMATS,
    IMS_FORMATS_WITH_G711,
    WEB_FORMATS,
)

OURS = "mode-change-capability=2;max-red=0"


def amr_wb(parameters: str = "", number: int = 97) -> Codec:
    return Codec(number, "AMR-WB", 16000, 1, parameters)


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ("", OURS),
        ("octet-align=0", f"octet-align=0;{OURS}"),
        ("octet-align=1", f"octet-align=1;{OURS}"),
        ("octet-align=1; mode-set=0,1,2", f"octet-align=1;mode-set=0,1,2;{OURS}"),
        ("mode-set=2", f"mode-set=2;{OURS}"),
        ("crc=0; robust-sorting=0; octet-align=1", f"octet-align=1;crc=0;robust-sorting=0;{OURS}"),
        ("mode-change-period=2; mode-change-neighbor=1; max-red=220", OURS),
        ("mode-change-capability=1", OURS),
        ("something-new=5", OURS),
    ],
)
def test_answer_repeats_what_it_must(offered: str, answered: str) -> None:
    """RFC 4867 section 8.3.1; livekit/media-sdk#87 and rtpengine#1921 are what happens otherwise."""
    ((line, agreed, _),) = answer_codecs([amr_wb(offered)], IMS_FORMATS)
    assert line.parameters == answered
    assert agreed.send_payload_type == agreed.receive_payload_type == 97
    assert agreed.amr is not None
    assert agreed.amr.octet_align == ("octet-align=1" in offered)


@pytest.mark.parametrize(
    "offered",
    [
        "crc=1",
        "octet-align=1;robust-sorting=1",
        "octet-align=1;interleaving=30",
        "octet-align=2",
        "mode-set=9",
        "mode-set=",
    ],
)
def test_a_payload_type_that_cannot_be_met_is_refused(offered: str) -> None:
    assert answer_codecs([amr_wb(offered)], IMS_FORMATS) == []
    plain = amr_wb("", 98)
    assert [line.payload_type for line, _, _ in answer_codecs([amr_wb(offered), plain], IMS_FORMATS)] == [98]


def test_other_shapes_are_refused() -> None:
    for codec in (
        Codec(97, "AMR-WB", 16000, 2),
        Codec(97, "AMR-WB", 8000),
        Codec(97, "EVS", 16000),
        Codec(97, "telephone-event", 16000),
    ):
        assert answer_codecs([codec], IMS_FORMATS) == []
    # Only the payload format that is configured.
    assert answer_codecs([amr_wb("octet-align=1")], [AMR_WB]) == []
    assert answer_codecs([amr_wb("")], [AMR_WB_OCTET_ALIGNED]) == []


def test_order_is_the_offers() -> None:
    offered = [Codec(8, "PCMA", 8000), Codec(118, "AMR", 8000), amr_wb()]
    assert [line.payload_type for line, _, _ in answer_codecs(offered, IMS_FORMATS_WITH_G711)] == [8, 118, 97]
    assert [line.payload_type for line, _, _ in answer_codecs(offered, [AMR])] == [118]


def test_the_encoder_learns_the_peers_wishes() -> None:
    offered = "octet-align=1;mode-set=0,2,4;mode-change-period=2;mode-change-neighbor=1"
    ((_, agreed, _),) = answer_codecs([amr_wb(offered)], IMS_FORMATS)
    assert agreed.amr is not None
    assert agreed.amr.mode_set == (0, 2, 4)
    assert agreed.amr.mode_change_period == 2 and agreed.amr.mode_change_neighbor


def test_telephone_event_of_the_same_clock() -> None:
    offered = [
        Codec(110, "telephone-event", 8000, 1, "0-15"),
        Codec(111, "TELEPHONE-EVENT", 16000, 1, "0-15,66"),
    ]
    event = answer_event(offered, 16000)
    assert event is not None and event[0].payload_type == 111 and event[0].parameters == "0-15"
    event = answer_event(offered, 48000)
    assert event is not None and event[0].payload_type == 110
    assert answer_event([], 8000) is None
    assert answer_event([Codec(110, "telephone-event", 8000, 1, "66-70")], 8000) is None
    assert answer_event([Codec(110, "telephone-event", 8000, 1, "x")], 8000) is None


def test_numbers_of_an_offer() -> None:
    codecs = number_formats(IMS_FORMATS_WITH_G711)
    assert [(codec.payload_type, codec.encoding) for codec in codecs] == [
        (96, "AMR-WB"),
        (97, "AMR-WB"),
        (98, "AMR"),
        (99, "AMR"),
        (8, "PCMA"),
        (0, "PCMU"),
        (100, "telephone-event"),
        (101, "telephone-event"),
    ]
    assert [codec.clock_rate for codec in codecs[-2:]] == [16000, 8000]
    web = number_formats(WEB_FORMATS)
    assert [codec.clock_rate for codec in web if codec.is_telephone_event] == [48000, 8000]


OFFERED = number_formats(IMS_FORMATS_WITH_G711)


@pytest.mark.parametrize(
    ("answered", "number", "octet_align", "mode_set"),
    [
        (amr_wb(OURS, 96), 96, False, None),
        (amr_wb(f"octet-align=1;{OURS}", 97), 97, True, None),
        (amr_wb("octet-align=0", 96), 96, False, None),
        # Left out against the text: the payload type still means what was offered (livekit/media-sdk#87).
        (amr_wb("", 97), 97, True, None),
        # A mode set that the answer brings binds both (RFC 4867 section 8.3.1).
        (amr_wb("mode-set=0,1,2", 96), 96, False, (0, 1, 2)),
        # The answerer's own number for it (RFC 3264 section 6.1).
        (amr_wb("octet-align=1", 120), 97, True, None),
        (amr_wb("", 120), 96, False, None),
    ],
)
def test_amr_answers(answered: Codec, number: int, octet_align: bool, mode_set: tuple[int, ...] | None) -> None:
    sound, events = accepted_codecs(OFFERED, [answered, Codec(100, "telephone-event", 16000, 1, "0-15")])
    (codec,) = sound
    assert codec.receive_payload_type == number
    assert codec.send_payload_type == answered.payload_type
    assert codec.amr is not None
    assert (codec.amr.octet_align, codec.amr.mode_set) == (octet_align, mode_set)
    assert [event.send_payload_type for event in events] == [100]


@pytest.mark.parametrize(
    "answered",
    [
        amr_wb("octet-align=1", 96),  # contradicts the offer
        amr_wb("octet-align=0", 97),
        amr_wb("crc=1", 96),
        amr_wb("octet-align=x", 96),
        Codec(96, "EVS", 16000),
        Codec(96, "AMR-WB", 16000, 2),
        Codec(18, "G729", 8000),
    ],
)
def test_answers_that_were_not_offered(answered: Codec) -> None:
    sound, events = accepted_codecs(OFFERED, [answered, Codec(101, "telephone-event", 8000, 1, "nonsense")])
    assert (sound, events) == ([], [])


def test_an_offered_mode_set_must_come_back() -> None:
    offered = [amr_wb("mode-set=0,1,2", 96)]
    for parameters, accepted in (("mode-set=0,1,2", True), ("", True), ("mode-set=0,1", False)):
        sound, _ = accepted_codecs(offered, [amr_wb(parameters, 96)])
        assert bool(sound) == accepted
        if sound:
            assert sound[0].amr is not None and sound[0].amr.mode_set == (0, 1, 2)


def test_relay_needs_the_same_payload_format() -> None:
    def agreed(parameters: str) -> AgreedCodec:
        ((_, codec, _),) = answer_codecs([amr_wb(parameters)], IMS_FORMATS)
        return codec

    assert agreed("").is_same_format(agreed("max-red=20"))
    assert not agreed("").is_same_format(agreed("octet-align=1"))
    assert not agreed("").is_same_format(agreed("mode-set=2"))
    pcma = AgreedCodec("PCMA", 8000, 1, 8, 8)
    assert pcma.is_same_format(AgreedCodec("pcma", 8000, 1, 8, 108))
    assert not pcma.is_same_format(AgreedCodec("PCMU", 8000, 1, 0, 0))
    assert not pcma.is_same_format(agreed(""))


@pytest.mark.parametrize(
    ("offered", "wanted", "answered"),
    [
        ("sendrecv", "sendrecv", "sendrecv"),
        ("sendonly", "sendrecv", "recvonly"),
        ("recvonly", "sendrecv", "sendonly"),
        ("inactive", "sendrecv", "inactive"),
        ("sendrecv", "recvonly", "recvonly"),
        ("sendonly", "sendonly", "inactive"),
    ],
)
def test_directions(offered: str, wanted: str, answered: str) -> None:
    """RFC 3264 section 6.1."""
    assert answer_direction(Direction(offered), Direction(wanted)) == answered


def test_packet_times_are_bounded() -> None:
    def times(*attributes: str) -> tuple[int, int]:
        lines = [Line("a", value) for value in attributes]
        return packet_times(MediaDescription("audio", 9, "RTP/AVP", ["0"], lines))

    assert times() == (20, 240)
    assert times("ptime:40", "maxptime:80") == (40, 80)
    assert times("ptime:1000", "maxptime:1000") == (240, 240)
    assert times("ptime:0", "maxptime:0") == (20, 20)
    with pytest.raises(SdpError):
        times("ptime:x")


def test_a_refused_line_has_no_codec() -> None:
    with pytest.raises(SdpError) as caught:
        _ = LegMedia(0, accepted=False).codec
    assert caught.value.status == 488


def test_telephone_event_beside_the_codec() -> None:
    wide = AgreedCodec("AMR-WB", 16000, 1, 97, 97)
    event8 = AgreedCodec("telephone-event", 8000, 1, 100, 100)
    event16 = AgreedCodec("telephone-event", 16000, 1, 101, 101)
    assert LegMedia(0, True, (wide,), (event8, event16)).telephone_event is event16
    assert LegMedia(0, True, (wide,), (event8,)).telephone_event is event8
    assert LegMedia(0, True, (wide,)).telephone_event is None
