"""Generic Bootstrapping Architecture: keys, identifiers and the BSF's document (TS 33.220, TS 24.109).

A run of AKA between card and BSF gives Ks = CK || IK and a B-TID.  From Ks comes a key for each server (NAF): with
GBA_ME in the terminal, with GBA_U inside the card, which keeps Ks and Ks_int_NAF and gives Ks_ext_NAF away.
"""

from __future__ import annotations

import base64
import hmac
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha1
from xml.parsers import expat

from imskit.aka.algorithm import RAND_LENGTH
from imskit.aka.errors import AkaError, need_length
from imskit.aka.vector import AUTN_LENGTH
from imskit.secrets import Identity, Secret

KS_LENGTH = 32
UA_HTTP_DIGEST = bytes.fromhex("0100000002")
"""Ua security protocol identifier of HTTP Digest (TS 33.220 annex H, TS 33.222)."""
MEDIA_TYPE = "application/vnd.3gpp.bsf+xml"
MAXIMUM_DOCUMENT = 16 * 1024
"""Octets of the longest BSF document that is read."""
USER_AGENT_ME = "3gpp-gba"
USER_AGENT_UICC = "3gpp-gba-uicc"
"""Product tokens by which a terminal says that it can do GBA_ME, and GBA_U too (TS 24.109 clause 5.2.2)."""
_NAMESPACE = "uri:3gpp-gba"
_FC = b"\x01"
_MAXIMUM_NAME = 255
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?:\.(?!-)[a-z0-9-]{1,63})*", re.ASCII)
_BTID = re.compile(r"([A-Za-z0-9+/=_.-]{1,128})@([A-Za-z0-9.-]{1,253})", re.ASCII)
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
_3GPP = ".3gppnetwork.org"


class KeyKind(Enum):
    """Which key of a NAF: the label P0 of the derivation (TS 33.220 annex B.3)."""

    ME = "gba-me"
    """Ks_NAF of GBA_ME, and Ks_ext_NAF of GBA_U."""
    UICC = "gba-u"
    """Ks_int_NAF of GBA_U: it stays in the card."""


def bootstrap_key(ck: Secret[bytes], ik: Secret[bytes]) -> Secret[bytes]:
    """Return Ks = CK || IK (TS 33.220 clause 4.5.2); both have 16 octets."""
    need_length("CK", ck.reveal(), 16, "TS 33.220 4.5.2")
    need_length("IK", ik.reveal(), 16, "TS 33.220 4.5.2")
    return Secret(ck.reveal() + ik.reveal())


def derive_naf_key(
    ks: Secret[bytes], rand: bytes, impi: str, naf_id: bytes, kind: KeyKind = KeyKind.ME
) -> Secret[bytes]:
    """Return Ks_NAF, 32 octets: HMAC-SHA-256 over FC || P0 || L0 || … (TS 33.220 clauses 4.5.2, 5.3.3, annex B).

    ``impi`` is taken as UTF-8, ``naf_id`` as `naf_id` makes it.
    """
    need_length("Ks", ks.reveal(), KS_LENGTH, "TS 33.220 4.5.2")
    need_length("RAND", rand, RAND_LENGTH, "TS 33.220 annex B")
    parameters = (kind.value.encode(), rand, impi.encode(), naf_id)
    text = _FC + b"".join(parameter + len(parameter).to_bytes(2) for parameter in parameters)
    return Secret(hmac.digest(ks.reveal(), text, "sha256"))


def naf_id(fqdn: str, protocol: bytes = UA_HTTP_DIGEST) -> bytes:
    """Return NAF_Id = FQDN || Ua security protocol identifier (TS 33.220 annex H).

    The name is taken in lower case without a dot at its end, so that both sides derive the same key.
    """
    need_length("the Ua security protocol identifier", protocol, 5, "TS 33.220 annex H")
    name = fqdn.lower().removesuffix(".")
    if len(name) > 253 or _HOST.fullmatch(name) is None:
        raise AkaError("the NAF's name is no host name", "TS 33.220 4.5.2")
    return name.encode("ascii") + protocol


