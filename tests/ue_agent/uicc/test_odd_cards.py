"""Cards that do it their own way, each through a real pcscd with its virtual reader and through a modem's port.

Issue's list [X-CARDLAB, S7-UICC]: T=0 GET RESPONSE, 6Cxx, empty SFI tag, IMPU record 8000FF…, no ISIM, blank ISIM,
partial AID, 62xx, 63Cx, 9Fxx, short records, junk in EF_DIR, long TLVs.  The one FCP of a real card is from the dump of
a sysmoISIM-SJA2 that pySim publishes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.aka.vector import AuthenticationVector, MacFailure, Success, SyncFailure
from imskit.secrets import Secret
from imskit.uicc.files import tlv
from imskit.uicc.profile import IsimProfile
from imskit.uicc.uicc import Uicc
from simulators.card.pcscd import PrivatePcscd, missing, use_in_this_process
from simulators.card.server import VirtualCard
from simulators.modem.engine.modem import Modem
from simulators.modem.io.port import ModemPort
from ue_agent.uicc.application import ImsIdentities
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.errors import CardError, PinRequiredError, WrongCardError

type MakeCard = Callable[..., Uicc]
type MakeVector = Callable[[], AuthenticationVector]
type Open = Callable[..., contextlib.AbstractAsyncContextManager[UiccCard]]
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"


class Altered:
    """A card with an oddity: ``change`` gets each command and a way to ask the card itself."""

    def __init__(self, card: Uicc, change: Callable[[bytes, Callable[[bytes], bytes]], bytes]) -> None:
        self.atr = card.atr
        self.card = card
        self.change = change

    def reset(self) -> None:
        self.card.reset()

    def transmit(self, apdu: bytes) -> bytes:
        return self.change(apdu, self.card.transmit)


@pytest.fixture(params=["pcsc", "modem"])
async def open_card(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Open]:
    """Put a card into a reader or a modem and open it there."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "pcsc":
            if (lack := missing()) is not None:
                pytest.skip(f"NO SMART-CARD TESTS: {lack}")
            daemon = stack.enter_context(PrivatePcscd())
            use_in_this_process(daemon)
            spec = ""
        else:
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
            port = await stack.enter_async_context(ModemPort(Modem()))
            spec = f"modem:{port.device}"

        @contextlib.asynccontextmanager
        async def open_(card: Any, pin: str | None = None) -> AsyncIterator[UiccCard]:
            async with contextlib.AsyncExitStack() as inserted:
                if request.param == "pcsc":
                    await inserted.enter_async_context(VirtualCard(card, daemon.ports[0]))
                else:
                    port.insert(card)
                wanted = CardSpec(spec, Secret(pin) if pin else None)
                opened = await inserted.enter_async_context(await UiccCard.open(wanted))
                await opened.wait_inserted()
                yield opened

        yield open_


async def all_of_it(card: UiccCard, make_vector: MakeVector) -> ImsIdentities:
    """Identities, success, resynchronisation, wrong MAC."""
    found = await card.identities()
    vector = make_vector()
    result = await card.authenticate(vector.rand, vector.autn)
    assert isinstance(result, Success) and (result.res, result.ck, result.ik) == (vector.xres, vector.ck, vector.ik)
    assert isinstance(await card.authenticate(vector.rand, vector.autn), SyncFailure)
    assert await card.authenticate(vector.rand, bytes(16)) == MacFailure()
    return found


def _plain(apdu: bytes) -> bytes:
    """The command as on the basic channel."""
    return bytes([apdu[0] & 0x80]) + apdu[1:]


