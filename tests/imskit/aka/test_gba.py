"""GBA: keys, names, the BSF's document (TS 33.220, TS 24.109, TS 23.003 clause 16.2)."""

import base64
import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.errors import AkaError
from imskit.aka.gba import (
    MAXIMUM_DOCUMENT,
    UA_HTTP_DIGEST,
    Bootstrapped,
    BootstrappingInfo,
    BTid,
    KeyKind,
    Realm,
    bootstrap_key,
    bsf_from_impi,
    bsf_from_ims_domain,
    conceal_for_uicc,
    derive_naf_key,
    naf_id,
    naf_realm,
    parse_naf_realm,
    split_naf_id,
    ua_password,
    ua_tls,
)
from imskit.secrets import Identity, Secret

# A run with a real BSF, as a public GBA_ME emulator's description shows it (github fasferraz/UT-GBA-ME; the home
# network's name was changed there, so its rspauth cannot be checked).
RAND = bytes.fromhex("7ef7b889359bd6b4dbdbdec2cd54aba7")
CK = Secret(bytes.fromhex("19b7ce7b4b82d5f6388af03140a0b7d3"))
IK = Secret(bytes.fromhex("56afd0f354451a02c57a94c2a433b26e"))
DOCUMENT = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<BootstrappingInfo xmlns="uri:3gpp-gba">\n'
    b"<btid>fve4iTWb1rTb297CzVSrpw==@bsf.ims.mnc045.mcc123.pub.3gppnetwork.org</btid>\n"
    b"<lifetime>2020-10-28T23:36:26Z</lifetime>\n</BootstrappingInfo>\n"
)
IMPI = "123454901000504@ims.mnc045.mcc123.3gppnetwork.org"
NAF = "xcap.ims.mnc045.mcc123.pub.3gppnetwork.org"


