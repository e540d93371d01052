"""Challenges and credentials: quoting, quoted commas, hostile input."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.secrets import Secret
from imskit.sip.wire.auth import AuthenticationInfo, Challenge, Credentials
from imskit.sip.wire.errors import SipParseError

IMS_CHALLENGE = (
    'Digest realm="ims.mnc001.mcc001.3gppnetwork.org", nonce="a/b+c=", algorithm=AKAv1-MD5, qop="auth,auth-int",'
    ' ik="00112233445566778899aabbccddeeff",ck="ffeeddccbbaa99887766554433221100", stale=FALSE'
)


def test_quoted_comma_in_qop() -> None:
    """The usual IMS challenge, which other parsers split at the comma."""
    challenge = Challenge.parse(IMS_CHALLENGE)
    assert challenge.qop == ("auth", "auth-int")
    assert challenge.algorithm == "AKAv1-MD5"
    assert challenge.get("CK") == "ffeeddccbbaa99887766554433221100"
    assert challenge.stale is False


def test_keys_are_taken_out_and_the_rest_stays() -> None:
    """What the P-CSCF does with a 401 (TS 24.229 section 5.2.2)."""
    stripped = Challenge.parse(IMS_CHALLENGE).without("ik", "ck")
    assert str(stripped) == (
        'Digest realm="ims.mnc001.mcc001.3gppnetwork.org", nonce="a/b+c=", algorithm=AKAv1-MD5,'
        ' qop="auth,auth-int", stale=FALSE'
    )


def test_integrity_protected_is_written_quoted_in_its_place() -> None:
    """TS 24.229 section 7.2A.2: ``integrity-protected="yes"``."""
    first = Credentials.parse('Digest username="u",realm="r",nonce="",uri="sip:r",response=""')
    assert first.nonce == "" and first.response == ""
    marked = first.with_("integrity-protected", "no").with_("integrity-protected", "yes")
    assert str(marked).endswith('response="", integrity-protected="yes"')


def test_a_first_ims_register() -> None:
    """S7-IMS: the Authorization of an unprotected REGISTER (TS 24.229 section 5.1.1.2.2)."""
    credentials = Credentials.digest(username="001010000000001@x", realm="x", nonce="", uri="sip:x", response="")
    assert str(credentials) == 'Digest username="001010000000001@x", realm="x", nonce="", uri="sip:x", response=""'


def test_quotes_inside_values_survive() -> None:
    credentials = Credentials.digest(username='a"b\\c,d', realm="r", nonce="n", uri="u", response="0")
    assert Credentials.parse(str(credentials)).username == 'a"b\\c,d'


def test_tolerates_quoting_of_others() -> None:
    credentials = Credentials.parse('DIGEST Username=bob, qop="AUTH" ,nc="0000000F", , algorithm="MD5",')
    assert (credentials.username, credentials.qop, credentials.nc, credentials.algorithm) == (
        "bob",
        "auth",
        15,
        "MD5",
    )


def test_bearer_in_both_spellings() -> None:
    """RFC 8898 section 3 and TS 24.371 table A.3.2-1."""
    for text in ("Bearer mF_9.B5f-4.1JqM=", 'Bearer access_token="mF_9.B5f-4.1JqM="'):
        assert Credentials.parse(text).bearer_token == Secret("mF_9.B5f-4.1JqM=")
    assert str(Credentials.bearer(Secret("abc.def"))) == "Bearer abc.def"
    assert Credentials.parse(IMS_CHALLENGE).bearer_token is None
    with pytest.raises(SipParseError):
        Credentials.bearer(Secret("a b"))


def test_bearer_challenge() -> None:
    challenge = Challenge.bearer("https://as.example/", scope="sip", error="invalid_token")
    assert str(challenge) == 'Bearer authz_server="https://as.example/", scope="sip", error="invalid_token"'
    assert Challenge.parse(str(challenge)).get("error") == "invalid_token"


def test_secrets_are_not_shown() -> None:
    assert "abc" not in repr(Credentials.bearer(Secret("abc")))
    assert "0011" not in repr(Challenge.parse(IMS_CHALLENGE))
    with pytest.raises(SipParseError) as caught:
        Credentials.parse('Digest response="topsecret" x')
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Digest realm",
        'Digest realm="a',
        'Digest realm="a" nonce="b"',
        'Digest username="a", username="b"',
        'Digest username="a", USERNAME="b"',
        '"Digest" realm="a"',
        "Digest " + ",".join(f"p{n}=1" for n in range(65)),
    ],
)
def test_malformed_values_are_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        Credentials.parse(text)
    assert caught.value.status == 400


def test_injection_is_refused() -> None:
    with pytest.raises(SipParseError):
        Credentials.digest(username="a\r\nX: y", realm="r", nonce="n", uri="u", response="0")
    with pytest.raises(SipParseError):
        Credentials.digest(username="a", realm="r", nonce="n", uri="u", response="0", qop='auth, x="')


def test_authentication_info_round_trip() -> None:
    """RFC 3310 section 4, figure 2 message 4."""
    info = AuthenticationInfo.parse(
        'qop=auth-int, rspauth="6629fae49393a05397450978507c4ef1", cnonce="0a4f113b", nc=00000001'
    )
    assert info.get("rspauth") == "6629fae49393a05397450978507c4ef1"
    assert str(info) == 'qop=auth-int, rspauth="6629fae49393a05397450978507c4ef1", cnonce="0a4f113b", nc=00000001'


@pytest.mark.parametrize("unit", ['a="', '"\\', "a=b,", ",", '"",', "\\\\", "a=", " "])
def test_time_grows_with_length_only(unit: str) -> None:
    """A value that stopped another parser for seconds at 150 bytes; here 60 kB."""
    text = 'Digest username="' + unit * (60_000 // len(unit))
    start = time.process_time()
    with pytest.raises(SipParseError):
        Credentials.parse(text + '"\\')
    assert time.process_time() - start < 1


@given(st.text(max_size=60), st.integers(0, len(IMS_CHALLENGE)))
def test_only_the_documented_error_escapes(noise: str, cut: int) -> None:
    for text in (IMS_CHALLENGE[:cut] + noise, noise, "Bearer " + noise):
        try:
            str(Challenge.parse(text))
            credentials = Credentials.parse(text)
            _ = credentials.nc, credentials.bearer_token
        except SipParseError:
            pass
