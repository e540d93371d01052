"""Finding the SDP: RFC 3261 section 13.2.1, RFC 5621, RFC 2046 section 5.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sip.engine.invite_body import description_in, session_description, understood
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Headers, Request, Response


def message(body: bytes, kind: str | None, **fields: str) -> Request:
    """Build a request with a body."""
    request = Request("INVITE", "sip:x", Headers(), body)
    if kind is not None:
        request.headers.add("Content-Type", kind)
    for name, value in fields.items():
        request.headers.add(name.replace("_", "-"), value)
    return request


MIXED = (
    b"preamble\r\n--b1\r\nContent-Type: application/pidf+xml\r\nContent-ID: <x@y>\r\n\r\n<presence/>\r\n"
    b"--b1\r\ncontent-type: Application/SDP\r\nContent-Disposition: session;\r\n handling=required\r\n\r\n"
    b"v=0\r\no=- 1 1\r\n\r\n--b1--\r\nepilogue --b1\r\n"
)


def test_plain_and_multipart() -> None:
    assert session_description(message(b"v=0", "application/sdp")) == b"v=0"
    assert session_description(message(b"v=0", "APPLICATION/SDP;charset=utf-8")) == b"v=0"
    assert session_description(message(MIXED, 'multipart/mixed;boundary="b1"')) == b"v=0\r\no=- 1 1\r\n"


@pytest.mark.parametrize(
    ("body", "kind", "disposition"),
    [
        (b"", "application/sdp", None),
        (b"v=0", None, None),
        (b"v=0", "text/plain", None),
        (b"v=0", "application/sdp", "early-session"),
        (b"v=0", "application/sdp", "render;handling=optional"),
        (b"--b1\r\nContent-Type: text/plain\r\n\r\nx\r\n--b1--", "multipart/mixed;boundary=b1", None),
    ],
)
def test_none(body: bytes, kind: str | None, disposition: str | None) -> None:
    fields = {"Content_Disposition": disposition} if disposition else {}
    assert session_description(message(body, kind, **fields)) is None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/mixed", MIXED),
        ("multipart/mixed;boundary=" + "x" * 71, MIXED),
        ("multipart/mixed;boundary=b2", b"--b2\r\nno empty line"),
    ],
)
def test_a_multipart_body_that_cannot_be_split(kind: str, body: bytes) -> None:
    with pytest.raises(SipParseError):
        session_description(message(body, kind))
    assert description_in(Response(200, None, Headers([("Content-Type", kind)]), body)) is None


def test_a_boundary_that_does_not_occur() -> None:
    assert session_description(message(MIXED, "multipart/mixed;boundary=b2")) is None


@pytest.mark.parametrize(
    ("kind", "encoding", "disposition", "expected"),
    [
        ("application/sdp", None, None, True),
        ("multipart/mixed;boundary=x", None, None, True),
        ("text/plain", None, None, False),
        ("text/plain", None, "render; handling=optional", True),
        ("application/sdp", "gzip", None, False),
        ("application/sdp", "identity", None, True),
        (None, None, None, True),
    ],
)
def test_rfc3261_8_2_3(kind: str | None, encoding: str | None, disposition: str | None, expected: bool) -> None:
    fields = {"Content_Encoding": encoding, "Content_Disposition": disposition}
    request = message(b"x", kind, **{name: value for name, value in fields.items() if value})
    assert understood(request, ("application/sdp",)) is expected


@given(st.binary(max_size=300), st.integers(0, len(MIXED)))
def test_noise(noise: bytes, position: int) -> None:
    for body in (noise, MIXED[:position] + noise, MIXED[:position], noise.join([b"--b1\r\n"] * 3)):
        try:
            session_description(message(body, "multipart/mixed;boundary=b1"))
        except SipParseError as error:
            assert error.status == 400