def hmac_sha_256(key: bytes, text: bytes) -> bytes:
    """RFC 2104 spelled out, so that nothing of the module under test is used."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(octet ^ 0x36 for octet in block) + text).digest()
    return hashlib.sha256(bytes(octet ^ 0x5C for octet in block) + inner).digest()


def test_keys_of_a_naf() -> None:
    """S7-GBA: S = 01 || P0 || L0 || RAND || 0010 || IMPI || L2 || NAF_Id || L3 (TS 33.220 annex B.3)."""
    ks = bootstrap_key(CK, IK)
    name = NAF.encode() + bytes.fromhex("0100000002")
    tail = RAND + b"\x00\x10" + IMPI.encode() + b"\x00\x31" + name + b"\x00\x2f"
    assert len(IMPI) == 0x31
    assert len(name) == 0x2F
    expected = hmac_sha_256(CK.reveal() + IK.reveal(), b"\x01gba-me\x00\x06" + tail)
    assert derive_naf_key(ks, RAND, IMPI, naf_id(NAF)).reveal() == expected
    internal = hmac_sha_256(CK.reveal() + IK.reveal(), b"\x01gba-u\x00\x05" + tail)
    assert derive_naf_key(ks, RAND, IMPI, naf_id(NAF), KeyKind.UICC).reveal() == internal
    assert ua_password(Secret(expected)).reveal() == base64.b64encode(expected)


def test_keys_as_openssl_computes_them() -> None:
    """An independent program: CK 00..0f, IK 10..1f, RAND 20..2f, IMPI a@b, NAF naf.b with HTTP Digest.

    printf '\\001gba-me\\000\\006%b\\000\\020a@b\\000\\003naf.b\\001\\000\\000\\000\\002\\000\\012' "$RAND" |
    openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f
    """
    ks = Secret(bytes(range(32)))
    made = derive_naf_key(ks, bytes(range(0x20, 0x30)), "a@b", naf_id("naf.b"))
    assert made.reveal().hex() == "4dfbbed01d3119b7fdced2b8c7ad6ca020bfa2b9fd43cee60f81a6ba4c9c0aad"
    made = derive_naf_key(ks, bytes(range(0x20, 0x30)), "a@b", naf_id("naf.b"), KeyKind.UICC)
    assert made.reveal().hex() == "5b19f24a0409d1e55fd0ee0a52aaac047b58fa3d11ac5a9d32953d5ac3de6147"


def test_the_documents_of_a_real_bsf() -> None:
    info = BootstrappingInfo.decode(DOCUMENT)
    assert info.btid == BTid.make(RAND, "bsf.ims.mnc045.mcc123.pub.3gppnetwork.org")
    assert info.btid.bsf == "bsf.ims.mnc045.mcc123.pub.3gppnetwork.org"
    assert info.lifetime == datetime(2020, 10, 28, 23, 36, 26, tzinfo=UTC)
    assert BootstrappingInfo.decode(info.encode()) == info


@pytest.mark.parametrize("text", ["2020-10-28T23:36:26", "2020-10-29T01:36:26.000+02:00", "2020-10-28T23:36:26.5Z"])
def test_lifetimes_of_other_spellings(text: str) -> None:
    document = DOCUMENT.replace(b"2020-10-28T23:36:26Z", text.encode())
    expected = datetime(2020, 10, 28, 23, 36, 26, tzinfo=UTC)
    assert BootstrappingInfo.decode(document).lifetime.replace(microsecond=0) == expected


BOMB = b"""<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<BootstrappingInfo xmlns="uri:3gpp-gba"><btid>&b;@x</btid><lifetime>2020-10-28T23:36:26Z</lifetime></BootstrappingInfo>
"""


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "not XML"),
        (DOCUMENT[:-5], "not XML"),
        (b"<a/>", "no BootstrappingInfo"),
        (DOCUMENT.replace(b"uri:3gpp-gba", b"uri:other"), "no BootstrappingInfo"),
        (DOCUMENT.replace(b"btid>", b"tid>"), "no single btid"),
        (DOCUMENT.replace(b"<lifetime>", b"<lifetime/><lifetime>"), "no single lifetime"),
        (DOCUMENT.replace(b"2020-10-28T23:36:26Z", b"tomorrow"), "no date"),
        (DOCUMENT.replace(b"2020-10-28", b"2020-13-28"), "no date"),
        (DOCUMENT.replace(b"2020-10-28T23:36:26Z", b"0001-01-01T00:00:00+14:00"), "no date"),
        (DOCUMENT.replace(b"==@", b"==&#10;@"), "B-TID is not"),
        (DOCUMENT.replace(b"UTF-8", b"x-none"), "not XML"),
        (BOMB, "document type"),
        (DOCUMENT + b" " * MAXIMUM_DOCUMENT, "more than"),
    ],
)
def test_what_is_no_document_of_a_bsf(document: bytes, message: str) -> None:
    with pytest.raises(AkaError, match=message):
        BootstrappingInfo.decode(document)


@given(st.integers(0, len(DOCUMENT)), st.binary(max_size=40), st.integers(0, 40))
def test_only_aka_error_escapes(start: int, noise: bytes, cut: int) -> None:
    for document in (DOCUMENT[:start], DOCUMENT[:start] + noise + DOCUMENT[start + cut :], noise):
        try:
            BootstrappingInfo.decode(document)
        except AkaError as error:
            assert "TS " in error.clause


@pytest.mark.parametrize("realm", list(Realm))
def test_realms(realm: Realm) -> None:
    assert parse_naf_realm(naf_realm(realm, "naf.example")) == {realm: "naf.example"}


def test_a_realm_with_both_kinds() -> None:
    """TS 24.109 5.2.4; the spelling is that of Android's supplementary service client."""
    both = "3GPP-bootstrapping-uicc@test.3gpp.com;3GPP-bootstrapping@Test.3gpp.com."
    assert parse_naf_realm(both) == {Realm.UICC: "test.3gpp.com", Realm.ME: "test.3gpp.com"}
    assert parse_naf_realm("3GPP-bootstrapping-digest@x; 3gpp-bootstrapping@y") == {Realm.ME: "y"}


