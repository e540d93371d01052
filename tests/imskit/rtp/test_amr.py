"""AMR and AMR-WB payload and storage formats: RFC 4867, its figures as vectors, and tshark's dissector."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.rtp.amr import (
    AMR_BIT_RATES,
    AMR_WB_BIT_RATES,
    MAX_FRAMES,
    NO_DATA,
    SPEECH_LOST,
    AmrFrame,
    AmrPayloadFormat,
    read_storage,
    write_storage,
)
from imskit.rtp.errors import RtpError

FORMATS = [
    AmrPayloadFormat(wideband=wideband, octet_aligned=aligned)
    for wideband, aligned in itertools.product((False, True), repeat=2)
]
# RFC 4867 takes these from TS 26.101 table 1b and TS 26.201 table 1b.
BITS = {
    False: dict(enumerate((95, 103, 118, 134, 148, 159, 204, 244, 39))) | {NO_DATA: 0},
    True: dict(enumerate((132, 177, 253, 285, 317, 365, 397, 461, 477, 40))) | {SPEECH_LOST: 0, NO_DATA: 0},
}


def bits(text: str) -> bytes:
    """Octets of a bit string, filled with zeros."""
    text = text.replace(" ", "")
    text += "0" * (-len(text) % 8)
    return bytes(int(text[index : index + 8], 2) for index in range(0, len(text), 8))


def pattern(size: int, seed: int) -> str:
    """A bit string that begins and ends with 1, so a shift by one bit shows."""
    middle = f"{pow(3, seed + size, 1 << size):0{size}b}"
    return "1" + middle[1:-1] + "1"


@st.composite
def frames(draw: st.DrawFn, wideband: bool) -> AmrFrame:
    frame_type = draw(st.sampled_from(sorted(BITS[wideband])))
    size = BITS[wideband][frame_type]
    value = draw(st.integers(0, (1 << size) - 1))
    octets = (value << -size % 8).to_bytes((size + 7) // 8)
    return AmrFrame(frame_type, draw(st.booleans()), octets)


@pytest.mark.parametrize("form", FORMATS)
@given(data=st.data())
def test_round_trip(form: AmrPayloadFormat, data: st.DataObject) -> None:
    content = data.draw(st.lists(frames(form.wideband), min_size=1, max_size=MAX_FRAMES))
    cmr = data.draw(st.none() | st.sampled_from(sorted(form.modes)))
    payload = form.pack(content, cmr)
    assert form.unpack(payload) == (cmr, content)
    for size in range(len(payload)):
        with pytest.raises(RtpError):
            form.unpack(payload[:size])
    with pytest.raises(RtpError):
        form.unpack(payload + b"\0")


@pytest.mark.parametrize("form", FORMATS)
@given(noise=st.binary(max_size=120))
def test_noise_raises_only_rtp_error(form: AmrPayloadFormat, noise: bytes) -> None:
    try:
        cmr, content = form.unpack(noise)
    except RtpError:
        return
    assert form.unpack(form.pack(content, cmr))[1] == content


def test_figure_of_4_3_5_1() -> None:
    """One AMR frame of mode 4, bandwidth-efficient, no request: two bits of padding at the end."""
    speech = pattern(148, 1)
    payload = bits("1111" + "0" + "0100" + "1" + speech + "00")
    form = AmrPayloadFormat(wideband=False, octet_aligned=False)
    assert len(payload) == 20
    assert form.unpack(payload) == (None, [AmrFrame(4, True, bits(speech))])
    assert form.pack([AmrFrame(4, True, bits(speech))]) == payload


def test_figure_of_4_3_5_2() -> None:
    """AMR-WB 6.6, SID, NO_DATA and 8.85 in one payload, a request for mode 1."""
    d, g, h = pattern(132, 1), pattern(40, 2), pattern(177, 3)
    payload = bits("00011 0000 11 1001 11 1111 10 0001 1" + d + g + h + "0000000")
    form = AmrPayloadFormat(wideband=True, octet_aligned=False)
    content = [
        AmrFrame(0, True, bits(d)),
        AmrFrame(9, True, bits(g)),
        AmrFrame(NO_DATA, True),
        AmrFrame(1, True, bits(h)),
    ]
    assert form.unpack(payload) == (1, content)
    assert form.pack(content, 1) == payload


def test_figure_of_4_4_5_1() -> None:
    """Two AMR frames of mode 5, octet-aligned, a request for mode 6."""
    first, second = pattern(159, 1), pattern(159, 2)
    payload = bits("0110 00001 0101 1 000 0101 1 00" + first + "0" + second + "0")
    form = AmrPayloadFormat(wideband=False, octet_aligned=True)
    content = [AmrFrame(5, True, bits(first)), AmrFrame(5, True, bits(second))]
    assert form.unpack(payload) == (6, content)
    assert form.pack(content, 6) == payload


def test_padding_and_reserved_bits_are_ignored() -> None:
    """Sections 4.3.4 and 4.4: what must be zero when sent is ignored when received."""
    speech = pattern(148, 1)
    efficient = AmrPayloadFormat(wideband=False, octet_aligned=False)
    assert efficient.unpack(bits("1111 0 0100 1" + speech + "11")) == (
        None,
        [AmrFrame(4, True, bits(speech))],
    )
    aligned = AmrPayloadFormat(wideband=False, octet_aligned=True)
    assert aligned.unpack(bits("1111 1111 0 0100 1 11" + speech + "1111")) == (
        None,
        [AmrFrame(4, True, bits(speech))],
    )


@pytest.mark.parametrize("form", FORMATS)
def test_reserved_frame_types_drop_the_packet(form: AmrPayloadFormat) -> None:
    """Section 4.3.2: FT 9-14 (AMR) and 10-13 (AMR-WB)."""
    for frame_type in range(16):
        if frame_type in BITS[form.wideband]:
            continue
        head = f"1111{'0000' if form.octet_aligned else ''} 0{frame_type:04b}1"
        with pytest.raises(RtpError, match=f"frame type {frame_type} "):
            form.unpack(bits(head))
        with pytest.raises(RtpError, match=f"frame type {frame_type} "):
            form.pack([AmrFrame(frame_type)])


def test_mode_request_outside_the_mode_set_is_ignored() -> None:
    """Section 4.3.1: reserved values, and modes that the session does not have."""
    form = AmrPayloadFormat(wideband=True, octet_aligned=True, mode_set=(0, 1, 2))
    frame = bits("0 1001 1 00" + pattern(40, 1))
    for value, seen in [(0, 0), (2, 2), (3, None), (9, None), (14, None), (15, None)]:
        assert form.unpack(bytes([value << 4]) + frame)[0] == seen
    with pytest.raises(RtpError, match="mode 3"):
        form.pack([AmrFrame(9, True, bits(pattern(40, 1)))], 3)
    with pytest.raises(RtpError, match="mode 8"):
        form.pack([AmrFrame(8, True, bits(pattern(477, 1)))])
    # A peer that sends another mode than agreed is still heard.
    _, content = form.unpack(bytes([0xF0]) + bits("0 1000 1 00" + pattern(477, 1)))
    assert content[0].frame_type == 8


def test_bad_mode_sets() -> None:
    for modes in [(), (8,), (-1,)]:
        with pytest.raises(RtpError, match="mode-set"):
            AmrPayloadFormat(wideband=False, octet_aligned=False, mode_set=modes)


@pytest.mark.parametrize("form", FORMATS)
def test_too_many_frames(form: AmrPayloadFormat) -> None:
    content = [AmrFrame(NO_DATA)] * MAX_FRAMES
    assert form.unpack(form.pack(content)) == (None, content)
    with pytest.raises(RtpError):
        form.pack([*content, AmrFrame(NO_DATA)])
    with pytest.raises(RtpError, match="more than 12"):
        form.unpack(b"\xff" * 200)
    with pytest.raises(RtpError):
        form.pack([])


def test_wrong_frame_length() -> None:
    with pytest.raises(RtpError, match="16 octets in a frame of type 0, 132 bits"):
        AmrPayloadFormat(wideband=True, octet_aligned=True).pack([AmrFrame(0, True, bytes(16))])


def test_clock_and_rates() -> None:
    wide = AmrPayloadFormat(wideband=True, octet_aligned=False)
    narrow = AmrPayloadFormat(wideband=False, octet_aligned=False)
    assert (wide.clock_rate, wide.frame_ticks, wide.sid) == (16000, 320, 9)
    assert (narrow.clock_rate, narrow.frame_ticks, narrow.sid) == (8000, 160, 8)
    for rates, wideband in ((AMR_BIT_RATES, False), (AMR_WB_BIT_RATES, True)):
        assert [rate // 50 for rate in rates] == [BITS[wideband][mode] for mode in range(len(rates))]
    assert wide.is_speech(AmrFrame(8)) and not wide.is_speech(AmrFrame(9))
    assert narrow.is_speech(AmrFrame(7)) and not narrow.is_speech(AmrFrame(8))


@pytest.mark.parametrize("wideband", [False, True])
@given(data=st.data())
def test_storage_round_trip(wideband: bool, data: st.DataObject) -> None:
    content = data.draw(st.lists(frames(wideband), max_size=5))
    stored = write_storage(content, wideband=wideband)
    assert stored.startswith(b"#!AMR-WB\n" if wideband else b"#!AMR\n")
    assert read_storage(stored) == (wideband, content)
    form = AmrPayloadFormat(wideband=wideband, octet_aligned=False)
    assert [form.frame(frame.stored()) for frame in content] == content


def test_storage_refuses() -> None:
    with pytest.raises(RtpError, match="magic"):
        read_storage(b"#!AMR_MC1.0\n\0\0\0\2")
    with pytest.raises(RtpError, match="magic"):
        read_storage(b"RIFF")
    with pytest.raises(RtpError, match="inside frame 1"):
        read_storage(b"#!AMR\n\x3c\0")
    with pytest.raises(RtpError, match="frame type 9"):
        read_storage(b"#!AMR\n\x4c")


def test_storage_figure_of_5_3() -> None:
    """An AMR frame of mode 2 in a file: the head octet and 118 bits."""
    speech = pattern(118, 4)
    assert write_storage([AmrFrame(2, True, bits(speech))], wideband=False) == b"#!AMR\n" + bits(
        "0 0010 1 00" + speech + "00"
    )