def _fetch_in_parts() -> Callable[[bytes, Callable[[bytes], bytes]], bytes]:
    """Never more than 16 octets are announced at once: 61xx again and again."""

    def change(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        if apdu[1] == 0xC0:
            apdu = apdu[:4] + bytes([min(apdu[4] or 255, 16)])
        answer = ask(apdu)
        return answer[:-1] + bytes([min(answer[-1], 16)]) if answer[-2] == 0x61 else answer

    return change


def _gsm_style(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
    """9Fxx instead of 61xx."""
    answer = ask(apdu)
    return answer[:-2] + b"\x9f" + answer[-1:] if answer[-2] == 0x61 else answer


def _corrects_lengths(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
    """6Cxx instead of 61xx to a command with data."""
    answer = ask(apdu)
    return answer[:-2] + b"\x6c" + answer[-1:] if answer[-2] == 0x61 and len(apdu) > 5 else answer


def _proactive(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
    """The card wants to say something and says so with each answer."""
    answer = ask(apdu)
    return answer[:-2] + b"\x91\x10" if answer[-2:] == b"\x90\x00" else answer


def _warns_on_reads(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
    """6282 with the data of READ, as some do for padded files."""
    answer = ask(apdu)
    return answer[:-2] + b"\x62\x82" if apdu[1] in (0xB0, 0xB2) and answer[-2:] == b"\x90\x00" else answer


def _warns_on_select() -> Callable[[bytes, Callable[[bytes], bytes]], bytes]:
    """6283 to each SELECT of a file, its FCP waiting (TS 102 221 annex C.1.7)."""
    waiting = b""

    def change(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        nonlocal waiting
        answer = ask(apdu)
        if apdu[1:3] == b"\xa4\x00" and answer[-2] == 0x61:
            waiting = answer[-1:]
            return b"\x62\x83"
        if apdu[1] == 0xC0 and apdu[4] == 0 and waiting:
            return ask(apdu[:4] + waiting)
        return answer

    return change


def _without_fcp(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
    """SELECT tells nothing of the file."""
    answer = ask(apdu)
    return b"\x90\x00" if apdu[1] == 0xA4 and answer[-2] == 0x61 else answer


def _fcp(change: Callable[[bytes], bytes]) -> Callable[[bytes, Callable[[bytes], bytes]], bytes]:
    """Another FCP than the card's own; ``change`` gets what GET RESPONSE gives."""
    waiting: bytes | None = None

    def altered(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        nonlocal waiting
        answer = ask(apdu)
        if apdu[1] == 0xA4 and answer[-2] == 0x61:
            full = ask(bytes([apdu[0], 0xC0, 0, 0]) + answer[-1:])[:-2]
            waiting = change(full)
            return b"\x61" + bytes([len(waiting) & 0xFF])
        if apdu[1] == 0xC0 and waiting is not None:
            told, waiting = waiting, None
            return told + b"\x90\x00"
        waiting = None
        return answer

    return altered


_REAL_ADF = bytes.fromhex(
    "623c820278218302ff018410a0000000871004ffffffff8907090000a509800171830400018d08"
    "8a01058c0100c60f90017083010183018183010a83010b"
)
_SFI = re.compile(rb"\x88(\x00|\x01.)", re.DOTALL)


def _retagged(fcp: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return tlv(0x62, change(fcp[2:]))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_fetch_in_parts(), id="GET RESPONSE in parts"),
        pytest.param(_gsm_style, id="9Fxx"),
        pytest.param(_corrects_lengths, id="6Cxx to commands with data"),
        pytest.param(_proactive, id="91xx"),
        pytest.param(_warns_on_reads, id="6282 with data"),
        pytest.param(_warns_on_select(), id="6283 and an FCP"),
        pytest.param(_without_fcp, id="no FCP"),
        pytest.param(_fcp(lambda f: _retagged(f, lambda v: _SFI.sub(b"\x88\x00", v))), id="empty SFI tag"),
        pytest.param(_fcp(lambda f: _retagged(f, lambda v: _SFI.sub(b"", v))), id="no SFI tag"),
        pytest.param(_fcp(lambda f: _retagged(f, lambda v: b"\xa5\x81\x90" + bytes(0x90) + v)), id="very long FCP"),
        pytest.param(_fcp(lambda f: _REAL_ADF if f[2:5] == b"\x82\x02\x78" else f), id="FCP of an SJA2"),
        pytest.param(_fcp(lambda f: _retagged(f, lambda v: b"\x9f\x7f\x03\x88\x80\x62" + v)), id="tag of two octets"),
    ],
)
async def test_the_same_identities_and_keys(
    open_card: Open, make_card: MakeCard, make_vector: MakeVector, change: Any
) -> None:
    async with open_card(Altered(make_card(pin=Secret("1234")), change), "1234") as card:
        found = await all_of_it(card, make_vector)
    assert (found.source, found.impi, found.domain) == ("ISIM", f"001010000000001@{DOMAIN}", DOMAIN)
    assert found.impus == (f"sip:+15550100@{DOMAIN}", "tel:+15550100")
    assert (found.imsi, found.pcscf) == ("001010000000001", ("10.45.0.1", "pcscf.ims.example"))
    assert found.webrtc_uris == ("https://portal.ims.example/",)


async def test_more_announced_than_there_is(open_card: Open, make_card: MakeCard, make_vector: MakeVector) -> None:
    """FCP with too many records (6A83 behind the last) and too many octets (6B00 behind the end)."""

    def larger(fcp: bytes) -> bytes:
        fcp = re.sub(rb"\x82\x05\x42\x21(..).", lambda m: b"\x82\x05\x42\x21" + m[1] + b"\x0a", fcp, flags=re.DOTALL)
        return re.sub(rb"(\x82\x02\x41\x21.*)\x80\x02..", lambda m: m[1] + b"\x80\x02\x01\x40", fcp, flags=re.DOTALL)

    async with open_card(Altered(make_card(), _fcp(larger))) as card:
        found = await all_of_it(card, make_vector)
    assert found.source == "ISIM" and len(found.impus) == 2 and found.imsi == "001010000000001"


async def test_records_shorter_than_announced(open_card: Open, make_card: MakeCard) -> None:
    """The FCP says 128 octets, READ RECORD gives what is written."""

    def shorter(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        answer = ask(apdu)
        return answer[:-2].rstrip(b"\xff") + b"\x90\x00" if apdu[1] == 0xB2 and answer[-2] == 0x90 else answer

    async with open_card(Altered(make_card(), shorter)) as card:
        assert (await card.identities()).impus == (f"sip:+15550100@{DOMAIN}", "tel:+15550100")


def _records(fid: int, change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]], card: Uicc) -> Uicc:
    """The card with other records in that file."""
    for directory in (card._mf, *card._applications):
        if (ef := directory.by_fid(fid)) is not None:
            assert isinstance(ef.content, tuple)
            directory.files[directory.files.index(ef)] = dataclasses.replace(ef, content=change(ef.content))
    return card


async def test_empty_and_broken_records_of_ef_impu(open_card: Open, make_card: MakeCard) -> None:
    """``8000FF…`` as on real cards, blank ones, no UTF-8, cut off, no URI: the good ones count."""

    def change(records: tuple[bytes, ...]) -> tuple[bytes, ...]:
        size = len(records[0])
        odd = (b"\x80\x00", b"\x80\x02\xc3\x28", b"\x80\x7fsip:", b"\x80\x05hello", b"\x81\x01x")
        return (*(record.ljust(size, b"\xff") for record in odd), *records)

    async with open_card(_records(0x6F04, change, make_card())) as card:
        assert (await card.identities()).impus == (f"sip:+15550100@{DOMAIN}", "tel:+15550100")


async def test_very_long_identities(open_card: Open, make_card: MakeCard) -> None:
    """Lengths of two octets (81 xx) and a record of 250."""
    user = "u" * 180
    isim = IsimProfile(impi=f"{user}@x.example", domain="x.example", impu=["tel:+1", f"sip:{user}@{'y' * 40}.example"])
    async with open_card(make_card(isim=isim)) as card:
        found = await card.identities()
    assert (found.impi, found.impus[1]) == (f"{user}@x.example", f"sip:{user}@{'y' * 40}.example")


@pytest.mark.parametrize("isim", [None, IsimProfile()], ids=["no ISIM", "blank ISIM"])
async def test_without_a_usable_isim(
    open_card: Open, make_card: MakeCard, make_vector: MakeVector, isim: IsimProfile | None
) -> None:
    """TS 23.003 clauses 13.2, 13.3, 13.4B."""
    async with open_card(make_card(isim=isim)) as card:
        found = await all_of_it(card, make_vector)
    assert (found.source, found.impi) == ("USIM", f"001010000000001@{DOMAIN}")


_USIM = tlv(0x4F, bytes.fromhex("A0000000871002FFFFFFFF8907090000"))
_ISIM = tlv(0x4F, bytes.fromhex("A0000000871004FFFFFFFF8907090000"))
_DIRECTORIES = {
    "junk and two-octet tags": (
        b"\x00" * 8,
        b"\x61\x20\x4f\x10",
        bytes.fromhex("6105500353494D"),
        bytes.fromhex(
            "61274F10A0000000871002FFFFFFFF89070900005004555349 4D5F500D687474703A2F2F782E6578616D".replace(" ", "")
        ),
        tlv(0x61, _ISIM + tlv(0x50, b"ISIM")),
    ),
    "partial AIDs": (
        tlv(0x61, tlv(0x4F, bytes.fromhex("A0000000871002"))),
        tlv(0x61, tlv(0x4F, bytes.fromhex("A0000000871004"))),
    ),
    "AIDs without labels, other applications before them": (
        tlv(0x61, tlv(0x4F, bytes.fromhex("A000000063504B43532D3135"))),
        tlv(0x61, tlv(0x4F, bytes.fromhex("A0000003431002FF86FF0389FFFFFFFF"))),
        tlv(0x61, _ISIM),
        tlv(0x61, _USIM),
    ),
    "nothing that can be read": (b"\x61\x70", b"\xde\xad\xbe\xef", b"\x4f\x02\x01"),
    "empty": (b"", b""),
}


@pytest.mark.parametrize("name", _DIRECTORIES)
async def test_ef_dir(open_card: Open, make_card: MakeCard, make_vector: MakeVector, name: str) -> None:
    def change(records: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return tuple(record.ljust(64, b"\xff") for record in _DIRECTORIES[name])

    async with open_card(_records(0x2F00, change, make_card())) as card:
        found = await all_of_it(card, make_vector)
    assert (found.source, found.imsi) == ("ISIM", "001010000000001")


@pytest.mark.parametrize("sw", ["6A82", "6A88", "6E00", "6D00", "6999", "9404"])
async def test_no_application_at_all(open_card: Open, make_card: MakeCard, sw: str) -> None:
    def deny(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        by_name = apdu[1:3] == b"\xa4\x04"
        return bytes.fromhex(sw) if by_name or apdu[5:7] == b"\x2f\x00" or apdu[1] == 0x70 else ask(apdu)

    async with open_card(Altered(make_card(), deny)) as card:
        with pytest.raises(WrongCardError, match="neither an ISIM nor a USIM"):
            await card.identities()


@pytest.mark.parametrize(
    ("sw", "meaning"),
    [
        ("6581", "memory problem"),
        ("6985", "conditions of use not satisfied"),
        ("6F12", "technical problem"),
        ("9300", "toolkit is busy"),
        ("9864", "context not supported"),
        ("6999", "command not allowed"),
        ("6200", "warning, nothing said"),
        ("63C2", "2 tries left"),
    ],
)
async def test_the_raw_status_word_and_its_meaning(
    open_card: Open, make_card: MakeCard, make_vector: MakeVector, sw: str, meaning: str
) -> None:
    """A refused AUTHENTICATE; the next one works."""
    refusing = True

    def refuse(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        return bytes.fromhex(sw) if apdu[1] == 0x88 and refusing else ask(apdu)

    async with open_card(Altered(make_card(), refuse)) as card:
        await card.identities()
        with pytest.raises(CardError, match=f"answered AUTHENTICATE with {sw}: .*{meaning}") as caught:
            await card.authenticate(bytes(16), bytes(16))
        assert caught.value.sw == int(sw, 16)
        refusing = False
        await all_of_it(card, make_vector)


async def test_reset_in_the_middle_of_authenticate(
    open_card: Open, make_card: MakeCard, make_vector: MakeVector
) -> None:
    """The card has forgotten application and PIN between SELECT and AUTHENTICATE: both are given again."""
    sim = make_card(pin=Secret("1234"))
    resets = 0

    def forget(apdu: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        nonlocal resets
        if apdu[1] == 0x88 and resets < 1:
            resets += 1
            sim.pin.verified = False
            for channel in sim._channels.values():
                channel.directory, channel.application, channel.ef = sim._mf, None, None
        return ask(apdu)

    async with open_card(Altered(sim, forget), "1234") as card:
        await all_of_it(card, make_vector)
    assert resets == 1 and sim.pin_tries_left == 3


async def test_a_wrong_pin_costs_one_try(open_card: Open, make_card: MakeCard) -> None:
    """63Cx: said with the error, and not tried again."""
    sim = make_card(pin=Secret("1234"))
    async with open_card(sim, "9999") as card:
        with pytest.raises(PinRequiredError, match=r"wrong; 2 tries left \(63C2\)"):
            await card.identities()
        for _ in range(3):
            with pytest.raises(PinRequiredError, match=r"wrong \(2 tries left\); it is not sent again"):
                await card.identities()
    assert sim.pin_tries_left == 2
