"""Conferences through the core: three UEs and the focus, on the virtual clock [S7-IMS] (TS 24.147, RFC 4575, RFC 4579).

TS 34.229-1 cases 15.17 (create and leave), 15.18 (invite through the user), 15.19 (invite through the focus), 15.21
(join after REFER).
"""

from __future__ import annotations

from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.conference import ConferenceInfo
from imskit.ims.registration import State
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Request, Response, parse_message
from simulators.conference.engine.focus import Agreed, Describe, Described, Failed, Focus, Joined, Left

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
FOCUS = ("127.0.0.1", 5080)
S_CSCF = Target("UDP", ("127.0.0.1", 5070))
FACTORY = f"sip:mmtel@conf-factory.{DOMAIN}"


def sdp(host: str, direction: str = "sendrecv") -> bytes:
    return (
        f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
        f"m=audio 40000 RTP/AVP 96\r\na=rtpmap:96 AMR-WB/16000\r\na={direction}\r\n"
    ).encode()


class Server:
    """The focus with a mixer that says yes to everything."""

    def __init__(self, world: Any) -> None:
        self.focus = Focus(DOMAIN, FOCUS, S_CSCF, world.tokens)
        self.said: list[Any] = []
        self.refuse = False

    def handle(self, event: Any, now: float) -> None:
        self.focus.handle(event, now)
        self.now = now

    def poll(self) -> Any:
        while (output := self.focus.poll()) is not None:
            if not isinstance(output, Describe | Agreed | Joined | Left):
                return output
            self.said.append(output)
            if isinstance(output, Describe):
                answer = Failed(output.leg, 500) if self.refuse else Described(output.leg, sdp("10.45.0.1"))
                self.focus.handle(answer, self.now)
        return None

    def deadline(self) -> float | None:
        return self.focus.deadline()

    def of(self, kind: type[Any]) -> list[Any]:
        return [output for output in self.said if isinstance(output, kind)]


class Stage:
    """A, B and C registered, and a focus."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.server = Server(world)
        world.add("F", FOCUS, self.server)
        self.a, self.b = world.registered()
        self.c = world.phone("0300", "10.47.0.2")
        world.tell(self.c, ims.Start())
        world.until(lambda: self.c.ue.status.state is State.REGISTERED)
        world.run(1)
        world.ladder.clear()
        world.messages.clear()

    def conference(self) -> str:
        """A makes a conference; returns its URI."""
        self.world.tell(self.a, ims.Dial("conf", FACTORY, sdp("10.45.0.2")))
        self.world.until(lambda: self.a.of(ims.Answered))
        self.world.until(lambda: self.a.of(ims.ConferenceChanged))
        ((uri, _),) = self.server.focus.conferences.items()
        return uri

    def answer(self, phone: Any, number: int = 0) -> str:
        world = self.world
        world.until(lambda: len(phone.of(ims.IncomingCall)) > number)
        call: str = phone.of(ims.IncomingCall)[number].call
        world.tell(phone, ims.Prepare(call, sdp(phone.address[0])))
        world.until(lambda: any(alert.call == call for alert in phone.of(ims.Alert)))
        world.tell(phone, ims.Accept(call))
        world.until(lambda: any(confirmed.call == call for confirmed in phone.of(ims.Confirmed)))
        return call

    def talk(self, callee: Any, name: str) -> str:
        count = len(callee.of(ims.IncomingCall))
        self.world.tell(self.a, ims.Dial(name, f"tel:+1555{callee.name}", sdp("10.45.0.2")))
        return self.answer(callee, count)

    def here(self) -> set[str]:
        """Who is connected, by the numbers' ends, as A was told last."""
        users = self.a.of(ims.ConferenceChanged)[-1].users
        return {user.entity.partition("@")[0][-4:] for user in users if user.status == "connected"}

    def requests(self, method: str, arrow: str) -> list[Request]:
        found = [parse_message(data) for name, data in self.world.messages if name.startswith(arrow)]
        return [message for message in found if isinstance(message, Request) and message.method == method]


@pytest.fixture
def stage(world: Any) -> Stage:
    return Stage(world)


