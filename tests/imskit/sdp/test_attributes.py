"""Typed attributes: examples of their RFCs, both ways, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sdp.attributes import (
    Candidate,
    Crypto,
    Direction,
    ExtensionMap,
    Fingerprint,
    Fmtp,
    Group,
    PotentialConfiguration,
    RtcpAddress,
    RtpMap,
    TransportCapability,
    integer,
    milliseconds,
)
from imskit.sdp.errors import SdpError

PARSERS: list[Callable[[str], Any]] = [
    RtpMap.parse,
    Fmtp.parse,
    Candidate.parse,
    Fingerprint.parse,
    Group.parse,
    RtcpAddress.parse,
    Crypto.parse,
    ExtensionMap.parse,
    TransportCapability.parse,
    PotentialConfiguration.parse,
    milliseconds,
]

EXAMPLES: list[tuple[Callable[[str], Any], str, Any]] = [
    # RFC 8866 section 6.6
    (RtpMap.parse, "98 L16/11025/2", RtpMap(98, "L16", 11025, 2)),
    (RtpMap.parse, "99 h263-1998/90000", RtpMap(99, "h263-1998", 90000)),
    (RtpMap.parse, "97 AMR-WB/16000/1", RtpMap(97, "AMR-WB", 16000, 1)),
    (Fmtp.parse, "97 mode-set=0,2,5,7; max-red=20", Fmtp("97", "mode-set=0,2,5,7; max-red=20")),
    # RFC 8839 section 5.1 and RFC 6544 section 4.5
    (
        Candidate.parse,
        "2 1 UDP 1694498815 192.0.2.3 45664 typ srflx raddr 203.0.113.141 rport 8998",
        Candidate("2", 1, "UDP", 1694498815, "192.0.2.3", 45664, "srflx", "203.0.113.141", 8998),
    ),
    (
        Candidate.parse,
        "1 1 TCP 2128609279 192.0.2.1 9 typ host tcptype active",
        Candidate("1", 1, "TCP", 2128609279, "192.0.2.1", 9, "host", extensions=(("tcptype", "active"),)),
    ),
    # RFC 8122 section 5
    (
        Fingerprint.parse,
        "sha-256 12:DF:3E:5D:49:6B:19:E5:7C:AB:4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB:4A:AD",
        Fingerprint(
            "sha-256",
            "12:DF:3E:5D:49:6B:19:E5:7C:AB:4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB:4A:AD",
        ),
    ),
    (Group.parse, "BUNDLE foo bar", Group("BUNDLE", ("foo", "bar"))),
    # RFC 3605 section 2.1
    (RtcpAddress.parse, "53020", RtcpAddress(53020)),
    (RtcpAddress.parse, "53020 IN IP4 126.16.64.4", RtcpAddress(53020, "126.16.64.4")),
    (RtcpAddress.parse, "53020 IN IP6 2001:db8::d0:80", RtcpAddress(53020, "2001:db8::d0:80")),
    # RFC 4568 section 4
    (
        Crypto.parse,
        "1 AES_CM_128_HMAC_SHA1_80 inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR|2^20|1:32",
        Crypto(1, "AES_CM_128_HMAC_SHA1_80", "inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR|2^20|1:32"),
    ),
    # RFC 8285 section 8
    (
        ExtensionMap.parse,
        "2/sendrecv http://example.com/082005/ext.htm#xmeta short",
        ExtensionMap(2, "http://example.com/082005/ext.htm#xmeta", Direction.SENDRECV, "short"),
    ),
    (ExtensionMap.parse, "1 URI-toffset", ExtensionMap(1, "URI-toffset")),
    # RFC 5939 section 3.4.3, TS 26.114 annex A.14
    (TransportCapability.parse, "1 RTP/SAVPF RTP/SAVP", TransportCapability(1, ("RTP/SAVPF", "RTP/SAVP"))),
    (PotentialConfiguration.parse, "1 t=1|2 a=1", PotentialConfiguration(1, "t=1|2 a=1")),
]


@pytest.mark.parametrize(("parse", "text", "value"), EXAMPLES)
def test_examples_both_ways(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (RtpMap.parse, "128 PCMU/8000"),
        (RtpMap.parse, "0 PCMU"),
        (RtpMap.parse, "0 PCMU/0"),
        (RtpMap.parse, "0 PCMU/8000/0"),
        (RtpMap.parse, "x PCMU/8000"),
        (RtpMap.parse, "0 PCMU/8000/1/1"),
        (RtpMap.parse, "٣ PCMU/8000"),
        (Fmtp.parse, " "),
        (Candidate.parse, "1 1 UDP 1 192.0.2.1 9 host"),
        (Candidate.parse, "1 1 UDP 1 192.0.2.1 9 typ host generation"),
        (Candidate.parse, "1 0 UDP 1 192.0.2.1 9 typ host"),
        (Candidate.parse, "1 1 UDP 4294967296 192.0.2.1 9 typ host"),
        (Candidate.parse, "1 1 UDP 1 192.0.2.1 65536 typ host"),
        (Candidate.parse, "1 1 UDP -1 192.0.2.1 9 typ host"),
        (Candidate.parse, "1 1 UDP 1 192.0.2.1 9 typ srflx raddr 192.0.2.2 rport 70000"),
        (Fingerprint.parse, "sha-256"),
        (Fingerprint.parse, "sha-256 1:2"),
        (Fingerprint.parse, "sha-256 ZZ"),
        (Group.parse, ""),
        (RtcpAddress.parse, ""),
        (RtcpAddress.parse, "70000"),
        (RtcpAddress.parse, "5 IN IP4"),
        (RtcpAddress.parse, "5 ATM IP4 192.0.2.1"),
        (Crypto.parse, "1 AES_CM_128_HMAC_SHA1_80"),
        (ExtensionMap.parse, "1"),
        (ExtensionMap.parse, "1/both urn:x"),
        (TransportCapability.parse, "1"),
        (PotentialConfiguration.parse, "x t=1"),
        (milliseconds, "-20"),
        (milliseconds, "9999999999"),
    ],
)
def test_malformed(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(SdpError):
        parse(text)


@given(st.sampled_from(PARSERS), st.text(max_size=60))
def test_noise_raises_only_sdp_error(parse: Callable[[str], Any], text: str) -> None:
    try:
        parse(text)
    except SdpError:
        pass


@given(st.sampled_from(EXAMPLES), st.integers(0, 200), st.text(max_size=5))
def test_spoilt_examples_raise_only_sdp_error(
    example: tuple[Callable[[str], Any], str, Any], position: int, noise: str
) -> None:
    parse, text, _ = example
    try:
        parse(text[:position] + noise + text[position + 1 :])
    except SdpError:
        pass


def test_key_does_not_show() -> None:
    crypto = Crypto.parse("1 AES_CM_128_HMAC_SHA1_80 inline:PS1uQCVeeCFCanVmcjkpPywjNWhcYD0mXXtxaVBR")
    assert "PS1u" not in repr(crypto) and "PS1u" not in f"{[crypto]}"


def test_directions() -> None:
    """RFC 3264 section 6.1: the table of answers."""
    assert Direction.SENDONLY.reversed is Direction.RECVONLY
    assert Direction.SENDRECV.reversed is Direction.SENDRECV
    assert Direction.SENDRECV.within(Direction.RECVONLY) is Direction.RECVONLY
    assert Direction.SENDONLY.within(Direction.RECVONLY) is Direction.INACTIVE
    assert Direction.INACTIVE.reversed is Direction.INACTIVE


def test_numbers() -> None:
    assert milliseconds("20") == 20
    assert milliseconds("20.0") == 20
    assert integer(" 5000 ", "sctp-port", "RFC 8841 section 5") == 5000
