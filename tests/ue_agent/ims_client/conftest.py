"""The IMS client over loopback sockets: the simulated core on the one side, a simulated card on the other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.ims.ue import ImsUe
from imskit.observe.events import EventLog
from imskit.secrets import Secret
from imskit.sip.engine.timers import TimerProfile
from imskit.sip.wire.message import Request
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import SubscriberConfig
from ue_agent.config import ImsConfig
from ue_agent.ims_client import client as module
from ue_agent.ims_client.client import ImsClient
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.uicc.transport import CardBackend

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
QUICK = TimerProfile(t1=0.02, t2=0.16, t4=0.17)
"""Timer F after 1.3 s: a silent P-CSCF is given up within a test."""


def free_port(host: str) -> int:
    """A port that is free for UDP and TCP."""
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind((host, 0))
            port: int = udp.getsockname()[1]
            try:
                tcp.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Lab:
    """One client, its card and reader, cores."""

    def __init__(self, state: Path, stack: AsyncExitStack) -> None:
        self.state = state
        self.stack = stack
        self.reader = InProcessReader()
        self.backend: CardBackend = self.reader
        """Where the client looks for its card."""
        self.outputs: list[ims.Output] = []
        self.sentences: list[str] = []
        """What `status` said, one after the other."""
        self.notifications = 0
        """Of reg-event."""
        self._changed = asyncio.Event()
        self.client: ImsClient | None = None
        self.uicc: UiccCard | None = None

    @staticmethod
    def free_port() -> int:
        return free_port("127.0.0.1")

    # ---- parts ------------------------------------------------------------------------------------

    def card(self, number: str = "0100", **changes: Any) -> Uicc:
        isim = IsimProfile(
            impi=f"00101000000000{number}@{DOMAIN}",
            domain=DOMAIN,
            impu=[f"sip:+1555{number}@{DOMAIN}", f"tel:+1555{number}"],
            pcscf=changes.pop("pcscf", []),
        )
        fields: dict[str, Any] = {"imsi": "001010000000100", "k": Secret(K), "opc": Secret(OPC), "isim": isim}
        return Uicc(CardProfile(**(fields | changes)))

    async def core(self, address: str = "127.0.0.1:0", **changes: Any) -> ImsCore:
        subscribers = [
            SubscriberConfig(
                f"00101000000000{n}@{DOMAIN}", [f"sip:+1555{n}@{DOMAIN}", f"tel:+1555{n}"], k=Secret(K), opc=Secret(OPC)
            )
            for n in ("0100", "0200")
        ]
        core = ImsCore(CoreConfig(DOMAIN, [address], subscribers, **changes))
        await core.start()
        self.stack.push_async_callback(core.close)
        return core

    async def start(self, *p_cscfs: str, insert: bool = True, pin: str | None = None, **changes: Any) -> ImsClient:
        if insert:
            self.reader.insert(self.card())
        if self.uicc is None:
            self.uicc = await UiccCard.open(CardSpec(pin=Secret(pin) if pin else None), self.backend)
            self.stack.push_async_callback(self.uicc.close)
        config = ImsConfig(
            **(
                {
                    "address": "127.0.0.1",
                    "port": free_port("127.0.0.1"),
                    "p_cscf": list(p_cscfs),
                    "retry_base": 0.1,
                    "security": "off",
                }
                | changes
            )
        )
        client = ImsClient(
            config, self.uicc, self.state, EventLog("test"), self._output, self._status_changed, timers=QUICK
        )
        self.client = client
        self.stack.push_async_callback(client.stop)
        client.start()
        return client

    # ---- what happens -----------------------------------------------------------------------------

    def _output(self, output: ims.Output) -> None:
        self.outputs.append(output)
        self._changed.set()

    def _status_changed(self) -> None:
        assert self.client is not None
        self.sentences.append(self.client.status.reason)
        self._changed.set()

    async def until(self, condition: Callable[[], object], within: float = 20.0) -> None:
        """Wait for what a change of status, or an output, makes true."""
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"it never came; the status said {self.sentences}") from None

    async def registered(self) -> None:
        assert self.client is not None
        await self.until(lambda: self.client and self.client.status.state is State.REGISTERED)

    async def says(self, *words: str, within: float = 20.0) -> str:
        """Wait until the status holds these words, and return it."""
        client = self.client
        assert client is not None
        await self.until(lambda: all(word in client.status.reason for word in words), within)
        return client.status.reason


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    monkeypatch.setattr(module, "CARD_RETRY_SECONDS", 0.2)
    notified = ImsUe._notified
    async with AsyncExitStack() as stack:
        lab = Lab(tmp_path, stack)

        def notified_and_told(self: ImsUe, message: Request) -> None:
            notified(self, message)
            lab.notifications += 1
            lab._changed.set()

        monkeypatch.setattr(ImsUe, "_notified", notified_and_told)
        yield lab


def at(core: ImsCore) -> str:
    """Where a core's P-CSCF is."""
    host, port = core.gm[0]
    return f"{host}:{port}"


@pytest.fixture
def address() -> Callable[[ImsCore], str]:
    return at
