"""The log-in's steps, without a network.  Requirement S7-AUTH."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.secrets import Identity
from ue_agent.wwpf.agent import AgentError, ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.login import LoginRefusedError, asks_for_card, choose_challenge, choose_naf_challenge, log_in

ME = LoginIdentity(Identity("user@home.example"), "home.example")


def challenge(nonce: str = "n", more: str = "") -> str:
    return f'Digest realm="r, with \\"comma\\"", nonce="{nonce}", algorithm=AKAv1-MD5, qop="auth-int,auth"{more}'


@dataclass
class Answer:
    status: int
    challenges: list[str] = field(default_factory=list)


async def run(*answers: Answer, replies: list[ChallengeAnswer] | None = None) -> tuple[object, list[str], list[str]]:
    script, sent, asked = list(answers), [], []
    cards = list(replies or [ChallengeAnswer("card says", False)] * 5)

    async def send(authorization: str) -> Answer:
        sent.append(authorization)
        return script.pop(0)

    async def answer(text: str) -> ChallengeAnswer:
        asked.append(text)
        return cards.pop(0)

    result = await log_in(identity=ME, realm="portal.example", uri="/x", send=send, answer=answer)
    assert not script
    return result, sent, asked


async def test_in_order() -> None:
    final = Answer(200)
    result, sent, asked = await run(Answer(401, [challenge()]), final)
    assert result.answer is final
    assert result.authenticated
    assert sent == [
        'Digest username="user@home.example", realm="portal.example", nonce="", uri="/x", response=""',
        "card says",
    ]
    assert asked == [challenge()]


async def test_a_server_that_asks_for_nothing() -> None:
    result, sent, asked = await run(Answer(200))
    assert not result.authenticated
    assert (len(sent), asked) == (1, [])


async def test_a_challenge_that_no_card_can_answer_is_the_browsers_business() -> None:
    result, _, asked = await run(Answer(401, ['Basic realm="x"']))
    assert result.answer.status == 401
    assert not asked


async def test_an_error_after_the_answer_is_no_log_in() -> None:
    result, _, _ = await run(Answer(401, [challenge()]), Answer(500))
    assert not result.authenticated


async def test_no_endless_rounds() -> None:
    with pytest.raises(LoginRefusedError, match="did not accept"):
        await run(Answer(401, [challenge()]), Answer(401, [challenge("m")]))
    stale = Answer(401, [challenge("m", ", stale=true")])
    with pytest.raises(LoginRefusedError):
        await run(Answer(401, [challenge()]), stale, stale)
    resync = [ChallengeAnswer("auts", True)] * 2
    with pytest.raises(LoginRefusedError, match="sequence numbers"):
        await run(Answer(401, [challenge()]), Answer(401, [challenge("m")]), replies=resync)


@pytest.mark.parametrize(
    ("values", "nonce"),
    [
        ([challenge("a"), challenge("b")], "a"),
        (['Basic realm="x"', challenge("b")], "b"),
        (['Negotiate, Basic realm="a, Digest b", ' + challenge("c") + ', Bearer realm="y"'], "c"),
        ([challenge("d") + ", Negotiate"], "d"),
        (['Digest realm="r", nonce="x", algorithm=MD5', challenge("e")], "e"),
        ([challenge("x").replace("AKAv1-MD5", "AKAv9-MD5"), challenge("f")], "f"),
        ([challenge("x").replace("auth-int,auth", "auth-int"), challenge("g")], "g"),
        (["Digest realm=", challenge("h")], "h"),
        ([challenge("")], None),
        (["x" * 10_000 + challenge("y")], None),
        (['Basic realm="x"'] * 8 + [challenge("z")], None),
        ([], None),
    ],
)
def test_which_challenge_is_answered(values: list[str], nonce: str | None) -> None:
    chosen = choose_challenge(values)
    assert (chosen.nonce if chosen else None) == nonce


@given(st.lists(st.text(max_size=300), max_size=4))
def test_any_header_can_be_read(values: list[str]) -> None:
    choose_challenge(values)


@given(st.integers(0, 120), st.text(alphabet=',="\\ \tabD', max_size=60))
def test_noise_behind_a_valid_start(keep: int, noise: str) -> None:
    choose_challenge([challenge()[:keep] + noise])


# ---- with a bootstrapped key (S7-GBA)

HOST = "portal.example"
FIRST = 'Digest username="user@home.example", realm="portal.example", nonce="", uri="/x", response=""'


def naf(host: str = HOST, more: str = "", kind: str = "3GPP-bootstrapping") -> str:
    return f'Digest realm="{kind}@{host}", nonce="n", algorithm=SHA-256, qop="auth-int"{more}'


@dataclass
class Ua:
    """What was sent and asked; ``key`` is the agent."""

    script: list[Answer]
    sent: list[str | None] = field(default_factory=list)
    asked: list[tuple[str, bool]] = field(default_factory=list)
    cards: int = 0
    error: AgentError | None = None

    async def send(self, authorization: str | None) -> Answer:
        self.sent.append(authorization)
        return self.script.pop(0)

    async def answer(self, text: str) -> ChallengeAnswer:
        self.cards += 1
        return ChallengeAnswer("card says", False)

    async def key(self, challenge: str, renew: bool) -> str:
        self.asked.append((challenge, renew))
        if self.error is not None:
            raise self.error
        return f"key {len(self.asked)}"

    async def run(self, challenged: Answer | None = None) -> object:
        result = await log_in(
            identity=ME,
            realm=HOST,
            uri="/x",
            send=self.send,
            answer=self.answer,
            challenged=challenged,
            answer_naf=self.key,
        )
        assert not self.script
        return result


async def test_a_key_goes_first_and_nobody_is_named() -> None:
    ua = Ua([Answer(401, [naf(), challenge()]), Answer(200)])
    result = await ua.run()
    assert result.authenticated  # type: ignore[attr-defined]
    assert ua.sent == [None, "key 1"]
    assert ua.asked == [(naf(), False)]
    assert ua.cards == 0


async def test_a_401_that_is_there_already() -> None:
    ua = Ua([Answer(200)])
    await ua.run(Answer(401, [naf()]))
    assert ua.sent == ["key 1"]


async def test_a_server_that_has_forgotten_the_key_gets_a_new_one_once() -> None:
    ua = Ua([Answer(401, [naf()]), Answer(401, [naf()]), Answer(200)])
    await ua.run()
    assert [renew for _, renew in ua.asked] == [False, True]
    ua = Ua([Answer(401, [naf()])] * 3)
    with pytest.raises(LoginRefusedError, match="did not accept the key"):
        await ua.run()
    assert [renew for _, renew in ua.asked] == [False, True]


async def test_a_nonce_that_has_grown_old_needs_no_new_key() -> None:
    stale = Answer(401, [naf(more=", stale=true")])
    ua = Ua([Answer(401, [naf()]), stale, Answer(200)])
    await ua.run()
    assert [renew for _, renew in ua.asked] == [False, False]
    ua = Ua([Answer(401, [naf()]), stale, stale])
    with pytest.raises(LoginRefusedError):
        await ua.run()


async def test_phishing() -> None:
    """A realm of another host is answered by nobody, whatever else is offered."""
    for host in ("evil.example", "portal.example.evil", "xportal.example"):
        ua = Ua([Answer(401, [naf(host), challenge()])])
        with pytest.raises(LoginRefusedError, match="belongs to another server"):
            await ua.run()
        assert (ua.sent, ua.asked, ua.cards) == ([None], [], 0)


async def test_without_a_key_the_card_is_tried() -> None:
    ua = Ua([Answer(401, [naf()]), Answer(401, [challenge()]), Answer(200)], error=AgentError("bsf", "down"))
    await ua.run()
    assert ua.sent == [None, FIRST, "card says"]


async def test_without_a_key_where_the_card_is_not_wanted() -> None:
    ua = Ua([Answer(401, [naf()]), Answer(401, [naf()])], error=AgentError("bsf", "down"))
    with pytest.raises(AgentError, match="down"):
        await ua.run()


@pytest.mark.parametrize("kind", ["phishing", "wrong-network", "card"])
async def test_other_failures_are_told(kind: str) -> None:
    ua = Ua([Answer(401, [naf()])], error=AgentError(kind, "x"))  # type: ignore[arg-type]
    with pytest.raises(AgentError):
        await ua.run()
    assert ua.sent == [None]


@pytest.mark.parametrize("answer", [Answer(200), Answer(401), Answer(401, ['Basic realm="x"'])])
async def test_a_server_that_knows_nothing_of_keys(answer: Answer) -> None:
    ua = Ua([answer, Answer(401, [challenge()]), Answer(200)])
    await ua.run()
    assert ua.sent == [None, FIRST, "card says"]


def test_challenges_for_keys() -> None:
    assert choose_naf_challenge([challenge(), naf(kind="3GPP-bootstrapping-uicc")]) is not None
    assert choose_naf_challenge(['Digest realm="3GPP-bootstrapping@a.example"']) is None, "no nonce"
    assert choose_naf_challenge([naf().replace("SHA-256", "AKAv1-MD5")]) is None
    assert asks_for_card([naf()])
    assert asks_for_card([challenge()])
    assert not asks_for_card(['Digest realm="x", nonce="n"'])


@given(st.lists(st.text(max_size=80) | st.text(max_size=30).map(lambda noise: naf() + noise), max_size=4))
def test_any_header_may_come(values: list[str]) -> None:
    asks_for_card(values)
    try:
        choose_naf_challenge(values, HOST)
    except LoginRefusedError as error:
        assert "another server" in str(error)
