"""A whole IMS in memory: two UEs, P-CSCF and S-CSCF as engines on a virtual clock, datagrams as encoded bytes."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from imskit.aka.challenge import AkaAlgorithm, Challenge
from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnArray
from imskit.aka.vector import Success, Usim
from imskit.engine import Tick
from imskit.ims import events as ims
from imskit.ims.profile import UeProfile
from imskit.ims.registration import RetryPolicy, State
from imskit.ims.ue import ImsUe
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.engine.events import Received, Transmit
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target, Transport
from imskit.sip.wire.message import Request, Response, parse_message
from simulators.ims_core.engine.p_cscf import PCscf
from simulators.ims_core.engine.s_cscf import SCscf
from simulators.ims_core.subscribers import Hss, SubscriberConfig

K = "465b5ce8b199b49faa5f0a2ee238a6bc"
OPC = "cd63cb71954a9f4e48a5994e37a02baf"
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
GM: Address = ("10.45.0.1", 5060)
MW = Target("UDP", ("127.0.0.1", 5060))
S_CSCF = Target("UDP", ("127.0.0.1", 5070))
CONFERENCE: Address = ("127.0.0.1", 5080)
"""Where the tests of conferences put a focus."""
SMS_CENTER: Address = ("127.0.0.1", 5090)
"""Where those of short messages put a message centre."""
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


class RawUe:
    """A UE that says exactly what a test wants: for bad manners, and to see what the core makes of them."""

    def __init__(self, world: World, number: str, address: Address, transport: Transport = "UDP") -> None:
        self.world = world
        self.address = address
        self.transport: Transport = transport
        self.impi = f"00101000000000{number}@{DOMAIN}"
        """As in `World`'s subscribers."""
        self.impu = f"sip:+1555{number}@{DOMAIN}"
        self.usim = Usim(Milenage(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC))), SqnArray())
        self.received: list[Request | Response] = []
        self.answer: Callable[[Request], Response | None] = lambda request: None
        self.cseq = 0
        self.call_id = f"{number}-{address[0]}-{address[1]}"
        world.add(f"X{number}", address, self)

    def handle(self, event: Any, now: float) -> None:
        if isinstance(event, Received):
            message = event.message
            assert isinstance(message, Request | Response)
            self.received.append(message)
            if isinstance(message, Request) and (response := self.answer(message)) is not None:
                self.send(response)

    def poll(self) -> None:
        return None

    def deadline(self) -> None:
        return None

    @property
    def contact(self) -> str:
        return f"<sip:{self.address[0]}:{self.address[1]}>"

    def request(self, method: str, uri: str, *fields: tuple[str, object], to: str = "", body: bytes = b"") -> Request:
        """A request of this UE's; ``fields`` come behind the usual ones, or take their place; ``None``: none."""
        self.cseq += 1
        host, port = self.address
        names = {name for name, _ in fields}
        usual: list[tuple[str, object]] = [
            ("Via", f"SIP/2.0/{self.transport} {host}:{port};branch=z9hG4bK{self.world.tokens(12)};rport"),
            ("Max-Forwards", 70),
            ("From", f"<{self.impu}>;tag=f{self.call_id}"),
            ("To", to or f"<{uri}>"),
            ("Call-ID", self.call_id),
            ("CSeq", f"{self.cseq} {method}"),
            ("Contact", self.contact),
        ]
        given = (field for field in fields if field[1] is not None)
        request = Request.create(method, uri, [*(f for f in usual if f[0] not in names), *given])
        if body:
            request.set_body(body, "application/sdp")
        return request

    def send(self, message: Request | Response | bytes) -> None:
        """Put it on the wire towards the P-CSCF."""
        data = message if isinstance(message, bytes) else message.encode()
        self.world.inject(self.address, GM, data, self.transport)

    def ask(self, request: Request, within: float = 40.0) -> Response:
        """Send a request and wait for its final response."""
        self.send(request)

        def final() -> Response | None:
            return next(
                (r for r in self.responses(request) if not r.provisional),
                None,
            )

        self.world.until(lambda: final() is not None, within)
        found = final()
        assert found is not None
        return found

    def responses(self, request: Request) -> list[Response]:
        return [
            r
            for r in self.received
            if isinstance(r, Response) and (r.call_id, r.cseq) == (request.call_id, request.cseq)
        ]

    def requests(self, method: str) -> list[Request]:
        return [r for r in self.received if isinstance(r, Request) and r.method == method]

    def register(self, *fields: tuple[str, object], realm: str = DOMAIN) -> Response:
        """Register with AKA; returns the last response."""
        first = self.ask(self.request("REGISTER", f"sip:{DOMAIN}", *self.register_fields(), *fields))
        if first.status != 401:
            return first
        return self.ask(self.authenticated(first, *fields))

    def register_fields(self) -> list[tuple[str, object]]:
        empty = f'Digest username="{self.impi}",realm="{DOMAIN}",nonce="",uri="sip:{DOMAIN}",response=""'
        return [("To", f"<{self.impu}>"), ("Authorization", empty)]

    def authenticated(self, challenge: Response, *fields: tuple[str, object], **changes: Any) -> Request:
        """The REGISTER that answers ``challenge``."""
        digest_challenge = DigestChallenge.parse(challenge.headers.get("WWW-Authenticate") or "")
        aka = Challenge.decode(digest_challenge.nonce or "")
        result = self.usim.verify(aka.rand, aka.autn)
        assert isinstance(result, Success), result
        algorithm = AkaAlgorithm.parse(digest_challenge.algorithm or "")
        assert algorithm is not None
        arguments = {"password": algorithm.password(result), "auts": None} | changes
        credentials = digest.answer(
            digest_challenge,
            username=self.impi,
            method="REGISTER",
            uri=f"sip:{DOMAIN}",
            nc=1,
            cnonce="c",
            **arguments,
        )
        usual = [("To", f"<{self.impu}>"), ("Authorization", str(credentials))]
        return self.request("REGISTER", f"sip:{DOMAIN}", *usual, *fields)


