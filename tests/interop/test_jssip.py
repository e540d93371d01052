"""The SIF against the real JsSIP over its WebSocket; behind it IMS by hand, or the whole chain to a phone [S7-SIF]."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.registration import RegistrationStatus, State
from imskit.observe.events import EventLog
from imskit.sdp import ims_side
from imskit.sdp.attributes import Candidate, Direction, Fingerprint
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import MediaPlan
from imskit.sdp.web_side import WebEndpoint
from imskit.secrets import Identity, Secret
from imskit.sip.engine import user_agent as ua
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request, Response, response_to
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import SubscriberConfig
from simulators.phone.config import PhoneConfig
from simulators.phone.phone import Phone
from ue_agent.config import ImsConfig
from ue_agent.ims_client.client import ImsClient
from ue_agent.sif.engine import pages
from ue_agent.sif.server import Sif
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.wwpf.handover import SECRET_HEADER, new_secret

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        NODE is None or not (ROOT / "node_modules/jssip").exists(), reason="no Node with JsSIP (npm ci)"
    ),
]

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
ME = f"sip:+15550100@{DOMAIN}"
K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
ORIGIN = "https://portal.ims.example"
OFFER = (ROOT / "tests/imskit/sdp/data/chromium_audio.sdp").read_text(newline="")
PHONE = ImsEndpoint("10.46.0.2", 60000, 99)


class Page:
    """One JsSIP in its own process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def open(cls) -> Page:
        assert NODE is not None
        process = await asyncio.create_subprocess_exec(
            NODE,
            "--experimental-websocket",
            "--no-warnings",
            str(ROOT / "tests/interop/jssip/page.mjs"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "NODE_ENV": "production"},
            limit=1 << 20,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            assert event["event"] != "crashed", event["text"]
            self.events.append(event)
            self._news.set()

    def do(self, action: str, **more: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": action, **more}).encode() + b"\n")

    async def sees(self, event: str, within: float = 15.0, **fields: Any) -> dict[str, Any]:
        """Wait for an event with these fields, and take it out."""
        try:
            async with asyncio.timeout(within):
                while True:
                    for found in self.events:
                        if found["event"] == event and all(found.get(name) == value for name, value in fields.items()):
                            self.events.remove(found)
                            return found
                    if self._reader.done():
                        self._reader.result()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {event} {fields}; there was {self.events}") from None

    async def close(self) -> None:
        self.do("exit")
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reader


async def until(condition: Callable[[], bool], within: float = 15.0) -> None:
    """Wait for what nobody tells: the inside of SIF and phone."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Media:
    """The RMF's place: endpoints without media, and a note of what was asked."""

    def __init__(self) -> None:
        self.open_calls: set[str] = set()
        self.plans: dict[str, MediaPlan] = {}
        self.offers: list[SessionDescription] = []
        self.answers: list[str] = []
        self.keys: list[tuple[str, float]] = []
        self._count = 0
        self.failed: Callable[[str], None] = lambda _: None

    def _web(self) -> WebEndpoint:
        candidate = Candidate("1", 1, "udp", 2130706431, "192.0.2.2", 4000, "host")
        return WebEndpoint(
            5,
            f"ours{self._count}",
            "o" * 22,
            (candidate,),
            (Fingerprint("sha-256", ":".join(["AB"] * 32)),),
            1234,
            "cname",
        )

    async def open(
        self, call: str, *, controlling: bool, on_failed: Callable[[str], None]
    ) -> tuple[WebEndpoint, ImsEndpoint]:
        self.open_calls.add(call)
        self.failed = on_failed
        return self._web(), ImsEndpoint("127.0.0.1", 40000 + 2 * len(self.open_calls), 7)

    def page_offer(self, call: str, offer: SessionDescription) -> WebEndpoint:
        self.offers.append(offer)
        if b"ice-ufrag:test1" in offer.encode():
            self._count = 1
        return self._web()

    def apply(self, call: str, plan: MediaPlan) -> None:
        self.plans[call] = plan

    def answered(self, call: str) -> None:
        self.answers.append(call)

    def press(self, call: str, key: str, seconds: float) -> None:
        self.keys.append((key, seconds))

    def close(self, call: str) -> None:
        self.open_calls.discard(call)


class Desk:
    """A SIF with JsSIP on one side and IMS by hand on the other."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.media = Media()
        self.secret = new_secret()
        self.told: list[Any] = []
        self._news = asyncio.Event()
        self.sif = Sif(self.media, self._to_ims, ORIGIN, self.secret, EventLog("test"))
        self.port = 0

    async def start(self) -> None:
        _, self.port = await self.sif.start()
        self.stack.push_async_callback(self.sif.stop)

    def _to_ims(self, event: Any) -> None:
        self.told.append(event)
        self._news.set()
        if isinstance(event, ims.Hangup | ims.Reject):
            loop = asyncio.get_running_loop()
            ended = ims.Ended(event.call, None, "ended here", True, None, ua.Cause.LOCAL)
            loop.call_soon(self.sif.from_ims, ended)

    async def hears[T](self, kind: type[T], within: float = 15.0) -> T:
        """Wait for what IMS is told, and take it out."""
        try:
            async with asyncio.timeout(within):
                while True:
                    for found in self.told:
                        if isinstance(found, kind):
                            self.told.remove(found)
                            return found
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__}; there was {self.told}") from None

    def service(self, state: State = State.REGISTERED) -> None:
        identities = (Identity(ME), Identity("tel:+15550100"))
        self.sif.service(RegistrationStatus(state, f"the device is {state.value}"), identities)

    async def page(
        self, uri: str = ME, *, secret: Secret[str] | None = None, origin: str = ORIGIN, **more: Any
    ) -> Page:
        page = await Page.open()
        self.stack.push_async_callback(page.close)
        headers = {"Origin": origin, SECRET_HEADER: (secret or self.secret).reveal()}
        page.do("start", url=f"ws://127.0.0.1:{self.port}/", uri=uri, headers=headers, sdp=OFFER, **more)
        return page

    async def registered_page(self, **more: Any) -> Page:
        page = await self.page(**more)
        await page.sees("registered")
        return page

    async def empty(self) -> None:
        """Nothing is left of any call."""
        await until(lambda: not self.sif.calls and not self.media.open_calls)

    def answer(self, offer: bytes, way: Direction = Direction.SENDRECV) -> bytes:
        return ims_side.make_answer(SessionDescription.parse(offer), PHONE, direction=way)[0].encode()

    async def talk(self, page: Page) -> str:
        """A call from the page that stands; returns its name at the IMS side."""
        page.do("call", call="a", target="+15550200")
        dial = await self.hears(ims.Dial)
        self.sif.from_ims(ims.MediaAgreed(dial.call, self.answer(dial.sdp)))
        self.sif.from_ims(ims.Progress(dial.call, 180))
        await page.sees("progress", status=180)
        self.sif.from_ims(ims.Answered(dial.call, invite_answer(200)))
        await page.sees("confirmed")
        return dial.call

    async def ring(self, call: str = "incoming-1", caller: str = '"Bob" <tel:+15550200>') -> None:
        offer = ims_side.make_offer(PHONE).encode()
        self.sif.from_ims(ims.IncomingCall(call, NameAddr.parse(caller), ME, offer, invite()))
        await self.hears(ims.Prepare)
        self.sif.from_ims(ims.Alert(call))


def invite() -> Request:
    return Request.create(
        "INVITE",
        ME,
        [
            ("From", "<sip:b@x>;tag=1"),
            ("To", f"<{ME}>"),
            ("Call-ID", "c"),
            ("CSeq", "1 INVITE"),
            ("Via", "SIP/2.0/UDP x"),
        ],
    )


def invite_answer(status: int, *fields: tuple[str, str]) -> Response:
    response = response_to(invite(), status)
    for name, value in fields:
        response.headers.add(name, value)
    return response


def bye(reason: str) -> Request:
    return Request.create("BYE", ME, [("Reason", reason)])


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        desk = Desk(stack)
        await desk.start()
        desk.service()
        yield desk


# ---- registration ---------------------------------------------------------------------------------------------


async def test_register_and_unregister(desk: Desk) -> None:
    page = await desk.registered_page()
    assert desk.sif.pages == 1
    page.do("unregister")
    await page.sees("unregistered")
    assert desk.sif.pages == 0


async def test_a_wrong_identity_is_refused_in_words(desk: Desk) -> None:
    page = await desk.page(f"sip:+15550200@{DOMAIN}")
    failed = await page.sees("registrationFailed")
    assert failed["status"] == 403
    assert "not the one of the SIM card" in failed["warning"]
    page.do("call", call="a", target="+15550200")
    assert (await page.sees("failed", call="a"))["status"] == 403
    assert desk.told == []


async def test_another_program_or_page_gets_no_websocket(desk: Desk) -> None:
    stranger = await desk.page(secret=new_secret())
    await stranger.sees("refused")
    foreign = await desk.page(origin="https://evil.example")
    await foreign.sees("refused")
    for page in (stranger, foreign):
        assert all(event["event"] != "connected" for event in page.events)
    assert desk.sif.pages == 0


async def test_a_page_that_comes_before_the_service_waits(desk: Desk) -> None:
    desk.service(State.REGISTERING)
    page = await desk.page()
    await page.sees("connected")
    desk.service()
    await page.sees("registered")


async def test_a_page_is_brought_back_when_the_service_returns(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(pages, "HOLD_SECONDS", 0.2)
    page = await desk.registered_page()
    desk.service(State.WAITING)
    await page.sees("disconnected")
    failed = await page.sees("registrationFailed")
    assert failed["status"] == 503
    assert "there is no IMS service: the device is waiting" in failed["warning"]
    desk.service()
    await page.sees("registered")


# ---- calls ------------------------------------------------------------------------------------------------------


async def test_a_call_from_the_page_that_the_page_ends(desk: Desk) -> None:
    page = await desk.registered_page()
    call = await desk.talk(page)
    answers = [event for event in page.events if event["event"] == "remote"]
    assert len({event["sdp"] for event in answers}) == 1, "the early and the final answer are one"
    assert desk.media.answers
    page.do("terminate", call="a")
    assert (await desk.hears(ims.Hangup)).call == call
    await page.sees("ended", originator="local")
    await desk.empty()


async def test_a_call_from_the_page_that_ims_ends(desk: Desk) -> None:
    page = await desk.registered_page()
    call = await desk.talk(page)
    message = bye('SIP;cause=200;text="Call completed elsewhere"')
    desk.sif.from_ims(ims.Ended(call, None, "", False, message, ua.Cause.REMOTE))
    ended = await page.sees("ended", originator="remote")
    assert "Call completed elsewhere" in ended["reason"]
    await desk.empty()


async def test_the_page_cancels(desk: Desk) -> None:
    page = await desk.registered_page()
    page.do("call", call="a", target="0200")
    dial = await desk.hears(ims.Dial)
    assert dial.target == f"sip:0200;phone-context={DOMAIN}@{DOMAIN};user=phone"
    desk.sif.from_ims(ims.Progress(dial.call, 180))
    await page.sees("progress", status=180)
    page.do("terminate", call="a")
    assert (await desk.hears(ims.Hangup)).call == dial.call
    assert (await page.sees("failed"))["cause"] == "Canceled"
    await desk.empty()


@pytest.mark.parametrize(
    ("status", "cause", "field", "words"),
    [
        (486, "Busy", "reason", 'Q.850;cause=17;text="user busy"'),
        (404, "Not Found", "warning", '399 core "no subscriber has this number"'),
        (503, "SIP Failure Code", "retry", "30"),
        (603, "Rejected", "warning", '399 x "not today"'),
    ],
)
async def test_a_refused_call_shows_the_networks_words(
    desk: Desk, status: int, cause: str, field: str, words: str
) -> None:
    page = await desk.registered_page()
    page.do("call", call="a", target="+15550200")
    dial = await desk.hears(ims.Dial)
    name = {"reason": "Reason", "warning": "Warning", "retry": "Retry-After"}[field]
    response = invite_answer(status, (name, words))
    desk.sif.from_ims(ims.Ended(dial.call, status, "", False, response, ua.Cause.REJECTED))
    failed = await page.sees("failed")
    assert (failed["status"], failed["cause"], failed[field]) == (status, cause, words)
    await desk.empty()


async def test_an_emergency_call_is_left_to_the_device(desk: Desk) -> None:
    page = await desk.registered_page()
    page.do("call", call="a", target="112")
    failed = await page.sees("failed")
    assert failed["status"] == 403
    assert "device's own dialler" in failed["warning"]
    await desk.empty()


async def test_an_anonymous_call(desk: Desk) -> None:
    page = await desk.registered_page()
    page.do("call", call="a", target="+15550200", anonymous=True)
    assert (await desk.hears(ims.Dial)).anonymous


async def test_a_call_to_the_page(desk: Desk) -> None:
    page = await desk.registered_page()
    await desk.ring()
    incoming = await page.sees("incoming")
    assert incoming["display"] == "Bob"
    assert incoming["uri"] == f"sip:+15550200@{DOMAIN};user=phone"
    assert (await desk.hears(ims.Ring)).call == "incoming-1"
    page.do("answer", call=incoming["call"])
    await desk.hears(ims.Accept)
    await page.sees("confirmed")
    desk.sif.from_ims(ims.Confirmed("incoming-1"))
    plan = next(iter(desk.media.plans.values()))
    assert plan.web_to_ims
    assert plan.ims_to_web
    desk.sif.from_ims(ims.Ended("incoming-1", None, "", False, bye("SIP;cause=200"), ua.Cause.REMOTE))
    await page.sees("ended", originator="remote")
    await desk.empty()


async def test_a_caller_who_gives_up(desk: Desk) -> None:
    page = await desk.registered_page()
    await desk.ring(caller='"Anonymous" <sip:anonymous@anonymous.invalid>')
    incoming = await page.sees("incoming")
    assert incoming["display"] == "Anonymous"
    desk.sif.from_ims(ims.Ended("incoming-1", None, "", False, bye("SIP;cause=487"), ua.Cause.REMOTE))
    failed = await page.sees("failed")
    assert (failed["originator"], failed["cause"]) == ("remote", "Canceled")
    await desk.empty()


@pytest.mark.parametrize("status", [486, 603])
async def test_the_page_refuses(desk: Desk, status: int) -> None:
    page = await desk.registered_page()
    await desk.ring()
    incoming = await page.sees("incoming")
    page.do("terminate", call=incoming["call"], status_code=status)
    assert (await desk.hears(ims.Reject)).status == status
    await desk.empty()


async def test_a_second_call_while_one_is_up(desk: Desk) -> None:
    page = await desk.registered_page()
    await desk.talk(page)
    await desk.ring()
    incoming = await page.sees("incoming")
    page.do("terminate", call=incoming["call"], status_code=486)
    assert (await desk.hears(ims.Reject)).status == 486
    await until(lambda: desk.sif.calls == 1)


async def test_the_page_is_closed_while_it_rings_and_opened_anew(desk: Desk) -> None:
    page = await desk.registered_page()
    await desk.ring()
    await page.sees("incoming")
    page.do("exit")
    again = await desk.registered_page()
    incoming = await again.sees("incoming")
    again.do("answer", call=incoming["call"])
    await desk.hears(ims.Accept)


async def test_the_websocket_breaks_and_the_call_goes_on(desk: Desk) -> None:
    page = await desk.registered_page()
    call = await desk.talk(page)
    page.events.clear()
    page.do("drop")
    await page.sees("disconnected")
    await page.sees("registered")
    assert desk.sif.calls == 1
    desk.sif.from_ims(ims.Ended(call, None, "", False, bye("SIP;cause=200"), ua.Cause.REMOTE))
    await page.sees("ended", originator="remote")  # the BYE went over the new WebSocket
    await desk.empty()


async def test_the_websocket_breaks_and_the_page_hangs_up_over_the_new_one(desk: Desk) -> None:
    page = await desk.registered_page()
    call = await desk.talk(page)
    page.events.clear()
    page.do("drop")
    await page.sees("registered")
    page.do("terminate", call="a")
    assert (await desk.hears(ims.Hangup)).call == call
    await desk.empty()


async def test_the_agent_stops(desk: Desk) -> None:
    page = await desk.registered_page()
    await desk.talk(page)
    await desk.sif.stop()
    ended = await page.sees("ended", originator="remote")
    assert "agent was stopped" in ended["reason"]
    assert desk.media.open_calls == set()


# ---- within a call ----------------------------------------------------------------------------------------------


async def test_hold_and_resume(desk: Desk) -> None:
    page = await desk.registered_page()
    call = await desk.talk(page)
    page.do("hold", call="a")
    await page.sees("held")
    modify = await desk.hears(ims.Modify)
    assert b"a=sendonly" in modify.sdp
    desk.sif.from_ims(ims.MediaAgreed(call, desk.answer(modify.sdp)))
    page.do("unhold", call="a")
    await page.sees("unheld")
    modify = await desk.hears(ims.Modify)
    assert b"a=sendrecv" in modify.sdp
    desk.sif.from_ims(ims.MediaAgreed(call, desk.answer(modify.sdp)))
    plan = next(iter(desk.media.plans.values()))
    assert plan.web_to_ims
    assert plan.ims_to_web


async def test_an_ice_restart(desk: Desk) -> None:
    page = await desk.registered_page()
    await desk.talk(page)
    page.events.clear()
    page.do("restart", call="a")
    await page.sees("renegotiated")
    answer = await page.sees("remote", type="answer")
    assert "a=ice-ufrag:ours1" in answer["sdp"], "the media side was asked for new credentials before the answer"
    assert not any(isinstance(event, ims.Modify) for event in desk.told)


async def test_a_session_timer_of_the_page(desk: Desk) -> None:
    """JsSIP's own default: it refreshes by UPDATE if the other side does not."""
    page = await desk.registered_page(session_timers=True)
    await desk.talk(page)
    page.do("terminate", call="a")
    await page.sees("ended")
    await desk.empty()


async def test_what_is_not_offered_is_refused(desk: Desk) -> None:
    page = await desk.registered_page()
    await desk.talk(page)
    page.do("info", call="a", type="application/media_control+xml", body="<x/>")
    info = await page.sees("info")
    assert info["status"] == 415
    page.do("refer", call="a", target="sip:112@y")
    assert (await page.sees("refer", step="refused"))["status"] == 403
    page.do("message", target="112", body="hello")
    assert (await page.sees("message"))["status"] == 403
    assert desk.sif.calls == 1


async def test_keys_in_info(desk: Desk) -> None:
    page = await desk.registered_page()
    await desk.talk(page)
    page.do("dtmf", call="a", tones="5#")
    await until(lambda: len(desk.media.keys) == 2)
    assert desk.media.keys == [("5", 0.1), ("#", 0.1)]


async def test_a_page_that_refuses_to_be_transferred(desk: Desk) -> None:
    page = await desk.registered_page()
    call = await desk.talk(page)
    page.do("refuseTransfers")
    desk.sif.from_ims(ims.ReferralReceived("ref-1", call, "tel:+15550300", "", ""))
    await page.sees("transfer")
    assert await desk.hears(ims.RejectReferral) == ims.RejectReferral("ref-1")
    assert desk.sif.calls == 1


# ---- the whole chain ----------------------------------------------------------------------------------------------


class Chain(Desk):
    """JsSIP, SIF, IMS client with a card, core, phone: all but the media."""

    third: Phone

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        super().__init__(stack)
        self.folder = folder
        self.client: ImsClient | None = None

    def _to_ims(self, event: Any) -> None:
        assert self.client is not None
        self.client.handle(event)

    async def start(self) -> None:
        await super().start()
        subscribers = [
            SubscriberConfig(
                f"00101000000000{n}@{DOMAIN}", [f"sip:+1555{n}@{DOMAIN}", f"tel:+1555{n}"], k=Secret(K), opc=Secret(OPC)
            )
            for n in ("0100", "0200", "0300")
        ]
        core = ImsCore(CoreConfig(DOMAIN, ["127.0.0.1:0"], subscribers))
        await core.start()
        self.stack.push_async_callback(core.close)
        host, port = core.gm[0]
        isim = IsimProfile(f"001010000000000100@{DOMAIN}", DOMAIN, [ME, "tel:+15550100"])
        reader = InProcessReader(Uicc(CardProfile("001010000000001", k=Secret(K), opc=Secret(OPC), isim=isim)))
        card = await UiccCard.open(CardSpec(), reader)
        self.stack.push_async_callback(card.close)
        config = ImsConfig(address="127.0.0.1", port=free_port(), p_cscf=[f"{host}:{port}"], security="off")
        self.client = ImsClient(
            config, card, self.folder, EventLog("agent"), lambda output: self.sif.from_ims(output), self._changed
        )
        self.stack.push_async_callback(self.client.stop)
        self.client.start()
        self.p_cscf = f"{host}:{port}"
        self.phone = await self.other("0200")

    async def other(self, number: str, **settings: Any) -> Phone:
        """Another phone of the operator's."""
        phone = Phone(
            PhoneConfig(
                impi=f"00101000000000{number}@{DOMAIN}",
                impus=[f"sip:+1555{number}@{DOMAIN}"],
                domain=DOMAIN,
                k=Secret(K),
                opc=Secret(OPC),
                address="127.0.0.1",
                port=0,
                p_cscf=self.p_cscf,
                **{"behaviour": "manual", **settings},
            )
        )
        await phone.start()
        self.stack.push_async_callback(phone.close)
        return phone

    def _changed(self) -> None:
        assert self.client is not None
        self.sif.service(self.client.status, self.client.public_identities)

    def phone_is(self, state: str) -> bool:
        call = self.phone.status()["call"]
        return (call or {}).get("state", "idle") == state


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with AsyncExitStack() as stack:
        chain = Chain(stack, tmp_path)
        await chain.start()
        await until(lambda: chain.phone.status()["registration"] == "registered")
        yield chain


async def test_from_the_page_to_a_phone(chain: Chain) -> None:
    page = await chain.registered_page()
    page.do("call", call="a", target="+15550200")
    await page.sees("progress", status=180)
    await until(lambda: chain.phone_is("ringing"))
    chain.phone.answer()
    await page.sees("confirmed")
    page.do("hold", call="a")
    await page.sees("held")
    page.do("unhold", call="a")
    await page.sees("unheld")
    page.do("terminate", call="a")
    await page.sees("ended")
    await until(lambda: chain.phone_is("idle"))
    await chain.empty()


async def test_the_phone_declines_the_page(chain: Chain) -> None:
    page = await chain.registered_page()
    page.do("call", call="a", target="+15550200")
    await page.sees("progress", status=180)
    await until(lambda: chain.phone_is("ringing"))
    chain.phone.hang_up()
    assert (await page.sees("failed"))["status"] == 603
    await chain.empty()


async def test_from_a_phone_to_the_page(chain: Chain) -> None:
    page = await chain.registered_page()
    chain.phone.dial("tel:+15550100")
    incoming = await page.sees("incoming")
    assert incoming["uri"].startswith("sip:+15550200@")
    await until(lambda: chain.phone_is("alerting"))
    page.do("answer", call=incoming["call"])
    await page.sees("confirmed")
    await until(lambda: chain.phone_is("answered"))
    chain.phone.hang_up()
    await page.sees("ended", originator="remote")
    await chain.empty()


async def test_a_number_that_nobody_has(chain: Chain) -> None:
    page = await chain.registered_page()
    page.do("call", call="a", target="+15559999")
    failed = await page.sees("failed")
    assert failed["status"] == 404
    assert "no subscriber has this number" in failed["warning"]
    await chain.empty()


async def talk_to_phone(chain: Chain, page: Page, call: str = "a", number: str = "0200") -> None:
    """The page calls a phone that answers."""
    phone = chain.phone if number == "0200" else chain.third
    page.do("call", call=call, target=f"+1555{number}")
    await until(lambda: (phone.status()["call"] or {}).get("state") == "ringing")
    phone.answer()
    await page.sees("confirmed", call=call)


async def third(chain: Chain, **settings: Any) -> Phone:
    chain.third = phone = await chain.other("0300", **settings)
    await until(lambda: phone.status()["registration"] == "registered")
    return phone


def peers(phone: Phone) -> list[str]:
    """Who a phone talks to, by the ends of their numbers."""
    calls = [call for call in phone.status()["calls"] if call["state"] == "answered"]
    return [call["peer"].partition("@")[0].partition(";")[0][-4:] for call in calls]


async def test_the_page_transfers_a_phone(chain: Chain) -> None:
    """Blind: the phone calls the third, and the page's call ends."""
    await third(chain, behaviour="answer", answer_after=0.1)
    page = await chain.registered_page()
    await talk_to_phone(chain, page)
    page.do("refer", call="a", target="+15550300")
    await page.sees("refer", step="accepted", told=200)
    await page.sees("ended", call="a")
    await until(lambda: peers(chain.phone) == ["0300"] and peers(chain.third) == ["0200"])
    await chain.empty()


async def test_the_page_joins_two_phones(chain: Chain) -> None:
    """Attended: Replaces names the page's dialog; the two phones end up with each other."""
    await third(chain)
    page = await chain.registered_page()
    await talk_to_phone(chain, page)
    page.do("hold", call="a")
    await page.sees("held")
    await talk_to_phone(chain, page, "b", "0300")
    page.do("refer", call="a", target="+15550300", replaces="b")
    await page.sees("refer", step="accepted", told=200)
    await page.sees("ended", call="a")
    await page.sees("ended", call="b")
    await until(lambda: peers(chain.phone) == ["0300"] and peers(chain.third) == ["0200"])
    await chain.empty()


async def test_a_phone_transfers_the_page(chain: Chain) -> None:
    await third(chain, behaviour="answer", answer_after=0.1)
    page = await chain.registered_page()
    await talk_to_phone(chain, page)
    chain.phone.calls.transfer_to("tel:+15550300")
    await page.sees("transfer", call="a")
    await page.sees("confirmed", call="transferred")
    await page.sees("ended", call="a")
    await until(lambda: peers(chain.third) == ["0100"] and not chain.phone.status()["calls"])
    assert chain.phone.calls.transfer["status"] == 200


async def test_a_phone_joins_the_page_and_another(chain: Chain) -> None:
    """The page's call is taken over by one with the third phone (RFC 3891)."""
    await third(chain, behaviour="answer", answer_after=0.1)
    chain.phone.behave(replace(chain.phone.manners, waiting=True))
    page = await chain.registered_page()
    await talk_to_phone(chain, page)
    chain.phone.dial("+15550300")
    await until(lambda: sorted(peers(chain.phone)) == ["0100", "0300"])
    # The third phone is told to call the page in place of its call with the first.
    chain.phone.calls.transfer_to("")
    await page.sees("replaces", call="a")
    incoming = await page.sees("incoming")
    page.do("answer", call=incoming["call"])
    await page.sees("confirmed", call=incoming["call"])
    await until(lambda: peers(chain.third) == ["0100"] and not chain.phone.status()["calls"])
    assert chain.sif.calls == 1


@pytest.mark.parametrize("centre", ["", f"sip:+15550999@ipsmgw.{DOMAIN}"])
async def test_texts_between_page_and_phone(chain: Chain, centre: str) -> None:
    """As SIP MESSAGE, or as short message through the message centre; the page sees plain text either way."""
    chain.sif._gateway._texts._centre = centre
    page = await chain.registered_page()
    page.do("message", target="+15550200", body="Grüße vom Browser 😀")
    assert (await page.sees("message"))["status"] == 200
    await until(lambda: len(chain.phone.messages) == 1)
    (received,) = chain.phone.messages
    assert (received["text"], received["sms"]) == ("Grüße vom Browser 😀", bool(centre))
    chain.phone.send_message("+15550100", "и назад", sms=bool(centre))
    text = await page.sees("text")
    assert text["body"] == "и назад"
    assert text["from"].startswith("sip:+15550200@")


async def test_a_text_to_nobody(chain: Chain) -> None:
    page = await chain.registered_page()
    page.do("message", target="+15559999", body="x")
    failed = await page.sees("message")
    assert failed["status"] == 404


def free_port() -> int:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        return int(udp.getsockname()[1])
