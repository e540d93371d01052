"""The exception says what, where, by which clause, and what to answer."""

from imskit.sip.wire.errors import REASON_PHRASES, SipParseError, reason_phrase


def test_sentence() -> None:
    error = SipParseError("it is wrong", where="To", clause="RFC 3261 section 1", found="a\r\nb\udcff" + "x" * 100)
    assert str(error).startswith("To: it is wrong, found 'a\\r\\nb\\udcff")
    assert str(error).endswith("(RFC 3261 section 1)") and len(str(error)) < 150
    assert error.brief == "To: it is wrong (RFC 3261 section 1)", "nothing of the peer's"
    assert (error.status, error.reason, error.where) == (400, "Bad Request", "To")
    assert isinstance(error, ValueError)


def test_phrases() -> None:
    assert reason_phrase(486) == "Busy Here"
    assert [reason_phrase(status) for status in (199, 299, 399, 499, 599, 699)] == [
        "Early Dialog Terminated",
        "OK",
        "Redirection",
        "Bad Request",
        "Server Error",
        "Global Failure",
    ]
    assert all(100 <= status <= 699 for status in REASON_PHRASES)
    assert SipParseError("x", status=505).reason == "Version Not Supported"
