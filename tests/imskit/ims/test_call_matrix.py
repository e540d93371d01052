"""The call variants of TS 34.229-5 clauses 7.4 to 7.19, on the virtual clock against a conformance network [S7-IMS].

The values of the precondition lines are those of TS 34.229-1 cases 12.13a and 15.21: optional for the other side in
offers, mandatory in answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint, make_answer, make_offer, read_answer
from imskit.sip.engine import user_agent as ua
from imskit.sip.wire.message import Message, Request, Response

type Sdp = Callable[..., bytes]

UE_SIDE = ImsEndpoint("10.45.0.2", 40000, 7)
MANDATORY = ("mandatory", "mandatory")
OPTIONAL = ("mandatory", "optional")


def lines(local: str, remote: str, strengths: tuple[str, str], confirm: str = "") -> tuple[str, ...]:
    """The status table as its writer gives it."""
    table = [
        f"a=curr:qos local {local}",
        f"a=curr:qos remote {remote}",
        f"a=des:qos {strengths[0]} local sendrecv",
        f"a=des:qos {strengths[1]} remote sendrecv",
    ]
    return (*table, f"a=conf:qos remote {confirm}") if confirm else tuple(table)


def table_of(message: Message) -> tuple[str, ...]:
    """The precondition lines of a message, in the order of ``lines``."""
    return tuple(
        line
        for kind in ("curr:", "des:", "conf:")
        for line in message.body.decode().split("\r\n")
        if line.startswith(f"a={kind}")
    )


def sent(bench: Any, who: str, kind: str) -> list[Any]:
    """What one side has sent, in order; ``kind`` is a method, or status and method."""
    found = []
    for _, sender, message in bench.net.sent:
        name = message.method if isinstance(message, Request) else f"{message.status} {message.cseq.method}"
        if sender == who and name == kind:
            found.append(message)
    return found


def ladder(bench: Any, since: int = 0) -> list[str]:
    """The arrows of calls, ``>`` from the UE; 100 and registration left out."""
    shown = []
    for line in bench.net.ladder[since:]:
        sender, _, rest = line.split(" ", 2)
        what = rest.split("  ", 1)[1]
        if "REGISTER" not in what and "SUBSCRIBE" not in what and not what.startswith("100 "):
            shown.append(f"{'>' if sender == 'ue' else '<'} {what}")
    return shown


def without_preconditions(bench: Any) -> None:
    """Let the network side be one that does not know them."""
    peer = bench.network.engine._core.profile
    bench.send(ua.Configure(replace(peer, supported=("100rel", "timer"))))


def answer(bench: Any, call: str) -> None:
    """The user of the UE answers."""
    bench.tell(ims.Ring(call), ims.Accept(call))
    assert bench.said(ims.Confirmed)


# ---- the UE calls --------------------------------------------------------------------------------------------------


def test_7_4_mo_with_preconditions_at_both_sides(bench: Any, sdp: Sdp) -> None:
    """INVITE 183 PRACK 200 UPDATE 200 180 PRACK 200 200 ACK."""
    bench.tell(ims.Dial("c", "tel:+15550200", sdp(), reserved=False))
    (invite,) = sent(bench, "ue", "INVITE")
    assert table_of(invite) == lines("none", "none", OPTIONAL)
    assert {"100rel", "precondition"} <= set(invite.supported)
    assert "precondition" not in invite.require
    call = bench.heard(ua.IncomingCall).call
    first = sdp("10.46.0.2", *lines("none", "none", MANDATORY, "sendrecv"))
    bench.send(ua.Provisional(call, 183, sdp=first, headers=(("Require", "precondition"),)))
    assert bench.one(ims.ReserveResources).call == "c"
    assert not sent(bench, "ue", "UPDATE"), "the resources are not there yet"
    bench.tell(ims.ResourcesReserved("c"))
    (update,) = sent(bench, "ue", "UPDATE")
    assert table_of(update) == lines("sendrecv", "none", MANDATORY)
    second = sdp("10.46.0.2", *lines("sendrecv", "sendrecv", MANDATORY))
    bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, second))
    bench.send(ua.Provisional(call, 180, reliable=True))
    bench.send(ua.Answer(call))
    assert bench.one(ims.Answered).call == "c"
    assert ladder(bench) == [
        "> INVITE (sdp)", "< 183 INVITE (sdp)", "> PRACK", "< 200 PRACK", "> UPDATE (sdp)", "< 200 UPDATE (sdp)",
        "< 180 INVITE", "> PRACK", "< 200 PRACK", "< 200 INVITE", "> ACK",
    ]  # fmt: skip
    assert all(b"curr" not in agreed.sdp for agreed in bench.said(ims.MediaAgreed))


def test_7_4_resources_that_are_there_at_once(bench: Any, sdp: Sdp) -> None:
    """As over WLAN (TS 34.229-1 annex C.21a): INVITE 180 PRACK 200 200 ACK."""
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    (invite,) = sent(bench, "ue", "INVITE")
    assert table_of(invite) == lines("sendrecv", "none", OPTIONAL)
    call = bench.heard(ua.IncomingCall).call
    bench.send(ua.Provisional(call, 180, sdp=sdp("10.46.0.2", *lines("sendrecv", "sendrecv", MANDATORY))))
    bench.send(ua.Answer(call))
    assert ladder(bench) == [
        "> INVITE (sdp)", "< 180 INVITE (sdp)", "> PRACK", "< 200 PRACK", "< 200 INVITE", "> ACK",
    ]  # fmt: skip


def test_7_5_mo_without_preconditions(make_bench: Any, sdp: Sdp) -> None:
    """The precondition disabling policy is set (TS 24.229 clause 5.1.5A)."""
    bench = make_bench(preconditions=False)
    bench.tell(ims.Dial("c", "tel:+15550200", sdp(), reserved=False))
    (invite,) = sent(bench, "ue", "INVITE")
    assert table_of(invite) == ()
    assert "precondition" not in [*invite.supported, *invite.require]
    call = bench.heard(ua.IncomingCall).call
    bench.send(ua.Provisional(call, 183, sdp=sdp("10.46.0.2")))
    bench.tell(ims.ResourcesReserved("c"))
    bench.send(ua.Provisional(call, 180))
    bench.send(ua.Answer(call))
    assert bench.one(ims.Answered).call == "c"
    assert ladder(bench) == [
        "> INVITE (sdp)", "< 183 INVITE (sdp)", "> PRACK", "< 200 PRACK", "< 180 INVITE", "< 200 INVITE", "> ACK",
    ]  # fmt: skip


def test_7_12_mo_with_preconditions_to_a_peer_without(bench: Any, sdp: Sdp) -> None:
    without_preconditions(bench)
    bench.tell(ims.Dial("c", "tel:+15550200", sdp(), reserved=False))
    assert table_of(sent(bench, "ue", "INVITE")[0]) == lines("none", "none", OPTIONAL)
    call = bench.heard(ua.IncomingCall).call
    bench.send(ua.Provisional(call, 183, sdp=sdp("10.46.0.2")))
    bench.tell(ims.ResourcesReserved("c"))
    bench.send(ua.Provisional(call, 180))
    bench.send(ua.Answer(call))
    assert bench.one(ims.Answered).call == "c"
    assert not sent(bench, "ue", "UPDATE"), "nobody there would understand it"


def test_mo_that_the_peer_cannot_get_resources_for(bench: Any, sdp: Sdp) -> None:
    """580 from the other side (RFC 3312 section 8)."""
    bench.tell(ims.Dial("c", "tel:+15550200", sdp()))
    bench.send(ua.Reject(bench.heard(ua.IncomingCall).call, 580))
    ended = bench.one(ims.Ended)
    assert (ended.status, ended.local) == (580, False)
    assert "580 Precondition Failure" in ended.reason


def test_7_14_7_15_mo_call_of_a_ue_without_video_offers_sound_only(bench: Any) -> None:
    offer = make_offer(UE_SIDE)
    bench.tell(ims.Dial("c", "tel:+15550200", offer.encode()))
    (invite,) = sent(bench, "ue", "INVITE")
    assert [media.media for media in SessionDescription.parse(invite.body).media] == ["audio"]
    contact = invite.contacts[0]
    assert "audio" in contact.parameters
    assert "video" not in contact.parameters


def test_7_18_mo_of_evs_and_amr_wb_takes_amr_wb(bench: Any) -> None:
    """The UE has no EVS: it offers AMR-WB first, and the network takes that."""
    offer = make_offer(UE_SIDE)
    bench.tell(ims.Dial("c", "tel:+15550200", offer.encode()))
    incoming = bench.heard(ua.IncomingCall)
    reply, _ = make_answer(SessionDescription.parse(incoming.sdp), ImsEndpoint("10.46.0.2", 50000, 9))
    bench.send(ua.Answer(incoming.call, reply.encode()))
    agreed = read_answer(offer, SessionDescription.parse(bench.one(ims.MediaAgreed).sdp))
    assert (agreed.codec.encoding, agreed.codec.clock_rate) == ("AMR-WB", 16000)


# ---- the UE is called -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ue_ready", [True, False])
def test_7_6_mt_with_preconditions_at_both_sides(bench: Any, sdp: Sdp, ue_ready: bool) -> None:
    call = bench.invite(sdp("10.46.0.2", *lines("none", "none", OPTIONAL)))
    assert b"curr" not in bench.one(ims.IncomingCall).sdp
    bench.tell(ims.Prepare(call, sdp(), reserved=ue_ready))
    (progress,) = sent(bench, "ue", "183 INVITE")
    assert {"100rel", "precondition"} <= set(progress.require)
    assert table_of(progress) == lines("sendrecv" if ue_ready else "none", "none", MANDATORY, "sendrecv")
    bench.send(ua.Modify("n", sdp("10.46.0.2", *lines("sendrecv", "none", MANDATORY)), "UPDATE"))
    if not ue_ready:
        assert not sent(bench, "ue", "200 UPDATE"), "it waits for the resources"
        assert not bench.said(ims.Alert)
        bench.tell(ims.ResourcesReserved(call))
    (updated,) = sent(bench, "ue", "200 UPDATE")
    assert table_of(updated) == lines("sendrecv", "sendrecv", MANDATORY)
    assert bench.one(ims.Alert).call == call
    answer(bench, call)
    ((ok),) = sent(bench, "ue", "200 INVITE")
    assert not ok.body, "the answer was in the 183"


def test_7_6_mt_second_offer_in_the_prack(bench: Any, sdp: Sdp) -> None:
    """PRACK brings the offer with the caller's resources; no UPDATE follows."""
    call = bench.invite(sdp("10.46.0.2", *lines("none", "none", OPTIONAL)), manual_prack=True)
    bench.tell(ims.Prepare(call, sdp()))
    assert not bench.said(ims.Alert)
    due = bench.heard(ua.PrackDue)
    bench.send(ua.Prack(due.exchange, sdp("10.46.0.2", *lines("sendrecv", "none", MANDATORY))))
    (acknowledged,) = sent(bench, "ue", "200 PRACK")
    assert table_of(acknowledged) == lines("sendrecv", "sendrecv", MANDATORY)
    assert bench.one(ims.Alert).call == call
    answer(bench, call)
    assert not sent(bench, "network", "UPDATE")


