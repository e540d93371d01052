"""A whole IMS in memory: two UEs, P-CSCF and S-CSCF as engines on a virtual clock, datagrams as encoded bytes."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnArray
from imskit.aka.vector import Usim
from imskit.engine import Tick
from imskit.ims import events as ims
from imskit.ims.profile import UeProfile
from imskit.ims.registration import RetryPolicy, State
from imskit.ims.ue import ImsUe
from imskit.secrets import Identity, Secret
from imskit.sip.engine.events import Received, Transmit
from imskit.sip.wire.flow import Address, Flow, Target
from imskit.sip.wire.message import Request, parse_message
from simulators.ims_core.engine.p_cscf import PCscf
from simulators.ims_core.engine.s_cscf import SCscf
from simulators.ims_core.subscribers import Hss, SubscriberConfig

K = "465b5ce8b199b49faa5f0a2ee238a6bc"
OPC = "cd63cb71954a9f4e48a5994e37a02baf"
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
GM: Address = ("10.45.0.1", 5060)
MW = Target("UDP", ("127.0.0.1", 5060))
S_CSCF = Target("UDP", ("127.0.0.1", 5070))
DELAY = 0.01


class AnyEngine(Protocol):
    def handle(self, event: Any, now: float) -> None: ...
    def poll(self) -> Any: ...
    def deadline(self) -> float | None: ...


def sdp(host: str, version: int = 1, extra: str = "") -> bytes:
    return (
        f"v=0\r\no=- 1 {version} IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
        f"m=audio 40000 RTP/AVP 96\r\na=rtpmap:96 AMR-WB/16000\r\n{extra}"
    ).encode()


@dataclass
class Phone:
    """A UE, its card, and what it was told."""

    name: str
    ue: ImsUe
    usim: Usim
    address: Address
    heard: list[Any] = field(default_factory=list)

    def of(self, kind: type[Any]) -> list[Any]:
        return [output for output in self.heard if isinstance(output, kind)]


class World:
    """The network: engines by address, messages in flight, a ladder of what passed."""

    def __init__(self, *, lost: Callable[[str, bytes], bool] = lambda ladder, data: False) -> None:
        self.now = 1000.0
        self.lost = lost
        self.ladder: list[str] = []
        self.messages: list[tuple[str, bytes]] = []
        self._random = random.Random(7)
        self._queue: list[tuple[float, int, Address, Address, bytes]] = []
        self._order = itertools.count()
        self._names: dict[Address, str] = {}
        self._engines: dict[Address, AnyEngine] = {}
        subscribers = [
            SubscriberConfig(
                f"00101000000000{n}@{DOMAIN}", [f"sip:+1555{n}@{DOMAIN}", f"tel:+1555{n}"], Secret(K), Secret(OPC)
            )
            for n in ("0100", "0200")
        ]
        self.hss = Hss(subscribers, self._random.randbytes)
        self.s_cscf = SCscf(self.hss, DOMAIN, S_CSCF, ["AKAv1-MD5"], self.tokens)
        self.p_cscf = PCscf((GM,), MW, S_CSCF, DOMAIN, self.tokens)
        self.add("P", GM, self.p_cscf)
        self.add("P", MW.address, self.p_cscf)
        self.add("S", S_CSCF.address, self.s_cscf)
        self.phones: dict[str, Phone] = {}

    def tokens(self, digits: int) -> str:
        return f"{self._random.getrandbits(4 * digits):0{digits}x}"

    def add(self, name: str, address: Address, engine: AnyEngine) -> None:
        self._names[address] = name
        self._engines[address] = engine

    def restart_core(self) -> None:
        """Forget all registrations, as a core that was restarted."""
        self.s_cscf = SCscf(self.hss, DOMAIN, S_CSCF, ["AKAv1-MD5"], self.tokens)
        self.p_cscf = PCscf((GM,), MW, S_CSCF, DOMAIN, self.tokens)
        self._engines[GM] = self._engines[MW.address] = self.p_cscf
        self._engines[S_CSCF.address] = self.s_cscf

    def phone(self, number: str, host: str) -> Phone:
        profile = UeProfile(
            Identity(f"00101000000000{number}@{DOMAIN}"),
            Identity(f"sip:+1555{number}@{DOMAIN}"),
            DOMAIN,
            f"urn:gsma:imei:35693803-56{number}-0",
            (host, 5060),
            (Target("UDP", GM),),
            "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=001010001000019B",
        )
        ue = ImsUe(profile, self.tokens, RetryPolicy(base=2.0, maximum=60.0))
        usim = Usim(Milenage(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC))), SqnArray())
        phone = Phone(number, ue, usim, (host, 5060))
        self.phones[number] = phone
        self.add("A" if number == "0100" else "B", (host, 5060), ue)
        return phone

    def tell(self, phone: Phone, event: Any) -> None:
        phone.ue.handle(event, self.now)
        self._drain()

    def _drain(self) -> None:
        busy = True
        while busy:
            busy = False
            for address, engine in list(self._engines.items()):
                while (output := engine.poll()) is not None:
                    busy = True
                    self._take(address, engine, output)

    def _take(self, address: Address, engine: AnyEngine, output: Any) -> None:
        if isinstance(output, Transmit):
            self._transmit(address, output)
            return
        phone = next((p for p in self.phones.values() if p.ue is engine), None)
        if phone is None:
            return
        phone.heard.append(output)
        if isinstance(output, ims.AskCard):
            phone.ue.handle(ims.CardAnswer(phone.usim.verify(output.rand, output.autn)), self.now)

    def _transmit(self, address: Address, output: Transmit) -> None:
        destination = output.destination
        if isinstance(destination, Flow):
            source, target = destination.local, destination.remote
        else:
            source, target = address, destination.address
            if self._names[address] == "P":
                source = MW.address if target == S_CSCF.address else GM
        data = output.message.encode()
        first = data.split(b"\r\n", 1)[0].decode()
        word = first.split()[1] if first.startswith("SIP/2.0") else first.split()[0]
        body = "+SDP" if b"application/sdp" in data else ""
        arrow = f"{self._names[source]}->{self._names.get(target, '?')} {word}{body}"
        self.messages.append((arrow, data))
        if self.lost(arrow, data):
            return
        self.ladder.append(arrow)
        heapq.heappush(self._queue, (self.now + DELAY, next(self._order), source, target, data))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            self._drain()
            deadlines = [d for e in self._engines.values() if (d := e.deadline()) is not None]
            coming = [self._queue[0][0]] if self._queue else []
            at = min((*deadlines, *coming), default=end)
            if at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            if self._queue and self._queue[0][0] <= self.now:
                _, _, source, target, data = heapq.heappop(self._queue)
                engine = self._engines.get(target)
                if engine is not None:
                    engine.handle(
                        Received(parse_message(data), Flow("UDP", target, source, hash(target) & 0xFFFF)), self.now
                    )
            for engine in {id(e): e for e in self._engines.values()}.values():
                deadline = engine.deadline()
                if deadline is not None and deadline <= self.now:
                    engine.handle(Tick(), self.now)

    def until(self, condition: Callable[[], bool], within: float = 60.0) -> None:
        """Let time pass until ``condition`` holds."""
        end = self.now + within
        while not condition():
            assert self.now < end, "it never came; the ladder:\n" + "\n".join(self.ladder)
            self.run(0.05)

    def registered(self) -> tuple[Phone, Phone]:
        a, b = self.phone("0100", "10.45.0.2"), self.phone("0200", "10.46.0.2")
        for phone in (a, b):
            self.tell(phone, ims.Start())
        self.until(lambda: all(p.ue.status.state is State.REGISTERED for p in (a, b)))
        self.run(1)
        self.ladder.clear()
        self.messages.clear()
        return a, b

    def request(self, arrow: str) -> Request:
        """The first request that went along ``arrow``."""
        data = next(data for name, data in self.messages if name.startswith(arrow))
        message = parse_message(data)
        assert isinstance(message, Request)
        return message


@pytest.fixture
def world() -> World:
    return World()
