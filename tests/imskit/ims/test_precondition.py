"""Preconditions of whole descriptions (RFC 3312, RFC 4032)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imskit.ims.precondition import dress, read_table, renewed, same_media, undress
from imskit.sdp import preconditions
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError

type Sdp = Callable[..., bytes]
type Table = Callable[[str, str], tuple[str, ...]]


def test_dress_and_undress(sdp: Sdp) -> None:
    plain = sdp()
    dressed = dress(plain, preconditions.first_offer(False))
    assert b"a=curr:qos local none" in dressed
    assert undress(dressed) == plain
    assert dress(plain, None) is plain
    assert same_media(plain, dressed)
    assert not same_media(plain, sdp("10.45.0.3"))


def test_a_refused_line_has_no_table(sdp: Sdp) -> None:
    refused = sdp().replace(b"m=audio 40000", b"m=audio 0")
    assert b"a=curr" not in dress(refused, preconditions.first_offer(True))


def test_the_least_met_line_counts(sdp: Sdp, status_table: Table) -> None:
    video = b"m=video 40002 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\n" + b"".join(
        line.encode() + b"\r\n" for line in status_table("none", "none")
    )
    table = read_table(sdp("10.45.0.2", *status_table("sendrecv", "none")) + video)
    assert table is not None
    assert not table.met
    assert read_table(sdp()) is None
    ready = read_table(sdp("10.45.0.2", *status_table("sendrecv", "none")))
    assert ready is not None
    assert ready.local.met


def test_session_level_lines_are_taken_away_too(sdp: Sdp) -> None:
    odd = sdp().replace(b"t=0 0\r\n", b"t=0 0\r\na=curr:qos local none\r\n")
    assert undress(odd) == sdp()


def test_versions(sdp: Sdp) -> None:
    first = sdp()
    assert renewed(first, b"") == first
    assert renewed(first, first) == first, "nothing changed (RFC 3264 section 8)"
    forced = renewed(first, first, force=True)
    assert SessionDescription.parse(forced).origin.version == 2
    held = renewed(sdp("10.45.0.2", "a=sendonly"), forced)
    assert SessionDescription.parse(held).origin.version == 3


@pytest.mark.parametrize("function", [read_table, undress, lambda data: same_media(data, data)])
def test_a_broken_description_raises_one_thing_only(function: Callable[[bytes], object]) -> None:
    for data in (b"", b"rubbish", b"v=0\r\n", b"\xff\xfe"):
        with pytest.raises(SdpError):
            function(data)
