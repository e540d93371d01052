"""Transfer, texts and keys through the SIF [S7-SIF, S7-IMS]."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.ims import events as ims
from imskit.sip.engine import user_agent as page
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Request, response_to
from ue_agent.sif.engine.events import PressKey
from ue_agent.sif.engine.gateway import Gateway
from ue_agent.sif.engine.tones import read_dtmf

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
DIALOG = DialogId("c", "t", "f")
CENTRE = f"sip:+15550999@ipsmgw.{DOMAIN}"


def flow(number: int = 1) -> Flow:
    return Flow("WS", ("127.0.0.1", 7000), ("127.0.0.1", 9000 + number), number)


def request(method: str, uri: str = "sip:x@y", *fields: tuple[str, Any], body: bytes = b"", kind: str = "") -> Request:
    made = Request.create(method, uri, [("CSeq", f"7 {method}"), *fields])
    if body:
        made.set_body(body, kind)
    return made


def asks(desk: Any, method: str, *fields: tuple[str, Any], call: str | None = "incoming-1", **more: Any) -> None:
    """The page sends a request, within a call unless ``call`` is ``None``."""
    dialog = DIALOG if call is not None else None
    uri = more.pop("uri", "sip:x@y")
    desk.page(page.RequestReceived("r-1", request(method, uri, *fields, **more), flow(), call, dialog))


def notified(desk: Any) -> list[tuple[bytes, str]]:
    """Status and Subscription-State of the NOTIFYs to the page."""
    return [
        (each.body.split()[1], dict(each.headers)["Subscription-State"])
        for each in desk.take()
        if isinstance(each, page.SendInDialog) and each.method == "NOTIFY"
    ]


# ---- transfer by the page ----------------------------------------------------------------------------------------


def test_blind_transfer_by_the_page(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    asks(desk, "REFER", ("Refer-To", "<sip:5550300@" + DOMAIN + ">"))
    assert desk.last(page.Respond).status == 202
    transfer = desk.last(ims.Transfer)
    assert (transfer.call, transfer.consult) == (call, "")
    assert transfer.target == f"sip:5550300;phone-context={DOMAIN}@{DOMAIN};user=phone"
    assert notified(desk) == [(b"100", "active;expires=300")]
    desk.ims(ims.ReferralProgress(call, transfer.target, 180, final=False))
    desk.ims(ims.ReferralProgress(call, transfer.target, 200, final=True))
    assert notified(desk) == [(b"180", "active;expires=300"), (b"200", "terminated;reason=noresource")]
    desk.ims(ims.Ended(call, None, "ended here", True))
    assert desk.said(page.Hangup) == 1


def test_a_transfer_that_fails_is_told_to_the_page(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    asks(desk, "REFER", ("Refer-To", "<tel:+15550300>"))
    desk.take()
    desk.ims(ims.ReferralProgress(call, "tel:+15550300", None, final=True))
    assert notified(desk) == [(b"503", "terminated;reason=noresource")]
    asks(desk, "REFER", ("Refer-To", "<tel:+15550300>"))
    assert desk.last(page.Respond).status == 202, "it may try again"


def test_attended_transfer_by_the_page(desk: Any) -> None:
    """Replaces names the page's own dialog; towards IMS it is the call that counts."""
    desk.ready()
    first = desk.talk()
    desk.page_calls("incoming-2")
    call = desk.open_media()
    del call
    dial = desk.last(ims.Dial)
    desk.ims(ims.MediaAgreed(dial.call, desk.phone_answer(dial.sdp)))
    desk.ims(ims.Answered(dial.call, response_to(desk.invite(), 200)))
    machine = desk.gateway._by_ims[dial.call]
    machine.page_dialog = DialogId("second", "ours", "theirs")
    desk.take()
    value = "second%3Bto-tag%3Dours%3Bfrom-tag%3Dtheirs"
    asks(desk, "REFER", ("Refer-To", f"<sip:+15550300@{DOMAIN}?Replaces={value}>"))
    transfer = desk.last(ims.Transfer)
    assert (transfer.call, transfer.target, transfer.consult) == (first, "", dial.call)


