"""A gateway whose three sides are played by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.engine import Tick
from imskit.ims import events as ims
from imskit.ims.registration import RegistrationStatus, State
from imskit.sdp import ims_side, web_side
from imskit.sdp.attributes import Direction, Fingerprint
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.web_side import WebEndpoint
from imskit.secrets import Identity
from imskit.sip.engine import user_agent as page
from imskit.sip.engine.dialog import DialogId
from imskit.sip.memory_network import counter
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request, Response, response_to
from ue_agent.sif.engine.events import (
    CloseMedia,
    FromIms,
    FromPage,
    MediaOpened,
    OpenMedia,
    PageGone,
    PageOffered,
    Service,
    ToIms,
    ToPage,
    WebRenewed,
)
from ue_agent.sif.engine.gateway import Gateway

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
ME = f"sip:+15550100@{DOMAIN}"
IDENTITIES = (Identity(ME), Identity("tel:+15550100"))
SAMPLES = Path(__file__).parents[3] / "imskit" / "sdp" / "data"
OURS = WebEndpoint(5, "ours", "o" * 22, (), (Fingerprint("sha-256", ":".join(["AB"] * 32)),))
PAGES = WebEndpoint(7, "page", "p" * 22, (), (Fingerprint("sha-256", ":".join(["CD"] * 32)),))
AT_IMS = ImsEndpoint("10.45.0.2", 40000, 11)
PHONE = ImsEndpoint("10.46.0.2", 60000, 99)


def sample(name: str) -> bytes:
    """A description that a browser wrote."""
    return (SAMPLES / f"{name}.sdp").read_bytes()


def flow(number: int) -> Flow:
    """A page's WebSocket."""
    return Flow("WS", ("127.0.0.1", 7000), ("127.0.0.1", 9000 + number), number)


