"""Keys and tokens: rotation with overlap, forgeries, revocation [A-WWSF, A-REG2]."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey

from imskit.secrets import Identity, Secret
from network_edge.wwsf.identities.database import Database
from network_edge.wwsf.tokens.config import ClientConfig, TokensConfig
from network_edge.wwsf.tokens.issuer import Issuer
from network_edge.wwsf.tokens.keys import CACHE_SECONDS, KeyFileError, KeyRing

DAY = 86400.0
LIFE = 300
IMPUS = [Identity("sip:+15550300@ims.example"), Identity("tel:+15550300")]


class Lab:
    def __init__(self, place: Path) -> None:
        self.now = 1_800_000_000.0
        self.path = place / "keys.json"
        self.config = TokensConfig("ep-cscf.example", self.path)
        self.database = Database(Secret(f"sqlite:///{place}/w.db"))
        self.start()

    def start(self) -> None:
        self.keys = KeyRing(self.path, DAY, LIFE, lambda: self.now)
        self.issuer = Issuer(self.config, "https://p.example", self.keys, self.database, lambda: self.now)

    def token(self, sid: str = "s1", until: float | None = None) -> str:
        return self.issuer.issue("alice", sid, Identity("alice@ims.example"), IMPUS, until).text.reveal()

    async def active(self, token: str) -> bool:
        answer = await self.issuer.introspect(token)
        assert answer["active"] or answer == {"active": False}
        return bool(answer["active"])


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    await lab.database.close()


async def test_claims(lab: Lab) -> None:
    """A-REG2: whom, for whom, by whom, until when, and as which IMS identities."""
    token = lab.token()
    found = jwt.decode(token, KeySet.import_key_set(lab.issuer.published()), algorithms=["ES256"])
    claims = dict(found.claims)
    assert len(claims.pop("jti")) >= 20
    assert claims == {
        "iss": "https://p.example", "sub": "alice", "aud": "ep-cscf.example", "iat": 1_800_000_000,
        "exp": 1_800_000_300, "sid": "s1", "scope": "ims", "impi": "alice@ims.example",
        "impu": list(map(str.__str__, IMPUS)),
    }  # fmt: skip
    assert found.header["alg"] == "ES256"
    answer = await lab.issuer.introspect(token)
    assert answer["active"] is True
    assert answer["impi"] == "alice@ims.example"
    assert lab.issuer.issue("alice", "s1", Identity("a@b"), IMPUS, lab.now + 20).seconds == 20


def test_openssl_verifies_the_signature(lab: Lab, tmp_path: Path) -> None:
    """Evidence from a program that nobody here wrote."""
    token = lab.token()
    signed, _, mac = token.rpartition(".")
    raw = base64.urlsafe_b64decode(mac + "==")
    numbers = [raw[:32].lstrip(b"\0"), raw[32:].lstrip(b"\0")]
    parts = b"".join(b"\x02" + bytes([len(n) + (n[0] >> 7)]) + b"\0" * (n[0] >> 7) + n for n in numbers)
    (tmp_path / "sig").write_bytes(b"\x30" + bytes([len(parts)]) + parts)
    (tmp_path / "pub").write_bytes(ECKey.import_key(lab.issuer.published()["keys"][0]).as_pem(private=False))
    (tmp_path / "text").write_text(signed)
    command = [
        "openssl",
        "dgst",
        "-sha256",
        "-verify",
        tmp_path / "pub",
        "-signature",
        tmp_path / "sig",
        tmp_path / "text",
    ]
    assert b"Verified OK" in subprocess.run(command, check=True, capture_output=True).stdout


async def test_expiry_and_revocation(lab: Lab) -> None:
    """A log-out ends the tokens of that log-in, also after a restart; expiry ends each."""
    one, other = lab.token("s1"), lab.token("s2")
    await lab.issuer.revoke("s1")
    await lab.issuer.revoke("s1")
    assert not await lab.active(one)
    lab.start()
    assert not await lab.active(one)
    assert await lab.active(other)
    lab.now += LIFE - 1
    assert await lab.active(other)
    lab.now += 1
    assert not await lab.active(other)


async def test_rotation_overlaps(lab: Lab) -> None:
    """The next key is published before it signs; the old one until nothing signed by it lives."""
    first = lab.keys.signing().kid
    lab.now += DAY - CACHE_SECONDS
    ahead = [key["kid"] for key in lab.keys.published()["keys"]]
    assert len(ahead) == 2
    assert lab.keys.signing().kid == first
    lab.start()
    assert [key["kid"] for key in lab.keys.published()["keys"]] == ahead
    lab.now += CACHE_SECONDS - 1
    old = lab.token()
    lab.now += 1
    assert lab.keys.signing().kid == ahead[1]
    assert await lab.active(old)
    lab.now += LIFE + CACHE_SECONDS
    assert [key["kid"] for key in lab.keys.published()["keys"]] == ahead[1:]
    lab.now += 10 * DAY
    late = lab.token()
    assert await lab.active(late)


async def test_forgeries(lab: Lab) -> None:
    """No signature, another key, the public key as a secret, other claims, another header: none is active."""
    token = lab.token()
    head, body, mac = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    header = {"alg": "ES256", "typ": "at+jwt", "kid": lab.keys.signing().kid}

    def encoded(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    own = lab.keys.signing()
    public = OctKey.import_key(own.as_pem(private=False).decode().replace("-----", ""))
    stranger = ECKey.generate_key("P-256", private=True)
    forged = [
        f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{body}.",
        f"{head}.{encoded(claims | {'impi': 'bob@ims.example'})}.{mac}",
        f"{head}.{body}.",
        jwt.encode(header, claims, stranger),
        jwt.encode({**header, "jwk": stranger.as_dict(private=False)}, claims, stranger),
        jwt.encode({**header, "alg": "HS256"}, claims, public),
        jwt.encode(header, claims | {"aud": "another.example"}, own),
        jwt.encode(header, claims | {"iss": "https://evil.example"}, own),
        jwt.encode({**header, "typ": "JWT"}, claims, own),
        jwt.encode(header, {k: v for k, v in claims.items() if k != "exp"}, own),
        jwt.encode(header, claims | {"exp": "never"}, own),
        "", "a.b.c", "x" * 9000, "ü.ü.ü", token + "\n", "..", ".".join(["e30"] * 5),
    ]  # fmt: skip
    assert await lab.active(token)
    for text in forged:
        assert not await lab.active(text), text


async def test_truncated_and_flipped(lab: Lab) -> None:
    token = lab.token()
    for at in range(len(token)):
        assert not await lab.active(token[:at])


def test_the_key_file(lab: Lab) -> None:
    """Only its owner may read it; a broken one stops the start and says what to do; it is never replaced silently."""
    assert stat.S_IMODE(lab.path.stat().st_mode) == 0o600
    lab.path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        lab.start()
    lab.path.chmod(0o600)
    whole = lab.path.read_text()
    for text in ("", "[", "{}", "[{}]", "[1]", '[{"since": 1, "key": {"kty": "oct", "k": "AA"}}]', whole[:-9]):
        lab.path.write_text(text)
        with pytest.raises(KeyFileError, match=r"Remove|no signing keys"):
            lab.start()
        assert lab.path.read_text() == text
    with pytest.raises(KeyFileError, match="cannot be written"):
        KeyRing(lab.path.parent / "not there" / "keys.json", DAY, LIFE, lambda: 0.0)


def test_a_key_that_cannot_be_kept_does_not_sign(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk full at rotation: the old key goes on."""
    first = lab.keys.signing().kid

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    lab.now += DAY + 1
    assert lab.keys.signing().kid == first
    monkeypatch.undo()
    assert lab.keys.signing().kid != first


@pytest.mark.parametrize("change", [{"seconds": 10}, {"seconds": 4000}, {"rotate_hours": 0.1}])
def test_wrong_settings(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TokensConfig("a", Path("k"), **change)
    with pytest.raises(ValueError, match="16 characters"):
        ClientConfig("a", Secret("short"))
