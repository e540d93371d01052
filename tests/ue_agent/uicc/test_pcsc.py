"""Through the real PC/SC: pcscd, its virtual reader vpcd, pyscard.  Each test has a daemon of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from imskit.aka.vector import AuthenticationVector, MacFailure, Success, SyncFailure
from imskit.secrets import Secret
from imskit.uicc.uicc import Uicc
from simulators.card.pcscd import PrivatePcscd, missing, use_in_this_process
from simulators.card.server import CardPulled, VirtualCard
from ue_agent.uicc import pcsc
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.errors import (
    CardRemovedError,
    CardUnresponsiveError,
    NoCardError,
    NoDaemonError,
    NoReaderError,
    PinBlockedError,
    UiccError,
    WrongCardError,
)
from ue_agent.uicc.inventory import Reader, readers
from ue_agent.uicc.transport import CardInserted, CardRemoved

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"NO SMART-CARD TESTS: {missing()}")

type MakeCard = Callable[..., Uicc]
type MakeVector = Callable[[], AuthenticationVector]
FIRST, SECOND = "UICC 00 00", "UICC 00 01"


@pytest.fixture
def pcscd() -> Iterator[PrivatePcscd]:
    with PrivatePcscd() as daemon:
        use_in_this_process(daemon)
        yield daemon


@pytest.fixture
async def card(pcscd: PrivatePcscd) -> AsyncIterator[UiccCard]:
    """The agent's card, opened while the readers are empty."""
    async with await UiccCard.open(CardSpec(pin=Secret("1234"))) as opened:
        assert not opened.present
        yield opened


async def test_identities_and_aka(
    pcscd: PrivatePcscd, card: UiccCard, make_card: MakeCard, make_vector: MakeVector
) -> None:
    """S7-UICC: ISIM, PIN, AUTHENTICATE with success, AUTS and 9862 through a real reader stack."""
    async with VirtualCard(make_card(pin=Secret("1234")), pcscd.ports[0]):
        await card.wait_inserted()
        found = await card.identities()
        assert (found.source, found.imsi, found.pcscf) == (
            "ISIM",
            "001010000000001",
            ("10.45.0.1", "pcscf.ims.example"),
        )
        vector = make_vector()
        result = await card.authenticate(vector.rand, vector.autn)
        assert isinstance(result, Success)
        assert (result.res, result.ck, result.ik) == (vector.xres, vector.ck, vector.ik)
        assert isinstance(await card.authenticate(vector.rand, vector.autn), SyncFailure)
        assert await card.authenticate(vector.rand, bytes(16)) == MacFailure()


async def test_no_card_then_one_then_none(pcscd: PrivatePcscd, card: UiccCard, make_card: MakeCard) -> None:
    events = card.events()
    with pytest.raises(NoCardError, match="no card in reader UICC 00 00, UICC 00 01"):
        await card.identities()
    virtual = VirtualCard(make_card(), pcscd.ports[0])
    for _ in range(2):
        await virtual.insert()
        assert await anext(events) == CardInserted(FIRST)
        assert (await card.identities()).source == "ISIM"
        await virtual.remove()
        assert await anext(events) == CardRemoved(FIRST)
        with pytest.raises(NoCardError):
            await card.identities()


async def test_present_at_start_and_by_reader(pcscd: PrivatePcscd, make_card: MakeCard) -> None:
    one, two = make_card(), make_card(imsi="001010000000009", isim=None)
    async with (
        VirtualCard(one, pcscd.ports[0]),
        VirtualCard(two, pcscd.ports[1]),
        await UiccCard.open(CardSpec(reader=FIRST)) as first,
        await UiccCard.open(CardSpec(reader="pcsc:00 01")) as second,
    ):
        for card, imsi in ((first, "001010000000001"), (second, "001010000000009")):
            await card.wait_inserted()
            assert (await card.identities()).imsi == imsi
    async with await UiccCard.open(CardSpec(reader="Nowhere")) as nowhere:
        with pytest.raises(NoReaderError, match="no card reader 'Nowhere'; there is: UICC 00 00, UICC 00 01"):
            await nowhere.identities()


