"""The log-in's steps, without a network.  Requirement S7-AUTH."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.secrets import Identity
from ue_agent.wwpf.agent import ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.login import LoginRefusedError, choose_challenge, log_in

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
