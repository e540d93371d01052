"""A call through the IMS-ALG on a virtual clock, before a gateway that writes real descriptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imskit.sdp import ims_side, web_side
from imskit.sdp.attributes import Candidate, Direction, Fingerprint
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.web_side import WebEndpoint
from imskit.sip.engine.proxy_events import Forward, RelayResponse, Respond, ResponseReady
from imskit.sip.wire.message import Message, Request, Response, response_to
from network_edge.eims_agw.engine.dialog import Dialog
from network_edge.ep_cscf.engine.effects import (
    CallStep,
    MediaAnswer,
    MediaDelete,
    MediaFailed,
    MediaOffer,
    MediaReady,
    ReleaseCall,
    Side,
)
from network_edge.ep_cscf.engine.ims_alg import AlgLimits, ImsAlg
from network_edge.iq.gateway import GatewayError

SAMPLES = Path(__file__).parents[3] / "imskit" / "sdp" / "data"
SDP = "application/sdp"


def _web_endpoint(octet: str, port: int) -> WebEndpoint:
    return WebEndpoint(
        session_id=4611,
        ice_ufrag=f"uf{octet}",
        ice_pwd="abcdefghijklmnopqrstuv",
        candidates=(Candidate("1", 1, "udp", 2130706431, f"203.0.113.{port}", 40000, "host"),),
        fingerprints=(Fingerprint("sha-256", ":".join([octet] * 32)),),
        ssrc=77,
        cname="edge",
    )


class ScriptedGateway:
    """The offer and answer of the eIMS-AGW without its media; what it is asked is kept."""

    def __init__(self) -> None:
        self.asked: list[MediaOffer | MediaAnswer] = []
        self.deleted: list[str] = []
        self.refuse: dict[str, tuple[int, str]] = {}
        """``offer`` or ``answer``: status and reason, until taken away."""
        self._dialogs: dict[tuple[str, str], Dialog] = {}

    @property
    def offers(self) -> int:
        return sum(isinstance(each, MediaOffer) for each in self.asked)

    @property
    def answers(self) -> int:
        return sum(isinstance(each, MediaAnswer) for each in self.asked)

    def ask(self, question: MediaOffer | MediaAnswer) -> MediaReady | MediaFailed:
        self.asked.append(question)
        request = question.request
        refusal = self.refuse.get("offer" if isinstance(question, MediaOffer) else "answer")
        if refusal is not None:
            return MediaFailed(question.key, *refusal)
        web, ims = _web_endpoint("AB", 11), ImsEndpoint("10.45.0.3", 50000, 4712)
        try:
            if isinstance(question, MediaOffer):
                dialog = self._dialogs.get((request.call_id, request.from_tag))
                if dialog is None and question.request.to_tag is not None:
                    dialog = self._dialogs.get((request.call_id, question.request.to_tag))
                if dialog is None:
                    dialog = self._dialogs[request.call_id, request.from_tag] = Dialog(question.request)
                return MediaReady(question.key, dialog.offer(question.request, web, ims))
            dialog = self._dialogs.get((request.call_id, request.from_tag))
            if dialog is None:
                dialog = self._dialogs[request.call_id, question.request.to_tag]
            return MediaReady(question.key, dialog.answer(question.request, web, ims)[0])
        except SdpError as error:
            return MediaFailed(question.key, error.status, error.what)
        except GatewayError as error:
            return MediaFailed(question.key, error.status, error.what)


@dataclass
class Party:
    """One end of the call: a browser or a VoLTE phone."""

    side: Side
    tag: str
    cseq: int = 0

    def offer(self) -> bytes:
        name = "chromium_audio" if self.side is Side.WEB else "field_volte_offer"
        return (SAMPLES / f"{name}.sdp").read_bytes()

    def answer(self, offer: bytes, direction: Direction = Direction.SENDRECV, version: int = 1) -> bytes:
        """What this end says to ``offer``; another ``version`` makes another answer."""
        received = SessionDescription.parse(offer)
        if self.side is Side.WEB:
            made, _ = web_side.make_answer(received, _web_endpoint("CD", 3), direction=direction)
        else:
            made, _ = ims_side.make_answer(received, ImsEndpoint("10.46.0.2", 41000 + version, 9), direction=direction)
        return made.encode()


@dataclass
class Bench:
    """Drives an `ImsAlg`; ``web`` and ``ims`` are the ends of the one call of most tests."""

    limits: AlgLimits = AlgLimits()
    now: float = 0.0
    auto: bool = True
    """The gateway answers at once; else when `serve` is called."""
    gateway: ScriptedGateway = field(default_factory=ScriptedGateway)
    web: Party = field(default_factory=lambda: Party(Side.WEB, "w1"))
    ims: Party = field(default_factory=lambda: Party(Side.IMS, "i1"))
    call_id: str = "call-1"
    party: str = "binding-1"
    out: list[object] = field(default_factory=list)
    held: list[MediaOffer | MediaAnswer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alg = ImsAlg(self._token, self.limits)
        self._tokens = 0
        self._keys = 0
        self.requests: dict[str, Request] = {}

    def _token(self, length: int) -> str:
        self._tokens += 1
        return f"{self._tokens:0{length}x}"

    def other(self, party: Party) -> Party:
        return self.ims if party.side is Side.WEB else self.web

    def serve(self) -> None:
        """Let the gateway answer what it has."""
        while self.held:
            self.alg.handle(self.gateway.ask(self.held.pop(0)), self.now)
            self.drain()

    def drain(self) -> None:
        while (output := self.alg.poll()) is not None:
            if isinstance(output, MediaOffer | MediaAnswer):
                self.held.append(output)
            elif isinstance(output, MediaDelete):
                self.gateway.deleted.append(output.request.call_id)
            else:
                self.out.append(output)
        if self.auto:
            self.serve()

    def take(self) -> list[object]:
        """What came out, but for the steps."""
        out = [output for output in self.out if not isinstance(output, CallStep)]
        self.out = [output for output in self.out if isinstance(output, CallStep)]
        return out

    @property
    def steps(self) -> list[str]:
        return [output.kind.value for output in self.out if isinstance(output, CallStep)]

    def message(
        self, method: str, sender: Party, body: bytes = b"", *, to_tag: str | None = None, cseq: int | None = None,
        headers: tuple[tuple[str, str], ...] = (), kind: str = SDP,
    ) -> Request:  # fmt: skip
        if cseq is None:
            sender.cseq += 1
            cseq = sender.cseq
        to = "<sip:+15550200@ims.example>" + (f";tag={to_tag}" if to_tag else "")
        fields = [
            ("Via", f"SIP/2.0/WSS x.invalid;branch=z9hG4bK{self._keys}"),
            ("From", f"<sip:+15550100@ims.example>;tag={sender.tag}"),
            ("To", to),
            ("Call-ID", self.call_id),
            ("CSeq", f"{cseq} {method}"),
            *headers,
        ]
        return Request.create(method, "sip:+15550200@ims.example", fields, body, kind if body else "")

    def hand(self, request: Request, side: Side, party: str | None = None) -> tuple[str, Forward | Respond | None]:
        """Give a request to the IMS-ALG; return its context and what came back, at once or out of poll."""
        self._keys += 1
        key = f"c{self._keys}"
        result = self.alg.request(Forward(key), request, side, party or self.party, self.now)
        self.drain()
        if result is None:
            result = self._of(key)
        if isinstance(result, Forward) and result.request is not None:
            self.requests[key] = result.request
        return key, result

    def _of(self, key: str) -> Forward | Respond | None:
        for output in self.out:
            if isinstance(output, Forward | Respond) and output.context == key:
                self.out.remove(output)
                return output
        return None

    def invite(self, caller: Party, sdp: bytes | None = None, **more: object) -> tuple[str, Request]:
        """A first INVITE that goes on; None: with the caller's own offer, empty: without one."""
        body = caller.offer() if sdp is None else sdp
        key, result = self.hand(self.message("INVITE", caller, body, **more), caller.side)  # type: ignore[arg-type]
        assert isinstance(result, Forward), result
        assert result.request is not None
        return key, result.request

    def inside(self, method: str, sender: Party, body: bytes = b"", **more: object) -> tuple[str, Request]:
        """A request within the dialog that goes on."""
        request = self.message(method, sender, body, to_tag=self.other(sender).tag, **more)  # type: ignore[arg-type]
        key, result = self.hand(request, sender.side)
        assert isinstance(result, Forward), result
        assert result.request is not None
        return key, result.request

    def reply(
        self, key: str, status: int, body: bytes = b"", *, tag: str | None = None,
        headers: tuple[tuple[str, str], ...] = (), kind: str = SDP,
    ) -> Response:  # fmt: skip
        """A response that is relayed."""
        result = self.respond(key, status, body, tag=tag, headers=headers, kind=kind)
        assert isinstance(result, RelayResponse), result
        assert result.response is not None
        return result.response

    def respond(
        self, key: str, status: int, body: bytes = b"", *, tag: str | None = None,
        headers: tuple[tuple[str, str], ...] = (), kind: str = SDP,
    ) -> RelayResponse | Respond | None:  # fmt: skip
        response = response_to(self.requests[key], status, to_tag=tag)
        for name, value in headers:
            response.headers.add(name, value)
        if body:
            response.set_body(body, kind)
        result = self.alg.response(ResponseReady(key, response, None, "received"), self.now)
        self.drain()
        if result is None:
            for output in self.out:
                if isinstance(output, RelayResponse | Respond) and output.context == key:
                    self.out.remove(output)
                    return output
        return result

    def establish(self, caller: Party) -> str:
        """A call of one offer and one answer, with its ACK; returns the INVITE's context."""
        callee = self.other(caller)
        key, sent = self.invite(caller)
        self.reply(key, 200, callee.answer(sent.body), tag=callee.tag)
        self.inside("ACK", caller, cseq=caller.cseq)
        return key

    def releases(self) -> list[ReleaseCall]:
        return [output for output in self.out if isinstance(output, ReleaseCall)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    return Bench


@pytest.fixture
def is_for_web() -> Callable[[Message], bool]:
    """True if a description is one for a browser: ICE, DTLS, no preconditions."""

    def check(message: Message) -> bool:
        text = message.body.decode()
        return "a=fingerprint:" in text and "a=ice-ufrag:" in text and "qos" not in text

    return check


@pytest.fixture
def is_for_ims() -> Callable[[Message], bool]:
    """True if a description is one for IMS: RTP/AVP, nothing of WebRTC."""

    def check(message: Message) -> bool:
        text = message.body.decode()
        foreign = ("ice-", "candidate", "fingerprint", "setup", "BUNDLE", "rtcp-mux", "msid", "SAVPF")
        return " RTP/AVP " in text and not any(word in text for word in foreign)

    return check
