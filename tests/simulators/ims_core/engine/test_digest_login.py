"""SIP digest against guessing, floods and curiosity (TS 33.203 annex N, RFC 7616) [A-REG1]."""

from __future__ import annotations

import random

import pytest

from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.message import Request, Response
from simulators.ims_core.engine import digest_login
from simulators.ims_core.engine.registrar import Registrar
from simulators.ims_core.subscribers import Hss, WebSubscriberConfig

HOME = "ims.example"
PASSWORD = "correct horse"


class Register:
    """A registrar, and devices that register."""

    def __init__(self) -> None:
        numbers = random.Random(4)
        hss = Hss(
            [],
            lambda count: bytes(count),
            lambda: 0.0,
            [
                WebSubscriberConfig(f"bob@{HOME}", [f"sip:bob@{HOME}"], Secret(PASSWORD)),
                WebSubscriberConfig(f"alice@{HOME}", [f"sip:alice@{HOME}"], web_servers=["wwsf.ims.example"]),
            ],
        )
        self.now = 100.0
        self.sequence = 0
        self.registrar = Registrar(
            hss,
            HOME,
            ["AKAv1-MD5"],
            f"sip:orig@{HOME};lr",
            lambda digits: f"{numbers.getrandbits(4 * digits):0{digits}x}",
        )

    def ask(self, credentials: Credentials | None, user: str = "bob", call_id: str = "1", to: str = "") -> Response:
        self.sequence += 1
        fields: list[tuple[str, object]] = [
            ("Via", f"SIP/2.0/UDP 10.45.0.3:5060;branch=z9hG4bK{self.sequence}"),
            ("From", f"<sip:{user}@{HOME}>;tag=f"),
            ("To", f"<sip:{to or user}@{HOME}>"),
            ("Call-ID", call_id),
            ("CSeq", f"{self.sequence} REGISTER"),
            ("Contact", f"<sip:{user}@{call_id}.invalid>;expires=600"),
            ("Path", "<sip:token@10.45.0.3;lr>"),
        ]
        if credentials is not None:
            fields.append(("Authorization", str(credentials)))
        return self.registrar.handle(Request.create("REGISTER", f"sip:{HOME}", fields), self.now)

    def challenge(self, user: str = "bob", call_id: str = "1") -> Challenge:
        answer = self.ask(empty(user), user, call_id)
        assert answer.status == 401
        return Challenge.parse(answer.headers.get("WWW-Authenticate") or "", "WWW-Authenticate")

    def answer(self, challenge: Challenge, password: str = PASSWORD, user: str = "bob", nc: int = 1) -> Credentials:
        return digest.answer(
            challenge,
            username=f"{user}@{HOME}",
            password=Secret(password),
            method="REGISTER",
            uri=f"sip:{HOME}",
            nc=nc,
            cnonce="c",
        )

    def log_in(self, password: str = PASSWORD, user: str = "bob", call_id: str = "1", to: str = "") -> Response:
        return self.ask(self.answer(self.challenge(user, call_id), password, user), user, call_id, to)


def empty(user: str) -> Credentials:
    return Credentials.digest(username=f"{user}@{HOME}", realm=HOME, nonce="", uri=f"sip:{HOME}", response="")


@pytest.fixture
def core() -> Register:
    return Register()


def test_a_flood_in_his_name_takes_no_challenge_from_the_user(core: Register) -> None:
    """However many REGISTERs come in between, from whomever."""
    challenge = core.challenge()
    for number in range(20_000):
        core.ask(empty("bob" if number % 2 else f"n{number}"), "bob" if number % 2 else f"n{number}", f"c{number}")
    assert core.ask(core.answer(challenge)).status == 200


def test_wrong_passwords_wait_longer_and_longer(core: Register) -> None:
    statuses, waits = [], []
    for _ in range(12):
        answer = core.log_in("guess")
        statuses.append(answer.status)
        while answer.status == 500:
            waits.append(int(answer.headers.get("Retry-After") or 0))
            core.now += waits[-1]
            answer = core.log_in("guess")
    assert statuses[:5] == [403, 403, 403, 403, 500]
    assert set(statuses[5:]) == {500}
    assert waits == sorted(waits)
    assert waits[0] == 2
    assert waits[-1] == digest_login.LONGEST_WAIT


def test_the_right_password_must_wait_too_but_not_where_it_is_registered(core: Register) -> None:
    """Else the answer would tell which guess was right; the user's own phone does not suffer for it."""
    assert core.log_in(call_id="phone").status == 200
    for _ in range(4):
        assert core.log_in("guess", call_id="guesser").status == 403
    assert core.log_in(call_id="guesser").status == 500
    assert core.log_in(call_id="phone").status == 200
    core.now += digest_login.LONGEST_WAIT
    assert core.log_in(call_id="another").status == 200


def test_wrong_passwords_are_forgotten(core: Register) -> None:
    for _ in range(4):
        core.log_in("guess")
    core.now += 1000.0
    assert [core.log_in("guess").status for _ in range(4)] == [403] * 4


@pytest.mark.parametrize("user", ["bob", "alice", "nobody"], ids=["password", "no password", "nobody"])
def test_nobody_learns_who_exists(core: Register, user: str) -> None:
    """401, then 403, then the wait, with the same words for a name with a password, without one, and of nobody."""
    first = core.ask(empty(user), user)
    assert (first.status, first.reason, len(first.headers.get_all("WWW-Authenticate"))) == (401, "Unauthorized", 2)
    assert core.ask(None, user).status == 401
    answers = [core.log_in("guess", user) for _ in range(5)]
    assert [(each.status, each.reason) for each in answers] == [
        *[(403, "Wrong Password")] * 4,
        (500, "Too Many Wrong Passwords"),
    ]
    assert not any("Warning" in each.headers for each in answers)
    core.now += 2000.0
    assert core.ask(empty(user), user, to="somebody").status == 401
    assert core.log_in("guess", user, to="somebody").status == 403


def test_to_must_be_the_users_own(core: Register) -> None:
    assert core.log_in(to="alice").status == 403
    assert not list(core.registrar.registrations())


def test_a_nonce_is_for_one_user_and_not_to_be_made(core: Register) -> None:
    challenge = core.challenge("alice")
    assert core.ask(core.answer(challenge)).status == 401
    nonce = core.challenge().nonce or ""
    for forged in (
        nonce[:-1] + ("0" if nonce[-1] != "0" else "1"),
        "f" + nonce[1:],
        nonce[:20],
        "",
        "\u00e9" * 68,
        "x" * 68,
    ):
        made = Challenge.digest(HOME, forged or "x", algorithm="MD5", qop=("auth",))
        assert core.ask(core.answer(made)).status == 401


def test_a_used_nonce_is_replayed_by_nobody(core: Register) -> None:
    """Also when its user has used many others since."""
    first = core.challenge()
    assert core.ask(core.answer(first)).status == 200
    assert core.ask(core.answer(first)).status == 401
    assert core.ask(core.answer(first, nc=2)).status == 200
    for number in range(digest_login.NONCES_EACH + 1):
        core.now += 0.01
        assert core.log_in(call_id="1").status == 200, number
    assert core.ask(core.answer(first, nc=2)).status == 401
    assert core.ask(core.answer(first, nc=3)).status == 401


def test_a_nonce_grows_old(core: Register) -> None:
    challenge = core.challenge()
    core.now += digest_login.NONCE_SECONDS
    answer = core.ask(core.answer(challenge))
    assert answer.status == 401
    assert "stale=true" in (answer.headers.get("WWW-Authenticate") or "")
