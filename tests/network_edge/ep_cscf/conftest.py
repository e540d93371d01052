"""An eP-CSCF as an engine on a virtual clock, between raw WebSocket clients and a core that a test plays."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from imskit.engine import Tick
from imskit.secrets import Identity
from imskit.sip.engine.events import FlowClosed, Received, Transmit, TransportFailed
from imskit.sip.wire.flow import Address, Flow, Target, Transport
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request, Response, parse_message, response_to
from network_edge.ep_cscf.engine.effects import TokenAccepted, TokenClaims, TokenRefused, ValidateToken
from network_edge.ep_cscf.engine.ep_cscf import EpCscf
from network_edge.ep_cscf.engine.settings import EpCscfSettings

HOME = "ims.example"
W2: Address = ("203.0.113.11", 443)
MW: Address = ("10.45.0.3", 5060)
CORE: Address = ("10.45.0.1", 5062)
ALICE, ALICE_TEL = f"sip:+15550300@{HOME}", "tel:+15550300"
IMPI = f"alice@{HOME}"
SERVICE_ROUTE = f"<sip:orig@{CORE[0]}:{CORE[1]};lr>"
TOKEN = "aaaa.bbbb.cccc"


def claims(impi: str = IMPI, impus: tuple[str, ...] = (ALICE, ALICE_TEL)) -> TokenClaims:
    identities = tuple(Identity(impu) for impu in impus)
    return TokenClaims(Identity(impi), identities, Identity("alice"), "https://w", "wwsf.example", 2e9, "ims")


class Client:
    """A WebSocket client that says exactly what a test wants."""

    def __init__(self, world: EdgeWorld, name: str, transport: Transport) -> None:
        self.world = world
        self.name = name
        self.transport: Transport = transport
        self.flow = world.new_flow(transport)
        self.contact = f"sip:{name}@{name}.invalid;transport=ws"
        self.instance = f"<urn:uuid:00000000-0000-4000-8000-{abs(hash(name)) % 10**12:012d}>"
        self.outbound = True
        self.impu = ALICE
        self.call_id = f"reg-{name}"
        self.cseq = 0
        self.received: list[Request | Response] = []
        self.answer: Callable[[Request], Response | None] = lambda _request: None

    def reconnect(self) -> None:
        """Come back over another connection."""
        self.flow = self.world.new_flow(self.transport)

    def take(self, message: Request | Response) -> None:
        self.received.append(message)
        if isinstance(message, Request) and (response := self.answer(message)) is not None:
            self.send(response)

    def send(self, message: Request | Response | bytes) -> None:
        data = message if isinstance(message, bytes) else message.encode()
        self.world.feed(Received(data, self.flow))

    def build(self, method: str, uri: str, *fields: tuple[str, object], body: bytes = b"") -> Request:
        self.cseq += 1
        names = {name.lower() for name, _ in fields}
        contact = f"<{self.contact}>"
        usual: list[tuple[str, object]] = [
            ("Via", f"SIP/2.0/{self.transport} {self.name}.invalid;branch=z9hG4bK{self.world.tokens(16)}"),
            ("Max-Forwards", 69),
            ("From", f"<{self.impu}>;tag={self.name}"),
            ("To", f"<{uri}>"),
            ("Call-ID", f"call-{self.world.tokens(8)}"),
            ("CSeq", f"{self.cseq} {method}"),
            ("Contact", contact),
        ]
        request = Request.create(method, uri, [*(f for f in usual if f[0].lower() not in names), *fields])
        if body:
            request.set_body(body, "application/sdp")
        return request

    def ask(self, method: str, uri: str, *fields: tuple[str, object], body: bytes = b"") -> Response | None:
        """Send a request; return its last response."""
        request = self.build(method, uri, *fields, body=body)
        return self.outcome(request)

    def outcome(self, request: Request) -> Response | None:
        self.send(request)
        return self.answer_to(request)

    def answer_to(self, request: Request) -> Response | None:
        found = [
            message
            for message in self.received
            if isinstance(message, Response) and message.cseq == request.cseq and message.call_id == request.call_id
        ]
        return found[-1] if found else None

    def register(self, *fields: tuple[str, object], expires: int = 300) -> Response | None:
        names = {name.lower() for name, _ in fields}
        outbound = f';+sip.instance="{self.instance}";reg-id=1' if self.outbound else ""
        usual: list[tuple[str, object]] = [
            ("To", f"<{self.impu}>"),
            ("Call-ID", self.call_id),
            ("Contact", f"<{self.contact}>{outbound};expires={expires}"),
            ("Supported", "path, outbound, gruu"),
        ]
        return self.ask("REGISTER", f"sip:{HOME}", *(f for f in usual if f[0].lower() not in names), *fields)

    def register_with_token(self, *fields: tuple[str, object], expires: int = 300) -> Response | None:
        return self.register(("Authorization", f"Bearer {TOKEN}"), *fields, expires=expires)

    def requests(self, method: str) -> list[Request]:
        return [m for m in self.received if isinstance(m, Request) and m.method == method]


class EdgeWorld:
    def __init__(self, settings: EpCscfSettings | None = None, alg: Any = None, transport: Transport = "UDP") -> None:
        self.now = 1000.0
        self._count = itertools.count(1)
        self._tokens = itertools.count(1)
        self.settings = settings or EpCscfSettings(HOME, "edge.example")
        self.core_target = Target(transport, CORE)
        self.edge = EpCscf((W2,), Target(transport, MW), self.core_target, self.settings, self.tokens, alg)
        self.mw = Flow(transport, MW, CORE, 0)
        self.clients: list[Client] = []
        self.outputs: list[Any] = []
        """All that is neither message nor question about a token."""
        self.core: list[Request | Response] = []
        """What reached the core."""
        self.refused_tokens: dict[str, str] = {}
        self.claims = {TOKEN: claims()}
        self.life = 3600.0
        """Seconds that tokens live."""
        self.asked: list[str] = []
        self.granted = 600000
        self.associated = f"<{ALICE}>, <{ALICE_TEL}>"
        self.on_request: Callable[[Request], Response | None] = lambda _request: None
        self.subscribed = 600000
        self.hold_tokens = False
        self.core_unreachable = False

    def tokens(self, digits: int) -> str:
        return f"{next(self._tokens):0{digits}x}"[-digits:]

    def new_flow(self, transport: Transport) -> Flow:
        number = next(self._count)
        return Flow(transport, W2, (f"198.51.100.{number % 250}", 40000 + number), number)

    def client(self, name: str = "alice", transport: Transport = "WSS") -> Client:
        client = Client(self, name, transport)
        self.clients.append(client)
        return client

    def feed(self, event: Any) -> None:
        pending = [event]
        while pending:
            self.edge.handle(pending.pop(0), self.now)
            while (output := self.edge.poll()) is not None:
                if isinstance(output, Transmit):
                    if self.core_unreachable and output.destination == self.core_target:
                        pending.append(TransportFailed(output.key, "port unreachable"))
                    else:
                        self._transmit(output)
                elif isinstance(output, ValidateToken):
                    self.asked.append(output.token.reveal())
                    if not self.hold_tokens:
                        pending.append(self._judge(output))
                    else:
                        self.outputs.append(output)
                else:
                    self.outputs.append(output)

    def _judge(self, question: ValidateToken) -> TokenAccepted | TokenRefused:
        text = question.token.reveal()
        if text in self.claims:
            return TokenAccepted(question.key, self.claims[text], self.life)
        error: Any = self.refused_tokens.get(text, "invalid_token")
        return TokenRefused(question.key, error, "test")

    def _transmit(self, output: Transmit) -> None:
        message = parse_message(output.message.encode())
        where = output.destination
        if isinstance(where, Flow) and where.transport in ("WS", "WSS"):
            for client in self.clients:
                if client.flow == where:
                    client.take(message)
            return
        assert where == self.core_target or where == self.mw, f"sent to {where}"
        self.core.append(message)
        if isinstance(message, Request):
            response = self.on_request(message) or self._serve(message)
            if response is not None:
                self.from_core(response)

    def _serve(self, request: Request) -> Response | None:
        """What a core does with REGISTER and reg-event."""
        if request.method == "REGISTER":
            response = response_to(request, 200, to_tag=self.tokens(8))
            for contact in request.contacts if request.contacts != "*" else []:
                wanted = contact.expires if contact.expires is not None else request.expires or 3600
                granted = min(self.granted, wanted)
                if granted:
                    response.headers.add("Contact", contact.with_parameter("expires", str(granted)))
            response.headers.add("P-Associated-URI", self.associated)
            response.headers.add("Service-Route", SERVICE_ROUTE)
            for path in request.headers.get_all("Path"):
                response.headers.add("Path", path)
            return response
        if request.method == "SUBSCRIBE" and request.headers.get("Event") == "reg":
            response = response_to(request, 200, to_tag="notifier")
            response.headers.add("Expires", self.subscribed)
            response.headers.add("Contact", f"<sip:{CORE[0]}:{CORE[1]}>")
            return response
        return None

    def from_core(self, message: Request | Response | bytes, flow: Flow | None = None) -> None:
        data = message if isinstance(message, bytes) else message.encode()
        self.feed(Received(data, flow or self.mw))

    def to_core(self, method: str) -> list[Request]:
        return [m for m in self.core if isinstance(m, Request) and m.method == method]

    def core_answer(self, request: Request) -> Response | None:
        """The last response to a request of the core's."""
        found = [m for m in self.core if isinstance(m, Response) and m.call_id == request.call_id]
        found = [m for m in found if m.cseq == request.cseq]
        return found[-1] if found else None

    def core_request(
        self, method: str, uri: str, *fields: tuple[str, object], body: bytes = b"", number: int = 1
    ) -> Request:
        names = {name.lower() for name, _ in fields}
        usual: list[tuple[str, object]] = [
            ("Via", f"SIP/2.0/UDP {CORE[0]}:{CORE[1]};branch=z9hG4bKcore{self.tokens(16)}"),
            ("Max-Forwards", 60),
            ("From", f"<sip:+15550200@{HOME}>;tag=bob"),
            ("To", f"<{ALICE}>"),
            ("Call-ID", f"core-{self.tokens(8)}"),
            ("CSeq", f"{number} {method}"),
            ("Contact", "<sip:bob@10.46.0.2:5060>"),
        ]
        request = Request.create(method, uri, [*(f for f in usual if f[0].lower() not in names), *fields])
        if body:
            request.set_body(body, "application/sdp")
        return request

    def path(self) -> NameAddr:
        """The Path of the last REGISTER."""
        return self.to_core("REGISTER")[-1].path[0]

    def close(self, client: Client) -> None:
        self.feed(FlowClosed(client.flow, "gone"))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while (due := self.edge.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.feed(Tick())
        self.now = end

    def steps(self, kind: type[Any]) -> list[Any]:
        return [output for output in self.outputs if isinstance(output, kind)]


@pytest.fixture
def edge_world() -> EdgeWorld:
    return EdgeWorld()


@pytest.fixture
def make_edge() -> Callable[..., EdgeWorld]:
    return EdgeWorld