def test_15_17_create_and_leave(stage: Stage) -> None:
    uri = stage.conference()
    answered = stage.a.of(ims.Answered)[0].message
    assert isinstance(answered, Response)
    assert str(answered.contacts[0].uri) == uri
    assert "isfocus" in answered.contacts[0].parameters
    (subscribe,) = [each for each in stage.requests("SUBSCRIBE", "A->P") if str(each.event) == "conference"]
    assert subscribe.uri == uri
    assert subscribe.headers.get("Accept") == "application/conference-info+xml"
    assert stage.here() == {"0100"}
    assert len(stage.server.of(Joined)) == 1
    stage.world.tell(stage.a, ims.Hangup("conf"))
    stage.world.until(lambda: not stage.server.focus.conferences)
    assert stage.requests("BYE", "A->P")[0].uri == uri
    assert len(stage.server.of(Left)) == 1
    stage.world.run(5)
    last = stage.requests("NOTIFY", "F->S")[-1]
    assert str(last.subscription_state).startswith("terminated")


def test_15_19_invite_through_the_focus(stage: Stage) -> None:
    """REFER to the focus; it calls the user and reports; everybody's list follows."""
    uri = stage.conference()
    stage.world.tell(stage.a, ims.Invite("conf", "tel:+15550200"))
    at_b = stage.answer(stage.b)
    stage.world.until(lambda: any(told.final for told in stage.a.of(ims.ReferralProgress)))
    told = stage.a.of(ims.ReferralProgress)
    assert [(each.call, each.target) for each in told][-1] == ("conf", "tel:+15550200")
    assert (told[0].status, told[-1].status, told[-1].final) == (100, 200, True)
    (refer,) = stage.requests("REFER", "A->P")
    assert refer.uri == uri
    incoming = stage.b.of(ims.IncomingCall)[0]
    assert str(incoming.caller.uri) == uri
    assert "isfocus" in incoming.request.contacts[0].parameters
    assert incoming.request.headers.get("Referred-By") == f"<sip:+15550100@{DOMAIN}>"
    stage.world.until(lambda: stage.here() == {"0100", "0200"})
    assert stage.a.ue.calls == ("conf",)
    stage.world.tell(stage.b, ims.Hangup(at_b))
    stage.world.until(lambda: stage.here() == {"0100"})


def test_three_party_conference_of_two_calls(stage: Stage) -> None:
    """TS 24.147 clause 5.3.1.3.3: A has B and C on the line and joins all; the old calls end by Replaces."""
    at_b, at_c = stage.talk(stage.b, "ab"), stage.talk(stage.c, "ac")
    stage.conference()
    stage.world.tell(stage.a, ims.Invite("conf", "", replaces="ab"))
    stage.world.tell(stage.a, ims.Invite("conf", "", replaces="ac"))
    new_b, new_c = stage.answer(stage.b, 1), stage.answer(stage.c, 1)
    assert stage.b.of(ims.IncomingCall)[1].replaces == at_b
    assert stage.c.of(ims.IncomingCall)[1].replaces == at_c
    stage.world.until(lambda: stage.here() == {"0100", "0200", "0300"})
    stage.world.until(lambda: stage.a.ue.calls == ("conf",))
    assert stage.b.ue.calls == (new_b,)
    assert stage.c.ue.calls == (new_c,)
    assert len(stage.server.of(Joined)) == 3
    finals = [told for told in stage.a.of(ims.ReferralProgress) if told.final]
    assert [told.status for told in finals] == [200, 200]
    stage.world.tell(stage.a, ims.Hangup("conf"))
    stage.world.run(2)
    assert stage.b.ue.calls == (new_b,), "the others stay when one leaves"
    stage.world.tell(stage.b, ims.Hangup(new_b))
    stage.world.tell(stage.c, ims.Hangup(new_c))
    stage.world.until(lambda: not stage.server.focus.conferences)