def split_naf_id(value: bytes) -> tuple[str, bytes]:
    """Return FQDN and Ua security protocol identifier of a NAF_Id; ``AkaError`` if it is none."""
    try:
        fqdn, protocol = value[:-5].decode("ascii"), value[-5:]
    except UnicodeDecodeError:
        raise AkaError("the NAF_Id holds no host name", "TS 33.220 annex H") from None
    if naf_id(fqdn, protocol) != value:
        raise AkaError("the NAF_Id is not in lower case", "TS 33.220 annex H")
    return fqdn, protocol


def ua_tls(cipher_suite: int) -> bytes:
    """Return the Ua security protocol identifier of TLS with this cipher suite (its 16-bit IANA code; annex H)."""
    if not 0 <= cipher_suite <= 0xFFFF:
        raise AkaError("a cipher suite has 16 bits", "TS 33.220 annex H")
    return b"\x01\x00\x01" + cipher_suite.to_bytes(2)


def ua_password(naf_key: Secret[bytes]) -> Secret[bytes]:
    """Return the digest password on Ua: base64 of Ks_(ext)_NAF (TS 24.109 clause 5.2)."""
    return Secret(base64.b64encode(naf_key.reveal()))


def conceal_for_uicc(autn: bytes, ik: Secret[bytes]) -> bytes:
    """Return AUTN* for a card with GBA_U, or AUTN again: MAC* = MAC xor Trunc(SHA-1(IK)) (TS 33.220 clause 5.3.2)."""
    need_length("AUTN", autn, AUTN_LENGTH, "TS 33.220 5.3.2")
    mask = sha1(ik.reveal(), usedforsecurity=False).digest()[:8]
    return autn[:8] + bytes(a ^ b for a, b in zip(autn[8:], mask, strict=True))


# ---- realms and names


class Realm(Enum):
    """Which key a NAF asks for with its realm (TS 24.109 clause 5.2.4)."""

    ME = "3GPP-bootstrapping"
    """Ks_NAF, or Ks_ext_NAF of a card with GBA_U."""
    UICC = "3GPP-bootstrapping-uicc"
    """Ks_int_NAF."""


def naf_realm(kind: Realm, fqdn: str) -> str:
    """Return the realm of a NAF's challenge."""
    return f"{kind.value}@{fqdn}"


def parse_naf_realm(text: str) -> dict[Realm, str]:
    """Return the host name (lower case) for each key that a realm asks for; empty if it asks for none.

    A realm may name both kinds, separated by a semicolon; kinds that are not known are left out.
    """
    found: dict[Realm, str] = {}
    for part in text[:1024].split(";"):
        prefix, at, host = part.strip().partition("@")
        kind = next((kind for kind in Realm if kind.value.lower() == prefix.lower()), None)
        host = host.lower().removesuffix(".")
        if at and kind is not None and len(host) <= 253 and _HOST.fullmatch(host):
            found.setdefault(kind, host)
    return found


def chosen_realm(text: str, kind: Realm) -> str:
    """Return the part of a realm that names ``kind``, as it is written: a terminal answers with it alone."""
    for part in text.split(";"):
        if part.strip().partition("@")[0].lower() == kind.value.lower():
            return part.strip()
    return text


def bsf_from_impi(impi: str) -> str:
    """Return the BSF's name for an ISIM (TS 23.003 clause 16.2); ``AkaError`` if the identity has no domain."""
    domain = impi.rpartition("@")[2].lower()
    if "@" not in impi or _HOST.fullmatch(domain) is None:
        raise AkaError("the private identity has no domain: the BSF's name cannot be derived", "TS 23.003 16.2")
    if domain.endswith(_3GPP):
        return f"bsf.{domain.removesuffix(_3GPP)}.pub{_3GPP}"
    return f"bsf.{domain}"


def bsf_from_ims_domain(domain: str) -> str:
    """Return the BSF's name for a USIM from the domain derived from its IMSI (TS 23.003 clauses 13.2, 16.2)."""
    network = domain.lower().removeprefix("ims.")
    if _HOST.fullmatch(network) is None or not network.endswith(_3GPP):
        raise AkaError("the home domain does not come from an IMSI", "TS 23.003 16.2")
    return f"bsf.{network.removesuffix(_3GPP)}.pub{_3GPP}"


