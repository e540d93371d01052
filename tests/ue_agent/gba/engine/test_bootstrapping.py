"""One run over Ub on a virtual clock; the BSF's side is written out here (S7-GBA, TS 24.109 clause 4)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.gba import MEDIA_TYPE, BootstrappingInfo, BTid, InCard, bootstrap_key
from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnArray, check_auts, join
from imskit.aka.vector import AuthenticationVector, Usim
from imskit.engine import Tick
from imskit.secrets import Identity, Secret
from ue_agent.gba.engine.bootstrapping import (
    RUN_SECONDS,
    AskCard,
    Bootstrapping,
    CardAnswer,
    CardFailed,
    Cause,
    Done,
    Event,
    Failed,
    HttpAnswer,
    HttpFailed,
    Output,
    Request,
    Start,
)

BSF = "bsf.ims.mnc001.mcc001.pub.3gppnetwork.org"
IMPI = Identity("001010000000001@ims.mnc001.mcc001.3gppnetwork.org")
MILENAGE = Milenage(
    Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc")),
    Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf")),  # TS 35.208 set 1
)
NOW = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
VECTOR = AuthenticationVector.generate(MILENAGE, bytes(range(16)), join(5, 5))
END = NOW + timedelta(hours=8)


def fields(authorization: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="?([^",]*)"?', authorization.removeprefix("Digest ")))


def md5(*parts: bytes | str) -> str:
    octets = [part.encode() if isinstance(part, str) else part for part in parts]
    return hashlib.md5(b":".join(octets)).hexdigest()


def response(sent: dict[str, str], vector: AuthenticationVector, method: str, body: bytes) -> str:
    """RFC 7616 section 3.4 with qop=auth-int, RFC 3310 section 3.3: the octets of RES."""
    a1 = md5(sent["username"], sent["realm"], vector.xres.reveal())
    a2 = md5(method, sent["uri"], hashlib.md5(body).hexdigest())
    return md5(a1, sent["nonce"], sent["nc"], sent["cnonce"], "auth-int", a2)


def challenge(
    vector: AuthenticationVector = VECTOR, realm: str = BSF, more: str = 'algorithm=AKAv1-MD5, qop="auth-int"'
) -> HttpAnswer:
    nonce = base64.b64encode(vector.rand + vector.autn).decode()
    value = f'Digest realm="{realm}", nonce="{nonce}", {more}'
    return HttpAnswer(401, [("WWW-Authenticate", value)], b"", NOW)


def document(end: datetime = END) -> bytes:
    return BootstrappingInfo(BTid.make(VECTOR.rand, BSF), end).encode()


def accepted(authorization: str, body: bytes, kind: str = MEDIA_TYPE, spoil: str = "") -> HttpAnswer:
    sent = fields(authorization)
    proof = response(sent, VECTOR, "", body)
    value = f'qop=auth-int, rspauth="{spoil or proof}", cnonce="{sent["cnonce"]}", nc={sent["nc"]}'
    return HttpAnswer(200, [("Content-Type", kind), ("Authentication-Info", value)], body, NOW)


class Bench:
    def __init__(self) -> None:
        self.engine = Bootstrapping(IMPI, BSF, lambda digits: "c" * digits)

    def give(self, event: Event, now: float = 0.0) -> list[Output]:
        self.engine.handle(event, now)
        found = []
        while (output := self.engine.poll()) is not None:
            found.append(output)
        return found

    def one[T: Output](self, event: Event, kind: type[T], now: float = 0.0) -> T:
        (output,) = self.give(event, now)
        assert isinstance(output, kind), output
        return output

    def answered(self, usim: Usim | None = None) -> Request:
        """Come as far as the card's answer."""
        self.one(Start(), Request)
        asked = self.one(challenge(), AskCard)
        return self.one(CardAnswer((usim or Usim(MILENAGE)).verify(asked.rand, asked.autn)), Request)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_gba_me(bench: Bench) -> None:
    """S7-GBA: private identity, challenge, answer with auth-int over no body, document with the BSF's proof."""
    first = fields(bench.one(Start(), Request).authorization)
    assert first == {"username": IMPI, "realm": BSF, "nonce": "", "uri": "/", "response": ""}
    asked = bench.one(challenge(), AskCard)
    assert (asked.rand, asked.autn) == (VECTOR.rand, VECTOR.autn)
    request = bench.one(CardAnswer(Usim(MILENAGE).verify(asked.rand, asked.autn)), Request)
    sent = fields(request.authorization)
    assert sent["qop"] == "auth-int"
    assert sent["algorithm"] == "AKAv1-MD5"
    assert sent["response"] == response(sent, VECTOR, "GET", b"")
    run = bench.one(accepted(request.authorization, document()), Done).run
    assert run.ks == bootstrap_key(VECTOR.ck, VECTOR.ik)
    assert (run.impi, run.rand, run.info.lifetime) == (IMPI, VECTOR.rand, END)
    assert bench.engine.deadline() is None
    assert bench.give(Start()) == [], "it is over"