@pytest.mark.parametrize(
    ("refer_to", "status"),
    [
        ("<sip:112@" + DOMAIN + ">", 403),
        ("<urn:service:sos>", 416),
        ("<tel:112>", 403),
        ("<mailto:x@y>", 416),
        ("<sip:x@y;method=BYE>", 501),
        ("<sip:x@y?Replaces=gone%3Bto-tag%3D1%3Bfrom-tag%3D2>", 481),
        ("<sip:x@y?Replaces=rubbish>", 400),
    ],
)
def test_transfers_that_are_refused(desk: Any, refer_to: str, status: int) -> None:
    desk.ready()
    desk.talk()
    asks(desk, "REFER", ("Refer-To", refer_to))
    assert desk.last(page.Respond).status == status
    assert not desk.said(ims.Transfer)


def test_refer_without_a_target_and_outside_a_call(desk: Any) -> None:
    desk.ready()
    desk.talk()
    asks(desk, "REFER")
    assert desk.last(page.Respond).status == 400
    asks(desk, "REFER", ("Refer-To", "<tel:+15550300>"), call=None)
    assert desk.last(page.Respond).status == 501


def test_a_second_transfer_while_one_is_under_way(desk: Any) -> None:
    desk.ready()
    desk.talk()
    asks(desk, "REFER", ("Refer-To", "<tel:+15550300>"))
    asks(desk, "REFER", ("Refer-To", "<tel:+15550400>"))
    assert desk.last(page.Respond).status == 491
    assert desk.said(ims.Transfer) == 1


# ---- transfer by the other side ----------------------------------------------------------------------------------


def referred(desk: Any, call: str, target: str = "tel:+15550300") -> page.SendInDialog:
    """IMS asks the page to call somebody; returns the REFER to the page."""
    desk.ims(ims.ReferralReceived("ref-1", call, target, "x;to-tag=1;from-tag=2", "sip:+15550200@x"))
    found = [each for each in desk.take() if isinstance(each, page.SendInDialog) and each.method == "REFER"]
    assert len(found) == 1
    return found[0]


def test_the_page_is_transferred(desk: Any) -> None:
    """The page's new INVITE brings the token back, and the IMS client puts Replaces and Referred-By in."""
    desk.ready()
    call = desk.talk()
    refer = referred(desk, call)
    fields = dict(refer.headers)
    assert fields["Referred-By"] == "<sip:+15550200@x>"
    shown = fields["Refer-To"].strip("<>")
    assert shown.startswith(f"sip:+15550300@{DOMAIN};user=phone;referral=")
    assert "Replaces" not in shown
    desk.page(page.IncomingCall("incoming-2", DIALOG, desk.invite(shown), desk_offer(), flow()))
    desk.open_media()
    dial = desk.last(ims.Dial)
    assert (dial.target, dial.referral) == ("tel:+15550300", "ref-1")
    desk.page(page.IncomingCall("incoming-3", DIALOG, desk.invite(shown), desk_offer(), flow()))
    desk.open_media()
    assert desk.last(ims.Dial).referral == "", "a token is good for one call"


def desk_offer() -> bytes:
    from pathlib import Path

    return (Path(__file__).parents[3] / "imskit" / "sdp" / "data" / "chromium_audio.sdp").read_bytes()


@pytest.mark.parametrize("status", [None, 405, 603])
def test_a_page_that_does_not_take_the_transfer(desk: Any, status: int | None) -> None:
    desk.ready()
    call = desk.talk()
    refer = referred(desk, call)
    response = response_to(desk.invite(), status) if status is not None else None
    desk.page(page.ResponseReceived(refer.key, response))
    assert desk.last(ims.RejectReferral) == ims.RejectReferral("ref-1")


def test_a_user_who_does_not_want_to_be_transferred(desk: Any) -> None:
    """JsSIP answers 202 at once and tells the refusal in a NOTIFY."""
    desk.ready()
    call = desk.talk()
    refer = referred(desk, call)
    desk.page(page.ResponseReceived(refer.key, response_to(desk.invite(), 202)))
    asks(desk, "NOTIFY", body=b"SIP/2.0 100 Trying", kind="message/sipfrag")
    assert not desk.said(ims.RejectReferral)
    asks(desk, "NOTIFY", body=b"SIP/2.0 603 Decline", kind="message/sipfrag")
    assert desk.last(ims.RejectReferral) == ims.RejectReferral("ref-1")
    asks(desk, "NOTIFY", body=b"rubbish", kind="message/sipfrag")
    assert desk.last(page.Respond).status == 200


@pytest.mark.parametrize("call", ["", "unknown"])
def test_a_referral_outside_the_pages_calls_is_refused(desk: Any, call: str) -> None:
    """Nobody may make the page call somebody who does not talk to it."""
    desk.ready()
    desk.talk()
    desk.ims(ims.ReferralReceived("ref-1", call, "tel:+19005550000", "", ""))
    assert desk.last(ims.RejectReferral) == ims.RejectReferral("ref-1")


