"""The lossless tree: RFC 8866 section 5; what comes in untouched goes out the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aiortc.sdp import SessionDescription as OtherDescription
from hypothesis import given
from hypothesis import strategies as st

from imskit.sdp.attributes import Candidate, Direction, Fingerprint, RtcpAddress
from imskit.sdp.codec import codecs_of
from imskit.sdp.description import (
    MAX_MEDIA,
    MAX_OCTETS,
    Connection,
    MediaDescription,
    Origin,
    SessionDescription,
)
from imskit.sdp.errors import SdpError

type Sample = Callable[[str], SessionDescription]

MINIMAL = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n"
DATA = [path.read_bytes() for path in sorted((Path(__file__).parent / "data").glob("*.sdp"))]


def look_at_everything(description: SessionDescription) -> None:
    """Call whatever parses on demand."""
    _ = description.origin, description.connection, description.bandwidths
    for media in description.media:
        _ = media.bandwidths, description.connection_of(media), description.direction_of(media)
        if media.media in ("audio", "video"):
            codecs_of(media)
        media.typed("candidate", Candidate.parse)
        media.typed("rtcp", RtcpAddress.parse)
        description.effective(media, "fingerprint", Fingerprint.parse)


def test_untouched_is_identical(sample_path: Path) -> None:
    data = sample_path.read_bytes()
    description = SessionDescription.parse(data)
    assert description.encode() == data
    look_at_everything(description)
    assert description.encode() == data
    assert description.copy().encode() == data


@pytest.mark.parametrize(
    "data",
    [
        MINIMAL.replace("\r\n", "\n").encode(),
        MINIMAL.rstrip().encode(),
        MINIMAL.encode() + b"\r\n\r\n",
        MINIMAL.encode() + b"a=x-unknown:  two  spaces \r\na=\xff\xfe\r\n",
        (MINIMAL + "m=audio  9  RTP/AVP   0\r\nc=IN IP4 192.0.2.1\r\n").encode(),
        (MINIMAL + "m=video 49170/2 RTP/AVP 31\r\nc=IN IP4 224.2.1.1/127/3\r\n").encode(),
    ],
)
def test_odd_spelling_survives(data: bytes) -> None:
    assert SessionDescription.parse(data).encode() == data


def test_a_change_touches_its_line_only(sample: Sample) -> None:
    description = sample("chromium_audio_video_data")
    before = description.encode().split(b"\r\n")
    description.media[1].port = 0
    after = description.encode().split(b"\r\n")
    changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert changed == [42]
    assert after[42].startswith(b"m=video 0 UDP/TLS/RTP/SAVPF 96 97")


def test_other_parser_sees_the_same(sample_path: Path) -> None:
    """aiortc's parser, which nobody here wrote, on every sample that it can read."""
    text = sample_path.read_text()
    ours, other = SessionDescription.parse(text), OtherDescription.parse(text)
    assert len(ours.media) == len(other.media)
    for media, line in zip(ours.media, other.media, strict=True):
        assert (media.media, media.port, media.protocol) == (line.kind, line.port, line.profile)
        connection = ours.connection_of(media)
        assert connection is not None and connection.address == (line.host or other.host)
        if media.media == "application":
            continue
        # A browser's second format of a kind may be unknown to aiortc's table; the listed ones must agree.
        expected = {
            codec.payloadType: (codec.name.lower(), codec.clockRate, codec.channels or 1) for codec in line.rtp.codecs
        }
        found = {
            codec.payload_type: (codec.encoding.lower(), codec.clock_rate, codec.channels) for codec in codecs_of(media)
        }
        assert {number: found[number] for number in expected} == expected
        if line.ice.usernameFragment:
            assert media.attribute("ice-ufrag") == line.ice.usernameFragment
            assert media.attribute("ice-pwd") == line.ice.password
            prints = ours.effective(media, "fingerprint", Fingerprint.parse)
            assert [(item.algorithm, item.value) for item in prints] == [
                (item.algorithm, item.value) for item in line.dtls.fingerprints
            ]
            assert [candidate.port for candidate in media.typed("candidate", Candidate.parse)] == [
                candidate.port for candidate in line.ice_candidates
            ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "begin"),
        ("v=0\r\n", 1, "begin"),
        (MINIMAL.replace("v=0", "v=1"), 1, "version"),
        (MINIMAL.replace("t=0 0\r\n", ""), 0, "no t="),
        (MINIMAL + "o=- 1 1 IN IP4 192.0.2.1\r\n", 0, "more than one o="),
        (MINIMAL.replace("o=- 1 1 IN IP4 192.0.2.1", "o=- 1 1 IN IP4"), 2, "5 fields"),
        (MINIMAL.replace("o=- 1 1", "o=- x 1"), 2, "no number"),
        (MINIMAL.replace("IN IP4", "ATM NSAP"), 2, "network type"),
        (MINIMAL + "x=1\r\n", 5, "'x'"),
        (MINIMAL + "a\r\n", 5, "<type>="),
        (MINIMAL + "A=b\r\n", 5, "<type>="),
        (MINIMAL + "\r\na=b\r\n", 5, "empty line"),
        (MINIMAL + "a=b\rc\r\n", 5, "line break"),
        (MINIMAL + "a=b\0c\r\n", 5, "NUL"),
        (MINIMAL + "c=IN IP4\r\n", 5, "c="),
        (MINIMAL + "m=audio 9 RTP/AVP\r\n", 5, "lacks a field"),
        (MINIMAL + "m=audio x RTP/AVP 0\r\n", 5, "no number"),
        (MINIMAL + "m=audio 65536 RTP/AVP 0\r\n", 5, "port 65536"),
        (MINIMAL + "m=audio 9 RTP/AVP 0\r\n", 5, "no c="),
        (MINIMAL + "m=audio 9 RTP/AVP 0\r\nt=0 0\r\n", 6, "'t'"),
        (MINIMAL + "m=audio 9 RTP/AVP 0\r\nc=IN\r\n", 6, "c="),
    ],
)
def test_malformed_names_the_line(text: str, line: int, what: str) -> None:
    with pytest.raises(SdpError, match=what) as caught:
        SessionDescription.parse(text)
    assert caught.value.line == line
    assert caught.value.status == 400
    assert caught.value.clause


