"""A core and phones on loopback addresses, in this process."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from imskit.observe.events import EventLog, read_events
from imskit.secrets import Secret
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import SubscriberConfig
from simulators.phone.config import PhoneConfig
from simulators.phone.phone import Phone

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"


class Network:
    """The core, and phones by their number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.core_events = folder / "core.jsonl"
        self.core = self.new_core()
        self.phones: dict[str, Phone] = {}
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """An event was recorded."""
        self._changed.set()

    async def until(self, condition: Callable[[], object], within: float = 20.0) -> None:
        """Wait for a condition that comes true with an event of the core or a phone."""
        async with asyncio.timeout(within):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def new_core(self, **changes: Any) -> ImsCore:
        subscribers = [
            SubscriberConfig(
                f"00101000000000{n}@{DOMAIN}", [f"sip:+1555{n}@{DOMAIN}", f"tel:+1555{n}"], k=Secret(K), opc=Secret(OPC)
            )
            for n in ("0100", "0200", "0300")
        ]
        arguments: dict[str, Any] = {
            "gm": ["127.0.0.2:0", "127.0.0.3:0"],
            "events": self.core_events,
        }
        return ImsCore(CoreConfig(DOMAIN, subscribers=subscribers, **(arguments | changes)))

    async def phone(self, number: str, *, register: bool = True, **settings: Any) -> Phone:
        gm = self.core.gm[int(number[1]) % 2]
        config = PhoneConfig(
            **{
                "impi": f"00101000000000{number}@{DOMAIN}",
                "impus": [f"sip:+1555{number}@{DOMAIN}"],
                "domain": DOMAIN,
                "k": Secret(K),
                "opc": Secret(OPC),
                "address": f"127.0.0.1{number[1]}",
                "port": 0,
                "p_cscf": f"{gm[0]}:{gm[1]}",
                "answer_after": 0.1,
                "events": self.folder / f"{number}.jsonl",
                **settings,
            }
        )
        phone = Phone(config)
        self.phones[number] = phone
        await phone.start()
        if register:
            await self.until(lambda: phone.status()["registration"] == "registered")
        return phone

    def events(self, number: str) -> list[dict[str, Any]]:
        """What a phone's event file holds, in order."""
        return list(read_events(self.folder / f"{number}.jsonl"))

    def steps(self, number: str) -> list[str]:
        """The names of a phone's events."""
        return [event["event"] for event in self.events(number)]

    async def close(self) -> None:
        for phone in self.phones.values():
            await phone.close()
        await self.core.close()


@pytest.fixture
async def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Network]:
    network = Network(tmp_path)
    emit = EventLog.emit

    def emit_and_tell(self: EventLog, event: str, **fields: Any) -> None:
        emit(self, event, **fields)
        network.changed()

    monkeypatch.setattr(EventLog, "emit", emit_and_tell)
    await network.core.start()
    yield network
    await network.close()


@pytest.fixture
def tone(tmp_path: Path) -> Callable[..., Path]:
    """Makes a WAV file: half a second of silence, then bursts of a tone of half a second with gaps as long."""

    def make(hertz: int, seconds: float = 3.0) -> Path:
        at = np.arange(int(seconds * 16000)) / 16000
        on = (at % 1.0) >= 0.5
        path = tmp_path / f"{hertz}.wav"
        write_wav(path, np.where(on, 9000 * np.sin(2 * np.pi * hertz * at), 0).astype(np.int16))
        return path

    return make


def write_wav(path: Path, samples: npt.NDArray[np.int16]) -> None:
    with wave.open(str(path), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(16000)
        target.writeframes(samples.tobytes())


@pytest.fixture
def read_wav() -> Callable[[Path], npt.NDArray[np.int16]]:
    def read(path: Path) -> npt.NDArray[np.int16]:
        with wave.open(str(path), "rb") as source:
            assert (source.getframerate(), source.getnchannels(), source.getsampwidth()) == (16000, 1, 2)
            return np.frombuffer(source.readframes(source.getnframes()), np.int16)

    return read
