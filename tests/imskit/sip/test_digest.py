"""Digest computations against published values."""

import pytest

from imskit.aka.challenge import AkaAlgorithm
from imskit.aka.vector import Success
from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.digest import DigestError
from imskit.sip.wire.auth import AuthenticationInfo, Challenge, Credentials
from imskit.sip.wire.errors import SipParseError

CIRCLE = Secret("Circle of Life")


def rfc7616(algorithm: str, response: str) -> Credentials:
    """The two requests of RFC 7616 section 3.9.1 (the line folds of the RFC undone)."""
    return Credentials.parse(
        'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html",'
        f" algorithm={algorithm},"
        ' nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001,'
        ' cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth,'
        f' response="{response}", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_rfc_7616_3_9_1(algorithm: str, response: str) -> None:
    """S7-AUTH: MD5 and SHA-256 of RFC 7616 section 3.9.1, as client and as server."""
    credentials = rfc7616(algorithm, response)
    assert digest.response_digest(credentials, CIRCLE, "GET") == response
    assert digest.verify(credentials, CIRCLE, "GET")
    assert not digest.verify(credentials, Secret("Circle of Lift"), "GET")
    assert not digest.verify(credentials, CIRCLE, "PUT")
    challenge = Challenge.digest(
        "http-auth@example.org",
        "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        algorithm=algorithm,
        qop=("auth", "auth-int"),
        opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
    )
    ours = digest.answer(
        challenge,
        username="Mufasa",
        password=CIRCLE,
        method="GET",
        uri="/dir/index.html",
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )
    assert ours.response == response
    assert ours.opaque == "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"


def test_rfc_2617_3_5() -> None:
    """The example of RFC 2617 section 3.5."""
    assert (
        digest.compute(
            algorithm=None,
            username="Mufasa",
            realm="testrealm@host.com",
            password=Secret("Circle Of Life"),
            nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",
            uri="/dir/index.html",
            method="GET",
            qop="auth",
            nc="00000001",
            cnonce="0a4f113b",
        )
        == "6629fae49393a05397450978507c4ef1"
    )


def test_rfc_2069_form() -> None:
    """RFC 2069 section 2.4 with the value of its erratum 749: no qop."""
    assert (
        digest.compute(
            algorithm="MD5",
            username="Mufasa",
            realm="testrealm@host.com",
            password=Secret("CircleOfLife"),
            nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",
            uri="/dir/index.html",
            method="GET",
        )
        == "1949323746fe6a43ef61f9606e7febea"
    )


def sha512_256_example(username: str) -> str:
    return digest.compute(
        algorithm="SHA-512-256",
        username=username,
        realm="api@example.org",
        password=Secret("Secret, or not?"),
        nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
        uri="/doe.json",
        method="GET",
        qop="auth",
        nc="00000001",
        cnonce="NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
    )


def test_rfc_7616_3_9_2_with_its_erratum() -> None:
    """RFC 7616 section 3.9.2: SHA-512/256 is meant; the RFC's own figure is a cut SHA-512, erratum 4897 has this."""
    expected = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    assert sha512_256_example("J\u00e4s\u00f8n Doe") == expected


IMPI = "466058041131504@ims.mnc005.mcc466.3gppnetwork.org"
REALM = "ims.mnc005.mcc466.3gppnetwork.org"
# RAND and SQN zero, K = 00 01 … 0f, test algorithm of TS 34.108 section 8.1.2: AUTN = AK || AMF || MAC.
AKA_NONCE = "AAAAAAAAAAAAAAAAAAAAAAMEBQYHCAAAAAECAwQFBgc="
AKA_RES = Secret(bytes(range(16)))


def test_akav1_md5_hashes_the_octets_of_res() -> None:
    """S7-IMS: AKAv1-MD5 with a RES that holds a NUL octet.

    The value is that of a public C test program (github frankurcrazy/helloworld, ims/akav1-md5/test_vector_1.h).
    """
    challenge = Challenge.digest(REALM, AKA_NONCE, algorithm="AKAv1-MD5", qop=("auth",))
    credentials = digest.answer(
        challenge, username=IMPI, password=AKA_RES, method="REGISTER", uri=f"sip:{REALM}", cnonce="YD05duxy"
    )
    assert credentials.response == "c76c2c281a21c0d6131e667d61a6bdf5"
    assert digest.verify(Credentials.parse(str(credentials)), AKA_RES, "REGISTER")


@pytest.mark.parametrize("algorithm", ["AKAv2-MD5", "AKAv2-SHA-256", "AKAv2-SHA-512-256"])
def test_akav2_agrees_with_rfc_4169_spelled_out(algorithm: str) -> None:
    """RFC 4169 section 2.1, computed a second way here with hashlib and hmac only."""
    import base64
    import hashlib
    import hmac

    name = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[algorithm.removeprefix("AKAv2-")]
    res, ck, ik = bytes(range(8)), bytes(range(16, 32)), bytes(range(32, 48))
    password = base64.b64encode(hmac.digest(res + ik + ck, b"http-digest-akav2-password", name))

    def h(*parts: bytes) -> bytes:
        return hashlib.new(name, b":".join(parts)).hexdigest().encode()

    expected = h(
        h(b"user", b"realm", password), b"nonce", b"0000000a", b"cnonce", b"auth", h(b"REGISTER", b"sip:realm")
    )
    parsed = AkaAlgorithm.parse(algorithm)
    assert parsed is not None
    challenge = Challenge.digest("realm", "nonce", algorithm=algorithm)
    credentials = digest.answer(
        challenge,
        username="user",
        password=parsed.password(Success(Secret(res), Secret(ck), Secret(ik))),
        method="REGISTER",
        uri="sip:realm",
        nc=10,
        cnonce="cnonce",
    )
    assert credentials.get("nc") == "0000000a", "nc is 8 hex digits"
    assert credentials.response == expected.decode()


def test_auts_goes_with_the_response_of_an_empty_password() -> None:
    """RFC 3310 section 3.4; the form of its figure 3 is parsed as well."""
    challenge = Challenge.parse(
        'Digest realm="RoamingUsers@mobile.biz", nonce="CjPk9mRqNuT25eRkajM09uTl9nM09uTl9nMz5OX25PZz==",'
        ' qop="auth,auth-int", opaque="5ccc069c403ebaf9f0171e9517f40e41", algorithm=AKAv1-MD5'
    )
    assert challenge.qop == ("auth", "auth-int")
    credentials = digest.answer(
        challenge,
        username="jon.dough@mobile.biz",
        password=AKA_RES,
        method="REGISTER",
        uri="sip:home.mobile.biz",
        cnonce="0a4f113b",
        auts="5PYxMuX2NOT2NeQ=",
    )
    assert credentials.auts == "5PYxMuX2NOT2NeQ="
    assert digest.verify(credentials, Secret(b""), "REGISTER")
    text = str(credentials)
    assert 'auts="5PYxMuX2NOT2NeQ="' in text
    assert "qop=auth," in text and "nc=00000001" in text and "algorithm=AKAv1-MD5" in text
    assert 'opaque="5ccc069c403ebaf9f0171e9517f40e41"' in text


def test_wrong_mac_is_answered_with_an_empty_response() -> None:
    """TS 24.229 section 5.1.1.5.3."""
    challenge = Challenge.digest(REALM, AKA_NONCE, algorithm="AKAv1-MD5", qop=())
    credentials = digest.answer(challenge, username=IMPI, password=None, method="REGISTER", uri=f"sip:{REALM}")
    assert 'response=""' in str(credentials)
    assert "qop" not in str(credentials) and "nc=" not in str(credentials)
    assert not digest.verify(credentials, AKA_RES, "REGISTER")


def test_auth_int_protects_the_body() -> None:
    challenge = Challenge.digest("r", "n", algorithm="SHA-256", qop=("auth-int",))
    credentials = digest.answer(
        challenge,
        username="u",
        password=Secret("p"),
        method="MESSAGE",
        uri="sip:r",
        cnonce="c",
        body=b"hello",
    )
    assert digest.verify(credentials, Secret("p"), "MESSAGE", b"hello")
    assert not digest.verify(credentials, Secret("p"), "MESSAGE", b"hallo")


def test_server_proves_itself() -> None:
    """RFC 7616 section 3.5: rspauth has an empty method; it is checked by the client."""
    credentials = rfc7616("MD5", "8ca523f5e9506fed4657c9700eebdbec")
    info = digest.authentication_info(credentials, CIRCLE, nextnonce="next")
    parsed = AuthenticationInfo.parse(str(info))
    assert parsed.get("nextnonce") == "next" and parsed.get("nc") == "00000001"
    assert "qop=auth," in str(info)
    assert digest.verify_info(parsed, credentials, CIRCLE)
    assert not digest.verify_info(parsed, credentials, Secret("wrong"))
    assert not digest.verify_info(AuthenticationInfo.parse('nextnonce="x"'), credentials, CIRCLE)


def test_topmost_known_algorithm_is_answered() -> None:
    """RFC 8760 section 2.4."""
    challenges = [
        Challenge.parse('Digest realm="a", nonce="1", algorithm=SHA-3-512'),
        Challenge.bearer("https://as.example/"),
        Challenge.parse('Digest realm="a", nonce="1", algorithm=SHA-256'),
        Challenge.parse('Digest realm="a", nonce="1"'),
    ]
    assert digest.choose(challenges) is challenges[2]
    assert digest.choose(challenges, ["md5"]) is challenges[3]
    assert digest.choose(challenges[:2]) is None


@pytest.mark.parametrize(
    "text",
    [
        'Digest username="u", realm="r", uri="sip:r", response="00"',
        'Digest username="u", realm="r", nonce="n", uri="sip:r", qop=auth, response="00"',
        'Digest username="u", realm="r", nonce="n", uri="sip:r", qop=auth, nc=1, cnonce="c", response="00"',
        'Digest username="u", realm="r", nonce="n", uri="sip:r", qop=token, nc=00000001, cnonce="c", response=""',
        'Digest username="u", realm="r", nonce="n", uri="sip:r", algorithm=ROT13, response="00"',
        'Digest username="u", realm="r", nonce="n", uri="sip:r", algorithm=MD5-sess, response="00"',
        "Bearer abc",
    ],
)
def test_incomplete_credentials_are_refused_not_passed(text: str) -> None:
    with pytest.raises(SipParseError):
        digest.verify(Credentials.parse(text), Secret("p"), "REGISTER")


def test_garbage_response_is_wrong_not_an_error() -> None:
    credentials = rfc7616("MD5", "\u00e9" * 32)
    assert not digest.verify(credentials, CIRCLE, "GET")


def test_unanswerable_challenges() -> None:
    with pytest.raises(DigestError, match="quality"):
        digest.answer(
            Challenge.digest("r", "n", qop=("magic",)),
            username="u",
            password=Secret("p"),
            method="REGISTER",
            uri="sip:r",
        )
    with pytest.raises(DigestError, match="cnonce"):
        digest.answer(Challenge.digest("r", "n"), username="u", password=Secret("p"), method="REGISTER", uri="sip:r")
    with pytest.raises(DigestError, match="realm"):
        digest.answer(
            Challenge.parse('Digest nonce="1"'),
            username="u",
            password=Secret("p"),
            method="REGISTER",
            uri="sip:r",
        )