class World:
    """The network: engines by address, messages in flight, a ladder of what passed."""

    def __init__(self, *, lost: Callable[[str, bytes], bool] = lambda ladder, data: False) -> None:
        self.now = 1000.0
        self.lost = lost
        self.edit: Callable[[bytes], bytes] = lambda data: data
        """What the network does to a message on its way."""
        self.ladder: list[str] = []
        self.messages: list[tuple[str, bytes]] = []
        self._random = random.Random(7)
        self._queue: list[tuple[float, int, Address, Address, bytes, Transport]] = []
        self._order = itertools.count()
        self._names: dict[Address, str] = {}
        self._engines: dict[Address, AnyEngine] = {}
        subscribers = [
            SubscriberConfig(
                f"00101000000000{n}@{DOMAIN}", [f"sip:+1555{n}@{DOMAIN}", f"tel:+1555{n}"], k=Secret(K), opc=Secret(OPC)
            )
            for n in ("0100", "0200")
        ]
        barred = f"sip:+15550399@{DOMAIN}"
        impus = [barred, f"sip:+15550300@{DOMAIN}", "tel:+15550300"]
        subscribers.append(
            SubscriberConfig(f"001010000000000300@{DOMAIN}", impus, k=Secret(K), opc=Secret(OPC), barred=[barred])
        )
        self.hss = Hss(subscribers, self._random.randbytes)
        services = {
            f"conf-factory.{DOMAIN}": Target("UDP", CONFERENCE),
            f"ipsmgw.{DOMAIN}": Target("UDP", SMS_CENTER),
        }
        self.s_cscf = SCscf(self.hss, DOMAIN, S_CSCF, [MW.address], ["AKAv1-MD5"], self.tokens, services=services)
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

    def raw(self, number: str, host: str, port: int = 5060, transport: Transport = "UDP") -> RawUe:
        return RawUe(self, number, (host, port), transport)

    def inject(self, source: Address, target: Address, data: bytes, transport: Transport = "UDP") -> None:
        """Put bytes on the wire."""
        heapq.heappush(self._queue, (self.now + DELAY, next(self._order), source, target, data, transport))

    def restart_core(self) -> None:
        """Forget all registrations, as a core that was restarted."""
        self.s_cscf = SCscf(self.hss, DOMAIN, S_CSCF, [MW.address], ["AKAv1-MD5"], self.tokens)
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
        self.add({"0100": "A", "0300": "C"}.get(number, "B"), (host, 5060), ue)
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
        data = self.edit(output.message.encode())
        first = data.split(b"\r\n", 1)[0].decode("utf-8", "replace")
        word = first.split()[1] if first.startswith("SIP/2.0") else first.split()[0]
        body = "+SDP" if b"application/sdp" in data else ""
        arrow = f"{self._names[source]}->{self._names.get(target, '?')} {word}{body}"
        self.messages.append((arrow, data))
        if self.lost(arrow, data):
            return
        self.ladder.append(arrow)
        self.inject(source, target, data, destination.transport)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            self._drain()
            deadlines = [d for e in self._engines.values() if (d := e.deadline()) is not None]
            coming = [self._queue[0][0]] if self._queue else []
            at = min((*deadlines, *coming), default=math.inf)
            if at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            if self._queue and self._queue[0][0] <= self.now:
                _, _, source, target, data, transport = heapq.heappop(self._queue)
                engine = self._engines.get(target)
                if engine is not None:
                    # As at the endpoint: what cannot be read does not reach an engine.
                    with contextlib.suppress(SipParseError):
                        message = parse_message(data)
                        flow = Flow(transport, target, source, hash((transport, target)) & 0xFFFF)
                        engine.handle(Received(message, flow), self.now)
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