def test_7_6a_mt_of_a_caller_that_has_its_resources(bench: Any, sdp: Sdp) -> None:
    call = bench.invite(sdp("10.46.0.2", *lines("sendrecv", "none", OPTIONAL)))
    bench.tell(ims.Prepare(call, sdp(), reserved=False))
    (progress,) = sent(bench, "ue", "183 INVITE")
    assert table_of(progress) == lines("none", "sendrecv", MANDATORY)
    bench.tell(ims.ResourcesReserved(call))
    answer(bench, call)


def test_7_7_mt_without_preconditions_at_both_sides(make_bench: Any, sdp: Sdp) -> None:
    bench = make_bench(preconditions=False)
    without_preconditions(bench)
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp()))
    answer(bench, call)
    (ok,) = sent(bench, "ue", "200 INVITE")
    assert table_of(ok) == ()
    assert ladder(bench) == ["< INVITE (sdp)", "> 180 INVITE", "> 200 INVITE (sdp)", "< ACK"]


def test_7_8_mt_without_at_the_caller_with_at_the_ue(bench: Any, sdp: Sdp) -> None:
    """TS 24.229 clause U.3.1.4: 183 without alerting until the resources are there."""
    without_preconditions(bench)
    call = bench.invite(sdp("10.46.0.2"))
    bench.tell(ims.Prepare(call, sdp(), reserved=False))
    (progress,) = sent(bench, "ue", "183 INVITE")
    assert table_of(progress) == ()
    assert "precondition" not in progress.require
    assert not bench.said(ims.Alert)
    bench.tell(ims.ResourcesReserved(call))
    answer(bench, call)