def test_gba_u(bench: Bench) -> None:
    """S7-GBA: the card gives RES alone; there is no Ks here."""
    bench.one(Start(), Request)
    bench.one(challenge(), AskCard)
    request = bench.one(CardAnswer(InCard(VECTOR.xres)), Request)
    run = bench.one(accepted(request.authorization, document()), Done).run
    assert run.ks is None
    assert run.in_card


def test_resynchronisation(bench: Bench) -> None:
    """S7-GBA: AUTS, once; the response is that of an empty password (RFC 3310 section 3.4)."""
    usim = Usim(MILENAGE, SqnArray([join(900, 5)]))
    request = bench.answered(usim)
    sent = fields(request.authorization)
    assert check_auts(MILENAGE, VECTOR.rand, base64.b64decode(sent["auts"])) == join(900, 5)
    fresh = AuthenticationVector.generate(MILENAGE, bytes(16), join(901, 6))
    asked = bench.one(challenge(fresh), AskCard)
    again = bench.one(CardAnswer(usim.verify(asked.rand, asked.autn)), Request)
    assert "auts" not in fields(again.authorization)


def test_auts_twice_is_the_end(bench: Bench) -> None:
    usim = Usim(MILENAGE, SqnArray([join(900, 5)]))
    bench.answered(usim)
    asked = bench.one(challenge(), AskCard)
    failed = bench.one(CardAnswer(usim.verify(asked.rand, asked.autn)), Failed)
    assert failed.cause is Cause.BSF
    assert "sequence numbers" in failed.reason


def test_wrong_mac(bench: Bench) -> None:
    """Nothing is sent to who could not make the challenge."""
    bench.one(Start(), Request)
    asked = bench.one(challenge(), AskCard)
    other = Usim(Milenage(Secret(bytes(16)), Secret(bytes(16))))
    failed = bench.one(CardAnswer(other.verify(asked.rand, asked.autn)), Failed)
    assert failed.cause is Cause.WRONG_NETWORK


def test_a_card_that_fails(bench: Bench) -> None:
    bench.one(Start(), Request)
    bench.one(challenge(), AskCard)
    assert bench.one(CardFailed("pulled"), Failed) == Failed(Cause.CARD, "pulled")


@pytest.mark.parametrize(
    "wrong",
    [
        challenge(more='algorithm=MD5, qop="auth-int"'),
        challenge(more="algorithm=AKAv1-MD5"),
        challenge(more='algorithm=AKAv1-MD5, qop="auth"'),
        HttpAnswer(401, [], b"", NOW),
        HttpAnswer(401, [("WWW-Authenticate", 'Basic realm="x"')], b"", NOW),
        HttpAnswer(401, [("WWW-Authenticate", "")], b"", NOW),
    ],
    ids=["algorithm", "no-qop", "qop", "none", "basic", "empty"],
)
def test_what_is_no_challenge_for_the_card(bench: Bench, wrong: HttpAnswer) -> None:
    """Ub has one algorithm and one quality; anything weaker is an attacker's wish."""
    bench.one(Start(), Request)
    assert bench.one(wrong, Failed).cause is Cause.BSF


@pytest.mark.parametrize("realm", ["portal.ims.example", "bsf.evil.example", ""])
def test_a_challenge_of_another_server(bench: Bench, realm: str) -> None:
    """An attacker who starts a log-in at a portal for our identity cannot have its challenge answered on Ub."""
    bench.one(Start(), Request)
    failed = bench.one(challenge(realm=realm), Failed)
    assert f"calls itself '{realm}'" in failed.reason
    assert failed.cause is Cause.BSF


def test_the_realm_may_be_in_capitals(bench: Bench) -> None:
    bench.one(Start(), Request)
    bench.one(challenge(realm=BSF.upper()), AskCard)


def test_a_nonce_that_is_none(bench: Bench) -> None:
    bench.one(Start(), Request)
    value = f'Digest realm="{BSF}", nonce="abc", algorithm=AKAv1-MD5, qop="auth-int"'
    failed = bench.one(HttpAnswer(401, [("WWW-Authenticate", value)], b"", NOW), Failed)
    assert "cannot be read" in failed.reason


def test_one_of_several_challenges_is_taken(bench: Bench) -> None:
    bench.one(Start(), Request)
    good = challenge().headers[0]
    bench.one(HttpAnswer(401, [("WWW-Authenticate", 'Basic realm="x"'), good], b"", NOW), AskCard)


def test_an_answer_that_is_not_accepted(bench: Bench) -> None:
    bench.answered()
    assert "did not accept" in bench.one(challenge(), Failed).reason


