"""Descriptions in bodies: found, replaced, taken out; fuzz."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request
from network_edge.ep_cscf.engine.session_body import SessionBody, remove_session

NOTE = b"Content-Type: text/plain\r\n\r\nv=0 is no description here"
PART = b"Content-Type: application/sdp\r\nContent-Disposition: session;handling=required\r\n\r\nv=0\r\n"


def _request(body: bytes, kind: str = "multipart/mixed;boundary=B") -> Request:
    return Request.create("INVITE", "sip:a@example", [], body, kind)


def _join(*parts: bytes) -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + b"--B--\r\n"


def test_untouched_when_there_is_none() -> None:
    request = _request(_join(NOTE))
    body = SessionBody(request)
    body.put(b"v=1")
    assert body.sdp is None or request.body == _join(NOTE)
    assert request.body == _join(NOTE)


def test_the_order_of_parts_stays() -> None:
    request = _request(_join(NOTE, PART, NOTE))
    body = SessionBody(request)
    assert body.sdp == b"v=0\r\n"
    body.put(b"new")
    assert request.body == _join(NOTE, PART.replace(b"v=0\r\n", b"new"), NOTE)


def test_taken_out() -> None:
    request = _request(_join(NOTE, PART))
    remove_session(request)
    assert request.body == _join(NOTE)
    request = _request(_join(PART))
    remove_session(request)
    assert (request.body, request.headers.get("Content-Type")) == (b"", None)


def test_put_where_there_was_no_body() -> None:
    request = Request.create("INVITE", "sip:a@example")
    SessionBody(request).put(b"v=0\r\n")
    assert (request.body, request.headers.get("Content-Type")) == (b"v=0\r\n", "application/sdp")


def test_what_cannot_be_read_goes_whole() -> None:
    request = _request(_join(PART)[:-9])
    remove_session(request)
    assert request.body == b""


@pytest.mark.parametrize(
    "part",
    [
        b"Content-Type: application/sdp\r\nContent-Transfer-Encoding: base64\r\n\r\ndj0w",
        b"Content-Type: multipart/alternative;boundary=C\r\n\r\n--C\r\n" + PART + b"\r\n--C--",
    ],
)
def test_hidden_descriptions_are_refused(part: bytes) -> None:
    with pytest.raises(SipParseError) as caught:
        SessionBody(_request(_join(part)))
    assert caught.value.status == 415


@given(st.integers(0, 300), st.binary(max_size=60), st.sampled_from(["multipart/mixed;boundary=B", "multipart/mixed"]))
def test_noise(length: int, noise: bytes, kind: str) -> None:
    """Only `SipParseError` escapes, and what is replaced once is found again."""
    request = _request(_join(NOTE, PART)[:length] + noise, kind)
    try:
        body = SessionBody(request)
    except SipParseError:
        return
    if body.sdp is not None:
        body.put(b"v=0\r\nnew")
        assert SessionBody(request).sdp == b"v=0\r\nnew"