async def test_pulled_during_authenticate(
    pcscd: PrivatePcscd, card: UiccCard, make_card: MakeCard, make_vector: MakeVector
) -> None:
    sim = make_card()

    class Pulled:
        atr = sim.atr

        def reset(self) -> None:
            sim.reset()

        def transmit(self, apdu: bytes) -> bytes:
            if apdu[1] == 0x88:
                raise CardPulled
            return sim.transmit(apdu)

    events = card.events()
    async with VirtualCard(Pulled(), pcscd.ports[0]):
        await card.wait_inserted()
        await card.identities()
        vector = make_vector()
        with pytest.raises(CardRemovedError):
            await card.authenticate(vector.rand, vector.autn)
        assert [await anext(events), await anext(events)] == [CardInserted(FIRST), CardRemoved(FIRST)]
    async with VirtualCard(sim, pcscd.ports[0]):
        assert await anext(events) == CardInserted(FIRST)
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_swapped_for_another(
    pcscd: PrivatePcscd, card: UiccCard, make_card: MakeCard, make_vector: MakeVector
) -> None:
    async with VirtualCard(make_card(), pcscd.ports[0]):
        await card.wait_inserted()
        await card.identities()
    events = card.events()
    async with VirtualCard(make_card(iccid="89001010000000000028"), pcscd.ports[0]):
        while await anext(events) != CardInserted(FIRST):
            pass
        vector = make_vector()
        with pytest.raises(WrongCardError):
            await card.authenticate(vector.rand, vector.autn)


async def test_blocked_pin(pcscd: PrivatePcscd, card: UiccCard, make_card: MakeCard) -> None:
    async with VirtualCard(make_card(pin=Secret("1234"), pin_tries=0), pcscd.ports[0]):
        await card.wait_inserted()
        with pytest.raises(PinBlockedError):
            await card.identities()


async def test_two_programs_share_a_card(
    pcscd: PrivatePcscd, card: UiccCard, make_card: MakeCard, make_vector: MakeVector
) -> None:
    """Transactions keep them apart; the reset with which one gives back a verified PIN does not disturb the other."""
    async with VirtualCard(make_card(pin=Secret("1234")), pcscd.ports[0]):
        await card.wait_inserted()
        before = await card.identities()
        async with await UiccCard.open(CardSpec(pin=Secret("1234"))) as other:
            found = await asyncio.gather(*(c.identities() for c in (card, other) * 5))
            assert found == [before] * 10
            vector = make_vector()
            assert isinstance(await other.authenticate(vector.rand, vector.autn), Success)
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


