"""Three hosts in network namespaces: the agent's IMS client with a virtual card, the core, a phone.

Each host is a thread with a loop of its own (`Station`), so that whatever opens a socket on it is in its network.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.observe.events import EventLog
from imskit.secrets import Secret
from imskit.sip.engine.timers import TS24229_UE, TimerProfile
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc
from simulators.ims_core.config import CoreConfig, GmSecurityConfig
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import SubscriberConfig
from simulators.lab.station import Station, link
from simulators.lab.world import LabError
from simulators.phone.config import PhoneConfig
from simulators.phone.phone import Phone
from ue_agent.config import ImsConfig
from ue_agent.ims_client.client import ImsClient
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.in_process import InProcessReader

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
ADDRESSES = {4: ("10.45.0.2", "10.45.0.1", "10.46.0.1", "10.46.0.2"), 6: ("fd45::2", "fd45::1", "fd46::1", "fd46::2")}
"""UE, the core's two, phone."""
QUICK = TimerProfile(t1=0.1, t2=0.4, t4=0.5)
"""Timer F after 6.4 s: a P-CSCF that is gone is given up within a test."""


def at(host: str, port: int = 5060) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass
class Network:
    """The hosts and the links between them."""

    ue: Station
    core: Station
    phone: Station

    def configure(self, mtu: int = 1500) -> None:
        """Give the links their MTU, addresses and routes; again after they were down or too narrow for IPv6."""
        for station, interface in ((self.ue, "ims0"), (self.core, "ue0")):
            station.command("ip", "link", "set", interface, "mtu", str(mtu))
        for version, (of_ue, near, far, of_phone) in ADDRESSES.items():
            if version == 6 and mtu < 1280:
                continue
            bits, more = ("24", []) if version == 4 else ("64", ["nodad"])
            for station, address, interface in (
                (self.ue, of_ue, "ims0"),
                (self.core, near, "ue0"),
                (self.core, far, "phone0"),
                (self.phone, of_phone, "ims0"),
            ):
                station.command("ip", "address", "replace", f"{address}/{bits}", "dev", interface, *more)
            self.ue.command("ip", f"-{version}", "route", "replace", "default", "via", near)
            self.phone.command("ip", f"-{version}", "route", "replace", "default", "via", far)


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """``ims0`` of UE and phone lead to ``ue0`` and ``phone0`` of the core."""
    with contextlib.ExitStack() as stack:
        try:
            ue, core, phone = (stack.enter_context(Station(name)) for name in ("ue", "core", "phone"))
        except LabError as error:
            pytest.skip(f"needs the right to make network namespaces: {error}")
        link(ue, core, ("ims0", "ue0"))
        link(phone, core, ("ims0", "phone0"))
        network = Network(ue, core, phone)
        network.configure()
        yield network


@dataclass
class Ue:
    """The agent's IMS client, and what it said; everything about it happens on its station."""

    station: Station
    client: ImsClient
    phones_idle: Callable[[], Coroutine[Any, Any, None]]
    """Waits until no phone is in a call: what has ended here goes on there until the BYE has arrived."""
    outputs: list[ims.Output] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[[], object], within: float = 20.0) -> None:
        """Wait for what an output or a change of status makes true."""

        async def wait() -> None:
            while not condition():
                self.changed.clear()
                await self.changed.wait()

        try:
            await self.station.run(asyncio.wait_for(wait(), within))
        except TimeoutError:
            raise AssertionError(f"it never came; {self.reasons} {[type(o).__name__ for o in self.outputs]}") from None

    async def registered(self, within: float = 20.0) -> None:
        await self.until(lambda: self.client.status.state is State.REGISTERED, within)

    async def says(self, words: str, within: float = 20.0) -> None:
        await self.until(lambda: any(words in reason for reason in self.reasons), within)

    def of(self, kind: type[Any]) -> list[Any]:
        return [output for output in self.outputs if isinstance(output, kind)]

    def handle(self, event: ims.Event) -> None:
        self.station.call(lambda: self.client.handle(event))

    @property
    def sets(self) -> list[dict[str, Any]]:
        """The security associations at work."""
        return self.station.call(lambda: self.client.security()["sets"])

    async def stop(self) -> None:
        await self.station.run(self.client.stop())


