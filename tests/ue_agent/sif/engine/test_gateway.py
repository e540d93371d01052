"""Calls between page and IMS, event by event [S7-SIF]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.sdp.attributes import Direction
from imskit.sdp.description import SessionDescription
from imskit.sip.engine import user_agent as page
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.message import Request
from ue_agent.sif.engine.events import (
    ApplyMedia,
    CloseMedia,
    DropPage,
    MediaAnswered,
    MediaFailed,
    MediaOpened,
    OpenMedia,
    PageOffered,
    Shutdown,
)
from ue_agent.sif.engine.gateway import MAXIMUM_CALLS, RECONNECT_SECONDS, TALK_SECONDS

type Browser = Callable[[str], bytes]

DIALOG = DialogId("c", "t", "f")
OFFER, INVITE = page.Carrier.INVITE, page.Carrier.INVITE


def words(fields: tuple[tuple[str, str], ...], name: str = "Warning") -> str:
    return " ".join(value for field, value in fields if field == name)


def direction(sdp: bytes) -> Direction:
    description = SessionDescription.parse(sdp)
    return description.direction_of(description.media[0])


def bye(*fields: tuple[str, str]) -> Request:
    request = Request.create("BYE", "sip:x@y", [("From", "<sip:a@b>;tag=1"), ("To", "<sip:c@d>;tag=2")])
    for name, value in fields:
        request.headers.add(name, value)
    return request


# ---- a call from the page -----------------------------------------------------------------------------------


def test_a_call_from_the_page(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    opened = desk.last(OpenMedia)
    assert not opened.controlling
    desk.open_media()
    dial = desk.last(ims.Dial)
    assert dial.target == "sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org;user=phone"
    assert b"fingerprint" not in dial.sdp
    desk.take()
    desk.ims(ims.MediaAgreed(dial.call, desk.phone_answer(dial.sdp)))
    applied, early = desk.take()
    assert isinstance(applied, ApplyMedia)
    assert isinstance(early, page.Provisional)
    assert (early.call, early.status) == ("incoming-1", 183)
    assert early.sdp is not None
    desk.ims(ims.Progress(dial.call, 183))
    assert desk.take() == []
    desk.ims(ims.Progress(dial.call, 180))
    desk.ims(ims.Progress(dial.call, 181))
    assert [(said.status, said.sdp) for said in desk.take()] == [(180, None), (181, None)]
    desk.ims(ims.Answered(dial.call, desk.response(200)))
    answered, answer = desk.take()
    assert isinstance(answered, MediaAnswered)
    assert isinstance(answer, page.Answer)
    assert answer.sdp == early.sdp
    desk.page(page.Ended("incoming-1", page.Cause.REMOTE, bye(("Reason", 'Q.850;cause=16;text="bye"'))))
    hangup, closed = desk.take()
    assert hangup == ims.Hangup(dial.call, (("Reason", 'Q.850;cause=16;text="bye"'),))
    assert closed == CloseMedia(opened.call)
    assert desk.gateway.calls == 1
    desk.ims(ims.Ended(dial.call, None, "", True, None, page.Cause.LOCAL))
    assert desk.gateway.calls == 0


def test_the_ringing_carries_the_answer_if_nothing_did_before(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    call = desk.last(ims.Dial).call
    desk.ims(ims.Progress(call, 180))
    assert desk.last(page.Provisional).sdp is None
    desk.ims(ims.MediaAgreed(call, desk.phone_answer(desk.last(ims.Dial).sdp)))
    assert desk.last(page.Provisional).status == 183
    assert desk.last(page.Provisional).sdp is not None


def test_early_media_of_several_sides_and_a_late_answer(desk: Any) -> None:
    """Announcements (sendonly) and forks: the page has one answer, the media follow each."""
    desk.ready()
    desk.page_calls()
    desk.open_media()
    dial = desk.last(ims.Dial)
    desk.take()
    for way in (Direction.SENDONLY, Direction.INACTIVE, Direction.SENDRECV):
        desk.ims(ims.MediaAgreed(dial.call, desk.phone_answer(dial.sdp, way)))
    said = desk.take()
    plans = [each.plan for each in said if isinstance(each, ApplyMedia)]
    assert [plan.ims_to_web for plan in plans] == [True, False, True]
    assert [plan.web_to_ims for plan in plans] == [False, False, True]
    previews = [each for each in said if isinstance(each, page.Provisional)]
    assert len(previews) == 1
    assert direction(previews[0].sdp) is Direction.SENDRECV


def test_the_page_hangs_up_while_the_media_open(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    opened = desk.last(OpenMedia)
    desk.take()
    desk.page(page.Ended("incoming-1", page.Cause.REMOTE, bye()))
    assert desk.take() == [CloseMedia(opened.call)]
    assert desk.gateway.calls == 0
    desk.handle(MediaOpened(opened.call, None, None))
    assert desk.take() == [CloseMedia(opened.call)], "what was opened late is closed again"


def test_media_cannot_be_opened(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    desk.handle(MediaFailed(desk.last(OpenMedia).call, "no ports"))
    reject = desk.last(page.Reject)
    assert reject.status == 503
    assert "no ports" in words(reject.headers)
    desk.page(page.Ended("incoming-1", page.Cause.LOCAL))
    assert desk.clean
    assert not desk.said(ims.Dial)


@pytest.mark.parametrize(
    ("status", "fields", "told"),
    [
        (404, (("Warning", '399 core "no such number"'),), 404),
        (486, (("Reason", 'Q.850;cause=17;text="busy"'),), 486),
        (503, (("Retry-After", "30"),), 503),
        (603, (("Reason", 'SIP;cause=603;text="not now"'), ("Warning", '399 x "y"')), 603),
        (407, (), 403),
    ],
)
def test_the_page_hears_the_networks_own_words(
    desk: Any, status: int, fields: tuple[tuple[str, str], ...], told: int
) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    call = desk.last(ims.Dial).call
    response = desk.response(status, *fields)
    desk.ims(ims.Ended(call, status, "the story", False, response, page.Cause.REJECTED))
    reject = desk.last(page.Reject)
    assert reject.status == told
    assert set(fields) <= set(reject.headers)
    desk.page(page.Ended("incoming-1", page.Cause.LOCAL))
    assert desk.clean


def test_an_alternative_service_is_explained(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    desk.ims(ims.Ended(desk.last(ims.Dial).call, 380, "380", False, desk.response(380), page.Cause.REJECTED))
    assert desk.last(page.Reject).status == 380
    assert "own dialler" in words(desk.last(page.Reject).headers)


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (None, 503),
        (page.Cause.TIMEOUT, 504),
        (page.Cause.TRANSPORT, 503),
        (page.Cause.NO_ANSWER, 408),
        (page.Cause.LOCAL, 503),
    ],
)
def test_a_call_that_ends_without_a_response(desk: Any, cause: page.Cause | None, status: int) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    desk.ims(ims.Ended(desk.last(ims.Dial).call, None, "the SIM card was removed", True, None, cause))
    assert desk.last(page.Reject).status == status
    assert "SIM card was removed" in words(desk.last(page.Reject).headers)


def test_an_offer_that_cannot_be_answered_is_refused_with_a_warning(desk: Any, browser: Browser) -> None:
    desk.ready()
    video_only = browser("chromium_audio").replace(b"m=audio", b"m=video")
    no_ice = browser("chromium_audio").replace(b"a=ice-ufrag:humq\r\n", b"")
    codecs = (
        browser("chromium_audio")
        .replace(b" 111 63 9 0 8 13 110 126", b" 96")
        .replace(b"rtpmap:111", b"rtpmap:96 X/1\r\na=x:1")
    )
    for number, sdp in enumerate((video_only, no_ice, codecs, b"v=0\r\nrubbish")):
        call = f"incoming-{number}"
        desk.page_calls(call, sdp=sdp)
        reject = desk.last(page.Reject)
        assert reject.call == call
        assert reject.status == (400 if number == 3 else 488)
        assert words(reject.headers).split()[0].isdigit()
        desk.page(page.Ended(call, page.Cause.LOCAL))
    assert desk.gateway.calls == 0
    assert not desk.said(OpenMedia)


def test_an_invite_without_an_offer_is_refused(desk: Any) -> None:
    desk.ready()
    desk.page_calls(sdp=b"")
    assert desk.last(page.Reject).status == 488


def test_ims_answers_what_cannot_be_used(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    dial = desk.last(ims.Dial)
    desk.ims(ims.MediaAgreed(dial.call, b"v=0\r\nrubbish"))
    assert desk.last(page.Reject).status == 488
    assert desk.last(ims.Hangup).call == dial.call
    desk.ims(ims.Answered(dial.call, desk.response(200)))  # it was on its way
    desk.page(page.Ended("incoming-1", page.Cause.LOCAL))
    desk.ims(ims.Ended(dial.call, None, "", True, None, page.Cause.LOCAL))
    assert not desk.said(page.Answer)
    assert desk.clean


def test_ims_answers_without_a_description(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    desk.ims(ims.Answered(desk.last(ims.Dial).call, desk.response(200)))
    assert desk.last(page.Reject).status == 488
    assert desk.said(ims.Hangup) == 1


@pytest.mark.parametrize("uri", ["sip:112@" + "ims.mnc001.mcc001.3gppnetwork.org", "tel:911", "urn:service:sos.police"])
def test_emergency_calls_are_left_to_the_device(desk: Any, uri: str) -> None:
    desk.ready()
    desk.page(page.IncomingCall("incoming-1", DIALOG, desk.invite(uri), b"v=0", desk_flow(1)))
    reject = desk.last(page.Reject)
    assert reject.status == 403
    assert "device's own dialler" in words(reject.headers)
    assert not desk.said(OpenMedia)
    desk.page(page.Ended("incoming-1", page.Cause.LOCAL))
    assert desk.gateway.calls == 0


def test_a_page_may_ask_for_privacy(desk: Any) -> None:
    desk.ready()
    desk.page_calls(Privacy="id;critical")
    desk.open_media()
    assert desk.last(ims.Dial).anonymous


def test_a_page_that_has_not_registered_cannot_call(desk: Any) -> None:
    desk.ready()
    desk.page_calls(number=2)
    assert desk.last(page.Reject).status == 403


def test_without_service_a_call_is_refused_in_words(desk: Any) -> None:
    desk.ready()
    desk.service(State.WAITING)
    desk.page_calls()
    assert desk.last(page.Reject).status == 503
    assert "waiting" in words(desk.last(page.Reject).headers)


def test_too_many_calls(desk: Any) -> None:
    desk.ready()
    for number in range(MAXIMUM_CALLS):
        desk.page_calls(f"incoming-{number}")
    assert not desk.said(page.Reject)
    desk.page_calls("incoming-100")
    assert desk.last(page.Reject).status == 486
    desk.ims_calls("incoming-100")
    assert desk.last(ims.Reject).status == 486


def test_the_media_break(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    desk.handle(MediaFailed("out-1", "the media connection to the page failed"))
    assert 'text="the media connection to the page failed"' in words(desk.last(page.Hangup).headers, "Reason")
    assert desk.last(ims.Hangup).call == call
    assert desk.said(CloseMedia) == 1
    desk.page(page.Ended("incoming-1", page.Cause.LOCAL))
    desk.ims(ims.Ended(call, None, "", True, None, page.Cause.LOCAL))
    assert desk.clean


def test_ims_hangs_up_with_a_reason(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    message = bye(("Reason", 'SIP;cause=200;text="Call completed elsewhere"'))
    desk.ims(ims.Ended(call, None, "the other side hung up", False, message, page.Cause.REMOTE))
    assert desk.last(page.Hangup).headers == (("Reason", 'SIP;cause=200;text="Call completed elsewhere"'),)
    desk.page(page.Ended("incoming-1", page.Cause.LOCAL))
    assert desk.clean


def test_the_page_is_told_why_this_device_ends_a_call(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    desk.ims(ims.Ended(call, None, "the SIM card was removed", True, None, page.Cause.LOCAL))
    assert 'text="the SIM card was removed"' in words(desk.last(page.Hangup).headers, "Reason")


def test_the_agent_stops(desk: Any) -> None:
    desk.ready()
    desk.talk()
    desk.ring("incoming-9")
    desk.take()
    desk.handle(Shutdown("the agent was stopped"))
    assert desk.said(page.Hangup) == 2
    assert desk.said(ims.Hangup) == 1
    assert desk.last(ims.Reject).status == 480
    assert desk.said(CloseMedia) == 2


# ---- a call to the page ----------------------------------------------------------------------------------


def test_a_call_to_the_page(desk: Any) -> None:
    desk.ready()
    desk.ims_calls()
    assert desk.last(OpenMedia).controlling
    desk.open_media()
    prepare = desk.last(ims.Prepare)
    assert b"AMR-WB" in prepare.sdp
    assert not desk.said(page.Call), "before alerting"
    desk.ims(ims.Alert("incoming-1"))
    call = desk.last(page.Call)
    assert call.uri == "sip:c1@x.invalid;transport=ws"
    assert call.from_ == '"Bob" <sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org>'
    assert call.hop == desk_flow(1)
    desk.page(page.Progress(call.call, DIALOG, desk.response(100)))
    assert not desk.said(ims.Ring)
    for _ in range(2):
        desk.page(page.Progress(call.call, DIALOG, desk.response(180)))
    assert desk.said(ims.Ring) == 1
    desk.take()
    desk.answer(call)
    applied, answered, accept = desk.take()
    assert isinstance(applied, ApplyMedia)
    assert isinstance(answered, MediaAnswered)
    assert accept == ims.Accept("incoming-1")
    desk.ims(ims.Confirmed("incoming-1"))
    assert desk.take() == []
    desk.ims(ims.Ended("incoming-1", None, "", False, bye(), page.Cause.REMOTE))
    assert desk.last(page.Hangup).call == call.call
    desk.page(page.Ended(call.call, page.Cause.LOCAL))
    assert desk.clean


def test_a_late_offer(desk: Any) -> None:
    """INVITE without SDP: this side offers, the answer comes in PRACK or ACK."""
    desk.ready()
    desk.ims_calls(offer=False)
    desk.open_media()
    prepare = desk.last(ims.Prepare)
    desk.ims(ims.Alert("incoming-1"))
    desk.answer(desk.last(page.Call))
    assert not desk.said(ApplyMedia)
    desk.ims(ims.MediaAgreed("incoming-1", desk.phone_answer(prepare.sdp)))
    assert desk.last(ApplyMedia).plan.web_to_ims


def test_an_offer_of_ims_that_cannot_be_answered(desk: Any) -> None:
    desk.ready()
    desk.ims(ims.IncomingCall("incoming-1", caller(), "sip:x@y", b"v=0\r\nrubbish", desk.invite()))
    desk.open_media()
    assert desk.last(ims.Reject).status == 488
    assert words(desk.last(ims.Reject).headers)
    desk.ims(ims.Ended("incoming-1", None, "", True, None, page.Cause.LOCAL))
    assert desk.clean


def test_the_caller_gives_up_while_the_media_open(desk: Any) -> None:
    desk.ready()
    desk.ims_calls()
    opened = desk.last(OpenMedia).call
    desk.ims(ims.Ended("incoming-1", None, "", False, bye(), page.Cause.REMOTE))
    assert desk.gateway.calls == 0
    desk.handle(MediaOpened(opened, None, None))
    assert desk.said(CloseMedia) == 2
    assert not desk.said(page.Call)


def test_the_caller_gives_up_while_the_page_rings(desk: Any) -> None:
    desk.ready()
    call = desk.ring()
    desk.ims(ims.Ended("incoming-1", None, "", False, bye(), page.Cause.REMOTE))
    assert desk.last(page.Hangup).call == call.call
    desk.answer(call)  # the 200 crosses our CANCEL
    assert not desk.said(ims.Accept)
    desk.page(page.Ended(call.call, page.Cause.LOCAL))
    assert desk.clean


@pytest.mark.parametrize(
    ("status", "told"), [(486, 486), (603, 603), (480, 480), (488, 488), (404, 480), (503, 480), (401, 480), (302, 480)]
)
def test_the_page_refuses(desk: Any, status: int, told: int) -> None:
    desk.ready()
    call = desk.ring()
    response = desk.response(status, ("Reason", "Q.850;cause=21"))
    desk.page(page.Ended(call.call, page.Cause.REJECTED, response))
    reject = desk.last(ims.Reject)
    assert reject.status == told
    assert words(reject.headers, "Reason") == ("Q.850;cause=21" if status == told else "")
    desk.ims(ims.Ended("incoming-1", None, "", True, None, page.Cause.LOCAL))
    assert desk.clean


def test_the_page_answers_what_cannot_be_used(desk: Any) -> None:
    desk.ready()
    call = desk.ring()
    ok = desk.response(200)
    desk.page(page.AnswerReceived(call.call, DIALOG, b"v=0\r\n", page.Carrier.SUCCESS, ok))
    desk.page(page.Answered(call.call, DIALOG, ok))
    assert desk.last(ims.Reject).status == 488
    assert desk.said(page.Hangup) == 1
    assert not desk.said(ims.Accept)


def test_the_page_refuses_the_sound(desk: Any) -> None:
    desk.ready()
    call = desk.ring()
    sdp = desk.page_answer(call.sdp).replace(b"m=audio 9 ", b"m=audio 0 ")
    desk.page(page.AnswerReceived(call.call, DIALOG, sdp, page.Carrier.SUCCESS, desk.response(200)))
    assert desk.last(ims.Reject).status == 488


def test_no_page_is_open(desk: Any) -> None:
    desk.service()
    desk.ims_calls()
    assert desk.last(ims.Reject).status == 480
    assert "no page is open" in words(desk.last(ims.Reject).headers)
    assert desk.gateway.calls == 0


def test_a_page_that_is_being_loaded_again_is_waited_for(desk: Any) -> None:
    desk.ready()
    desk.gone()
    desk.now += 2
    desk.ims_calls()
    desk.open_media()
    desk.ims(ims.Alert("incoming-1"))
    desk.wait(3)
    assert not desk.said(page.Call)
    desk.register(2, "another")
    assert desk.last(page.Call).hop == desk_flow(2)


def test_a_page_that_is_not_loaded_again_is_given_up(desk: Any) -> None:
    desk.ready()
    desk.gone()
    desk.ims_calls()
    desk.open_media()
    desk.ims(ims.Alert("incoming-1"))
    desk.wait(RECONNECT_SECONDS + 1)
    assert desk.last(ims.Reject).status == 480
    desk.ims(ims.Ended("incoming-1", None, "", True, None, page.Cause.LOCAL))
    assert desk.clean


def test_the_ringing_page_is_loaded_again(desk: Any) -> None:
    desk.ready()
    call = desk.ring()
    desk.take()
    desk.gone()
    desk.page(page.Ended(call.call, page.Cause.TRANSPORT))
    assert not desk.said(ims.Reject)
    desk.register(2, "another")
    again = desk.last(page.Call)
    assert again.hop == desk_flow(2)
    desk.page(page.Progress(again.call, DIALOG, desk.response(180)))
    assert not desk.said(ims.Ring), "the caller has heard it ring"
    desk.answer(again)
    assert desk.said(ims.Accept) == 1


def test_of_two_pages_the_one_opened_last_rings_and_the_other_steps_in(desk: Any) -> None:
    desk.ready(1, "first")
    desk.register(2, "second")
    desk.register(1, "first")  # a refresh does not make it the one in use
    call = desk.ring()
    assert call.hop == desk_flow(2)
    desk.gone(2)
    desk.page(page.Ended(call.call, page.Cause.TRANSPORT))
    assert desk.last(page.Call).hop == desk_flow(1)
    desk.page(page.Ended(call.call, page.Cause.REJECTED, desk.response(486)))
    assert desk.last(ims.Reject).status == 486


def test_an_anonymous_caller(desk: Any) -> None:
    desk.ready()
    desk.ims_calls(caller='"Anonymous" <sip:anonymous@anonymous.invalid>')
    desk.open_media()
    desk.ims(ims.Alert("incoming-1"))
    assert desk.last(page.Call).from_ == '"Anonymous" <sip:anonymous@anonymous.invalid>'


def test_both_sides_name_their_calls_alike(desk: Any) -> None:
    """The user agents of both sides count from one: the calls must not be mixed up."""
    desk.ready()
    desk.page_calls("incoming-1")
    desk.ims_calls("incoming-1")
    assert desk.gateway.calls == 2
    desk.ims(ims.Ended("incoming-1", None, "", False, bye(), page.Cause.REMOTE))
    assert desk.gateway.calls == 1
    assert not desk.said(page.Reject)


# ---- the WebSocket breaks ----------------------------------------------------------------------------------


def test_a_page_that_comes_back_keeps_its_call(desk: Any) -> None:
    desk.ready()
    desk.talk()
    desk.gone()
    desk.wait(TALK_SECONDS - 1)
    desk.register(2, "i1")
    assert desk.last(page.Reroute) == page.Reroute("incoming-1", desk_flow(2))
    desk.wait(60)
    assert not desk.said(page.Hangup)
    assert desk.gateway.calls == 1


def test_a_page_that_moves_before_its_old_websocket_is_known_to_be_dead(desk: Any) -> None:
    desk.ready()
    desk.talk()
    desk.register(2, "i1")
    assert desk.last(page.Reroute).hop == desk_flow(2)
    desk.gone(1)
    desk.wait(60)
    assert not desk.said(page.Hangup)


def test_a_page_that_stays_away_loses_its_call(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    desk.gone()
    desk.wait(TALK_SECONDS + 1)
    assert desk.last(page.Hangup).call == "incoming-1"
    assert 'text="the page was closed"' in words(desk.last(ims.Hangup).headers, "Reason")
    desk.page(page.Ended("incoming-1", page.Cause.LOCAL))
    desk.ims(ims.Ended(call, None, "", True, None, page.Cause.LOCAL))
    assert desk.clean
    assert desk.gateway.deadline() is None


def test_another_page_does_not_take_the_call(desk: Any) -> None:
    desk.ready()
    desk.talk()
    desk.register(3, "stranger")
    desk.gone()
    desk.register(3, "stranger")
    assert not desk.said(page.Reroute)
    desk.wait(TALK_SECONDS + 1)
    assert desk.said(page.Hangup) == 1


def test_a_call_that_is_not_answered_ends_with_the_websocket(desk: Any) -> None:
    """Its INVITE cannot be answered over another connection, and the page has forgotten it."""
    desk.ready()
    desk.page_calls()
    desk.open_media()
    call = desk.last(ims.Dial).call
    desk.gone()
    assert desk.last(ims.Hangup).call == call


# ---- changes within a call --------------------------------------------------------------------------------


def test_hold_and_resume_from_the_page(desk: Any, browser: Browser) -> None:
    desk.ready()
    call = desk.talk()
    hold, resume = browser("chromium_audio_hold"), browser("chromium_audio")
    desk.page(page.OfferReceived("incoming-1", DIALOG, "exchange-1", hold, OFFER, desk.invite()))
    assert isinstance(desk.last(PageOffered).offer, SessionDescription)
    assert not desk.said(page.AnswerOffer), "the media side looks at it first: it may restart ICE"
    desk.renew()
    answer = desk.last(page.AnswerOffer)
    assert (answer.exchange, direction(answer.sdp)) == ("exchange-1", Direction.RECVONLY)
    modify = desk.last(ims.Modify)
    assert direction(modify.sdp) is Direction.SENDONLY
    desk.take()
    desk.ims(ims.MediaAgreed(call, desk.phone_answer(modify.sdp)))
    assert not desk.last(ApplyMedia).plan.ims_to_web
    desk.take()
    desk.page(page.OfferReceived("incoming-1", DIALOG, "exchange-2", resume, OFFER, desk.invite()))
    desk.renew()
    assert direction(desk.last(page.AnswerOffer).sdp) is Direction.SENDRECV
    modify = desk.last(ims.Modify)
    assert direction(modify.sdp) is Direction.SENDRECV
    desk.ims(ims.MediaAgreed(call, desk.phone_answer(modify.sdp)))
    plan = desk.last(ApplyMedia).plan
    assert plan.ims_to_web
    assert plan.web_to_ims


def test_an_ice_restart_is_not_told_to_ims(desk: Any, browser: Browser) -> None:
    desk.ready()
    desk.talk()
    sdp = browser("chromium_audio").replace(b"humq", b"abcd")
    desk.page(page.OfferReceived("incoming-1", DIALOG, "exchange-1", sdp, OFFER, desk.invite()))
    desk.renew()
    assert desk.said(page.AnswerOffer) == 1
    assert desk.said(ApplyMedia) == 1
    assert not desk.said(ims.Modify)


def test_hold_while_ims_does_not_take_it(desk: Any, browser: Browser) -> None:
    desk.ready()
    call = desk.talk()
    desk.page(page.OfferReceived("incoming-1", DIALOG, "e-1", browser("chromium_audio_hold"), OFFER, desk.invite()))
    desk.renew()
    assert direction(desk.last(page.AnswerOffer).sdp) is Direction.RECVONLY
    desk.ims(ims.OfferFailed(call, 488))
    desk.take()
    # The phone holds on its own meanwhile: our answer tells the page's wish again.
    desk.ims(ims.Offer(call, "x-1", desk.phone_offer(Direction.SENDRECV)))
    assert direction(desk.last(ims.AnswerOffer).sdp) is Direction.SENDONLY
    assert not desk.said(ims.Modify)


def test_hold_that_meets_a_change_of_ims_is_told_afterwards(desk: Any, browser: Browser) -> None:
    desk.ready()
    call = desk.talk()
    hold, again = browser("chromium_audio_hold"), browser("chromium_audio_hold").replace(b"n1N5", b"n1N6")
    desk.page(page.OfferReceived("incoming-1", DIALOG, "e-1", hold, OFFER, desk.invite()))
    desk.renew()
    desk.ims(ims.OfferFailed(call, None))
    desk.take()
    desk.page(page.OfferReceived("incoming-1", DIALOG, "e-2", again, OFFER, desk.invite()))
    desk.renew()
    assert desk.said(ims.Modify) == 1


def test_a_later_offer_of_the_page_that_cannot_be_answered(desk: Any, browser: Browser) -> None:
    desk.ready()
    desk.talk()
    for number, sdp in enumerate((b"v=0\r\n", browser("chromium_audio").replace(b"a=rtcp-mux\r\n", b""))):
        exchange = f"exchange-{number}"
        desk.page(page.OfferReceived("incoming-1", DIALOG, exchange, sdp, OFFER, desk.invite()))
        reject = desk.last(page.RejectOffer)
        assert reject.exchange == exchange
        assert reject.status in (400, 488)
        assert words(reject.headers)
    assert desk.gateway.calls == 1


def test_an_offer_that_was_withdrawn_is_not_answered(desk: Any, browser: Browser) -> None:
    desk.ready()
    desk.talk()
    desk.page(page.OfferReceived("incoming-1", DIALOG, "e-1", browser("chromium_audio_hold"), OFFER, desk.invite()))
    desk.page(page.OfferWithdrawn("incoming-1", DIALOG, "e-1"))
    desk.renew()
    assert not desk.said(page.AnswerOffer)
    assert not desk.said(ims.Modify)


def test_a_page_that_asks_for_an_offer(desk: Any) -> None:
    desk.ready()
    desk.talk()
    desk.page(page.OfferRequested("incoming-1", DIALOG, "e-1", desk.invite()))
    offer = desk.last(page.AnswerOffer).sdp
    assert b"a=setup:actpass" in offer
    answer = desk.page_answer(offer, Direction.SENDONLY)
    desk.page(page.AnswerReceived("incoming-1", DIALOG, answer, page.Carrier.ACK, desk.invite()))
    assert direction(desk.last(ims.Modify).sdp) is Direction.SENDONLY


def test_hold_from_ims_is_obeyed_and_not_told_to_the_page(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    desk.ims(ims.Offer(call, "x-1", desk.phone_offer(Direction.SENDONLY)))
    assert direction(desk.last(ims.AnswerOffer).sdp) is Direction.RECVONLY
    assert not desk.last(ApplyMedia).plan.web_to_ims
    desk.ims(ims.Offer(call, "x-2", desk.phone_offer(Direction.SENDRECV)))
    assert direction(desk.last(ims.AnswerOffer).sdp) is Direction.SENDRECV
    assert desk.last(ApplyMedia).plan.web_to_ims
    assert not desk.said(page.Modify)


def test_both_hold_and_resume(desk: Any, browser: Browser) -> None:
    desk.ready()
    call = desk.talk()
    desk.page(page.OfferReceived("incoming-1", DIALOG, "e-1", browser("chromium_audio_hold"), OFFER, desk.invite()))
    desk.renew()
    modify = desk.last(ims.Modify)
    desk.ims(ims.MediaAgreed(call, desk.phone_answer(modify.sdp)))
    desk.ims(ims.Offer(call, "x-1", desk.phone_offer(Direction.SENDONLY)))
    assert direction(desk.last(ims.AnswerOffer).sdp) is Direction.INACTIVE
    desk.ims(ims.Offer(call, "x-2", desk.phone_offer(Direction.SENDRECV)))
    assert direction(desk.last(ims.AnswerOffer).sdp) is Direction.SENDONLY
    desk.page(page.OfferReceived("incoming-1", DIALOG, "e-2", browser("chromium_audio"), OFFER, desk.invite()))
    desk.renew()
    modify = desk.last(ims.Modify)
    assert direction(modify.sdp) is Direction.SENDRECV
    desk.ims(ims.MediaAgreed(call, desk.phone_answer(modify.sdp)))
    assert desk.last(ApplyMedia).plan.web_to_ims
    assert desk.last(ApplyMedia).plan.ims_to_web


def test_ims_asks_for_an_offer(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    desk.ims(ims.Offer(call, "x-1", None))
    offer = desk.last(ims.AnswerOffer).sdp
    assert direction(offer) is Direction.SENDRECV
    desk.ims(ims.MediaAgreed(call, desk.phone_answer(offer)))
    assert desk.last(ApplyMedia).plan.web_to_ims


def test_a_later_offer_of_ims_that_cannot_be_answered(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    desk.ims(ims.Offer(call, "x-1", desk.phone_offer().replace(b"m=audio", b"m=video")))
    assert desk.last(ims.RejectOffer).status == 488
    assert desk.gateway.calls == 1


def test_a_page_that_answers_on_hold_is_told_to_ims(desk: Any) -> None:
    desk.ready()
    call = desk.ring()
    desk.answer(call, Direction.RECVONLY)
    assert not desk.said(ims.Modify), "not before the ACK"
    desk.ims(ims.Confirmed("incoming-1"))
    assert direction(desk.last(ims.Modify).sdp) is Direction.RECVONLY


# ---- requests that are no calls, refusals ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields", "body", "status"),
    [
        ("OPTIONS", {}, b"", 200),
        ("INFO", {}, b"", 200),
        ("INFO", {}, b"Signal=5", 415),
        ("INFO", {"Info-Package": "x"}, b"y", 469),
        ("MESSAGE", {}, b"hello", 415),
        ("NOTIFY", {}, b"", 200),
        ("PUBLISH", {}, b"hello", 501),
    ],
)
def test_requests_within_a_call(desk: Any, method: str, fields: dict[str, str], body: bytes, status: int) -> None:
    desk.ready()
    desk.talk()
    request = Request.create(method, "sip:x@y", list(fields.items()))
    request.body = body
    desk.page(page.RequestReceived("r-1", request, desk_flow(1), "incoming-1", DIALOG))
    assert desk.last(page.Respond).status == status


def test_a_challenge_of_the_page_is_declined(desk: Any) -> None:
    desk.ready()
    call = desk.ring()
    desk.page(page.Challenged("c-1", desk.invite(), desk.response(401), call.call))
    assert desk.last(page.Decline) == page.Decline("c-1")


def test_a_page_that_cannot_be_called_leaves_no_call_behind(desk: Any) -> None:
    desk.ready()
    call = desk.ring()
    desk.page(page.Refused(call, page.Refusal.INVALID, "the URI cannot be written"))
    assert desk.last(ims.Reject).status == 480
    desk.ims(ims.Ended("incoming-1", None, "", True, None, page.Cause.LOCAL))
    assert desk.clean


def test_words_that_cannot_be_written_do_not_keep_a_call_alive(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    desk.ims(ims.Ended(desk.last(ims.Dial).call, 404, "", False, desk.response(404, ("Warning", "399 x y")), None))
    reject = desk.last(page.Reject)
    desk.page(page.Refused(reject, page.Refusal.INVALID, "Warning"))
    assert desk.last(page.Reject) == page.Reject("incoming-1", 404)


def test_an_answer_that_the_page_cannot_get_ends_the_call(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    dial = desk.last(ims.Dial)
    desk.ims(ims.MediaAgreed(dial.call, desk.phone_answer(dial.sdp)))
    desk.ims(ims.Answered(dial.call, desk.response(200)))
    desk.page(page.Refused(desk.last(page.Answer), page.Refusal.NEEDS_SDP))
    assert desk.last(page.Reject).status == 500
    assert desk.last(ims.Hangup).call == dial.call


def test_service_that_is_lost_drops_idle_pages_only(desk: Any) -> None:
    desk.ready(1, "talking")
    desk.register(2, "idle")
    desk.talk()
    desk.service(State.WAITING)
    desk.wait(20)
    assert [each.flow for each in desk.take() if isinstance(each, DropPage)] == [desk_flow(2)]


def caller() -> Any:
    from imskit.sip.wire.headers import NameAddr

    return NameAddr.parse("<sip:+15550200@example.org>")


def desk_flow(number: int) -> Any:
    from imskit.sip.wire.flow import Flow

    return Flow("WS", ("127.0.0.1", 7000), ("127.0.0.1", 9000 + number), number)


def test_the_dtls_roles_stay_when_the_page_changes_a_call_that_it_got(desk: Any, browser: Browser) -> None:
    """The page answered as client; its later offers are open, and Chromium refuses an answer that turns it round."""
    desk.ready()
    call = desk.ring()
    desk.answer(call)
    desk.ims(ims.Confirmed("incoming-1"))
    desk.take()
    offer = browser("chromium_audio_hold")
    assert b"a=setup:actpass" in offer
    desk.page(page.OfferReceived(call.call, DIALOG, "x-1", offer, page.Carrier.INVITE, desk.invite()))
    desk.renew()
    assert b"a=setup:passive" in desk.last(page.AnswerOffer).sdp