def test_7_9_mt_with_at_the_caller_without_at_the_ue(make_bench: Any, sdp: Sdp) -> None:
    bench = make_bench(preconditions=False)
    call = bench.invite(sdp("10.46.0.2", *lines("none", "none", OPTIONAL)))
    bench.tell(ims.Prepare(call, sdp()))
    assert bench.one(ims.Alert).call == call, "the lines mean nothing to this UE"
    answer(bench, call)
    messages = [message for _, who, message in bench.net.sent if who == "ue" and message.body]
    assert all(table_of(message) == () for message in messages)
    assert "precondition" not in sent(bench, "ue", "200 INVITE")[0].tokens("Supported")


def test_7_10_mt_invite_without_sdp(bench: Any, sdp: Sdp) -> None:
    call = bench.invite(None)
    assert bench.one(ims.IncomingCall).sdp is None
    bench.tell(ims.Prepare(call, sdp()))
    (progress,) = sent(bench, "ue", "183 INVITE")
    assert table_of(progress) == lines("sendrecv", "none", OPTIONAL), "it is an offer"
    answering = sdp("10.46.0.2", *lines("sendrecv", "sendrecv", MANDATORY))
    bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, answering))
    assert bench.one(ims.MediaAgreed).sdp == sdp("10.46.0.2")
    assert bench.one(ims.Alert).call == call
    answer(bench, call)


