"""``message/sipfrag`` as REFER uses it: the status line of the call that somebody makes for us (RFC 3420, RFC 3515)."""

from __future__ import annotations

import re

from imskit.sip.wire.errors import SipParseError, reason_phrase

MEDIA_TYPE = "message/sipfrag;version=2.0"
_STATUS_LINE = re.compile(rb"SIP/2\.0 ([1-6][0-9]{2})(?: [^\r\n]*+)?(?:\r?\n|\Z)")


def write_status(status: int, reason: str = "") -> bytes:
    """Return the fragment for a status; ``reason`` is that of the response, else the standard's."""
    return f"SIP/2.0 {status} {reason or reason_phrase(status)}\r\n".encode("utf-8", "replace")


def read_status(fragment: bytes) -> int:
    """Return the status of a fragment; ``SipParseError`` if it does not begin with a status line."""
    found = _STATUS_LINE.match(fragment)
    if found is None:
        raise SipParseError(
            "the fragment has no status line",
            where="body",
            clause="RFC 3515 section 2.4.5",
            found=fragment[:40].decode("utf-8", "replace"),
        )
    return int(found[1])