def test_a_call_that_takes_another_one_over(desk: Any) -> None:
    """The page gets the INVITE with the dialog to replace, as it knows it."""
    desk.ready()
    call = desk.talk()
    desk.ims(ims.IncomingCall("in-9", desk_caller(), "sip:me@x", desk.phone_offer(), desk.invite(), call))
    desk.open_media()
    desk.ims(ims.Alert("in-9"))
    assert dict(desk.last(page.Call).headers) == {"Replaces": "c;to-tag=f;from-tag=t"}


def desk_caller() -> Any:
    from imskit.sip.wire.headers import NameAddr

    return NameAddr.parse(f"<sip:+15550300@{DOMAIN}>")


def test_the_page_hears_that_the_other_side_is_in_a_call(desk: Any) -> None:
    desk.ready()
    desk.page_calls()
    desk.open_media()
    dial = desk.last(ims.Dial)
    desk.ims(ims.Progress(dial.call, 180, False, True))
    assert dict(desk.last(page.Provisional).headers) == {"Alert-Info": "<urn:alert:service:call-waiting>"}


# ---- texts -------------------------------------------------------------------------------------------------------


def test_a_text_of_the_page(desk: Any) -> None:
    desk.ready()
    asks(desk, "MESSAGE", call=None, uri=f"sip:+15550200@{DOMAIN}", body="Grüße".encode(), kind="text/plain")
    sent = desk.last(ims.SendMessage)
    assert (sent.target, sent.text) == (f"sip:+15550200@{DOMAIN};user=phone", "Grüße")
    assert not desk.said(page.Respond), "the page hears when IMS has answered"
    desk.ims(ims.MessageSent(sent.key, 200, "sent"))
    assert desk.last(page.Respond) == page.Respond("r-1", 200)


def test_a_text_of_the_page_as_short_message(desk: Any) -> None:
    desk.gateway = Gateway(lambda digits: "0" * digits, CENTRE)
    desk.ready()
    asks(desk, "MESSAGE", call=None, uri=f"sip:+15550200@{DOMAIN}", body=b"x", kind="text/plain")
    sent = desk.last(ims.SendSms)
    assert (sent.number, sent.text, sent.centre) == ("+15550200", "x", CENTRE)
    asks(desk, "MESSAGE", call=None, uri="sip:bob@elsewhere.example", body=b"x", kind="text/plain")
    assert desk.last(ims.SendMessage).target == "sip:bob@elsewhere.example"


def test_a_text_that_takes_its_time(desk: Any) -> None:
    """The page's transaction would end in a failure that is none."""
    desk.ready()
    asks(desk, "MESSAGE", call=None, uri="tel:+15550200", body=b"x", kind="text/plain")
    key = desk.last(ims.SendMessage).key
    desk.take()
    desk.wait(11)
    assert desk.last(page.Respond) == page.Respond("r-1", 202)
    desk.ims(ims.MessageSent(key, 200, "sent"))
    assert desk.said(page.Respond) == 1


def test_a_transfer_that_the_page_forgot_ends_with_its_call(desk: Any) -> None:
    desk.ready()
    call = desk.talk()
    refer = referred(desk, call)
    shown = dict(refer.headers)["Refer-To"].strip("<>")
    desk.ims(ims.Ended(call, None, "the other side hung up"))
    desk.page(page.Ended("incoming-1", page.Cause.LOCAL))
    assert desk.gateway._transfers._offered == {}
    desk.page(page.IncomingCall("incoming-2", DIALOG, desk.invite(shown), desk_offer(), flow()))
    desk.open_media()
    assert desk.last(ims.Dial).referral == ""


@pytest.mark.parametrize(("status", "told"), [(404, 404), (None, 503)])
def test_a_text_that_could_not_be_sent(desk: Any, status: int | None, told: int) -> None:
    desk.ready()
    asks(desk, "MESSAGE", call=None, uri="tel:+15550200", body=b"x", kind="text/plain")
    desk.ims(ims.MessageSent(desk.last(ims.SendMessage).key, status, "why"))
    respond = desk.last(page.Respond)
    assert respond.status == told
    assert "why" in dict(respond.headers)["Warning"]