def test_7_10_mt_invite_without_sdp_of_a_caller_that_is_not_ready(bench: Any, sdp: Sdp) -> None:
    call = bench.invite(None)
    bench.tell(ims.Prepare(call, sdp(), reserved=False))
    assert table_of(sent(bench, "ue", "183 INVITE")[0]) == lines("none", "none", OPTIONAL)
    answering = sdp("10.46.0.2", *lines("none", "none", MANDATORY, "sendrecv"))
    bench.send(ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, answering))
    bench.tell(ims.ResourcesReserved(call))
    assert not bench.said(ims.Alert), "the caller has not got its own"
    (update,) = sent(bench, "ue", "UPDATE")
    assert table_of(update) == lines("sendrecv", "none", MANDATORY), "the caller asked to be told"
    bench.send(
        ua.AnswerOffer(bench.heard(ua.OfferReceived).exchange, sdp("10.46.0.2", *lines("none", "sendrecv", MANDATORY)))
    )
    assert not bench.said(ims.Alert)
    bench.send(ua.Modify("n", sdp("10.46.0.2", *lines("sendrecv", "sendrecv", MANDATORY)), "UPDATE"))
    assert bench.one(ims.Alert).call == call
    answer(bench, call)


def test_7_11_mt_the_caller_requires_what_the_ue_may_not_use(make_bench: Any, sdp: Sdp) -> None:
    bench = make_bench(preconditions=False)
    bench.invite(sdp("10.46.0.2", *lines("none", "none", OPTIONAL)), require=("precondition",))
    assert bench.refusal().status == 420
    assert bench.refusal().headers.get("Unsupported") == "precondition"
    assert not bench.said(ims.IncomingCall)


def test_mt_resources_that_cannot_be_had(bench: Any, sdp: Sdp) -> None:
    """580 with the description that names what failed (RFC 3312 section 8)."""
    call = bench.invite(sdp("10.46.0.2", *lines("sendrecv", "none", MANDATORY)))
    bench.tell(ims.Prepare(call, sdp(), reserved=False), ims.ResourcesFailed(call))
    refusal = bench.refusal()
    assert refusal.status == 580
    failed = SessionDescription.parse(refusal.body)
    assert [media.port for media in failed.media] == [0]
    assert b"a=des:qos failure local sendrecv" in refusal.body
    assert b"failure remote" not in refusal.body
    assert bench.engine.calls == ()


def test_mt_a_mandatory_precondition_that_no_ims_access_meets(bench: Any, sdp: Sdp) -> None:
    bench.invite(sdp("10.46.0.2", "a=curr:qos e2e none", "a=des:qos mandatory e2e sendrecv"))
    assert bench.refusal().status == 580


def test_an_update_with_a_mandatory_precondition_that_cannot_be_met(bench: Any, sdp: Sdp) -> None:
    call = bench.invite(sdp("10.46.0.2", *lines("none", "none", OPTIONAL)))
    bench.tell(ims.Prepare(call, sdp()))
    bench.send(ua.Modify("n", sdp("10.46.0.2", "a=curr:qos e2e none", "a=des:qos mandatory e2e sendrecv"), "UPDATE"))
    assert sent(bench, "ue", "580 UPDATE")
    bench.send(ua.Modify("n", sdp("10.46.0.2", *lines("sendrecv", "none", MANDATORY)), "UPDATE"))
    assert bench.one(ims.Alert).call == call, "the call goes on as it was"


