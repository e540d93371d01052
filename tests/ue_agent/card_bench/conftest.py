"""A subscriber, cards of it in each kind of reader, and the command line with its output."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imsbridge.cli import main
from imskit.config.model import parse
from imskit.uicc.profile import CardProfile
from imskit.uicc.uicc import Uicc
from simulators.card.pcscd import PrivatePcscd, missing, use_in_this_process
from simulators.card.server import SmartCard, VirtualCard
from simulators.modem.engine.modem import Modem, Quirk
from simulators.modem.io.port import ModemPort

K, OPC = "fec86ba6eb707ed08905757b1bb44b8f", "1006020f0a478bf6b699f15c062e42b3"  # TS 35.208 set 3
TUAK_K, TOPC = "ab" * 16, "cd" * 32
PIN, PUK = "84172963", "99887766"
CARD = f"""
imsi = "001010000000001"
k = "{K}"
opc = "{OPC}"
gba = true
[isim]
impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
domain = "ims.mnc001.mcc001.3gppnetwork.org"
impu = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org", "tel:+15550100"]
pcscf = ["10.45.0.1", "pcscf.ims.example"]
webrtc_uri = ["https://portal.ims.example/"]
"""
WITH_PIN = f'pin = "{PIN}"\npuk = "{PUK}"\n{CARD}'
TUAK_CARD = CARD.replace(K, TUAK_K).replace(OPC, TOPC).replace("gba", 'algorithm = "tuak"\ngba')


def make_card(text: str = CARD) -> Uicc:
    """A simulated card."""
    return Uicc(parse(CardProfile, text))


@dataclass
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


type Run = Callable[..., Ran]
type Secretly = Callable[[str, str], Path]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``imsbridge card …`` at 80 columns, with ``stdin`` for its input."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str | Path, stdin: str = "") -> Ran:
        import io

        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        try:
            code = main(["card", *map(str, words)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def secret_file(tmp_path: Path) -> Secretly:
    """Write a file for its user alone."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


@pytest.fixture
def keys(secret_file: Secretly) -> Path:
    """The key file of the card."""
    return secret_file("keys.toml", f'k = "{K}"\nopc = "{OPC}"\n')


@pytest.fixture
def software(secret_file: Secretly) -> Callable[..., str]:
    """A card in software; the value of --card."""
    return lambda text=CARD: f"software:{secret_file('card.toml', text)}"


class Reader:
    """A virtual reader behind a real pcscd; the card in it lives in a thread of its own."""

    def __init__(self, daemon: PrivatePcscd) -> None:
        self.daemon = daemon
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._inside: list[VirtualCard] = []

    def insert(self, card: SmartCard, slot: int = 0) -> None:
        """Put a card in and wait until the service has seen it."""
        from ue_agent.uicc.inventory import readers

        virtual = VirtualCard(card, self.daemon.ports[slot])
        asyncio.run_coroutine_threadsafe(virtual.insert(), self._loop).result(5)
        self._inside.append(virtual)
        seen = threading.Event()
        while readers()[slot].atr is None:
            seen.wait(0.02)  # pcscd has no call that waits for two readers at once

    def close(self) -> None:
        """Pull all cards."""
        for virtual in self._inside:
            asyncio.run_coroutine_threadsafe(virtual.remove(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture
def reader() -> Iterator[Reader]:
    """See ``Reader``; the daemon is this test's own."""
    if (lack := missing()) is not None:
        pytest.skip(f"NO SMART-CARD TESTS: {lack}")
    with PrivatePcscd() as daemon:
        use_in_this_process(daemon)
        reader = Reader(daemon)
        try:
            yield reader
        finally:
            reader.close()


@pytest.fixture
def modem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Plug an emulated modem in; its event loop runs in a thread of its own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    ports: list[ModemPort] = []

    def plug(card: Uicc, quirks: list[Quirk]) -> str:
        async def open_port() -> ModemPort:
            return await ModemPort(Modem(card, quirks)).__aenter__()

        ports.append(asyncio.run_coroutine_threadsafe(open_port(), loop).result(5))
        return f"modem:{ports[-1].device}"

    yield plug
    for port in ports:
        asyncio.run_coroutine_threadsafe(port.__aexit__(None, None, None), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()
