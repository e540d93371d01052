"""Payload formats of a line: RFC 8866 sections 6.6 and 6.15, RFC 3551, RFC 4867 section 8."""

from collections.abc import Callable

import pytest

from imskit.sdp.codec import (
    AmrParameters,
    Codec,
    amr_parameters,
    clock_rates,
    codecs_of,
    is_amr,
    parameter_map,
    telephone_events,
)
from imskit.sdp.description import Line, MediaDescription, SessionDescription
from imskit.sdp.errors import SdpError

type Sample = Callable[[str], SessionDescription]


def media(formats: str, *attributes: str) -> MediaDescription:
    section = MediaDescription.parse(Line("m", f"audio 9 RTP/AVP {formats}", 5))
    section.lines = [Line("a", value, 6 + index) for index, value in enumerate(attributes)]
    return section


def test_a_browser_offer(sample: Sample) -> None:
    codecs = codecs_of(sample("chromium_audio").media[0])
    assert codecs == [
        Codec(111, "opus", 48000, 2, "minptime=10;useinbandfec=1"),
        Codec(63, "red", 48000, 2, "111/111"),
        Codec(9, "G722", 8000),
        Codec(0, "PCMU", 8000),
        Codec(8, "PCMA", 8000),
        Codec(13, "CN", 8000),
        Codec(110, "telephone-event", 48000),
        Codec(126, "telephone-event", 8000),
    ]
    assert clock_rates(codecs) == [48000, 8000]


def test_static_types_need_no_rtpmap() -> None:
    assert codecs_of(media("0 8 9 18 96")) == [
        Codec(0, "PCMU", 8000),
        Codec(8, "PCMA", 8000),
        Codec(9, "G722", 8000),
        Codec(18, "G729", 8000),
    ]


def test_order_is_that_of_the_line_and_repeats_are_dropped() -> None:
    section = media(
        "97 96 97", "rtpmap:96 AMR/8000", "rtpmap:97 AMR-WB/16000", "rtpmap:97 X/1", "fmtp:97 a=1", "fmtp:97 b=2"
    )
    assert codecs_of(section) == [Codec(97, "AMR-WB", 16000, 1, "a=1;b=2"), Codec(96, "AMR", 8000)]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        (media("x"), 5),
        (media("128"), 5),
        (media("webrtc-datachannel"), 5),
        (media("96", "sendrecv", "rtpmap:96 AMR"), 7),
        (media("96", "fmtp:"), 6),
    ],
)
def test_malformed(section: MediaDescription, line: int) -> None:
    with pytest.raises(SdpError) as caught:
        codecs_of(section)
    assert caught.value.line == line


def test_written_as_read() -> None:
    section = media("97", "rtpmap:97 AMR-WB/16000/1", "fmtp:97 octet-align=1")
    copy = MediaDescription("audio", 9, "RTP/AVP", [])
    for codec in codecs_of(section):
        codec.write(copy)
    assert [line.value for line in copy.lines] == ["rtpmap:97 AMR-WB/16000/1", "fmtp:97 octet-align=1"]
    assert copy.formats == ["97"]


def test_parameter_map() -> None:
    assert parameter_map(" Octet-Align=1 ; mode-set=0,2;;x ; mode-set=7") == {
        "octet-align": "1",
        "mode-set": "0,2",
        "x": "",
    }


def test_telephone_events() -> None:
    """RFC 4733 section 2.4.1; without the parameter DTMF is assumed (section 2.5.1.1)."""
    assert telephone_events("0-15,66,70") == frozenset(range(16)) | {66, 70}
    assert telephone_events("") == frozenset(range(16))
    assert telephone_events('events="0-11"') == frozenset(range(12))
    for wrong in ("0-256", "x", "1-", "-1", "0-15,"):
        with pytest.raises(SdpError):
            telephone_events(wrong)


def test_amr_defaults_and_values() -> None:
    """RFC 4867 section 8.1: what is absent has a value too."""
    assert AmrParameters.parse("", wideband=False) == AmrParameters()
    assert AmrParameters.parse(
        "octet-align=1; mode-set=2,0,1; mode-change-period=2; mode-change-capability=2; "
        "mode-change-neighbor=1; max-red=220; unknown=5",
        wideband=True,
    ) == AmrParameters(True, (0, 1, 2), 2, 2, True, max_red=220)
    assert AmrParameters.parse("crc=0;robust-sorting=0", wideband=True).is_plain
    assert not AmrParameters.parse("crc=1", wideband=True).is_plain
    assert not AmrParameters.parse("robust-sorting=1", wideband=True).is_plain
    assert not AmrParameters.parse("interleaving=30", wideband=True).is_plain


@pytest.mark.parametrize(
    "parameters",
    [
        "octet-align=2",
        "octet-align=",
        "mode-set=",
        "mode-set=8",
        "mode-set=1,x",
        "mode-change-period=3",
        "mode-change-capability=0",
        "mode-change-neighbor=yes",
        "crc=yes",
        "interleaving=x",
        "max-red=65536",
    ],
)
def test_impermissible_amr_values(parameters: str) -> None:
    with pytest.raises(SdpError):
        amr_parameters(Codec(96, "AMR", 8000, 1, parameters))


def test_mode_8_is_wideband_only() -> None:
    assert amr_parameters(Codec(96, "amr-wb", 16000, 1, "mode-set=8")).mode_set == (8,)


def test_amr_has_its_clock_rate() -> None:
    """RFC 4867 section 8.3: 8000 for AMR, 16000 for AMR-WB, no other."""
    assert is_amr(Codec(96, "AMR", 8000)) and is_amr(Codec(96, "amr-wb", 16000))
    assert not is_amr(Codec(96, "AMR", 16000)) and not is_amr(Codec(96, "AMR-WB", 8000))