def offered_to(bench: Any, offer: SessionDescription) -> tuple[SessionDescription, Response]:
    """Call the UE with ``offer``; it answers with what IMS terminals have.  Returns its answer and the response."""
    call = bench.invite(offer.encode())
    incoming = bench.one(ims.IncomingCall)
    reply, _ = make_answer(SessionDescription.parse(incoming.sdp), UE_SIDE)
    bench.tell(ims.Prepare(call, reply.encode()))
    answer(bench, call)
    response = next(m for _, who, m in bench.net.sent if who == "ue" and isinstance(m, Response) and m.body)
    return SessionDescription.parse(response.body), response


def network_offer(*further: str, rtcp: tuple[int, int] = (0, 2000), first: str = "") -> SessionDescription:
    """A conformance network's offer; ``first`` is an entry in front of AMR-WB, ``further`` are media lines."""
    entries = [first] if first else []
    numbers = ("96 " if first else "") + "97 98 99 100"
    text = "\r\n".join(
        [
            "v=0",
            "o=- 1111111111 1111111111 IN IP4 10.46.0.2",
            "s=IMS conformance test",
            "c=IN IP4 10.46.0.2",
            "b=AS:37",
            "t=0 0",
            f"m=audio 49152 RTP/AVP {numbers}",
            "b=AS:37",
            f"b=RS:{rtcp[0]}",
            f"b=RR:{rtcp[1]}",
            *entries,
            "a=rtpmap:97 AMR-WB/16000/1",
            "a=fmtp:97 mode-change-capability=2; max-red=220",
            "a=rtpmap:98 telephone-event/16000",
            "a=fmtp:98 0-15",
            "a=rtpmap:99 AMR/8000/1",
            "a=fmtp:99 mode-change-capability=2; max-red=220",
            "a=rtpmap:100 telephone-event/8000",
            "a=fmtp:100 0-15",
            "a=ptime:20",
            "a=maxptime:240",
            *further,
            "",
        ]
    )
    return SessionDescription.parse(text.encode())


def test_7_13_mt_with_rtcp_disabled(bench: Any) -> None:
    """Zero in both bandwidths turns RTCP off; the answer agrees (TS 26.114 clause 7.3.1)."""
    described, _ = offered_to(bench, network_offer(rtcp=(0, 0)))
    assert (described.media[0].bandwidths["RS"], described.media[0].bandwidths["RR"]) == (0, 0)


def test_7_13_rtcp_that_is_not_disabled(bench: Any) -> None:
    described, _ = offered_to(bench, network_offer(rtcp=(0, 2000)))
    assert described.media[0].bandwidths["RR"] > 0


@pytest.mark.parametrize("with_preconditions", [True, False])
def test_7_16_7_17_mt_video_is_refused_with_port_0(bench: Any, with_preconditions: bool) -> None:
    video = ("m=video 49154 RTP/AVP 101", "a=rtpmap:101 H264/90000", "a=sendrecv")
    table = lines("sendrecv", "none", OPTIONAL) if with_preconditions else ()
    described, response = offered_to(bench, network_offer(*table, *video, *table))
    assert [(media.media, media.port > 0) for media in described.media] == [("audio", True), ("video", False)]
    lines_of_video = response.body.decode().split("m=video")[1]
    assert "curr:" not in lines_of_video
    assert ("precondition" in response.require) is with_preconditions


@pytest.mark.parametrize(
    "evs", ["a=rtpmap:96 EVS/16000/1\r\na=fmtp:96 br=5.9-24.4;bw=nb-swb;max-red=220", "a=rtpmap:96 EVS/16000/1"]
)
def test_7_19_mt_evs_amr_wb_io_is_answered_with_amr_wb(bench: Any, evs: str) -> None:
    described, _ = offered_to(bench, network_offer(first=evs))
    assert described.media[0].formats[0] == "97"
    assert "EVS" not in described.encode().decode()


def test_7_20_7_21_adding_video_to_a_call_is_refused_and_the_sound_goes_on(bench: Any) -> None:
    offered_to(bench, network_offer())
    (call,) = bench.engine.calls
    video = ("m=video 49154 RTP/AVP 101", "a=rtpmap:101 H264/90000")
    later = network_offer(*video).encode().replace(b"1111111111 1111111111", b"1111111111 1111111112")
    bench.send(ua.Modify("n", later, "INVITE"))
    offer = bench.one(ims.Offer)
    reply, _ = make_answer(SessionDescription.parse(offer.sdp), UE_SIDE)
    bench.tell(ims.AnswerOffer(call, offer.exchange, reply.encode()))
    heard = SessionDescription.parse(bench.heard(ua.AnswerReceived).sdp)
    assert [(media.media, media.port > 0) for media in heard.media] == [("audio", True), ("video", False)]
    assert bench.engine.calls == (call,)
