"""Events in any order: the gateway never raises, ends each side once, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.sdp.attributes import Direction
from imskit.sip.engine import user_agent as page
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Request, response_to
from ue_agent.sif.engine.events import (
    CloseMedia,
    MediaFailed,
    MediaOpened,
    OpenMedia,
    PageOffered,
    Shutdown,
    ToIms,
    ToPage,
    WebRenewed,
)

DIALOG = DialogId("c", "t", "f")
CAUSES = [page.Cause.REMOTE, page.Cause.REJECTED, page.Cause.TIMEOUT, page.Cause.TRANSPORT, page.Cause.NO_ANSWER]


class Chaos:
    """Three sides that do as they are told, late, and as they like in between."""

    def __init__(self, desk: Any, seed: int, samples: Callable[[str], bytes]) -> None:
        self.desk = desk
        self.random = Random(seed)
        self.browser = [samples("chromium_audio"), samples("chromium_audio_hold"), b"v=0\r\nrubbish", b""]
        self.pages: dict[str, str] = {}
        """Calls at the page's side: up or ending."""
        self.ims: dict[str, str] = {}
        self.pending: list[Callable[[], None]] = []
        self.open: dict[str, bool] = {}
        """Media by call: open at the media side or not."""
        self.count = 0

    # ---- what the sides do with what they are told ----------------------------------------------

    def obey(self) -> None:
        outputs, self.desk.outputs = self.desk.outputs, []
        for output in outputs:
            match output:
                case ToPage(command):
                    self.page_does(command)
                case ToIms(event):
                    self.ims_does(event)
                case OpenMedia(call):
                    assert call not in self.open
                    self.open[call] = False
                    self.pending.append(lambda call=call: self.media_opens(call))  # type: ignore[misc]
                case CloseMedia(call):
                    self.open[call] = False
                case PageOffered(call):
                    self.pending.append(lambda call=call: self.tell(WebRenewed(call, OURS())))  # type: ignore[misc]
                case _:
                    pass

    def page_does(self, command: Any) -> None:
        call = getattr(command, "call", None)
        match command:
            case page.Call():
                assert call not in self.pages, "the name is in use"
                self.pages[call] = "up"
            case page.Reject() | page.Hangup():
                if call in self.pages:
                    assert self.pages[call] == "up", "it has been told already"
                    self.pages[call] = "ending"
                    self.pending.append(lambda: self.page_ends(call, page.Cause.LOCAL))
            case page.Provisional() | page.Answer() if call in self.pages:
                assert self.pages[call] == "up"
            case _:
                pass

    def ims_does(self, event: Any) -> None:
        call = getattr(event, "call", None)
        match event:
            case ims.Dial():
                assert call not in self.ims
                self.ims[call] = "up"
            case ims.Reject() | ims.Hangup():
                if call in self.ims:
                    assert self.ims[call] == "up", "it has been told already"
                    self.ims[call] = "ending"
                    self.pending.append(lambda: self.ims_ends(call, True))
            case ims.Prepare() | ims.Ring() | ims.Accept() | ims.Modify() if call in self.ims:
                assert self.ims[call] == "up"
            case _:
                pass

    def media_opens(self, call: str) -> None:
        if self.random.random() < 0.2:
            self.tell(MediaFailed(call, "no ports"))
            return
        self.open[call] = True
        self.tell(MediaOpened(call, OURS(), AT_IMS()))

    # ---- what they do by themselves -----------------------------------------------------------

    def tell(self, event: Any) -> None:
        self.desk.handle(event)
        self.obey()

    def page_says(self, output: Any) -> None:
        self.desk.page(output)
        self.obey()

    def ims_says(self, output: Any) -> None:
        self.desk.ims(output)
        self.obey()

    def page_ends(self, call: str, cause: page.Cause) -> None:
        if self.pages.pop(call, None) is not None:
            message = self.response(486) if cause is page.Cause.REJECTED else None
            self.page_says(page.Ended(call, cause, message))

    def ims_ends(self, call: str, local: bool) -> None:
        if self.ims.pop(call, None) is not None:
            message = self.random.choice([None, self.response(404), Request.create("BYE", "sip:x", [])])
            self.ims_says(ims.Ended(call, None, "over", local, None if local else message, page.Cause.LOCAL))

    def response(self, status: int) -> Any:
        return response_to(self.desk.invite(), status, to_tag="t")

    def act(self) -> None:
        """One thing that may happen."""
        random, desk = self.random, self.desk
        self.count += 1
        number = random.randint(1, 3)
        page_call = random.choice([*self.pages, "nobody"])
        ims_call = random.choice([*self.ims, "nobody"])
        sdp = random.choice(self.browser)
        exchange = f"exchange-{random.randint(1, 3)}"
        what = random.randint(0, 29)
        if what == 0:
            call = f"incoming-{self.count}"
            self.pages[call] = "up"
            request = desk.invite(random.choice(["sip:+15550200@x", "tel:112", "sip:0200@x"]))
            self.page_says(page.IncomingCall(call, DIALOG, request, sdp or None, flow(number)))
        elif what == 1:
            call = f"incoming-{self.count}"
            self.ims[call] = "up"
            offer = random.choice([desk.phone_offer(), None, b"rubbish"])
            self.ims_says(ims.IncomingCall(call, NAME(), "sip:x@y", offer, desk.invite()))
        elif what in (2, 3, 4) and self.pending:
            self.pending.pop(random.randrange(len(self.pending)))()
        elif what == 5:
            self.page_ends(page_call, random.choice(CAUSES))
        elif what == 6:
            self.ims_ends(ims_call, False)
        elif what == 7:
            desk.gone(number)
            self.obey()
        elif what == 8:
            desk.register(number, f"i{random.randint(1, 2)}", expires=random.choice([0, 60, 600]))
            self.obey()
        elif what == 9:
            desk.service(random.choice(list(State)))
            self.obey()
        elif what == 10:
            desk.wait(random.choice([0.1, 5.0, 11.0]))
            self.obey()
        elif what == 11:
            self.tell(MediaFailed(random.choice([*self.open, "nobody"]), "broken"))
        elif what == 12 and random.random() < 0.1:
            self.tell(Shutdown("stopped"))
        elif what in (13, 14):
            way = random.choice(list(Direction))
            offer = SIDE(desk, way)
            self.ims_says(ims.MediaAgreed(ims_call, random.choice([offer, offer, b"rubbish"])))
        elif what == 15:
            self.ims_says(ims.Progress(ims_call, random.choice([180, 181, 183, 199])))
        elif what == 16:
            self.ims_says(ims.Answered(ims_call, self.response(200)))
        elif what == 17:
            self.ims_says(ims.Alert(ims_call) if self.prepared(ims_call) else ims.Confirmed(ims_call))
        elif what == 18:
            self.ims_says(ims.Confirmed(ims_call))
        elif what == 19:
            self.ims_says(ims.Offer(ims_call, exchange, random.choice([desk.phone_offer(), None, b"rubbish"])))
        elif what == 20:
            self.ims_says(ims.OfferFailed(ims_call, random.choice([None, 488, 491])))
        elif what == 21:
            self.page_says(page.OfferReceived(page_call, DIALOG, exchange, sdp, page.Carrier.INVITE, desk.invite()))
        elif what == 22:
            self.page_says(page.OfferWithdrawn(page_call, DIALOG, exchange))
        elif what == 23:
            self.page_says(page.OfferRequested(page_call, DIALOG, exchange, desk.invite()))
        elif what == 24:
            self.page_says(page.AnswerReceived(page_call, DIALOG, sdp, page.Carrier.SUCCESS, self.response(200)))
        elif what == 25:
            self.page_says(page.Answered(page_call, DIALOG, self.response(200)))
        elif what == 26:
            self.page_says(page.Progress(page_call, DIALOG, self.response(random.choice([100, 180, 199]))))
        elif what == 27:
            command = random.choice([page.Reject(page_call, 486), page.Hangup(page_call)])
            self.page_says(page.Refused(command, random.choice([page.Refusal.UNKNOWN, page.Refusal.STATE])))
        elif what == 28:
            self.ims_says(ims.ReserveResources(ims_call))
        elif what == 29:
            self.page_says(page.Confirmed(page_call, DIALOG, desk.invite()))

    def prepared(self, call: str) -> bool:
        """The UE alerts only for a call that was prepared: its media are open."""
        machine = self.desk.gateway._by_ims.get(call)
        return machine is not None and machine._ims_local is not None and call.startswith("incoming")

    def end_everything(self) -> None:
        for _ in range(100):
            while self.pending:
                self.pending.pop(0)()
            for call in list(self.pages):
                if self.pages[call] == "up":
                    self.page_ends(call, page.Cause.REMOTE)
            for call in list(self.ims):
                if self.ims[call] == "up":
                    self.ims_ends(call, False)
            if not (self.pending or self.pages or self.ims):
                return
        raise AssertionError("it does not come to an end")


