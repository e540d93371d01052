"""Keys of SRTP in descriptions: SDES, ``a=crypto`` (RFC 4568, RFC 7714 section 14.3).

Each party sends with a key of its own; the offer has a line for each suite, the answer takes one and names its tag.
A line that cannot be used (an unknown suite, an MKI, another session parameter than a window size hint) is passed over
in an offer, as section 5.1.2 wants it, and is an error in an answer.  Keys are as safe as the signalling that bears
them: over unprotected SIP this protects from nobody who sees both (section 8.1).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from imskit.sdp.attributes import Crypto
from imskit.sdp.description import MediaDescription
from imskit.sdp.errors import SdpError
from imskit.secrets import Secret

PROTOCOLS = frozenset({"RTP/SAVP", "RTP/SAVPF"})
"""Transport protocols of a line whose keys are in the description."""

LEAST_LIFETIME = 1 << 20
"""Packets: a key that lasts less (some six hours of speech) would have to be replaced within a call; not done here."""

_MOST_LIFETIME = 1 << 48
_MAX_LINES = 64
_CLAUSE = "RFC 4568 section 9.1"
_KEY = re.compile(r"inline:([A-Za-z0-9+/]{1,128}={0,2})(?:\|(2\^)?([0-9]{1,15}))?(\|[0-9]{1,10}:[0-9]{1,3})?")
_WINDOW = re.compile(r"WSH=[0-9]{1,4}")


class Suite(Enum):
    """Suites known here, best first: the one that every implementation has to know leads (section 6.2)."""

    AES_CM_128_HMAC_SHA1_80 = "AES_CM_128_HMAC_SHA1_80"
    AEAD_AES_128_GCM = "AEAD_AES_128_GCM"
    AES_CM_128_HMAC_SHA1_32 = "AES_CM_128_HMAC_SHA1_32"

    @property
    def octets(self) -> int:
        """Octets of master key and master salt together."""
        return 28 if self is Suite.AEAD_AES_128_GCM else 30


@dataclass(frozen=True, slots=True)
class CryptoKey:
    """A sending key: master key followed by master salt."""

    suite: Suite
    key: Secret[bytes]


@dataclass(frozen=True, slots=True)
class SrtpAgreement:
    """What both sides agreed on: the suite, the key that we send with and the one that the peer sends with."""

    suite: Suite
    send: Secret[bytes]
    receive: Secret[bytes]


@dataclass(frozen=True, slots=True)
class CryptoLine:
    """An ``a=crypto`` line that can be used here."""

    tag: int
    key: CryptoKey

    @classmethod
    def parse(cls, value: str) -> CryptoLine:
        """Read the value; SdpError if it is malformed or cannot be used here.  No key shows in the error."""
        crypto = Crypto.parse(value)
        if crypto.suite not in Suite.__members__:
            raise SdpError("a crypto suite not known here", "RFC 4568 section 6.2", status=488)
        suite = Suite[crypto.suite]
        match = _KEY.fullmatch(crypto.key_parameters)
        if match is None:
            raise SdpError("key parameters that are not one inline key", _CLAUSE, status=488)
        if match[4] is not None:
            raise SdpError("a key with an MKI, which is not supported", "RFC 4568 section 6.1", status=488)
        if match[3] is not None:
            exponent = match[2] is not None
            number = int(match[3])
            lifetime = 0 if exponent and number > 48 else 1 << number if exponent else number
            if not LEAST_LIFETIME <= lifetime <= _MOST_LIFETIME:
                raise SdpError("a key lifetime outside 2^20 to 2^48 packets", "RFC 4568 section 6.1", status=488)
        if any(_WINDOW.fullmatch(word) is None for word in crypto.session_parameters.split()):
            raise SdpError("a session parameter that is not supported", "RFC 4568 section 6.3", status=488)
        try:
            text = match[1].rstrip("=")  # some write the padding, some leave it out
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            raise SdpError("a key that is no base64", "RFC 4568 section 6.1", status=488) from None
        if len(key) != suite.octets:
            raise SdpError(f"a key of {len(key)} octets for {suite.value}", "RFC 4568 section 6.2", status=488)
        return cls(crypto.tag, CryptoKey(suite, Secret(key)))

    def write(self, media: MediaDescription) -> None:
        """Add the line to ``media``."""
        key = base64.b64encode(self.key.key.reveal()).decode("ascii")
        media.add_attribute("crypto", str(Crypto(self.tag, self.key.suite.value, f"inline:{key}")))


def offered(keys: Sequence[CryptoKey]) -> list[CryptoLine]:
    """The lines of an offer, tagged from 1."""
    return [CryptoLine(tag, key) for tag, key in enumerate(keys, start=1)]


def choose(media: MediaDescription, keys: Sequence[CryptoKey]) -> tuple[CryptoLine, SrtpAgreement]:
    """Answer the first line of the offer's ``media`` that one of ``keys`` meets (section 7.1.2).

    SdpError (488) naming why none can be used.
    """
    number = media.line.number
    values = media.attributes("crypto")
    if not values or len(values) > _MAX_LINES:
        raise SdpError(f"{len(values)} a=crypto lines", "RFC 4568 section 5.1.1", line=number, status=488)
    reason: SdpError | None = None
    ours = {key.suite: key for key in keys}
    tags: set[int] = set()
    for value in values:
        try:
            line = CryptoLine.parse(value)
        except SdpError as error:
            reason = reason or error
            continue
        if line.tag in tags:
            raise SdpError("two a=crypto lines of one tag", "RFC 4568 section 4", line=number, status=488)
        tags.add(line.tag)
        mine = ours.get(line.key.suite)
        if mine is not None:
            _check_own(mine, line, number)
            return CryptoLine(line.tag, mine), SrtpAgreement(mine.suite, mine.key, line.key.key)
    what = "no a=crypto line with a suite in common" if reason is None else f"no usable a=crypto line: {reason.what}"
    raise SdpError(what, "RFC 4568 section 5.1.2" if reason is None else reason.clause, line=number, status=488)


def accepted(ours: MediaDescription, theirs: MediaDescription) -> SrtpAgreement:
    """What the answer ``theirs`` made of our offer's lines (section 7.1.3); SdpError (488) if it broke the rules."""
    number = theirs.line.number
    values = theirs.attributes("crypto")
    if len(values) != 1:
        raise SdpError(
            f"an answer with {len(values)} a=crypto lines", "RFC 4568 section 5.1.2", line=number, status=488
        )
    try:
        line = CryptoLine.parse(values[0])
    except SdpError as error:
        raise error.at(number) from None
    for mine in ours.typed("crypto", CryptoLine.parse):
        if mine.tag == line.tag and mine.key.suite is line.key.suite:
            _check_own(mine.key, line, number)
            return SrtpAgreement(line.key.suite, mine.key.key, line.key.key)
    raise SdpError("an a=crypto line that was not offered", "RFC 4568 section 5.1.3", line=number, status=488)


def _check_own(mine: CryptoKey, line: CryptoLine, number: int) -> None:
    """SdpError if the peer gives our own key back: two senders would share one key stream (RFC 3711 section 9.1)."""
    if mine.key == line.key.key:
        raise SdpError("the peer's key is our own", "RFC 4568 section 6.1", line=number, status=488)
