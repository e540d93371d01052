"""The asynchronous card, with cards of this process: insertions, removals, exchanges."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from imskit.aka.vector import AuthenticationVector, Success
from imskit.secrets import Secret
from imskit.uicc.uicc import Uicc
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.errors import (
    CardRemovedError,
    NoCardError,
    PinRequiredError,
    UiccError,
    WrongCardError,
)
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.uicc.transport import CardInserted, CardRemoved

type MakeCard = Callable[..., Uicc]
type MakeVector = Callable[[], AuthenticationVector]


async def test_a_run(make_card: MakeCard, make_vector: MakeVector) -> None:
    reader = InProcessReader(make_card(pin=Secret("1234")))
    async with await UiccCard.open(CardSpec(pin=Secret("1234")), reader) as card:
        assert card.present
        assert (await card.identities()).source == "ISIM"
        vector = make_vector()
        result = await card.authenticate(vector.rand, vector.autn)
        assert isinstance(result, Success) and result.res == vector.xres


async def test_authenticate_without_asking_for_identities_first(make_card: MakeCard, make_vector: MakeVector) -> None:
    async with await UiccCard.open(CardSpec(), InProcessReader(make_card(isim=None))) as card:
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_a_card_comes_goes_and_comes_back(make_card: MakeCard, make_vector: MakeVector) -> None:
    reader = InProcessReader()
    async with await UiccCard.open(CardSpec(), reader) as card:
        events = card.events()
        assert not card.present
        with pytest.raises(NoCardError):
            await card.identities()
        sim = make_card()
        reader.insert(sim)
        assert await anext(events) == CardInserted(reader.name)
        await card.wait_inserted()
        before = await card.identities()
        reader.remove()
        assert await anext(events) == CardRemoved(reader.name)
        assert not card.present
        with pytest.raises(NoCardError):
            await card.authenticate(bytes(16), bytes(16))
        reader.insert(sim)
        await card.wait_inserted()
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success), "the same card"
        assert await card.identities() == before


async def test_pulled_in_the_middle_of_a_command(make_card: MakeCard, make_vector: MakeVector) -> None:
    reader = InProcessReader()
    sim = make_card()

    class Pulled:
        def reset(self) -> None:
            sim.reset()

        def transmit(self, apdu: bytes) -> bytes:
            answer = sim.transmit(apdu)
            if apdu[1] == 0x88:
                reader.remove()
            return answer

    reader.insert(Pulled())
    async with await UiccCard.open(CardSpec(), reader) as card:
        await card.identities()
        vector = make_vector()
        with pytest.raises(CardRemovedError, match="pulled"):
            await card.authenticate(vector.rand, vector.autn)
        reader.insert(sim)
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_another_card_does_not_answer_for_the_first(make_card: MakeCard, make_vector: MakeVector) -> None:
    reader = InProcessReader(make_card())
    async with await UiccCard.open(CardSpec(), reader) as card:
        await card.identities()
        events = card.events()
        reader.remove()
        await anext(events)
        reader.insert(make_card(iccid="89001010000000000028", imsi="001010000000009", isim=None))
        await anext(events)
        vector = make_vector()
        for _ in range(2):
            with pytest.raises(WrongCardError, match="another SIM card"):
                await card.authenticate(vector.rand, vector.autn)
        assert (await card.identities()).imsi == "001010000000009"
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_another_card_that_wants_a_pin_does_not_answer_either(
    make_card: MakeCard, make_vector: MakeVector
) -> None:
    reader = InProcessReader(make_card())
    async with await UiccCard.open(CardSpec(), reader) as card:
        await card.identities()
        events = card.events()
        reader.remove()
        await anext(events)
        reader.insert(make_card(pin=Secret("1234")))
        await anext(events)
        for _ in range(2):
            with pytest.raises(PinRequiredError):
                await card.authenticate(bytes(16), bytes(16))


async def test_a_wrong_pin_costs_one_try_however_often_it_is_inserted(make_card: MakeCard) -> None:
    sim = make_card(pin=Secret("1234"))
    reader = InProcessReader(sim)
    async with await UiccCard.open(CardSpec(pin=Secret("9999")), reader) as card:
        events = card.events()
        for _ in range(3):
            with pytest.raises(PinRequiredError):
                await card.identities()
            reader.remove()
            await anext(events)
            reader.insert(sim)
            await anext(events)
    assert sim.pin_tries_left == 2


async def test_after_close(make_card: MakeCard) -> None:
    card = await UiccCard.open(CardSpec(), InProcessReader(make_card()))
    events = card.events()
    await card.close()
    await card.close()
    assert [event async for event in events] == []
    assert [event async for event in card.events()] == []
    with pytest.raises(UiccError, match="closed"):
        await card.identities()


async def test_the_log_has_no_secrets(
    make_card: MakeCard, make_vector: MakeVector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with await UiccCard.open(CardSpec(pin=Secret("73952")), InProcessReader(make_card(pin=Secret("73952")))) as c:
        await c.identities()
        vector = make_vector()
        await c.authenticate(vector.rand, vector.autn)
        await c.authenticate(vector.rand, vector.autn)
    text = caplog.text.lower()
    assert "identities from the isim" in text and "syncfailure" in text
    secrets = [s.reveal() for s in (vector.xres, vector.ck, vector.ik)] + [vector.rand, vector.autn, b"73952"]
    for secret in secrets:
        assert secret.hex() not in text
        assert repr(secret) not in text
    for identity in ("73952", "001010000000001", "15550100"):
        assert identity not in text


@pytest.mark.parametrize("pin", ["123", "123456789", "12a4", "１２３４", ""])
def test_a_pin_has_four_to_eight_digits(pin: str) -> None:
    with pytest.raises(ValueError, match="4 to 8 digits"):
        CardSpec(pin=Secret(pin))


async def test_a_card_that_stays_silent_for_good_does_not_keep_us_from_ending(
    make_card: MakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ue_agent.uicc.card.CLOSE_SECONDS", 0.1)
    sim, silent = make_card(), threading.Event()

    class Silent:
        def reset(self) -> None:
            sim.reset()

        def transmit(self, apdu: bytes) -> bytes:
            if apdu[1] == 0x88:
                silent.wait()
            return sim.transmit(apdu)

    card = await UiccCard.open(CardSpec(), InProcessReader(Silent()))
    await card.identities()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await card.authenticate(bytes(16), bytes(16))
    async with asyncio.timeout(2):
        await card.close()
    workers = [thread for thread in threading.enumerate() if thread.name == "uicc"]
    assert workers and all(thread.daemon for thread in workers)
    silent.set()
    for thread in workers:
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()
