"""REFER at a UE: what it takes from whom, what it says, what is wrong in it (RFC 3515, RFC 4488) [S7-IMS]."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.ims import events as ims
from imskit.ims import sipfrag
from imskit.ims.referrals import MAXIMUM, read_refer_uri, refer_uri
from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request

type Sdp = Callable[..., bytes]


def talk(bench: Any, sdp: Sdp) -> str:
    call: str = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp()), ims.Accept(call))
    bench.ue.outputs.clear()
    return call


def requests(bench: Any, method: str) -> list[Request]:
    return [m for _, who, m in bench.net.sent if who == "ue" and isinstance(m, Request) and m.method == method]


def refer(bench: Any, *fields: tuple[str, str]) -> ua.ResponseReceived:
    bench.send(ua.SendInDialog("k", "n", "REFER", fields))
    found: ua.ResponseReceived = bench.heard(ua.ResponseReceived)
    return found


def status(told: ua.ResponseReceived) -> int:
    assert told.response is not None
    return told.response.status


def test_a_target_with_a_dialog_to_take_over() -> None:
    dialog = DialogId("a%b@c", "mine", "theirs")
    text = refer_uri("sip:+15550300@x;user=phone", dialog)
    assert text == "sip:+15550300@x;user=phone?Replaces=a%25b%40c%3Bto-tag%3Dtheirs%3Bfrom-tag%3Dmine"
    assert read_refer_uri(text) == ("sip:+15550300@x;user=phone", "a%b@c;to-tag=theirs;from-tag=mine")
    assert read_refer_uri("tel:+15550300") == ("tel:+15550300", "")
    assert refer_uri("tel:+15550300", None) == "tel:+15550300"
    with pytest.raises(SipParseError, match="no Replaces"):
        refer_uri("tel:+15550300", dialog)


@given(st.text(max_size=60) | st.text(max_size=30).map(lambda text: f"sip:a@b?Replaces={text}"))
def test_any_target(text: str) -> None:
    with contextlib.suppress(SipParseError):
        read_refer_uri(text)


@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda noise: b"SIP/2.0 200" + noise))
def test_any_fragment(body: bytes) -> None:
    with contextlib.suppress(SipParseError):
        assert 100 <= sipfrag.read_status(body) <= 699


def test_fragments() -> None:
    assert sipfrag.write_status(486) == b"SIP/2.0 486 Busy Here\r\n"
    for body in (b"SIP/2.0 200 OK", b"SIP/2.0 200\r\nTo: x", b"SIP/2.0 200 \n"):
        assert sipfrag.read_status(body) == 200


def test_a_referral_without_reports(bench: Any, sdp: Sdp) -> None:
    """Refer-Sub: false (RFC 4488): the answer says so too, and nothing is told."""
    talk(bench, sdp)
    told = refer(bench, ("Refer-To", "<tel:+15550300>"), ("Refer-Sub", "false"))
    assert status(told) == 202
    assert told.response is not None
    assert told.response.headers.get("Refer-Sub") == "false"
    referral = bench.one(ims.ReferralReceived).referral
    bench.tell(ims.Dial("c", "tel:+15550300", sdp(), referral=referral))
    bench.tell(ims.Hangup("c"))
    bench.net.run(40)
    assert not requests(bench, "NOTIFY")


def test_our_referral_that_the_peer_takes_without_reports(bench: Any, sdp: Sdp) -> None:
    call = talk(bench, sdp)
    bench.tell(ims.Transfer(call, "tel:+15550300"))
    request = bench.heard(ua.RequestReceived)
    assert request.message.method == "REFER"
    bench.send(ua.Respond(request.request, 202, None, (("Refer-Sub", "false"),)))
    assert bench.one(ims.ReferralProgress) == ims.ReferralProgress(call, "tel:+15550300", 202, final=True)
    assert bench.one(ims.Ended).local, "it is out of our hands"


def test_our_referral_that_the_peer_refuses(bench: Any, sdp: Sdp) -> None:
    call = talk(bench, sdp)
    bench.tell(ims.Transfer(call, "tel:+15550300"))
    bench.send(ua.Respond(bench.heard(ua.RequestReceived).request, 603))
    assert bench.one(ims.ReferralProgress) == ims.ReferralProgress(call, "tel:+15550300", 603, final=True)
    assert bench.engine.calls == (call,)


@pytest.mark.parametrize("body", [b"rubbish", b"", b"SIP/1.0 200 OK"])
def test_reports_that_cannot_be_read_are_passed_over(bench: Any, sdp: Sdp, body: bytes) -> None:
    call = talk(bench, sdp)
    bench.tell(ims.Transfer(call, "tel:+15550300"))
    bench.send(ua.Respond(bench.heard(ua.RequestReceived).request, 202))
    fields = (("Event", "refer"), ("Subscription-State", "active"))
    kind = "message/sipfrag" if body else ""
    bench.send(ua.SendInDialog("k", "n", "NOTIFY", fields, body, kind))
    assert status(bench.heard(ua.ResponseReceived)) == 200
    assert not bench.said(ims.ReferralProgress)
    assert bench.engine.calls == (call,)


def test_a_report_of_nothing_that_was_asked(bench: Any, sdp: Sdp) -> None:
    talk(bench, sdp)
    fields = (("Event", "refer"), ("Subscription-State", "active"))
    bench.send(ua.SendInDialog("k", "n", "NOTIFY", fields, b"SIP/2.0 200 OK", "message/sipfrag"))
    assert status(bench.heard(ua.ResponseReceived)) == 481


def test_too_many_referrals(bench: Any, sdp: Sdp) -> None:
    """A peer cannot fill the memory; what is refused makes room."""
    talk(bench, sdp)
    statuses = [status(refer(bench, ("Refer-To", f"<tel:+1555{n}>"))) for n in range(MAXIMUM + 2)]
    assert statuses == [202] * MAXIMUM + [486] * 2
    bench.tell(ims.RejectReferral(bench.said(ims.ReferralReceived)[0].referral))
    assert status(refer(bench, ("Refer-To", "<tel:+1555>"))) == 202


def test_a_referral_that_nobody_decides_on(bench: Any, sdp: Sdp) -> None:
    call = talk(bench, sdp)
    for number in range(MAXIMUM):
        refer(bench, ("Refer-To", f"<tel:+1555{number}>"))
    bench.net.run(301)
    last = requests(bench, "NOTIFY")[-1]
    assert last.body.startswith(b"SIP/2.0 408")
    assert str(last.subscription_state) == "terminated;reason=noresource"
    assert status(refer(bench, ("Refer-To", "<tel:+1555>"))) == 202
    bench.send(ua.Hangup("n"))
    assert bench.engine._services._referrals._received == {}
    assert call not in bench.engine.calls


def test_two_targets(bench: Any, sdp: Sdp) -> None:
    talk(bench, sdp)
    assert status(refer(bench, ("Refer-To", "<tel:+1>"), ("Refer-To", "<tel:+2>"))) == 400


def test_a_referral_ends_with_the_call_of_its_asker(bench: Any, sdp: Sdp) -> None:
    """The call that it asked for goes on; nothing is told any more."""
    talk(bench, sdp)
    refer(bench, ("Refer-To", "<tel:+15550300>"))
    referral = bench.one(ims.ReferralReceived).referral
    bench.send(ua.Hangup("n"))
    before = len(requests(bench, "NOTIFY"))
    bench.tell(ims.Dial("c", "tel:+15550300", sdp(), referral=referral))
    bench.send(ua.Answer(bench.heard(ua.IncomingCall).call, sdp("10.46.0.2")))
    assert bench.engine.calls == ("c",)
    assert len(requests(bench, "NOTIFY")) == before


@pytest.mark.parametrize(("method", "refusal"), [("REFER", 416), ("REFER", 404), ("NOTIFY", 481), ("NOTIFY", 408)])
def test_what_a_refusal_does_not_say_of_the_call(bench: Any, sdp: Sdp, method: str, refusal: int) -> None:
    """RFC 5057: a refused Refer-To, or a subscription that is gone, leaves the call alone."""
    call = talk(bench, sdp)
    if method == "REFER":
        bench.tell(ims.Transfer(call, "tel:+15550300"))
    else:
        refer(bench, ("Refer-To", "<tel:+15550300>"))
    waiting = [output for output in bench.network.outputs if isinstance(output, ua.RequestReceived)]
    request = next(output for output in reversed(waiting) if output.message.method == method)
    bench.send(ua.Respond(request.request, refusal))
    bench.net.run(5)
    assert bench.engine.calls == (call,)
