"""The card in an emulated modem, over a real pseudo-terminal [S7-UICC, X-CARDLAB].

The emulated modem is written from TS 27.007; what modems do beside it is switched on one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.aka.vector import AuthenticationVector, MacFailure, Success, SyncFailure
from imskit.secrets import Secret
from imskit.uicc.profile import IsimProfile
from imskit.uicc.uicc import Uicc
from simulators.modem.engine.modem import CardGone, Modem, Quirk
from simulators.modem.io.port import ModemPort
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.errors import (
    CardRemovedError,
    CardUnresponsiveError,
    NoCardError,
    NoReaderError,
    PinBlockedError,
    PinLastTryError,
    PinRequiredError,
)
from ue_agent.uicc.modem import ModemBackend
from ue_agent.uicc.transport import CardInserted, CardRemoved

type MakeCard = Callable[..., Uicc]
type MakeVector = Callable[[], AuthenticationVector]


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where open channels are noted."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / f"imsbridge-{os.geteuid()}"


@pytest.fixture
async def port() -> AsyncIterator[ModemPort]:
    """A modem without a card."""
    async with ModemPort(Modem()) as plugged:
        yield plugged


@contextlib.asynccontextmanager
async def opened(port: ModemPort, pin: str | None = None, *, seconds: float = 5.0) -> AsyncIterator[UiccCard]:
    spec = CardSpec(f"modem:{port.device}", Secret(pin) if pin else None)
    async with await UiccCard.open(spec, ModemBackend(port.device, 115200, seconds=seconds)) as card:
        yield card


class Recorder:
    """A card that notes its commands and may do something at one of them."""

    def __init__(self, card: Uicc, at: Callable[[bytes], None] = lambda apdu: None) -> None:
        self.card = card
        self.at = at
        self.commands: list[bytes] = []

    def reset(self) -> None:
        self.card.reset()

    def transmit(self, apdu: bytes) -> bytes:
        self.commands.append(apdu)
        self.at(apdu)
        return self.card.transmit(apdu)


BY_CGLA: list[tuple[Quirk, ...]] = [
    (),
    (Quirk.KEEPS_ECHO,),
    (Quirk.VERBOSE_ERRORS,),
    (Quirk.PLAIN_ERRORS,),
    (Quirk.HIDES_61XX,),
    (Quirk.WANTS_LE,),
    (Quirk.NO_CSIM,),
    (Quirk.ODD_SESSIONS,),
    (Quirk.LITERAL_CLA,),
    (Quirk.CCHO_PREFIX,),
    (Quirk.BARE_OCTETS, Quirk.COUNTS_OCTETS),
    (Quirk.CHATTERS,),
    (Quirk.KEEPS_ECHO, Quirk.CHATTERS, Quirk.HIDES_61XX, Quirk.BARE_OCTETS, Quirk.CCHO_PREFIX, Quirk.ODD_SESSIONS),
]
BY_CSIM: list[tuple[Quirk, ...]] = [
    (Quirk.NO_CCHO,),
    (Quirk.NO_CGLA,),
    (Quirk.NO_CGLA, Quirk.PLAIN_ERRORS),
    (Quirk.NO_CCHO, Quirk.HIDES_61XX),
    (Quirk.NO_CCHO, Quirk.WANTS_LE, Quirk.CHATTERS, Quirk.KEEPS_ECHO),
]


@pytest.mark.parametrize("quirks", BY_CGLA + BY_CSIM, ids=lambda quirks: "+".join(quirks) or "by the book")
async def test_identities_and_aka(
    port: ModemPort, make_card: MakeCard, make_vector: MakeVector, quirks: tuple[Quirk, ...]
) -> None:
    """S7-UICC: PIN, ISIM, success, AUTS and a wrong MAC; the channel is closed at the end."""
    sim = make_card(pin=Secret("1234"))
    recorder = Recorder(sim)
    port.modem.quirks |= set(quirks)
    port.insert(recorder)
    async with opened(port, "1234") as card:
        assert card.present
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
        assert bool(port.modem.sessions) is (quirks in BY_CGLA)
    authenticates = [apdu for apdu in recorder.commands if apdu[1] == 0x88]
    assert len(authenticates) == 3, "none was repeated"
    assert all(apdu[0] & 0x03 for apdu in authenticates), "on a channel of its own"
    assert port.modem.sessions == {}
    opens = sum(1 for apdu in recorder.commands if apdu[1:3] == b"\x70\x00")
    closes = sum(1 for apdu in recorder.commands if apdu[1:3] == b"\x70\x80")
    assert opens == closes
    assert sim.pin_tries_left == 3


async def test_without_logical_channels_the_basic_one_is_shared(
    port: ModemPort, make_card: MakeCard, make_vector: MakeVector
) -> None:
    class NoChannels(Recorder):
        def transmit(self, apdu: bytes) -> bytes:
            answer = super().transmit(apdu)
            return b"\x68\x81" if apdu[1] == 0x70 else answer

    sim = NoChannels(make_card())
    port.insert(sim)
    async with opened(port) as card:
        assert (await card.identities()).source == "ISIM"
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)
    assert all(apdu[0] == 0 for apdu in sim.commands)


async def test_a_card_without_isim_opens_its_usim(port: ModemPort, make_card: MakeCard) -> None:
    port.insert(make_card(isim=None))
    async with opened(port) as card:
        assert (await card.identities()).source == "USIM"
        assert len(port.modem.sessions) == 1


async def test_a_modem_that_lets_nobody_through(port: ModemPort, make_card: MakeCard) -> None:
    port.modem.quirks |= {Quirk.NO_CCHO, Quirk.NO_CSIM}
    port.insert(make_card())
    async with opened(port) as card:
        with pytest.raises(CardUnresponsiveError, match=r"refuses AT\+CCHO with AT\+CGLA and AT\+CSIM \(ERROR\)"):
            await card.identities()


# --- PIN


@pytest.mark.parametrize("quirks", [(), (Quirk.VERBOSE_ERRORS, Quirk.CHATTERS)], ids=["numbers", "words"])
async def test_a_modem_that_wants_the_pin_first(
    port: ModemPort, make_card: MakeCard, make_vector: MakeVector, quirks: tuple[Quirk, ...]
) -> None:
    sim = make_card(pin=Secret("1234"))
    port.modem.quirks |= {Quirk.LOCKS_WITHOUT_PIN, *quirks}
    port.insert(sim)
    async with opened(port, "1234") as card:
        assert card.present
        assert (await card.identities()).source == "ISIM"
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)
    assert sim.pin_tries_left == 3 and port.modem.sessions == {}


@pytest.mark.parametrize("locked", [True, False], ids=["locked modem", "open modem"])
async def test_pin_tries_are_not_lost(port: ModemPort, make_card: MakeCard, locked: bool) -> None:
    """X-CARDLAB: a wrong PIN costs one try; the last is never used; without a PIN none is."""
    sim = make_card(pin=Secret("1234"))
    if locked:
        port.modem.quirks.add(Quirk.LOCKS_WITHOUT_PIN)
    port.insert(sim)
    async with opened(port) as card:
        with pytest.raises(PinRequiredError, match="3 tries left"):
            await card.identities()
    assert sim.pin_tries_left == 3
    async with opened(port, "9999") as card:
        for _ in range(3):
            with pytest.raises(PinRequiredError, match="2 tries left"):
                await card.identities()
    assert sim.pin_tries_left == 2
    sim.pin_tries_left = 1
    async with opened(port, "1234") as card:
        with pytest.raises(PinLastTryError):
            await card.identities()
    assert sim.pin_tries_left == 1


async def test_a_locked_modem_that_does_not_say_how_many_tries_are_left(port: ModemPort, make_card: MakeCard) -> None:
    sim = make_card(pin=Secret("1234"))
    port.modem.quirks |= {Quirk.LOCKS_WITHOUT_PIN, Quirk.NO_CPINR}
    port.insert(sim)
    async with opened(port, "1234") as card:
        with pytest.raises(PinRequiredError, match="none is risked: enter it with AT"):
            await card.identities()
    assert sim.pin_tries_left == 3


async def test_a_blocked_pin(port: ModemPort, make_card: MakeCard) -> None:
    port.insert(make_card(pin=Secret("1234"), pin_tries=0))
    async with opened(port, "1234") as card:
        with pytest.raises(PinBlockedError, match="PUK"):
            await card.identities()


# --- cards and modems that come and go


async def test_the_sim_card_comes_goes_and_comes_back(
    port: ModemPort, make_card: MakeCard, make_vector: MakeVector
) -> None:
    sim = make_card()
    async with opened(port) as card:
        events = card.events()
        assert not card.present
        with pytest.raises(NoCardError, match=f"no SIM card in the modem {port.device}"):
            await card.identities()
        for _ in range(2):
            port.insert(sim)
            assert await anext(events) == CardInserted(f"modem {port.device}")
            assert (await card.identities()).source == "ISIM"
            port.remove()
            assert await anext(events) == CardRemoved(f"modem {port.device}")
            with pytest.raises(NoCardError):
                await card.identities()
        port.insert(sim)
        await card.wait_inserted()
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success), "the same card"


@pytest.mark.parametrize("quirk", [Quirk.MUTE, Quirk.BUSY])
async def test_a_modem_that_has_no_time_is_not_a_removed_card(
    port: ModemPort, make_card: MakeCard, make_vector: MakeVector, monkeypatch: pytest.MonkeyPatch, quirk: Quirk
) -> None:
    """One or two looks without an answer change nothing; without end it is as if the card were gone."""
    monkeypatch.setattr("ue_agent.uicc.modem._POLL_SECONDS", 0.1)
    looks: list[str] = []
    look = ModemBackend._look

    def counted(self: ModemBackend) -> bool:
        looks.append("look")
        loop.call_soon_threadsafe(looked.set)
        return look(self)

    async def wait_for_looks(number: int) -> None:
        looks.clear()
        while len(looks) < number:
            looked.clear()
            await looked.wait()

    loop, looked = asyncio.get_running_loop(), asyncio.Event()
    monkeypatch.setattr(ModemBackend, "_look", counted)
    port.insert(make_card())
    async with opened(port, seconds=0.5) as card:
        await card.identities()
        events = card.events()
        port.modem.quirks.add(quirk)
        await wait_for_looks(3)
        port.modem.quirks.discard(quirk)
        await wait_for_looks(3)
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success) and card.present
        port.modem.quirks.add(quirk)
        assert isinstance(await anext(events), CardRemoved)
        port.modem.quirks.discard(quirk)
        assert isinstance(await anext(events), CardInserted)
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_swapped_between_two_looks(port: ModemPort, make_card: MakeCard) -> None:
    """Only the unsolicited line tells that another card is in."""
    port.insert(make_card())
    async with opened(port) as card:
        await card.identities()
        events = card.events()
        port.remove()
        port.insert(make_card(imsi="001010000000009", isim=None))
        assert isinstance(await anext(events), CardRemoved)
        assert isinstance(await anext(events), CardInserted)
        assert (await card.identities()).imsi == "001010000000009"


async def test_the_sim_card_is_pulled_during_authenticate(
    port: ModemPort, make_card: MakeCard, make_vector: MakeVector
) -> None:
    def pull(apdu: bytes) -> None:
        if apdu[1] == 0x88:
            raise CardGone

    port.insert(Recorder(make_card(), pull))
    async with opened(port) as card:
        await card.identities()
        with pytest.raises(CardRemovedError, match="taken out of the modem"):
            await card.authenticate(bytes(16), bytes(16))
        port.insert(make_card())
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


class SilentPort(ModemPort):
    """Says nothing while ``silent``."""

    silent = False

    def write(self, octets: bytes) -> None:
        if not self.silent:
            super().write(octets)


async def test_a_removal_that_only_an_unsolicited_line_tells(make_card: MakeCard, make_vector: MakeVector) -> None:
    """The modem reports it and then leaves the command without an answer."""

    def pull(apdu: bytes) -> None:
        if apdu[1] == 0x88:
            port.write(b"\r\n+CPIN: NOT READY\r\n")
            port.silent = True

    async with SilentPort(Modem(Recorder(make_card(), pull))) as port, opened(port, seconds=0.4) as card:
        await card.identities()
        with pytest.raises(CardRemovedError, match="taken out of the modem"):
            await card.authenticate(bytes(16), bytes(16))
        port.silent = False
        port.insert(make_card())
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_the_modem_is_unplugged_during_authenticate_and_comes_back(
    make_card: MakeCard, make_vector: MakeVector, tmp_path: Path
) -> None:
    link = tmp_path / "modem"
    loop = asyncio.get_running_loop()

    def plug(port: ModemPort) -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(port.device)

    async with ModemPort(Modem()) as port:
        plug(port)
        port.insert(Recorder(make_card(), lambda apdu: port.unplug() if apdu[1] == 0x88 else None))
        async with await UiccCard.open(CardSpec(f"modem:{link}")) as card:
            events = card.events()
            await card.identities()
            with pytest.raises(CardRemovedError, match="went away"):
                await card.authenticate(bytes(16), bytes(16))
            assert await anext(events) == CardRemoved(f"modem {link}")
            with pytest.raises(NoReaderError, match="there is no modem at"):
                await card.identities()
            port.plug()
            plug(port)
            port.insert(make_card())
            assert await anext(events) == CardInserted(f"modem {link}")
            vector = make_vector()
            assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)
    assert loop.is_running()


class LatePort(ModemPort):
    """Says the next answer that holds keys only after ``seconds``."""

    seconds = 0.0

    def write(self, octets: bytes) -> None:
        if self.seconds and b'"DB08' in octets:
            asyncio.get_running_loop().call_later(self.seconds, super().write, octets)
            self.seconds = 0.0
        else:
            super().write(octets)


@pytest.mark.parametrize("late", [0.5, 0.65, 0.8, 1.0])
async def test_an_answer_that_comes_too_late_is_not_taken_for_another(
    make_card: MakeCard, make_vector: MakeVector, late: float
) -> None:
    async with LatePort(Modem(make_card())) as port, opened(port, seconds=0.4) as card:
        await card.identities()
        port.seconds = late
        vector = make_vector()
        with pytest.raises(CardUnresponsiveError, match=r"did not answer within 0\.4 s"):
            await card.authenticate(vector.rand, vector.autn)
        for _ in range(5):
            vector = make_vector()
            with contextlib.suppress(CardUnresponsiveError):
                result = await card.authenticate(vector.rand, vector.autn)
                assert isinstance(result, Success) and result.res == vector.xres
                break
        else:
            pytest.fail("it does not recover")


async def test_nothing_answers(port: ModemPort) -> None:
    port.modem.quirks.add(Quirk.MUTE)
    async with opened(port, seconds=0.3) as card:
        assert not card.present
        with pytest.raises(CardUnresponsiveError, match=r"did not answer within 0\.3 s"):
            await card.identities()


@pytest.mark.parametrize(
    ("device", "message"), [("/dev/null", "cannot be used as a serial port"), ("/dev/nowhere", "there is no modem at")]
)
async def test_no_modem_there(device: str, message: str) -> None:
    async with await UiccCard.open(CardSpec(f"modem:{device}")) as card:
        with pytest.raises(NoReaderError, match=message):
            await card.identities()


# --- several programs, crashes

_OTHER = """
import asyncio, sys
from ue_agent.uicc.card import CardSpec, UiccCard
async def main():
    async with await UiccCard.open(CardSpec(sys.argv[1])) as card:
        print((await card.identities()).source, flush=True)
        for line in sys.stdin:
            rand, autn = map(bytes.fromhex, line.split())
            print(type(await card.authenticate(rand, autn)).__name__, flush=True)