class Lab:
    """Makes cores, UEs and phones on the network; they are stopped at the end."""

    backend = "userspace"
    """What does ESP; ``tests/kernel`` has labs where it is the kernel."""

    def __init__(self, network: Network, folder: Path, stack: AsyncExitStack) -> None:
        self.network = network
        self.folder = folder
        self._stack = stack
        self._made = 0
        self._phones: list[Phone] = []

    async def core(self, *, gm: dict[str, Any] | None = None, version: int = 4, **changes: Any) -> ImsCore:
        """A core at port 5060 of both its addresses; ``gm`` are settings of its Gm security."""
        _, near, far, _ = ADDRESSES[version]
        subscribers = [
            SubscriberConfig(
                f"00101000000000{n}@{DOMAIN}", [f"sip:+1555{n}@{DOMAIN}", f"tel:+1555{n}"], k=Secret(K), opc=Secret(OPC)
            )
            for n in ("0100", "0200")
        ]
        security = GmSecurityConfig(**({"mode": "required", "backend": self.backend} | (gm or {})))
        core = ImsCore(CoreConfig(DOMAIN, [at(near), at(far)], subscribers, gm_security=security, **changes))
        await self._on(self.network.core, core.start, core.close)
        return core

    async def ue(
        self, on: Station | None = None, *, version: int = 4, timers: TimerProfile = TS24229_UE, **changes: Any
    ) -> Ue:
        """The IMS client with a card; ``changes`` are settings."""
        station = on or self.network.ue
        address, near, _, _ = ADDRESSES[version]
        settings = {
            "address": address,
            "p_cscf": [at(near)],
            "security": "ipsec",
            "backend": self.backend,
            "retry_base": 0.2,
        }
        config = ImsConfig(**(settings | changes))
        isim = IsimProfile(
            impi=f"001010000000000100@{DOMAIN}",
            domain=DOMAIN,
            impu=[f"sip:+15550100@{DOMAIN}", "tel:+15550100"],
            pcscf=[],
        )
        reader = InProcessReader()
        reader.insert(Uicc(CardProfile(imsi="001010000000100", k=Secret(K), opc=Secret(OPC), isim=isim)))
        self._made += 1
        state = self.folder / f"ue-{self._made}"
        state.mkdir()
        made: list[Ue] = []

        async def start() -> None:
            card = await UiccCard.open(CardSpec(), reader)
            changed = asyncio.Event()

            def output(what: ims.Output) -> None:
                made[0].outputs.append(what)
                changed.set()

            def status() -> None:
                made[0].reasons.append(made[0].client.status.reason)
                changed.set()

            client = ImsClient(config, card, state, EventLog("test"), output, status, timers=timers)
            made.append(Ue(station, client, self.phones_idle, changed=changed))
            client.start()

        async def stop() -> None:
            await made[0].client.stop()
            await made[0].client._card.close()

        await self._on(station, start, stop)
        return made[0]

    async def phone(self, *, version: int = 4, **changes: Any) -> Phone:
        """The simulated phone, which answers at once."""
        _, _, far, address = ADDRESSES[version]
        settings = {
            "impi": f"001010000000000200@{DOMAIN}",
            "impus": [f"sip:+15550200@{DOMAIN}", "tel:+15550200"],
            "domain": DOMAIN,
            "k": Secret(K),
            "opc": Secret(OPC),
            "address": address,
            "p_cscf": at(far),
            "security": "ipsec",
            "backend": self.backend,
            "answer_after": 0.0,
        }
        phone = Phone(PhoneConfig(**(settings | changes)))
        await self._on(self.network.phone, phone.start, phone.close)
        self._phones.append(phone)
        return phone

    async def phones_idle(self) -> None:
        await phone_is(self.network.phone, lambda: all(phone.status()["call"] is None for phone in self._phones))

    async def phone_registered(self, phone: Phone) -> None:
        await phone_is(self.network.phone, lambda: phone.status()["registration"] == "registered")

    async def _on(
        self,
        station: Station,
        start: Callable[[], Coroutine[Any, Any, None]],
        stop: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        await station.run(start())
        self._stack.push_async_callback(lambda: station.run(stop()))


@pytest.fixture
async def lab(network: Network, tmp_path: Path) -> AsyncIterator[Lab]:
    async with AsyncExitStack() as stack:
        yield Lab(network, tmp_path, stack)


async def phone_is(station: Station, condition: Callable[[], bool]) -> None:
    """Wait until something holds of the phone."""

    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)

    await station.run(asyncio.wait_for(wait(), 20))


def offer(host: str) -> bytes:
    """What the UE offers in a call."""
    kind = "IP6" if ":" in host else "IP4"
    return (
        f"v=0\r\no=- 1 1 IN {kind} {host}\r\ns=-\r\nc=IN {kind} {host}\r\nt=0 0\r\n"
        "m=audio 40000 RTP/AVP 96\r\na=rtpmap:96 AMR-WB/16000\r\n"
    ).encode()


async def call(ue: Ue, host: str) -> None:
    """Call the phone, which answers; then hang up. Both sides have ended the call after it."""
    name = f"call-{len(ue.outputs)}"
    ue.handle(ims.Dial(name, "tel:+15550200", offer(host)))
    await ue.until(lambda: any(each.call == name for each in ue.of(ims.Answered) + ue.of(ims.Ended)))
    assert not ue.of(ims.Ended), ue.of(ims.Ended)
    ue.handle(ims.Hangup(name))
    await ue.until(lambda: ue.of(ims.Ended))
    assert ue.of(ims.Ended)[-1].local
    await ue.phones_idle()
    ue.outputs.clear()


async def called(ue: Ue, phone: Phone, station: Station, host: str) -> None:
    """Let the phone call the UE, which answers and hangs up. Both sides have ended the call after it."""
    ue.outputs.clear()
    station.call(lambda: phone.dial("+15550100"))
    await ue.until(lambda: ue.of(ims.IncomingCall))
    name = ue.of(ims.IncomingCall)[0].call
    ue.handle(ims.Prepare(name, offer(host)))
    await ue.until(lambda: ue.of(ims.Alert))
    ue.handle(ims.Ring(name))
    ue.handle(ims.Accept(name))
    await ue.until(lambda: ue.of(ims.Confirmed))
    ue.handle(ims.Hangup(name))
    await ue.until(lambda: ue.of(ims.Ended))
    await ue.phones_idle()
    ue.outputs.clear()
