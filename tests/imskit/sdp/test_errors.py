"""The error of the package: one sentence with line, clause and the answer to send."""

from imskit.sdp.errors import SdpError


def test_text() -> None:
    error = SdpError("malformed rtpmap", "RFC 8866 section 6.6").at(7)
    assert str(error) == "SDP line 7: malformed rtpmap (RFC 8866 section 6.6)"
    assert (error.status, error.warning) == (400, 399)
    assert error.at(9).line == 7
    assert str(SdpError("no t= line", "RFC 8866 section 5")) == "SDP: no t= line (RFC 8866 section 5)"
