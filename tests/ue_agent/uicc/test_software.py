"""The card in a file: what it remembers, who may use it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imskit.aka.vector import AuthenticationVector, Success, SyncFailure
from imskit.secrets import Secret
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.errors import CardUnresponsiveError, NoCardError, PinRequiredError
from ue_agent.uicc.software import SoftwareBackend
from ue_agent.uicc.transport import CardInserted, CardRemoved

type MakeVector = Callable[[], AuthenticationVector]
_CARD = """
imsi = "001010000000001"
k = "fec86ba6eb707ed08905757b1bb44b8f"
opc = "1006020f0a478bf6b699f15c062e42b3"
pin = "1234"
[isim]
impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
domain = "ims.mnc001.mcc001.3gppnetwork.org"
impu = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "card.toml"
    path.write_text(_CARD)
    path.chmod(0o600)
    return path


def spec(file: Path, pin: str = "1234") -> CardSpec:
    return CardSpec(f"software:{file}", Secret(pin))


async def test_it_is_a_card_and_says_that_it_is_none(
    file: Path, make_vector: MakeVector, caplog: pytest.LogCaptureFixture
) -> None:
    """X-CARDLAB: success, resynchronisation, identities, through the same seam as a reader."""
    async with await UiccCard.open(spec(file)) as card:
        assert card.present and card.laboratory
        assert (await card.identities()).source == "ISIM"
        vector = make_vector()
        result = await card.authenticate(vector.rand, vector.autn)
        assert isinstance(result, Success) and result.res == vector.xres
        assert isinstance(await card.authenticate(vector.rand, vector.autn), SyncFailure)
    assert any("LABORATORY ONLY" in record.message for record in caplog.records if record.levelno >= logging.WARNING)


async def test_sequence_numbers_outlive_the_process(file: Path, make_vector: MakeVector) -> None:
    vector = make_vector()
    async with await UiccCard.open(spec(file)) as card:
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)
    memory = file.with_name("card.toml.state")
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert len(json.loads(memory.read_text())["sqn"]) == 1
    async with await UiccCard.open(spec(file)) as card:
        assert isinstance(await card.authenticate(vector.rand, vector.autn), SyncFailure)
        vector = make_vector()
        assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)


async def test_pin_tries_outlive_the_process_and_the_last_is_never_used(file: Path) -> None:
    for left in (2, 1, 1):
        async with await UiccCard.open(spec(file, "9999")) as card:
            with pytest.raises(Exception, match=f"{left} tries left|one PIN try is left"):
                await card.identities()
        assert json.loads(file.with_name("card.toml.state").read_text())["pin"]["tries_left"] == left
    async with await UiccCard.open(spec(file, "9999")) as card:
        with pytest.raises(Exception, match="one PIN try is left"):
            await card.identities()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
async def test_a_file_that_others_may_touch_is_refused(file: Path, mode: int) -> None:
    os.chmod(file, mode)
    async with await UiccCard.open(spec(file)) as card:
        with pytest.raises(NoCardError, match=f"chmod 600 {file}"):
            await card.identities()


async def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(_CARD.replace("4b8f", "4b8f00"))
    wrong.chmod(0o600)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, message in [
        (link, "symbolic links"),
        (wrong, "32 hex digits"),
        (tmp_path / "fifo", "is no file"),
        (tmp_path / "nowhere", "No such file"),
    ]:
        with pytest.raises(NoCardError, match=message) as caught:
            SoftwareBackend(path).connect()
        assert "fec86ba6" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_file_is_refused(file: Path) -> None:
    os.chown(file, 65534, 65534)
    with pytest.raises(NoCardError, match="another user"):
        SoftwareBackend(file).connect()