def test_15_18_and_15_21_invite_through_the_user(stage: Stage) -> None:
    """REFER to the user, outside any dialog; that one calls the focus and says Referred-By."""
    uri = stage.conference()
    stage.world.tell(stage.a, ims.Invite("conf", f"sip:+15550200@{DOMAIN}", through_focus=False))
    stage.world.until(lambda: stage.b.of(ims.ReferralReceived))
    referral = stage.b.of(ims.ReferralReceived)[0]
    assert (referral.call, referral.target) == ("", uri)
    (refer,) = stage.requests("REFER", "A->P")
    assert refer.headers.get("Refer-To") == f"<{uri};method=INVITE>"
    assert refer.to.tag is None
    stage.world.tell(stage.b, ims.Dial("join", referral.target, sdp("10.46.0.2"), referral=referral.referral))
    stage.world.until(lambda: stage.b.of(ims.Answered))
    stage.world.until(lambda: stage.here() == {"0100", "0200"})
    stage.world.until(lambda: any(told.final for told in stage.a.of(ims.ReferralProgress)))
    assert [told.status for told in stage.a.of(ims.ReferralProgress)] == [100, 200]
    (invite,) = stage.requests("INVITE", "B->P")
    assert invite.headers.get("Referred-By") == f"<sip:+15550100@{DOMAIN}>"
    notifies = [each for each in stage.requests("NOTIFY", "B->P") if str(each.event).startswith("refer")]
    assert [each.body.split()[1] for each in notifies] == [b"100", b"200"]
    assert str(notifies[-1].subscription_state) == "terminated;reason=noresource"
    assert len({each.call_id for each in [*notifies, refer]}) == 1


def test_a_user_who_does_not_want_to_join(stage: Stage) -> None:
    stage.conference()
    stage.world.tell(stage.a, ims.Invite("conf", f"sip:+15550200@{DOMAIN}", through_focus=False))
    stage.world.until(lambda: stage.b.of(ims.ReferralReceived))
    stage.world.tell(stage.b, ims.RejectReferral(stage.b.of(ims.ReferralReceived)[0].referral, 486))
    stage.world.until(lambda: any(told.final for told in stage.a.of(ims.ReferralProgress)))
    assert stage.a.of(ims.ReferralProgress)[-1].status == 486
    assert stage.here() == {"0100"}


@pytest.mark.parametrize("target", ["tel:+15559999", "sip:x@elsewhere.example"])
def test_a_user_who_cannot_be_called(stage: Stage, target: str) -> None:
    stage.conference()
    stage.world.tell(stage.a, ims.Invite("conf", target))
    stage.world.until(lambda: any(told.final for told in stage.a.of(ims.ReferralProgress)))
    assert stage.a.of(ims.ReferralProgress)[-1].status in (403, 404)
    stage.world.until(lambda: stage.here() == {"0100"})
    ((_, users),) = stage.server.focus.conferences.items()
    assert len(users) == 1


def test_no_media_no_conference(stage: Stage) -> None:
    stage.server.refuse = True
    stage.world.tell(stage.a, ims.Dial("conf", FACTORY, sdp("10.45.0.2")))
    stage.world.until(lambda: stage.a.of(ims.Ended))
    assert stage.a.of(ims.Ended)[0].status == 500
    assert not stage.server.focus.conferences


def test_a_conference_that_is_not_there(stage: Stage) -> None:
    stage.world.tell(stage.a, ims.Dial("conf", f"sip:gone@conf-factory.{DOMAIN}", sdp("10.45.0.2")))
    stage.world.until(lambda: stage.a.of(ims.Ended))
    assert stage.a.of(ims.Ended)[0].status == 404


def test_hold_within_a_conference(stage: Stage) -> None:
    stage.conference()
    stage.world.tell(stage.a, ims.Modify("conf", sdp("10.45.0.2", "sendonly")))
    stage.world.until(lambda: len(stage.server.of(Describe)) == 2)
    assert b"a=sendonly" in stage.server.of(Describe)[-1].offer
    stage.world.until(lambda: len(stage.a.of(ims.MediaAgreed)) == 2)


def test_only_who_is_in_a_conference_learns_who_is(stage: Stage) -> None:
    """And a subscription is refreshed, and told its end."""
    uri = stage.conference()
    stranger = stage.c
    from imskit.sip.engine import user_agent as ua

    stranger.ue._agent.handle(
        ua.Subscribe("conference-x", uri, f"<sip:+15550300@{DOMAIN}>", f"<{uri}>", "conference"), stage.world.now
    )
    stage.world.run(5)
    answers = [parse_message(data) for name, data in stage.world.messages if name.startswith("F->S 403")]
    assert answers
    stage.world.run(3100)
    refreshes = [each for each in stage.requests("SUBSCRIBE", "A->P") if str(each.event) == "conference"]
    assert len(refreshes) == 2
    assert refreshes[1].to.tag
    document = ConferenceInfo.parse(stage.requests("NOTIFY", "F->S")[-1].body)
    assert document.state == "full"
    stage.world.run(2000)
    assert stage.a.ue.calls == ("conf",)