def test_limits() -> None:
    with pytest.raises(SdpError, match="octets"):
        SessionDescription.parse(b"v" * (MAX_OCTETS + 1))
    with pytest.raises(SdpError, match="too many media"):
        SessionDescription.parse(MINIMAL + "m=audio 0 RTP/AVP 0\n" * (MAX_MEDIA + 1))
    with pytest.raises(SdpError, match="too many lines"):
        SessionDescription.parse(MINIMAL + "a=b\n" * 5000)
    with pytest.raises(SdpError, match="no number"):
        SessionDescription.parse(MINIMAL + "b=AS:" + "9" * 5000 + "\r\n").bandwidths  # noqa: B018


@given(st.data())
def test_hostile_input_raises_only_sdp_error(data: st.DataObject) -> None:
    valid = data.draw(st.sampled_from(DATA))
    position = data.draw(st.integers(0, len(valid)))
    noise = data.draw(
        st.binary(max_size=30)
        | st.sampled_from([b"a=rtpmap:", b"a=fmtp:96 ", b"m=audio 1 ", b"c=IN ", b"a=candidate:1 1 udp "])
    )
    rest = valid[position + data.draw(st.integers(0, 5)) :] if data.draw(st.booleans()) else b""
    try:
        look_at_everything(SessionDescription.parse(valid[:position] + noise + rest))
    except SdpError:
        pass