@pytest.mark.parametrize("exclusive", [True, False], ids=["for itself", "in a transaction"])
async def test_another_program_holds_the_card_and_lets_go(
    pcscd: PrivatePcscd,
    card: UiccCard,
    make_card: MakeCard,
    make_vector: MakeVector,
    monkeypatch: pytest.MonkeyPatch,
    exclusive: bool,
) -> None:
    monkeypatch.setattr(pcsc, "_HELD_SECONDS", 0.3)
    scard = pcsc.scard
    async with VirtualCard(make_card(), pcscd.ports[0]):
        await card.wait_inserted()
        result, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
        assert result == 0
        mode = scard.SCARD_SHARE_EXCLUSIVE if exclusive else scard.SCARD_SHARE_SHARED
        # In a thread: the card is served by this loop.
        result, held, _ = await asyncio.to_thread(scard.SCardConnect, context, FIRST, mode, scard.SCARD_PROTOCOL_T0)
        assert result == 0
        try:
            if not exclusive:
                assert await asyncio.to_thread(scard.SCardBeginTransaction, held) == 0
            with pytest.raises(CardUnresponsiveError, match="another program has"):
                await card.identities()
        finally:
            await asyncio.to_thread(scard.SCardReleaseContext, context)
        before = await card.identities()
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)
        if not exclusive:  # once more, between two commands of a session that is there
            result, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
            _, held, _ = await asyncio.to_thread(scard.SCardConnect, context, FIRST, mode, scard.SCARD_PROTOCOL_T0)
            assert await asyncio.to_thread(scard.SCardBeginTransaction, held) == 0
            with pytest.raises(CardUnresponsiveError, match=r"held the card for more than 0\.3 s"):
                await card.authenticate(vector.rand, vector.autn)
            await asyncio.to_thread(scard.SCardReleaseContext, context)
            assert await card.identities() == before


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ("SCARD_E_READER_UNAVAILABLE", CardRemovedError, "pulled out"),
        ("SCARD_E_UNKNOWN_READER", CardRemovedError, "pulled out"),
        ("SCARD_W_REMOVED_CARD", CardRemovedError, "pulled out"),
        ("SCARD_W_UNRESPONSIVE_CARD", CardUnresponsiveError, "does not answer"),
        ("SCARD_W_UNPOWERED_CARD", CardUnresponsiveError, "does not answer"),
        ("SCARD_E_NO_SERVICE", NoDaemonError, "pcscd"),
        ("SCARD_F_COMM_ERROR", NoDaemonError, "pcscd"),
        ("SCARD_W_SECURITY_VIOLATION", NoDaemonError, "polkit"),
    ],
)
async def test_faults_of_the_reader_in_the_middle_of_authenticate(
    pcscd: PrivatePcscd,
    card: UiccCard,
    make_card: MakeCard,
    make_vector: MakeVector,
    monkeypatch: pytest.MonkeyPatch,
    result: str,
    error: type[UiccError],
    message: str,
) -> None:
    """An unplugged reader and its like, which vpcd cannot be made to be: what PC/SC would say is put in its mouth."""
    async with VirtualCard(make_card(), pcscd.ports[0]):
        await card.wait_inserted()
        await card.identities()
        transmit = pcsc.scard.SCardTransmit

        def broken(handle: int, protocol: object, apdu: list[int]) -> tuple[int, list[int]]:
            return (getattr(pcsc.scard, result), []) if apdu[1] == 0x88 else transmit(handle, protocol, apdu)

        monkeypatch.setattr(pcsc.scard, "SCardTransmit", broken)
        with pytest.raises(error, match=message):
            await card.authenticate(bytes(16), bytes(16))
        monkeypatch.undo()
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_the_daemon_ends_and_another_comes(
    pcscd: PrivatePcscd, card: UiccCard, make_card: MakeCard, make_vector: MakeVector
) -> None:
    events = card.events()
    sim = make_card()
    async with VirtualCard(sim, pcscd.ports[0]):
        await card.wait_inserted()
        await card.identities()
        pcscd.stop()
        assert [await anext(events), await anext(events)] == [CardInserted(FIRST), CardRemoved(FIRST)]
        with pytest.raises(NoDaemonError, match="pcscd"):
            await card.authenticate(bytes(16), bytes(16))
    with PrivatePcscd() as fresh:
        use_in_this_process(fresh)
        async with VirtualCard(sim, fresh.ports[0]):
            assert await anext(events) == CardInserted(FIRST)
            vector = make_vector()
            assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_no_daemon_at_all(pcscd: PrivatePcscd) -> None:
    pcscd.stop()
    async with await UiccCard.open(CardSpec()) as card:
        assert not card.present
        with pytest.raises(NoDaemonError, match="is it installed and started"):
            await card.identities()


async def test_the_readers_and_their_atr(pcscd: PrivatePcscd, make_card: MakeCard) -> None:
    """X-CARDLAB: what ``card list`` shows; by its source each reader is found again."""
    sim = make_card()
    assert await asyncio.to_thread(readers) == (Reader(FIRST, None), Reader(SECOND, None))
    async with VirtualCard(sim, pcscd.ports[1]), await UiccCard.open(CardSpec(reader=SECOND)) as card:
        await card.wait_inserted()
        found = await asyncio.to_thread(readers)
    assert found == (Reader(FIRST, None), Reader(SECOND, sim.atr))
    assert str(found[1].source) == "pcsc:UICC 00 01"


async def test_without_a_daemon_the_readers_cannot_be_listed(pcscd: PrivatePcscd) -> None:
    pcscd.stop()
    with pytest.raises(NoDaemonError, match="installed and started"):
        await asyncio.to_thread(readers)