asyncio.run(main())
"""


async def _other_program(port: ModemPort) -> Any:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _OTHER, f"modem:{port.device}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


async def test_two_programs_on_one_modem(port: ModemPort, make_card: MakeCard, make_vector: MakeVector) -> None:
    """Each has a channel of its own and the port for its transactions."""
    port.insert(make_card())
    process = await _other_program(port)
    try:
        async with opened(port) as card:
            await card.identities()
            assert await process.stdout.readline() == b"ISIM\n"
            assert len(port.modem.sessions) == 2
            for _ in range(5):
                ours, theirs = make_vector(), make_vector()
                process.stdin.write(f"{theirs.rand.hex()} {theirs.autn.hex()}\n".encode())
                result = await card.authenticate(ours.rand, ours.autn)
                assert isinstance(result, Success) and result.res == ours.xres
                assert await process.stdout.readline() == b"Success\n"
    finally:
        process.stdin.close()
        assert await process.wait() == 0
    assert port.modem.sessions == {}


@pytest.mark.parametrize("quirks", [set(), {Quirk.NO_CCHO}], ids=["AT+CGLA", "AT+CSIM"])
async def test_what_a_crash_left_open_is_closed(
    port: ModemPort, make_card: MakeCard, quirks: set[Quirk], notes: Path
) -> None:
    recorder = Recorder(make_card())
    port.modem.quirks |= quirks
    port.insert(recorder)
    for _ in range(5):  # a card has three channels to give
        process = await _other_program(port)
        assert await process.stdout.readline() == b"ISIM\n"
        process.send_signal(signal.SIGKILL)
        await process.wait()
        process.stdin.close()
    assert len(os.listdir(notes)) == 1
    recorder.commands.clear()
    async with opened(port) as card:
        await card.identities()
    assert port.modem.sessions == {} and os.listdir(notes) == []
    assert sum(1 for apdu in recorder.commands if apdu[1:3] == b"\x70\x80") == 2, "theirs and ours"
    assert recorder.card.transmit(bytes.fromhex("0070000001")) == b"\x01\x90\x00", "all are free"


async def test_the_port_is_another_programs(port: ModemPort, make_card: MakeCard, monkeypatch: Any) -> None:
    monkeypatch.setattr("ue_agent.uicc.modem._LOCK_SECONDS", 0.1)
    port.insert(make_card())
    holder = os.open(port.device, os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        async with opened(port) as card:
            with pytest.raises(CardUnresponsiveError, match="held by another program"):
                await card.identities()
            fcntl.flock(holder, fcntl.LOCK_UN)
            assert (await card.identities()).source == "ISIM"
    finally:
        os.close(holder)


async def test_the_log_has_no_secrets(
    port: ModemPort, make_card: MakeCard, make_vector: MakeVector, caplog: pytest.LogCaptureFixture, isim: IsimProfile
) -> None:
    caplog.set_level(logging.DEBUG)
    port.modem.quirks |= {Quirk.LOCKS_WITHOUT_PIN, Quirk.KEEPS_ECHO, Quirk.CHATTERS}
    port.insert(make_card(pin=Secret("73952")))
    vector = make_vector()
    async with opened(port, "73952") as card:
        await card.identities()
        await card.authenticate(vector.rand, vector.autn)
    text = caplog.text.lower()
    assert "at+cgla, session" in text and "modem says +creg" in text
    for secret in (vector.xres.reveal(), vector.ck.reveal(), vector.ik.reveal(), vector.rand, vector.autn):
        assert secret.hex() not in text
    for hidden in ("73952", b"73952".hex(), "001010000000001", "15550100"):
        assert hidden not in text