@pytest.mark.parametrize(
    "text", ["", "naf.example", "3GPP-bootstrapping", "3GPP-bootstrapping@", "3GPP-bootstrapping@a b", "x@y", ";;@;"]
)
def test_realms_that_ask_for_no_key(text: str) -> None:
    assert parse_naf_realm(text) == {}


@given(st.text(max_size=60))
def test_any_text_may_be_a_realm(text: str) -> None:
    parse_naf_realm(text)
    parse_naf_realm(f"3GPP-bootstrapping@{text}")


def test_naf_ids() -> None:
    assert naf_id("NAF.Example.") == b"naf.example" + UA_HTTP_DIGEST
    assert split_naf_id(naf_id("naf.example", ua_tls(0xC02F))) == ("naf.example", bytes.fromhex("010001c02f"))
    for wrong in ("", "a b", "-a", "a." + "b" * 64, "ä"):
        with pytest.raises(AkaError, match="no host name"):
            naf_id(wrong)
    with pytest.raises(AkaError, match="5"):
        naf_id("a", b"\x01")
    with pytest.raises(AkaError, match="16 bits"):
        ua_tls(65536)
    for octets in (b"", b"\xff" * 9, b"NAF.b" + UA_HTTP_DIGEST):
        with pytest.raises(AkaError):
            split_naf_id(octets)


@pytest.mark.parametrize(
    ("impi", "bsf"),
    [
        ("234150999999999@ims.mnc015.mcc234.3gppnetwork.org", "bsf.ims.mnc015.mcc234.pub.3gppnetwork.org"),
        ("user@operator.com", "bsf.operator.com"),
    ],
)
def test_the_bsf_of_an_isim(impi: str, bsf: str) -> None:
    """TS 23.003 clause 16.2, examples 2 and 3."""
    assert bsf_from_impi(impi) == bsf


def test_the_bsf_of_a_usim() -> None:
    """TS 23.003 clause 16.2, example 1."""
    assert bsf_from_ims_domain("ims.mnc015.mcc234.3gppnetwork.org") == "bsf.mnc015.mcc234.pub.3gppnetwork.org"
    for wrong in ("ims.example", ""):
        with pytest.raises(AkaError, match="IMSI"):
            bsf_from_ims_domain(wrong)
    for wrong in ("nobody", "a@", "a@b c"):
        with pytest.raises(AkaError, match="no domain"):
            bsf_from_impi(wrong)


def test_autn_for_a_card_with_gba_u() -> None:
    """TS 33.220 5.3.2: only the MAC changes, by the first 64 bits of SHA-1(IK), and twice is not at all."""
    autn = bytes(range(16))
    starred = conceal_for_uicc(autn, IK)
    assert starred[:8] == autn[:8]
    mask = hashlib.sha1(IK.reveal()).digest()[:8]
    assert bytes(a ^ b for a, b in zip(starred[8:], mask, strict=True)) == autn[8:]
    assert conceal_for_uicc(starred, IK) == autn


def test_wrong_lengths() -> None:
    with pytest.raises(AkaError, match="CK has 15"):
        bootstrap_key(Secret(bytes(15)), IK)
    with pytest.raises(AkaError, match="IK has 32"):
        bootstrap_key(CK, Secret(bytes(32)))
    with pytest.raises(AkaError, match="Ks has 16"):
        derive_naf_key(Secret(bytes(16)), RAND, IMPI, b"")
    with pytest.raises(AkaError, match="RAND has 0"):
        derive_naf_key(Secret(bytes(32)), b"", IMPI, b"")
    with pytest.raises(AkaError, match="AUTN has 15"):
        conceal_for_uicc(bytes(15), IK)


def test_nothing_secret_prints() -> None:
    held = Bootstrapped(Identity(IMPI), RAND, BootstrappingInfo.decode(DOCUMENT), bootstrap_key(CK, IK))
    assert not held.in_card
    assert CK.reveal().hex() not in repr(held)
    assert repr(CK.reveal()) not in repr(held)
    assert IMPI not in repr(held)
