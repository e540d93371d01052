"""Checks and refusals beyond the torture messages (`test_torture.py`)."""

import pytest

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import parse_message
from imskit.sip.wire.validate import parse_and_validate, refusal, validate

GOOD = (
    b"INVITE sip:b@ims.example SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n"
    b"From: <sip:a@ims.example>;tag=1\r\n"
    b"To: <sip:b@ims.example>\r\n"
    b"Call-ID: c\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Contact: <sip:a@h>\r\n"
    b"\r\n"
)


def test_good() -> None:
    validate(parse_and_validate(GOOD))


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (b"Call-ID: c\r\n", b"", "Call-ID"),
        (b"Call-ID: c\r\n", b"Call-ID: \r\n", "Call-ID"),
        (b"Call-ID: c\r\n", b"Call-ID: c\r\ni: d\r\n", "Call-ID"),
        (b"CSeq: 1", b"Event: a\r\no: b\r\nCSeq: 1", "Event"),
        (b"CSeq: 1 INVITE", b"CSeq: 1 invite", "CSeq"),
        (b";tag=1", b";tag=1;TAG=2", "From"),
        (b"CSeq: 1", b"Max-Forwards: 256\r\nCSeq: 1", "Max-Forwards"),
        (b"CSeq: 1", b"Route: sip:x;lr, \r\nCSeq: 1", "Route"),
        (b"<sip:a@h>", b"<sip:a@h>, *", "Contact"),
        (b"branch=", b"received=a:b;branch=", "Via received"),
        (b"INVITE sip:b@ims.example", b"INVITE ims.example", "Request-URI"),
        (b"INVITE sip:b@ims.example", b"INVITE sip:b@ims.example?X=y", "Request-URI"),
    ],
)
def test_faults_are_named(old: bytes, new: bytes, where: str) -> None:
    data = GOOD.replace(old, new)
    assert data != GOOD
    with pytest.raises(SipParseError) as caught:
        parse_and_validate(data)
    assert (caught.value.status, caught.value.where) == (400, where)


def test_unknown_things_are_no_faults() -> None:
    for old, new in ((b"INVITE", b"NOVEL"), (b"sip:b@", b"novel:b@"), (b"\r\n\r\n", b"\r\nRequire: x\r\n\r\n")):
        validate(parse_message(GOOD.replace(old, new)))


def refused(data: bytes) -> bytes | None:
    with pytest.raises(SipParseError) as caught:
        parse_and_validate(data)
    answer = refusal(data, caught.value)
    return None if answer is None else answer.encode()


def test_refusal_takes_only_what_it_needs() -> None:
    """Broken lines stay out of the answer, folds stay in, doubled headers come once."""
    answer = refused(
        b"INVITE  sip:b@ims.example SIP/2.0\r\nno colon\r\n fold of it\r\nX: y\r\n"
        b"v: SIP/2.0/UDP h\r\n ;branch=1\r\nVia: SIP/2.0/TCP g\r\nf: <sip:a@b>;tag=1\r\n"
        b"t: <sip:c@d>\r\nt: <sip:e@f>\r\n"
        b"i: c\r\ncseq: 1 INVITE\r\n\r\n"
    )
    assert answer is not None
    lines = answer.split(b"\r\n")
    to = lines[5]
    assert lines[:5] == [
        b"SIP/2.0 400 Bad Request",
        b"v: SIP/2.0/UDP h",
        b" ;branch=1",
        b"Via: SIP/2.0/TCP g",
        b"From: <sip:a@b>;tag=1",
    ]
    assert to.startswith(b"To: <sip:c@d>;tag=") and lines[6:8] == [b"Call-ID: c", b"CSeq: 1 INVITE"]


@pytest.mark.parametrize(
    "data",
    [
        GOOD.replace(b"INVITE", b"ACK").replace(b"Call-ID", b"Call ID"),
        GOOD.replace(b"Via", b"V ia"),
        GOOD.replace(b"INVITE sip:b@ims.example SIP/2.0", b"SIP/2.0 99 x"),
        GOOD.replace(b"From: <sip:a@ims.example>;tag=1", b"From: <sip:a\n@ims.example>;tag=1"),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"INVITE sip:a@b SIP/2.0\r\n" + b"v: SIP/2.0/UDP h\r\n" * 300 + b"\r\n",
        b"\r\n\r\n\r\n",
        b"\xff\xfe",
    ],
)
def test_what_cannot_be_answered_is_not(data: bytes) -> None:
    assert refused(data) is None


def test_success_is_no_refusal() -> None:
    assert refusal(GOOD, SipParseError("x", status=200)) is None