@pytest.mark.parametrize(
    ("uri", "kind", "status"), [("tel:112", "text/plain", 403), ("tel:+1", "text/html", 415), ("tel:+1", "x", 400)]
)
def test_texts_that_are_refused(desk: Any, uri: str, kind: str, status: int) -> None:
    desk.ready()
    made = request("MESSAGE", uri)
    made.headers.add("Content-Type", kind)
    made.body = b"x"
    desk.page(page.RequestReceived("r-1", made, flow(), None, None))
    assert desk.last(page.Respond).status == status


def test_a_stranger_on_the_websocket_sends_nothing(desk: Any) -> None:
    desk.service()
    asks(desk, "MESSAGE", call=None, uri="tel:+15550200", body=b"x", kind="text/plain")
    assert desk.last(page.Respond).status == 501
    assert not desk.said(ims.SendMessage)


def test_a_text_for_the_page(desk: Any) -> None:
    desk.ready(1)
    desk.register(2, "i2")
    desk.take()
    desk.ims(ims.MessageReceived("tel:+15550200", "hello", sms=True, asserted=True))
    sent = [each for each in desk.take() if isinstance(each, page.Send)]
    assert [each.hop.id for each in sent] == [1, 2], "every page of this user"
    message = sent[0].request
    assert message.uri == "sip:c1@x.invalid;transport=ws"
    assert message.from_.uri.user_text.startswith("+15550200")
    assert message.body == b"hello"
    desk.ims(ims.MessageReceived("Bank", "1234", sms=True))
    assert '"Bank"' in str(desk.last(page.Send).request.from_)
    assert message.headers.get_all("P-Asserted-Identity") == ["<tel:+15550200>"]
    assert "P-Asserted-Identity" not in desk.last(page.Send).request.headers


@pytest.mark.parametrize(
    ("caller", "fields", "told"),
    [
        ("<tel:+15550200>", {"P_Asserted_Identity": "<sip:x@y>, <tel:+15550200>"}, ["<tel:+15550200>"]),
        ("<sip:anonymous@anonymous.invalid>", {"P_Asserted_Identity": "<tel:+15550200>", "Privacy": "id"}, []),
        ('"Bank" <sip:+15550200@ims.example>', {}, []),
    ],
)
def test_the_page_hears_whom_the_network_vouches_for(
    desk: Any, caller: str, fields: dict[str, str], told: list[str]
) -> None:
    desk.ready(1)
    desk.ims_calls(caller=caller, **fields)
    desk.open_media()
    desk.ims(ims.Alert("incoming-1"))
    headers = desk.last(page.Call).headers
    assert [value for name, value in headers if name == "P-Asserted-Identity"] == told


def test_texts_wait_for_a_page(desk: Any) -> None:
    desk.service()
    for number in range(60):
        desk.ims(ims.MessageReceived("tel:+15550200", str(number), sms=False))
    assert not desk.said(page.Send)
    desk.register(1)
    bodies = [each.request.body for each in desk.take() if isinstance(each, page.Send)]
    assert bodies == [str(number).encode() for number in range(10, 60)], "the newest fifty"
    desk.register(1)
    assert not desk.said(page.Send)


# ---- keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "key", "seconds"),
    [
        (b"Signal=5\r\nDuration=100", "5", 0.1),
        (b"Signal= #\r\nDuration= 250\r\n", "#", 0.25),
        (b"signal=d", "D", 0.1),
        (b"Signal=10\nDuration=1", "*", 0.07),
        (b"Signal=11\nDuration=99999", "#", 6.0),
    ],
)
def test_keys_in_info(desk: Any, body: bytes, key: str, seconds: float) -> None:
    desk.ready()
    desk.talk()
    asks(desk, "INFO", body=body, kind="application/dtmf-relay")
    assert desk.last(page.Respond).status == 200
    assert desk.last(PressKey) == PressKey("out-1", key, seconds)


@pytest.mark.parametrize("body", [b"Signal=x", b"Signal=55", b"", b"Duration=5"])
def test_info_without_a_key(desk: Any, body: bytes) -> None:
    desk.ready()
    desk.talk()
    made = request("INFO")
    made.headers.add("Content-Type", "application/dtmf-relay")
    made.body = body
    desk.page(page.RequestReceived("r-1", made, flow(), "incoming-1", DIALOG))
    assert desk.last(page.Respond).status == 400
    assert not desk.said(PressKey)


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda noise: b"Signal=" + noise))
def test_any_info_body(body: bytes) -> None:
    with contextlib.suppress(SipParseError):
        key, seconds = read_dtmf(body)
        assert key in "0123456789*#ABCD"
        assert 0.07 <= seconds <= 6.0