class Desk:
    """See the module's text; every method returns nothing, `outputs` holds what the gateway has said since `take`."""

    def __init__(self) -> None:
        self.gateway = Gateway(counter("g"))
        self.now = 100.0
        self.outputs: list[Any] = []
        self.numbers = itertools.count(1)

    # ---- plain --------------------------------------------------------------------------------

    def handle(self, event: Any) -> None:
        self.gateway.handle(event, self.now)
        while (output := self.gateway.poll()) is not None:
            self.outputs.append(output)

    def page(self, output: Any) -> None:
        self.handle(FromPage(output))

    def ims(self, output: Any) -> None:
        self.handle(FromIms(output))

    def wait(self, seconds: float) -> None:
        """Let time pass, with a tick at every deadline."""
        until = self.now + seconds
        while (deadline := self.gateway.deadline()) is not None and deadline <= until:
            self.now = deadline
            self.handle(Tick())
        self.now = until

    def take(self) -> list[Any]:
        """What was said since the last time: commands and events bare, media outputs as they are."""
        said, self.outputs = self.outputs, []
        return [
            each.command if isinstance(each, ToPage) else each.event if isinstance(each, ToIms) else each
            for each in said
            if type(each).__name__ != "Step"
        ]

    def last[T](self, kind: type[T]) -> T:
        """The last output of a kind since the last `take`; the others stay."""
        return next(each for each in reversed(self._bare()) if isinstance(each, kind))

    def said(self, kind: Any) -> int:
        """How many outputs of a kind there were since the last `take`."""
        return sum(isinstance(each, kind) for each in self._bare())

    def _bare(self) -> list[Any]:
        outputs = self.outputs
        said = self.take()
        self.outputs = outputs
        return said

    # ---- service and pages ----------------------------------------------------------------------

    def service(self, state: State = State.REGISTERED, identities: tuple[Identity, ...] = IDENTITIES) -> None:
        self.handle(Service(RegistrationStatus(state, f"it is {state.value}"), identities))

    def register(
        self, number: int, instance: str = "i1", *, to: str = ME, expires: int = 600, from_: str | None = None
    ) -> str:
        """A page's REGISTER; returns the name of the request."""
        request = Request.create(
            "REGISTER",
            f"sip:{DOMAIN}",
            [
                ("Via", f"SIP/2.0/WS x.invalid;branch=z9hG4bK{next(self.numbers)}"),
                ("Max-Forwards", 70),
                ("From", f"<{from_ or to}>;tag=f"),
                ("To", f"<{to}>"),
                ("Call-ID", f"r{number}"),
                ("CSeq", f"{next(self.numbers)} REGISTER"),
                ("Contact", f'<sip:c{number}@x.invalid;transport=ws>;+sip.instance="<urn:uuid:{instance}>"'),
                ("Expires", expires),
            ],
        )
        name = f"request-{next(self.numbers)}"
        self.page(page.RequestReceived(name, request, flow(number)))
        return name

    def ready(self, number: int = 1, instance: str = "i1") -> None:
        """Service, and a page."""
        self.service()
        self.register(number, instance)
        assert self.last(page.Respond).status == 200
        self.take()

    # ---- a call from the page -------------------------------------------------------------------

    def invite(self, uri: str = f"sip:+15550200@{DOMAIN}", **fields: str) -> Request:
        return Request.create(
            "INVITE",
            uri,
            [
                ("Via", f"SIP/2.0/WS x.invalid;branch=z9hG4bK{next(self.numbers)}"),
                ("Max-Forwards", 70),
                ("From", f"<{ME}>;tag=f"),
                ("To", f"<{uri}>"),
                ("Call-ID", f"c{next(self.numbers)}"),
                ("CSeq", "1 INVITE"),
                ("Contact", "<sip:c@x.invalid;transport=ws>"),
                *((name.replace("_", "-"), value) for name, value in fields.items()),
            ],
        )

    def page_calls(
        self, call: str = "incoming-1", number: int = 1, *, sdp: bytes | None = None, **fields: str
    ) -> Request:
        request = self.invite(**fields)
        offer = sample("chromium_audio") if sdp is None else sdp
        self.page(page.IncomingCall(call, DIALOG, request, offer or None, flow(number)))
        return request

    def open_media(self) -> str:
        """Open the media that was asked for last; returns the call's name."""
        call = self.last(OpenMedia).call
        self.handle(MediaOpened(call, OURS, AT_IMS))
        return call

    def phone_answer(self, offer: bytes, direction: Direction = Direction.SENDRECV) -> bytes:
        answer, _ = ims_side.make_answer(SessionDescription.parse(offer), PHONE, direction=direction)
        return answer.encode()

    def talk(self) -> str:
        """A call from the page that stands; returns its name on the IMS side."""
        self.page_calls()
        self.open_media()
        dial = self.last(ims.Dial)
        self.ims(ims.MediaAgreed(dial.call, self.phone_answer(dial.sdp)))
        self.ims(ims.Progress(dial.call, 180))
        self.ims(ims.Answered(dial.call, response_to(self.invite(), 200)))
        self.page(page.Confirmed("incoming-1", DIALOG, self.invite()))
        assert self.said(page.Answer) == 1
        self.take()
        return dial.call

    def renew(self) -> None:
        """The media side has looked at the page's new offer."""
        self.handle(WebRenewed(self.last(PageOffered).call, OURS))

    # ---- a call to the page ---------------------------------------------------------------------

    def phone_offer(self, direction: Direction = Direction.SENDRECV) -> bytes:
        return ims_side.make_offer(PHONE, direction=direction).encode()

    def ims_calls(
        self,
        call: str = "incoming-1",
        *,
        offer: bool = True,
        caller: str = f'"Bob" <sip:+15550200@{DOMAIN}>',
        **fields: str,
    ) -> None:
        sdp = self.phone_offer() if offer else None
        self.ims(ims.IncomingCall(call, NameAddr.parse(caller), ME, sdp, self.invite(**fields)))

    def page_answer(self, offer: bytes, direction: Direction = Direction.SENDRECV) -> bytes:
        answer, _ = web_side.make_answer(SessionDescription.parse(offer), PAGES, direction=direction)
        return answer.encode()

    def ring(self, call: str = "incoming-1") -> page.Call:
        """Let the page ring for a call of IMS; returns the call to the page."""
        self.ims_calls(call)
        self.open_media()
        self.ims(ims.Alert(call))
        to_page = self.last(page.Call)
        self.page(page.Progress(to_page.call, DIALOG, self.response(180)))
        assert self.last(ims.Ring).call == call
        return to_page

    def answer(self, to_page: page.Call, direction: Direction = Direction.SENDRECV) -> None:
        """The page answers, and IMS's ACK comes."""
        assert to_page.sdp is not None
        sdp = self.page_answer(to_page.sdp, direction)
        ok = self.response(200)
        self.page(page.AnswerReceived(to_page.call, DIALOG, sdp, page.Carrier.SUCCESS, ok))
        self.page(page.Answered(to_page.call, DIALOG, ok))

    def response(self, status: int, *fields: tuple[str, str]) -> Response:
        response = response_to(self.invite(), status, to_tag="t")
        for name, value in fields:
            response.headers.add(name, value)
        return response

    # ---- the end ----------------------------------------------------------------------------------

    def gone(self, number: int = 1) -> None:
        self.handle(PageGone(flow(number)))

    @property
    def clean(self) -> bool:
        """Whether no call is left, and its media are closed."""
        return self.gateway.calls == 0 and self.said(CloseMedia) >= 1


DIALOG = DialogId("c", "t", "f")


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def browser() -> Callable[[str], bytes]:
    return sample
