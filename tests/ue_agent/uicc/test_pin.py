"""A wrong PIN costs one try, also across restarts."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from imskit.secrets import Secret
from imskit.uicc.uicc import Uicc
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.errors import PinRequiredError
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.uicc.pin import Pin

type MakeCard = Callable[..., Uicc]


def test_it_is_the_card_and_the_pin_together(tmp_path: Path) -> None:
    memory = tmp_path / "refused.json"
    Pin(Secret("9999"), memory).refuse("8900101")
    assert Pin(Secret("9999"), memory).was_refused_by("8900101")
    assert not Pin(Secret("9999"), memory).was_refused_by("8900102")
    assert not Pin(Secret("9998"), memory).was_refused_by("8900101"), "a corrected PIN is tried"
    Pin(Secret("9999"), memory).refuse(None)
    assert Pin(Secret("9999"), memory).was_refused_by(None)
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert "9999" not in memory.read_text() and "8900101" not in memory.read_text()


def test_it_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashlib.scrypt", lambda password, **_: password.ljust(32)[:32])
    pin = Pin(Secret("9999"), tmp_path / "refused.json")
    for number in range(100):
        pin.refuse(str(number))
    again = Pin(Secret("9999"), tmp_path / "refused.json")
    assert [again.was_refused_by(str(number)) for number in (0, 67, 68, 99)] == [False, False, True, True]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"salt": "00", "refused": []}', '{"salt": 1}', "[" * 9999])
def test_a_broken_memory(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    memory = tmp_path / "refused.json"
    memory.write_text(text)
    pin = Pin(Secret("9999"), memory)
    assert "cannot be read" in caplog.text and not pin.was_refused_by("1")
    pin.refuse("1")
    assert Pin(Secret("9999"), memory).was_refused_by("1")


def test_a_memory_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pin = Pin(Secret("9999"), tmp_path / "nowhere" / "refused.json")
    pin.refuse("1")
    assert pin.was_refused_by("1") and "a restart will forget" in caplog.text


async def test_the_agent_is_restarted_again_and_again(make_card: MakeCard, tmp_path: Path) -> None:
    """X-CARDLAB: not even a service that is started anew every minute uses up the tries."""
    sim = make_card(pin=Secret("1234"))
    memory = tmp_path / "refused.json"
    for _ in range(4):
        spec = CardSpec(pin=Secret("9999"))
        async with await UiccCard.open(spec, InProcessReader(sim), pin_memory=memory) as card:
            with pytest.raises(PinRequiredError, match="2 tries left"):
                await card.identities()
    assert sim.pin_tries_left == 2
    spec = CardSpec(pin=Secret("1234"))
    async with await UiccCard.open(spec, InProcessReader(sim), pin_memory=memory) as card:
        assert (await card.identities()).source == "ISIM"
    assert sim.pin_tries_left == 3
