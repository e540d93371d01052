"""DTMF in INFO, ``application/dtmf-relay``, as JsSIP and others send it: one key, with its length."""

from __future__ import annotations

import re

from imskit.sip.wire.errors import SipParseError

DTMF_RELAY = "application/dtmf-relay"
_SIGNAL = re.compile(rb"\s*+Signal[ \t]*+=[ \t]*+([0-9A-Da-d*#]|1[01])[ \t]*+(?:\r?\n|\Z)", re.IGNORECASE)
_DURATION = re.compile(rb"(?:\A|\n)[ \t]*+Duration[ \t]*+=[ \t]*+([0-9]{1,5})[ \t]*+(?:\r?\n|\Z)", re.IGNORECASE)
_LEAST, _MOST, _USUAL = 70, 6000, 100
"""Milliseconds; the least is what exchanges recognise (ITU-T Q.24)."""
_NAMES = {"10": "*", "11": "#"}


def read_dtmf(body: bytes) -> tuple[str, float]:
    """Return the key and its length in seconds; `SipParseError` (400) if there is none."""
    signal = _SIGNAL.match(body[:256])
    if signal is None:
        raise SipParseError("there is no DTMF key", where="body", found=body[:40].decode("utf-8", "replace"))
    key = signal[1].decode().upper()
    length = _DURATION.search(body[:256])
    milliseconds = int(length[1]) if length is not None else _USUAL
    return _NAMES.get(key, key), min(max(milliseconds, _LEAST), _MOST) / 1000
