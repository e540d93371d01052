"""ChannelData and stream framing (RFC 8656 12.4 to 12.6; S7-TURN)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.stun.wire.channel_data import (
    StreamFramer,
    is_channel_data,
    pack_channel_data,
    parse_channel_data,
)
from imskit.stun.wire.errors import StunError
from imskit.stun.wire.message import Method, request


@pytest.mark.parametrize("data", [b"", b"1", b"12345", bytes(65535)])
def test_round_trip(data: bytes) -> None:
    frame = pack_channel_data(0x4FFF, data)
    assert is_channel_data(frame)
    assert parse_channel_data(frame) == (0x4FFF, data)
    assert parse_channel_data(pack_channel_data(0x4000, data, stream=True)) == (0x4000, data)


@pytest.mark.parametrize("frame", [b"", b"\x40\x00\x00", b"\x40\x00\x00\x02a", b"\x50\x00\x00\x00", b"\x3f\xff\0\0"])
def test_bad_frames_are_dropped(frame: bytes) -> None:
    with pytest.raises(StunError) as caught:
        parse_channel_data(frame)
    assert caught.value.code is None


_frames = st.one_of(
    st.builds(
        lambda channel, data: pack_channel_data(channel, data),
        st.integers(0x4000, 0x4FFF),
        st.binary(max_size=50),
    ),
    st.builds(lambda tid: request(Method.BINDING, tid).encode(), st.binary(min_size=12, max_size=12)),
)


@given(st.lists(_frames, max_size=8), st.data())
def test_stream_is_cut_whatever_the_segments(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frame + bytes(-len(frame) % 4) for frame in frames)
    framer, out = StreamFramer(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        out += framer.feed(stream[:size])
        stream = stream[size:]
    assert out == frames


@given(st.binary(max_size=300))
def test_noise_on_a_stream(data: bytes) -> None:
    try:
        StreamFramer().feed(data)
    except StunError:
        pass


@pytest.mark.parametrize(
    "noise", [b"\x80\x00\x00\x00", b"POST / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"\x00\x01\x00\x00\xde\xad"]
)
def test_other_protocols_are_noticed_at_once(noise: bytes) -> None:
    with pytest.raises(StunError):
        StreamFramer().feed(noise)