async def test_a_broken_memory_is_not_forgotten(file: Path) -> None:
    """To begin anew would be to accept old challenges again."""
    memory = file.with_name("card.toml.state")
    of_this_card = '{"imsi": "001010000000001"'
    for text in ("", "{", "[]", of_this_card + ', "sqn": ["x"]}', of_this_card + ', "sqn": 3, "pin": []}', "[" * 5000):
        memory.write_text(text)
        os.chmod(memory, 0o600)
        async with await UiccCard.open(spec(file)) as card:
            with pytest.raises(CardUnresponsiveError, match=r"memory .*card\.toml\.state cannot be read"):
                await card.identities()
    memory.write_text('{"imsi": "001010000000009", "sqn": []}')
    async with await UiccCard.open(spec(file)) as card:
        with pytest.raises(CardUnresponsiveError, match="another card's; remove it"):
            await card.identities()
        os.chmod(memory, 0o644)
        with pytest.raises(CardUnresponsiveError, match=f"chmod 600 {memory}"):
            await card.identities()


async def test_it_comes_and_goes_with_its_file(file: Path) -> None:
    away = file.with_name("away.toml")
    async with await UiccCard.open(spec(file)) as card:
        events = card.events()
        os.rename(file, away)
        assert isinstance(await anext(events), CardRemoved)
        with pytest.raises(NoCardError):
            await card.identities()
        os.rename(away, file)
        assert isinstance(await anext(events), CardInserted)
        assert (await card.identities()).source == "ISIM"


async def test_two_processes_on_one_card(file: Path, make_vector: MakeVector) -> None:
    """Each holds the card for its transaction; a number that one accepted the other refuses."""
    vector = make_vector()
    script = f"""
import asyncio, sys
from imskit.secrets import Secret
from ue_agent.uicc.card import CardSpec, UiccCard
async def main():
    async with await UiccCard.open(CardSpec("software:{file}", Secret("1234"))) as card:
        for line in sys.stdin:
            rand, autn = map(bytes.fromhex, line.split())
            print(type(await card.authenticate(rand, autn)).__name__, flush=True)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        async with await UiccCard.open(spec(file)) as card:
            for _ in range(3):
                vector = make_vector()
                assert isinstance(await card.authenticate(vector.rand, vector.autn), Success)
                process.stdin.write(f"{vector.rand.hex()} {vector.autn.hex()}\n".encode())
                assert await process.stdout.readline() == b"SyncFailure\n"
                vector = make_vector()
                process.stdin.write(f"{vector.rand.hex()} {vector.autn.hex()}\n".encode())
                assert await process.stdout.readline() == b"Success\n"
                assert isinstance(await card.authenticate(vector.rand, vector.autn), SyncFailure)
    finally:
        process.stdin.close()
        await process.wait()


def test_a_changed_pin_and_gba_outlive_the_process(file: Path, make_vector: MakeVector) -> None:
    file.write_text(_CARD.replace("[isim]", "gba = true\n[isim]"))
    isim = bytes.fromhex("00A4040C07A0000000871004")

    def ask(*commands: bytes) -> list[int]:
        transport = SoftwareBackend(file).connect()
        try:
            with transport.transaction():
                return [transport.transmit(command)[1] for command in commands]
        finally:
            transport.close()

    def pin(digits: str) -> bytes:
        return digits.encode().ljust(8, b"\xff")

    assert ask(b"\x00\x24\x00\x01\x10" + pin("1234") + pin("567890")) == [0x9000]
    assert ask(b"\x00\x20\x00\x01\x08" + pin("1234")) == [0x63C2]
    verify = b"\x00\x20\x00\x01\x08" + pin("567890")
    vector = make_vector()
    ik_hash = hashlib.sha1(vector.ik.reveal()).digest()
    autn = vector.autn[:8] + bytes(a ^ b for a, b in zip(vector.autn[8:], ik_hash, strict=False))
    bootstrap = b"\x00\x88\x00\x84\x23\xdd\x10" + vector.rand + b"\x10" + autn
    derive = b"\x00\x88\x00\x84\x11\xde\x07naf.abc\x07a@b.com"
    assert ask(verify, isim, derive) == [0x9000, 0x9000, 0x6985], "no key yet"
    assert ask(verify, isim, bootstrap) == [0x9000, 0x9000, 0x610A]
    assert ask(verify, isim, derive) == [0x9000, 0x9000, 0x6122], "the key is there after a restart"


async def test_a_wrong_pin_is_not_sent_twice(file: Path) -> None:
    async with await UiccCard.open(spec(file, "9999")) as card:
        for _ in range(3):
            with pytest.raises(PinRequiredError, match="2 tries left"):
                await card.identities()