# ---- B-TID and its document


@dataclass(frozen=True, slots=True)
class BTid:
    """Bootstrapping transaction identifier: base64 of RAND, and the BSF's name (TS 33.220 clause 4.5.2)."""

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > _MAXIMUM_NAME or _BTID.fullmatch(self.text) is None:
            raise AkaError("the B-TID is not base64@name of at most 255 characters", "TS 33.220 4.5.2")

    @classmethod
    def make(cls, rand: bytes, bsf: str) -> BTid:
        """Return the identifier of a run."""
        need_length("RAND", rand, RAND_LENGTH, "TS 33.220 4.5.2")
        return cls(f"{base64.b64encode(rand).decode('ascii')}@{bsf}")

    @property
    def bsf(self) -> str:
        """The BSF's name."""
        return self.text.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class BootstrappingInfo:
    """What the BSF says at the end of a run (TS 24.109 annex C)."""

    btid: BTid
    lifetime: datetime
    """When Ks ends, with its time zone."""

    def encode(self) -> bytes:
        """Return the XML document."""
        end = self.lifetime.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<BootstrappingInfo xmlns="{_NAMESPACE}"><btid>{self.btid.text}</btid>'
            f"<lifetime>{end}</lifetime></BootstrappingInfo>\n"
        ).encode()

    @classmethod
    def decode(cls, document: bytes) -> BootstrappingInfo:
        """Read a document; ``AkaError`` for anything else, a document type declaration included."""
        root = _parse(document)
        if root.tag != f"{{{_NAMESPACE}}}BootstrappingInfo":
            raise AkaError("the BSF's document is no BootstrappingInfo", "TS 24.109 annex C")
        values = {}
        for name in ("btid", "lifetime"):
            found = root.findall(f"{{{_NAMESPACE}}}{name}")
            if len(found) != 1:
                raise AkaError(f"the BSF's document has no single {name}", "TS 24.109 annex C")
            values[name] = (found[0].text or "").strip()
        return cls(BTid(values["btid"]), parse_lifetime(values["lifetime"]))


def parse_lifetime(text: str) -> datetime:
    """Read an xs:dateTime, as in the document and in EF_GBABP; without time zone it is taken as UTC."""
    if _DATE_TIME.fullmatch(text) is None:
        raise AkaError("the lifetime is no date with time", "TS 24.109 annex C")
    try:
        end = datetime.fromisoformat(text)
        return (end if end.tzinfo else end.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise AkaError("the lifetime is no date with time", "TS 24.109 annex C") from None


@dataclass(frozen=True, slots=True)
class InCard:
    """The card's answer to a challenge with GBA_U: it keeps Ks and gives RES."""

    res: Secret[bytes]
    """4 to 16 octets (TUAK: to 32)."""


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """A bootstrapped security association as the terminal holds it."""

    impi: Identity
    rand: bytes
    info: BootstrappingInfo
    ks: Secret[bytes] | None
    """``None`` with GBA_U: it is in the card."""

    @property
    def in_card(self) -> bool:
        """Whether this is GBA_U."""
        return self.ks is None


def _parse(document: bytes) -> ET.Element:
    clause = "TS 24.109 annex C"
    if len(document) > MAXIMUM_DOCUMENT:
        raise AkaError(f"the BSF's document has {len(document)} octets, more than {MAXIMUM_DOCUMENT}", clause)

    def refuse(*_: object) -> None:
        raise AkaError("the BSF's document has a document type, which could hide anything", clause)

    # With no declaration there is no entity to expand either.
    scanner = expat.ParserCreate()
    scanner.StartDoctypeDeclHandler = refuse
    try:
        scanner.Parse(document, True)
        return ET.fromstring(document)
    except (expat.ExpatError, ET.ParseError, LookupError, ValueError) as error:
        if isinstance(error, AkaError):
            raise
        raise AkaError("the BSF's document is not XML", clause) from None