def flow(number: int) -> Flow:
    return Flow("WS", ("127.0.0.1", 7000), ("127.0.0.1", 9000 + number), number)


def OURS() -> Any:
    from imskit.sdp.attributes import Fingerprint
    from imskit.sdp.web_side import WebEndpoint

    return WebEndpoint(5, "ours", "o" * 22, (), (Fingerprint("sha-256", ":".join(["AB"] * 32)),))


def AT_IMS() -> Any:
    from imskit.sdp.ims_side import ImsEndpoint

    return ImsEndpoint("10.45.0.2", 40000, 11)


def NAME() -> Any:
    from imskit.sip.wire.headers import NameAddr

    return NameAddr.parse("<tel:+15550200>")


def SIDE(desk: Any, way: Direction) -> bytes:
    """An answer of a phone to whatever this side offers."""
    from imskit.sdp import ims_side
    from imskit.sdp.profile import IMS_FORMATS_WITH_G711

    offer = ims_side.make_offer(AT_IMS(), IMS_FORMATS_WITH_G711)
    return bytes(desk.phone_answer(offer.encode(), way))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), length=st.integers(1, 150))
def test_any_order_of_events(browser: Any, request: pytest.FixtureRequest, seed: int, length: int) -> None:
    desk = type(request.getfixturevalue("desk"))()
    chaos = Chaos(desk, seed, browser)
    desk.service()
    desk.register(1)
    desk.register(2, "i2")
    chaos.obey()
    for _ in range(length):
        chaos.act()
    chaos.end_everything()
    assert desk.gateway.calls == 0
    assert not any(chaos.open.values()), "media were left open"
    for number in (1, 2, 3):
        desk.gone(number)
    desk.service()
    desk.wait(1000)
    assert desk.gateway.deadline() is None
