"""From the card's answer to the header.  Requirement S7-AUTH."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from imskit.aka.vector import MacFailure, Success, SyncFailure
from imskit.secrets import Identity, Secret
from ue_agent.wwpf.agent import AgentError, LoginIdentity
from ue_agent.wwpf.card_login import answer_challenge

ME = LoginIdentity(Identity("user@home.example"), "home.example")
RAND, AUTN = bytes(range(16)), bytes(range(16, 32))
NONCE = base64.b64encode(RAND + AUTN + b"server").decode()


def card(result: Any, seen: list[tuple[bytes, bytes]] | None = None) -> Any:
    async def authenticate(rand: bytes, autn: bytes) -> Any:
        if seen is not None:
            seen.append((rand, autn))
        return result

    return authenticate


def challenge(algorithm: str = "AKAv1-MD5", nonce: str = NONCE) -> str:
    return f'Digest realm="r", nonce="{nonce}", algorithm={algorithm}, qop="auth", opaque="o"'


def fields(text: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="?([^",]*)"?', text))


async def test_success() -> None:
    seen: list[tuple[bytes, bytes]] = []
    keys = Success(Secret(b"RESRESRE"), Secret(b"C" * 16), Secret(b"I" * 16))
    answer = await answer_challenge(ME, card(keys, seen), challenge(), "GET", "/x")
    assert seen == [(RAND, AUTN)]
    assert not answer.resync
    read = fields(answer.authorization)
    assert (read["username"], read["realm"], read["nonce"], read["uri"]) == ("user@home.example", "r", NONCE, "/x")
    assert (read["opaque"], read["qop"], read["nc"]) == ("o", "auth", "00000001")
    assert len(read["response"]) == 32
    for secret in ("RESRESRE", "C" * 16, "I" * 16):
        assert secret not in answer.authorization
    again = await answer_challenge(ME, card(keys), challenge(), "GET", "/x")
    assert fields(again.authorization)["cnonce"] != read["cnonce"]


async def test_resynchronisation() -> None:
    answer = await answer_challenge(ME, card(SyncFailure(b"A" * 14)), challenge(), "GET", "/")
    assert answer.resync
    assert base64.b64decode(fields(answer.authorization)["auts"]) == b"A" * 14


async def test_a_wrong_mac() -> None:
    with pytest.raises(AgentError, match="does not recognise the operator") as caught:
        await answer_challenge(ME, card(MacFailure()), challenge(), "GET", "/")
    assert caught.value.kind == "wrong-network"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Basic realm=x",
        'Digest realm="r"',
        challenge("MD5"),
        challenge(nonce="short"),
        challenge(nonce="%%%"),
        challenge().replace('realm="r", ', ""),
        challenge().replace('"auth"', '"unknown"'),
    ],
)
async def test_what_is_no_challenge_for_a_card(text: str) -> None:
    keys = Success(Secret(b"RESRESRE"), Secret(b"C" * 16), Secret(b"I" * 16))
    with pytest.raises(AgentError) as caught:
        await answer_challenge(ME, card(keys), text, "GET", "/")
    assert caught.value.kind == "internal"
