"""HTTP Digest computations: RFC 7616 with the algorithms of RFC 8760 and of AKA (RFC 3310, RFC 4169).

An AKA algorithm hashes like the one it names: ``AKAv1-MD5`` like ``MD5``.  What differs is the password, which
the caller brings: the octets of RES for AKAv1, the base64 text of RFC 4169 section 2.1 for AKAv2.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

from imskit.secrets import Secret
from imskit.sip.wire.auth import AuthenticationInfo, Challenge, Credentials
from imskit.sip.wire.errors import SipParseError

_ALGORITHM = re.compile(r"(?:AKAv[12]-)?(MD5|SHA-256|SHA-512-256)(-sess)?", re.IGNORECASE)
_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
_NC_MAXIMUM = 0xFFFFFFFF

type Password = Secret[bytes] | Secret[str]


class DigestError(SipParseError):
    """A digest that cannot be computed: unknown algorithm or quality, parameter missing or out of range."""


def supported(algorithm: str | None) -> bool:
    """True if `response_digest` knows ``algorithm`` (``None`` means MD5)."""
    return _ALGORITHM.fullmatch(algorithm or "MD5") is not None


def choose(challenges: Sequence[Challenge], acceptable: Sequence[str] | None = None) -> Challenge | None:
    """Return the topmost Digest challenge whose algorithm can be answered (RFC 8760 section 2.4).

    ``acceptable`` narrows the algorithms (compared without case); ``None``: all that are known.
    """
    names = None if acceptable is None else {name.lower() for name in acceptable}
    for challenge in challenges:
        algorithm = challenge.algorithm or "MD5"
        if challenge.is_digest and supported(algorithm) and (names is None or algorithm.lower() in names):
            return challenge
    return None


def compute(
    *,
    algorithm: str | None,
    username: str,
    realm: str,
    password: Password,
    nonce: str,
    uri: str,
    method: str,
    qop: str | None = None,
    nc: str = "",
    cnonce: str = "",
    body: bytes = b"",
) -> str:
    """Return the ``response`` in lower-case hex (RFC 7616 section 3.4.1).

    An empty ``method`` gives ``rspauth`` (section 3.5).  Without ``qop`` the form of RFC 2069 is computed.
    """
    found = _ALGORITHM.fullmatch(algorithm or "MD5")
    if found is None:
        raise DigestError("the algorithm is not known", where="algorithm", clause="RFC 8760", found=algorithm)
    name = _HASHES[found[1].upper()]

    def h(data: bytes) -> bytes:
        return hashlib.new(name, data, usedforsecurity=False).hexdigest().encode("ascii")

    secret = password.reveal()
    a1 = _octets(f"{username}:{realm}:") + (secret if isinstance(secret, bytes) else _octets(secret))
    ha1 = h(a1)
    if found[2]:
        ha1 = h(ha1 + _octets(f":{nonce}:{cnonce}"))
    a2 = _octets(f"{method}:{uri}")
    if qop == "auth-int":
        a2 += b":" + h(body)
    elif qop not in (None, "auth"):
        raise DigestError(
            "the quality of protection is not known", where="qop", clause="RFC 7616 section 3.4", found=qop
        )
    middle = f":{nonce}:" if qop is None else f":{nonce}:{nc}:{cnonce}:{qop}:"
    return h(ha1 + _octets(middle) + h(a2)).decode("ascii")


def answer(
    challenge: Challenge,
    *,
    username: str,
    password: Password | None,
    method: str,
    uri: str,
    nc: int = 1,
    cnonce: str = "",
    body: bytes = b"",
    auts: str | None = None,
) -> Credentials:
    """Answer a Digest challenge.

    ``nc`` counts the uses of this nonce from 1; ``cnonce`` is a fresh random text.  ``password`` ``None`` writes an
    empty response: the network's MAC was wrong (TS 24.229 section 5.1.1.5.3).  With ``auts`` (base64) the response
    is that of an empty password (RFC 3310 section 3.4).  Of several qualities ``auth`` is taken.
    """
    if not challenge.is_digest or challenge.realm is None or challenge.nonce is None:
        raise DigestError("realm and nonce are needed", where="challenge", clause="RFC 7616 section 3.3")
    if not 0 < nc <= _NC_MAXIMUM:
        raise DigestError("the nonce count is not in 1..2**32-1", where="nc", clause="RFC 7616 section 3.4")
    qop = _choose_qop(challenge)
    algorithm = challenge.algorithm
    if (qop is not None or (algorithm or "").lower().endswith("-sess")) and not cnonce:
        raise DigestError("a cnonce is needed", where="cnonce", clause="RFC 7616 section 3.4")
    count = f"{nc:08x}"
    if auts is not None:
        password = Secret(b"")
    response = ""
    if password is not None:
        response = compute(
            algorithm=algorithm,
            username=username,
            realm=challenge.realm,
            password=password,
            nonce=challenge.nonce,
            uri=uri,
            method=method,
            qop=qop,
            nc=count,
            cnonce=cnonce,
            body=body,
        )
    return Credentials.digest(
        username=username,
        realm=challenge.realm,
        nonce=challenge.nonce,
        uri=uri,
        response=response,
        algorithm=algorithm,
        cnonce=cnonce or None,
        opaque=challenge.opaque,
        qop=qop,
        nc=count if qop else None,
        auts=auts,
    )


def response_digest(credentials: Credentials, password: Password, method: str, body: bytes = b"") -> str:
    """Return the response that ``credentials`` should carry; an empty ``method`` gives ``rspauth``."""
    if not credentials.is_digest:
        raise DigestError("these are no Digest credentials", where="Authorization", clause="RFC 7616 section 3.4")
    values = {name: credentials.get(name) for name in ("username", "realm", "nonce", "uri")}
    for name, value in values.items():
        if value is None:
            raise DigestError("the parameter is missing", where=name, clause="RFC 7616 section 3.4")
    qop = credentials.qop
    nc, cnonce = credentials.get("nc"), credentials.cnonce
    if qop is not None:
        if credentials.nc is None or not cnonce:
            raise DigestError("qop needs nc and cnonce", where="qop", clause="RFC 7616 section 3.4")
    elif (credentials.algorithm or "").lower().endswith("-sess") and not cnonce:
        raise DigestError("a session algorithm needs cnonce", where="cnonce", clause="RFC 7616 section 3.4.2")
    return compute(
        algorithm=credentials.algorithm,
        username=values["username"] or "",
        realm=values["realm"] or "",
        password=password,
        nonce=values["nonce"] or "",
        uri=values["uri"] or "",
        method=method,
        qop=qop,
        nc=nc or "",
        cnonce=cnonce or "",
        body=body,
    )


def verify(credentials: Credentials, password: Password, method: str, body: bytes = b"") -> bool:
    """Tell in constant time whether ``credentials`` answer rightly.

    The caller has checked that nonce, realm, algorithm and uri are those it asked for, and that nc grows.
    Raises `DigestError` where no answer can be computed.
    """
    given = (credentials.response or "").lower()
    expected = response_digest(credentials, password, method, body)
    return hmac.compare_digest(expected.encode("ascii"), given.encode("utf-8", "surrogateescape"))


def authentication_info(
    credentials: Credentials, password: Password, body: bytes = b"", *, nextnonce: str | None = None
) -> AuthenticationInfo:
    """Build the server's proof for a request that carried ``credentials``; ``body`` is the response's."""
    return AuthenticationInfo.digest(
        qop=credentials.qop,
        rspauth=response_digest(credentials, password, "", body),
        cnonce=credentials.cnonce,
        nc=credentials.get("nc"),
        nextnonce=nextnonce,
    )


def verify_info(info: AuthenticationInfo, credentials: Credentials, password: Password, body: bytes = b"") -> bool:
    """Tell in constant time whether the server proved that it knows the password; False without ``rspauth``."""
    given = (info.get("rspauth") or "").lower()
    expected = response_digest(credentials, password, "", body)
    return hmac.compare_digest(expected.encode("ascii"), given.encode("utf-8", "surrogateescape"))


def _choose_qop(challenge: Challenge) -> str | None:
    offered = challenge.qop
    if not offered:
        return None
    for qop in ("auth", "auth-int"):
        if qop in offered:
            return qop
    raise DigestError(
        "no known quality of protection is offered", where="qop", clause="RFC 7616 section 3.3", found=",".join(offered)
    )


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