@pytest.mark.parametrize("data", [DATA[0], DATA[-1]], ids=["web", "ims"])
def test_truncation_at_each_octet(data: bytes) -> None:
    for size in range(len(data)):
        try:
            look_at_everything(SessionDescription.parse(data[:size]))
        except SdpError:
            continue
        # What is read nevertheless lost whole lines, or the end of an attribute, nothing before it.
        assert SessionDescription.parse(data[:size]).encode() == data[:size]


def test_lines_go_to_their_place() -> None:
    """RFC 8866 section 5: b= before t=, c= before b=, attributes last."""
    description = SessionDescription.create(Origin("-", 1, 1, "IP4", "192.0.2.1"))
    description.add_attribute("group", "BUNDLE 0")
    description.add("b", "AS:41")
    description.add("c", "IN IP4 192.0.2.1")
    media = MediaDescription("audio", 9, "RTP/AVP", ["0"])
    media.add_attribute("sendrecv")
    media.add("b", "AS:41")
    media.add("b", "RS:0")
    media.add("c", "IN IP4 192.0.2.2")
    description.media.append(media)
    assert "".join(line.type for line in description.lines) == "voscbta"
    assert [line.value for line in media.lines] == ["IN IP4 192.0.2.2", "AS:41", "RS:0", "sendrecv"]
    assert SessionDescription.parse(description.encode()).encode() == description.encode()
    assert media.bandwidths == {"AS": 41, "RS": 0}
    assert description.connection_of(media) == Connection("IP4", "192.0.2.2")


def test_attributes() -> None:
    description = SessionDescription.parse(MINIMAL + "a=x\r\na=x:1\r\na=xy:2\r\na=x:3:4\r\n")
    assert description.attributes("x") == ["", "1", "3:4"]
    assert description.attribute("xy") == "2"
    assert description.attribute("y") is None
    description.remove_attributes("x")
    assert description.encode().endswith(b"t=0 0\r\na=xy:2\r\n")
    with pytest.raises(SdpError):
        description.add_attribute("x", "1\r\nc=IN IP4 192.0.2.66")


def test_direction() -> None:
    description = SessionDescription.parse(
        MINIMAL + "c=IN IP4 192.0.2.1\r\na=recvonly\r\nm=audio 9 RTP/AVP 0\r\nm=audio 9 RTP/AVP 0\r\na=inactive\r\n"
    )
    first, second = description.media
    assert description.direction_of(first) is Direction.RECVONLY
    assert description.direction_of(second) is Direction.INACTIVE
    second.set_direction(Direction.SENDONLY)
    first.set_direction(Direction.SENDRECV)
    assert description.encode().endswith(b"a=sendrecv\r\nm=audio 9 RTP/AVP 0\r\na=sendonly\r\n")
    plain = SessionDescription.parse(MINIMAL + "c=IN IP4 192.0.2.1\r\nm=audio 9 RTP/AVP 0\r\n")
    assert plain.direction_of(plain.media[0]) is Direction.SENDRECV


def test_version_goes_up_when_something_changed(sample: Sample) -> None:
    """RFC 3264 section 8: the same description keeps its version, another is one up."""
    first = sample("field_volte_offer")
    same = sample("field_volte_offer")
    same.origin = Origin("x", 5, 5, "IP4", "192.0.2.9")
    same.succeed(first)
    assert same.origin == first.origin
    other = sample("field_volte_offer")
    other.media[0].set_direction(Direction.SENDONLY)
    other.succeed(first)
    assert other.origin.version == first.origin.version + 1
    assert other.origin.session_id == first.origin.session_id
    other.succeed(None)
    assert other.origin.version == first.origin.version + 1


def test_null_address() -> None:
    assert Connection.parse("IN IP4 0.0.0.0").is_null
    assert Connection.parse("IN IP6 ::").is_null
    assert not Connection.to("192.0.2.1").is_null
    assert str(Connection.to("2001:db8::1")) == "IN IP6 2001:db8::1"
