"""Cutting streams into messages."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from imskit.sip.wire.message import MAXIMUM_BODY, MAXIMUM_HEAD
from imskit.sip.wire.stream import Broken, Frame, Ping, Pong, StreamFramer

ONE = b"MESSAGE sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP c\r\nContent-Length: 5\r\n\r\nhello"
TWO = b"OPTIONS sip:a@b SIP/2.0\r\nSubject: x\r\n y\r\nL : 0\r\n\r\n"
STREAM = ONE + TWO + b"\r\n\r\n" + ONE + b"\r\n\r\n\r\n\r\n" + b"\r\n" + TWO
FRAMES: list[Frame] = [ONE, TWO, Ping(), ONE, Ping(), Ping(), TWO]


def test_two_messages_in_one_segment_and_keep_alives_between() -> None:
    assert StreamFramer().feed(STREAM) == FRAMES


def test_byte_by_byte_is_the_same() -> None:
    framer = StreamFramer()
    frames = [frame for byte in STREAM for frame in framer.feed(bytes([byte]))]
    assert frames == FRAMES and framer.pending == 0


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_segmentation_is_the_same(cuts: list[int]) -> None:
    framer = StreamFramer()
    edges = [0, *sorted(cuts), len(STREAM)]
    frames = [frame for start, end in itertools.pairwise(edges) for frame in framer.feed(STREAM[start:end])]
    assert frames == FRAMES


def test_a_client_sees_pongs() -> None:
    """RFC 5626 section 4.4.1."""
    assert StreamFramer(server=False).feed(b"\r\n" + TWO + b"\r\n") == [Pong(), TWO, Pong()]


def test_content_length_inside_a_fold_or_body_is_none() -> None:
    data = b"MESSAGE sip:a@b SIP/2.0\r\nX: a\r\n Content-Length: 500\r\nl: 2\r\n\r\nab"
    assert StreamFramer().feed(data) == [data]
    folded = b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length:\r\n 2\r\n\r\nab"
    assert StreamFramer().feed(folded) == [folded]


def broken(data: bytes) -> Broken:
    framer = StreamFramer()
    *before, last = framer.feed(ONE + data)
    assert before == [ONE], "what came before is not lost"
    assert isinstance(last, Broken)
    assert framer.feed(TWO) == [] and framer.pending == 0, "nothing follows a lost framing"
    return last


def test_lost_framing() -> None:
    """RFC 3261 section 18.3: a stream needs Content-Length."""
    head = b"OPTIONS sip:a@b SIP/2.0\r\n"
    for lines, status in (
        (b"X: y\r\n", 400),
        (b"l: 1\r\nContent-Length: 2\r\n", 400),
        (b"l: -1\r\n", 400),
        (b"l: five\r\n", 400),
        (b"l: %d\r\n" % (MAXIMUM_BODY + 1), 413),
        (b"X: " + b"y" * MAXIMUM_HEAD + b"\r\nl: 0\r\n", 513),
    ):
        last = broken(head + lines + b"\r\n")
        assert last.error.status == status
        assert last.head == (head + lines).removesuffix(b"\r\n")


def test_endless_header_is_bounded() -> None:
    framer = StreamFramer()
    frames: list[Frame] = []
    for _ in range(100):
        frames += framer.feed(b"y" * 1000)
    (last,) = frames
    assert isinstance(last, Broken) and last.error.status == 513


@given(st.binary(max_size=200), st.booleans())
def test_noise_never_raises(noise: bytes, server: bool) -> None:
    framer = StreamFramer(server=server)
    framer.feed(noise)
    framer.feed(b"\r\n\r\n" + ONE)