def test_a_nonce_that_has_grown_old_is_answered_once_more(bench: Bench) -> None:
    usim = Usim(MILENAGE)
    bench.answered(usim)
    stale = 'algorithm=AKAv1-MD5, qop="auth-int", stale=true'
    fresh = AuthenticationVector.generate(MILENAGE, bytes(16), join(6, 6))
    asked = bench.one(challenge(fresh, more=stale), AskCard)
    bench.one(CardAnswer(usim.verify(asked.rand, asked.autn)), Request)
    assert "did not accept" in bench.one(challenge(fresh, more=stale), Failed).reason


@pytest.mark.parametrize(
    ("status", "words"), [(403, "does not accept"), (404, "does not accept"), (500, "answered with 500"), (302, "302")]
)
def test_other_answers(bench: Bench, status: int, words: str) -> None:
    bench.one(Start(), Request)
    assert words in bench.one(HttpAnswer(status, [], b"", NOW), Failed).reason


def test_a_document_without_having_been_asked_for_the_card(bench: Bench) -> None:
    """A BSF that hands out a B-TID for nothing is none."""
    bench.one(Start(), Request)
    assert bench.one(HttpAnswer(200, [], document(), NOW), Failed).cause is Cause.BSF


@pytest.mark.parametrize("spoil", ["0" * 32, "ä", "x"])
def test_a_bsf_that_cannot_prove_itself(bench: Bench, spoil: str) -> None:
    """Ub is plain HTTP: rspauth protects the document."""
    request = bench.answered()
    failed = bench.one(accepted(request.authorization, document(), spoil=spoil), Failed)
    assert failed.cause is Cause.WRONG_NETWORK


def test_a_document_changed_on_the_way(bench: Bench) -> None:
    request = bench.answered()
    good = accepted(request.authorization, document())
    changed = HttpAnswer(200, good.headers, document(END + timedelta(days=365)), NOW)
    assert bench.one(changed, Failed).cause is Cause.WRONG_NETWORK


def test_no_proof_at_all(bench: Bench) -> None:
    bench.answered()
    answer = HttpAnswer(200, [("Content-Type", MEDIA_TYPE)], document(), NOW)
    assert bench.one(answer, Failed).cause is Cause.WRONG_NETWORK


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (document(NOW), MEDIA_TYPE, "ended already"),
        (b"<a/>", MEDIA_TYPE, "cannot be used"),
        (document(), "text/html", "its type is text/html"),
        (document(), "", "its type is missing"),
    ],
)
def test_documents_that_do_not_help(bench: Bench, body: bytes, kind: str, words: str) -> None:
    request = bench.answered()
    assert words in bench.one(accepted(request.authorization, body, kind), Failed).reason


def test_a_plain_xml_type_will_do(bench: Bench) -> None:
    request = bench.answered()
    bench.one(accepted(request.authorization, document(), "text/xml; charset=utf-8"), Done)


def test_it_does_not_take_for_ever(bench: Bench) -> None:
    bench.give(Start(), 10.0)
    assert bench.engine.deadline() == 10.0 + RUN_SECONDS
    assert bench.give(Tick(), 11.0) == []
    assert "took more than" in bench.one(Tick(), Failed, 10.0 + RUN_SECONDS).reason


def test_no_answer(bench: Bench) -> None:
    bench.one(Start(), Request)
    assert bench.one(HttpFailed("down"), Failed) == Failed(Cause.BSF, "down")


def test_nothing_secret_prints(bench: Bench) -> None:
    request = bench.answered()
    done = bench.one(accepted(request.authorization, document()), Done)
    text = repr(done) + repr(CardAnswer(Usim(MILENAGE).verify(VECTOR.rand, VECTOR.autn)))
    assert VECTOR.ck.reveal().hex() not in text
    assert repr(VECTOR.xres.reveal()) not in text


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["WWW-Authenticate", "Authentication-Info", "Content-Type", "X"]),
        st.text(max_size=60)
        | st.text(max_size=20).map(lambda noise: challenge().headers[0][1] + noise)
        | st.text(max_size=20).map(lambda noise: f'rspauth="{noise}", qop=auth-int{noise}'),
    ),
    max_size=4,
)


@given(
    st.lists(
        st.builds(HttpAnswer, st.sampled_from([200, 401, 403]), HEADERS, st.binary(max_size=80), st.just(NOW))
        | st.just(CardAnswer(InCard(VECTOR.xres)))
        | st.just(challenge()),
        max_size=6,
    )
)
def test_whatever_the_network_sends(events: Sequence[Event]) -> None:
    """Nothing escapes, nothing succeeds, and after an end there is nothing more."""
    bench = Bench()
    bench.give(Start())
    for event in events:
        outputs = bench.give(event)
        assert not any(isinstance(output, Done) for output in outputs)
        if any(isinstance(output, Failed) for output in outputs):
            assert bench.engine.deadline() is None
            assert bench.give(challenge()) == []
            return
