"""Messages between UEs, and short messages through the message centre [S7-IMS].

RFC 3428, TS 24.341; TS 34.229-5 9.1 (MO SMS) and annex A.14 (MT SMS).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.sip.wire.flow import Target
from imskit.sip.wire.message import Request, parse_message
from imskit.sms.wire import rp, tpdu
from simulators.sms_center.engine.gateway import NUMBER, RETRY_SECONDS, TRIES, SmsGateway

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
CENTRE = f"sip:{NUMBER}@ipsmgw.{DOMAIN}"
S_CSCF = Target("UDP", ("127.0.0.1", 5070))
ADDRESS = ("127.0.0.1", 5090)
NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)


@pytest.fixture
def centre(world: Any) -> SmsGateway:
    gateway = SmsGateway(DOMAIN, ADDRESS, S_CSCF, world.tokens, lambda: NOW)
    world.add("M", ADDRESS, gateway)
    return gateway


def messages(world: Any, arrow: str) -> list[Request]:
    found = [parse_message(data) for name, data in world.messages if name.startswith(arrow)]
    return [message for message in found if isinstance(message, Request) and message.method == "MESSAGE"]


def outcome(world: Any, phone: Any, within: float = 60.0) -> ims.MessageSent:
    world.until(lambda: phone.of(ims.MessageSent), within)
    (sent,) = phone.of(ims.MessageSent)
    phone.heard.remove(sent)
    assert isinstance(sent, ims.MessageSent)
    return sent


# ---- pager mode --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["tel:+15550200", f"sip:+15550200@{DOMAIN}"])
def test_a_message_to_another_ue(world: Any, target: str) -> None:
    a, b = world.registered()
    world.tell(a, ims.SendMessage("m", target, "Grüße, 😀"))
    assert outcome(world, a) == ims.MessageSent("m", 200, "sent")
    (received,) = b.of(ims.MessageReceived)
    assert received == ims.MessageReceived(f"sip:+15550100@{DOMAIN}", "Grüße, 😀", sms=False, asserted=True)
    (message,) = messages(world, "A->P")
    assert message.headers.get("Content-Type") == "text/plain;charset=UTF-8"
    assert "Contact" not in message.headers, "RFC 3428 section 4"


@pytest.mark.parametrize(
    ("target", "text", "status", "words"),
    [
        ("tel:+15559999", "x", 404, "404"),
        ("nonsense", "x", None, "cannot be sent"),
        ("tel:+15550200", "x" * 1301, None, "1301 octets"),
    ],
)
def test_a_message_that_cannot_be_delivered(world: Any, target: str, text: str, status: int, words: str) -> None:
    a, _ = world.registered()
    world.tell(a, ims.SendMessage("m", target, text))
    sent = outcome(world, a)
    assert sent.status == status
    assert words in sent.reason


def test_without_registration_nothing_is_sent(world: Any) -> None:
    a = world.phone("0100", "10.45.0.2")
    world.tell(a, ims.SendMessage("m", "tel:+15550200", "x"))
    assert "not registered" in outcome(world, a).reason


# ---- short messages ----------------------------------------------------------------------------------------------


def test_9_1_mo_sms_and_a_14_mt_sms(world: Any, centre: SmsGateway) -> None:
    """MESSAGE 202, submit report in a MESSAGE 200; MESSAGE 200 to the recipient, its report in a MESSAGE 202."""
    a, b = world.registered()
    world.tell(a, ims.SendSms("s", "+15550200", "Hello there", CENTRE))
    assert outcome(world, a) == ims.MessageSent("s", 200, "sent")
    world.until(lambda: centre.delivered == 1)
    assert b.of(ims.MessageReceived) == [ims.MessageReceived("tel:+15550100", "Hello there", sms=True, asserted=True)]
    (submit,) = messages(world, "A->P")
    assert submit.uri == CENTRE
    assert submit.headers.get("Content-Type") == "application/vnd.3gpp.sms"
    data = rp.parse(submit.body)
    assert isinstance(data, rp.RpData)
    assert data.centre is not None
    assert data.centre.text == NUMBER
    (report,) = messages(world, "P->A")
    acknowledged = rp.parse(report.body)
    assert acknowledged == rp.RpAck(data.reference, tpdu.SubmitReport(NOW).encode(), from_ue=False)
    assert report.headers.get("In-Reply-To") == submit.call_id
    (deliver,), (confirmed,) = messages(world, "P->B"), messages(world, "B->P")
    assert isinstance(rp.parse(deliver.body), rp.RpData)
    assert rp.parse(confirmed.body) == rp.RpAck(
        rp.parse(deliver.body).reference, tpdu.DeliverReport().encode(), from_ue=True
    )
    assert confirmed.uri == CENTRE, "to who asserted to be the sender"
    assert confirmed.headers.get("In-Reply-To") == deliver.call_id
    assert centre.waiting == 0
    world.run(1)
    answers = [name for name in world.ladder if name in ("P->A 202", "A->P 200", "B->P 200", "P->B 202")]
    assert sorted(answers) == sorted(["P->A 202", "A->P 200", "B->P 200", "P->B 202"])


@pytest.mark.parametrize("text", ["x" * 400, "я" * 150, "{€}" * 100])
def test_a_long_text_goes_in_parts(world: Any, centre: SmsGateway, text: str) -> None:
    a, b = world.registered()
    world.tell(a, ims.SendSms("s", "+15550200", text, CENTRE))
    assert outcome(world, a).status == 200
    world.until(lambda: b.of(ims.MessageReceived))
    assert [received.text for received in b.of(ims.MessageReceived)] == [text]
    assert len(messages(world, "A->P")) >= 3
    references = [rp.parse(message.body).reference for message in messages(world, "A->P")]
    assert len(set(references)) == len(references)


def test_two_texts_at_once_go_one_after_the_other(world: Any, centre: SmsGateway) -> None:
    a, b = world.registered()
    for key in ("1", "2"):
        world.tell(a, ims.SendSms(key, "+15550200", f"text {key}", CENTRE))
    world.until(lambda: len(a.of(ims.MessageSent)) == 2)
    world.until(lambda: len(b.of(ims.MessageReceived)) == 2)
    assert [sent.key for sent in a.of(ims.MessageSent)] == ["1", "2"]
    assert [received.text for received in b.of(ims.MessageReceived)] == ["text 1", "text 2"]


def test_a_recipient_who_is_off_gets_it_later(world: Any, centre: SmsGateway) -> None:
    a, b = world.registered()
    world.tell(b, ims.Stop())
    world.until(lambda: b.ue.status.state is State.OFF)
    world.tell(a, ims.SendSms("s", "+15550200", "later", CENTRE))
    assert outcome(world, a).status == 200, "it is kept"
    assert centre.waiting == 1
    world.tell(b, ims.Start())
    world.until(lambda: b.of(ims.MessageReceived), 3 * RETRY_SECONDS)
    world.until(lambda: centre.waiting == 0)


def test_a_recipient_who_stays_away(world: Any, centre: SmsGateway) -> None:
    a, b = world.registered()
    world.tell(b, ims.Stop())
    world.until(lambda: b.ue.status.state is State.OFF)
    world.tell(a, ims.SendSms("s", "+15550200", "never", CENTRE))
    world.run(TRIES * RETRY_SECONDS + 60)
    assert centre.waiting == 0
    assert centre.delivered == 0


def test_a_recipient_who_does_not_exist(world: Any, centre: SmsGateway) -> None:
    a, _ = world.registered()
    world.tell(a, ims.SendSms("s", "+15559999", "x", CENTRE))
    assert outcome(world, a).status == 200
    world.run(5)
    assert centre.waiting == 0


@pytest.mark.parametrize("number", ["", "nobody", "+1555" * 6])
def test_a_number_that_takes_no_short_message(world: Any, centre: SmsGateway, number: str) -> None:
    a, _ = world.registered()
    world.tell(a, ims.SendSms("s", number, "x", CENTRE))
    assert "cannot be sent" in outcome(world, a).reason
    assert not messages(world, "A->P")


def test_no_message_centre(world: Any) -> None:
    a, _ = world.registered()
    world.tell(a, ims.SendSms("s", "+15550200", "x", f"sip:+1@nowhere.{DOMAIN}"))
    assert outcome(world, a).status == 403


def test_a_centre_that_confirms_nothing(world: Any, centre: SmsGateway) -> None:
    """Timer TR1M: 35 to 45 s (TS 24.011 clause 10.2); the next text goes out then."""
    a, _ = world.registered()
    centre._report = lambda *_: None  # type: ignore[method-assign]
    world.tell(a, ims.SendSms("s", "+15550200", "x", CENTRE))
    before = world.now
    assert "has not confirmed" in outcome(world, a).reason
    assert 35 <= world.now - before <= 45


def test_a_status_report(world: Any, centre: SmsGateway) -> None:
    """Asked for by a UE that says so; ours passes it over and confirms it."""
    a, b = world.registered()
    submit = tpdu.Submit(5, tpdu.Number("+15550200"), tpdu.Text("x"), report=True)
    data = rp.RpData(9, tpdu.Number(NUMBER), submit.encode(), from_ue=True)
    request = a.ue._messages._message
    a.ue._messages._impu = f"sip:+15550100@{DOMAIN}"
    from imskit.sip.engine import user_agent as ua

    a.ue._agent.handle(ua.Send("message-x", request(CENTRE, data.encode(), rp.MEDIA_TYPE)), world.now)
    world.until(lambda: b.of(ims.MessageReceived))
    world.run(5)
    reports = [rp.parse(message.body) for message in messages(world, "P->A")]
    status = [tpdu.from_network(each.tpdu) for each in reports if isinstance(each, rp.RpData)]
    assert [(each.reference, each.status) for each in status if isinstance(each, tpdu.StatusReport)] == [(5, 0)]
    assert any(isinstance(rp.parse(m.body), rp.RpAck) for m in messages(world, "A->P"))


@pytest.mark.parametrize(
    ("body", "cause"), [(b"", 96), (b"\x00\x07", 96), (b"\x07\x07", 97), (b"\x00\x07\x00\x00\x02\x03\x00", 97)]
)
def test_broken_short_messages_are_refused_by_the_centre(
    world: Any, centre: SmsGateway, body: bytes, cause: int
) -> None:
    a, _ = world.registered()
    a.ue._messages._impu = f"sip:+15550100@{DOMAIN}"
    from imskit.sip.engine import user_agent as ua

    a.ue._agent.handle(ua.Send("message-x", a.ue._messages._message(CENTRE, body, rp.MEDIA_TYPE)), world.now)
    world.run(5)
    (report,) = [rp.parse(message.body) for message in messages(world, "P->A")]
    assert isinstance(report, rp.RpError)
    assert report.cause == cause


def test_a_broken_delivery_is_refused_by_the_ue(world: Any, centre: SmsGateway) -> None:
    a, b = world.registered()
    for body in (b"", b"\x01\x07\x00\x00\x02\x03\x00", b"\x09"):
        centre._send("tel:+15550200", body, "deliver-x")
        world.run(3)
    reports = [rp.parse(message.body) for message in messages(world, "B->P")]
    assert [type(report).__name__ for report in reports] == ["RpError"] * 3
    assert [report.cause for report in reports if isinstance(report, rp.RpError)] == [96, 97, 96]
    assert not b.of(ims.MessageReceived)
    assert not a.of(ims.MessageReceived)
