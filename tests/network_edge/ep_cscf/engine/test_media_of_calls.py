"""Calls with descriptions through the whole engine, IMS-ALG included; release when media or registration end
[A-EPCSCF]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from imskit.ims.alternative_service import asks_restoration
from imskit.sdp.description import SessionDescription
from imskit.sip.wire.message import Request, Response, response_to
from network_edge.ep_cscf.engine.effects import (
    CallStep,
    MediaAnswer,
    MediaDelete,
    MediaFailed,
    MediaLost,
    MediaOffer,
    MediaReady,
)
from network_edge.ep_cscf.engine.ims_alg import ImsAlg
from network_edge.iq.gateway import Loss

HOME = "ims.example"
ALICE, BOB = f"sip:+15550300@{HOME}", f"sip:+15550200@{HOME}"


def sdp(host: str) -> bytes:
    return (
        f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
        "m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
    ).encode()


@dataclass
class Scene:
    """An edge with its ALG, a gateway that moves every description to itself, a registered client."""

    world: Any
    alice: Any
    media: set[str] = field(default_factory=set)
    """Names of calls at the gateway."""

    def gateway(self, *, refuse: bool = False) -> None:
        """Answer what the gateway is asked."""
        while asked := [o for o in self.world.outputs if isinstance(o, MediaOffer | MediaAnswer)]:
            question = asked[0]
            self.world.outputs.remove(question)
            self.media.add(question.request.call_id)
            if refuse:
                self.world.feed(MediaFailed(question.key, 503, "no room"))
                continue
            text = question.request.sdp.encode()
            for theirs, ours in ((b"198.51.100.1", b"10.45.0.3"), (b"10.46.0.2", b"203.0.113.12")):
                text = text.replace(theirs, ours)
            self.world.feed(MediaReady(question.key, SessionDescription.parse(text)))

    def call(self) -> tuple[Request, Response]:
        """Alice calls Bob, who answers; acknowledged."""

        def answer(request: Request) -> Response | None:
            if request.method not in ("INVITE", "BYE"):
                return None
            response = response_to(request, 200, to_tag="bob")
            response.headers.add("Contact", "<sip:bob@10.45.0.1:5062>")
            if request.method == "INVITE":
                response.set_body(sdp("10.46.0.2"), "application/sdp")
            return response

        self.world.on_request = answer
        invite = self.alice.build("INVITE", BOB, body=sdp("198.51.100.1"))
        self.alice.send(invite)
        self.gateway()
        response = self.alice.answer_to(invite)
        assert response is not None and response.status == 200
        ack = self.alice.build(
            "ACK",
            "sip:bob@10.45.0.1:5062",
            ("To", response.headers.get("To")),
            ("Call-ID", invite.call_id),
            ("CSeq", f"{invite.cseq.number} ACK"),
        )
        self.alice.send(ack)
        return invite, response


@pytest.fixture
def scene(make_edge: Callable[..., Any]) -> Scene:
    numbers = iter(range(1, 10**6))
    world = make_edge(alg=ImsAlg(lambda digits: f"{next(numbers):0{digits}x}"))
    alice = world.client()
    assert alice.register_with_token().status == 200
    return Scene(world, alice)


def test_descriptions_pass_through_the_gateway(scene: Scene) -> None:
    _, response = scene.call()
    (invite,) = scene.world.to_core("INVITE")
    assert b"10.45.0.3" in invite.body and b"198.51.100.1" not in invite.body
    assert b"203.0.113.12" in response.body and b"10.46.0.2" not in response.body
    assert scene.world.to_core("ACK")


def test_a_gateway_without_room(scene: Scene) -> None:
    invite = scene.alice.build("INVITE", BOB, body=sdp("198.51.100.1"))
    scene.alice.send(invite)
    scene.gateway(refuse=True)
    assert scene.alice.answer_to(invite).status in (500, 503)
    assert not scene.world.to_core("INVITE")


def test_a_core_that_cannot_be_reached(scene: Scene) -> None:
    """The body of the refusal is none of the gateway's."""
    scene.world.core_unreachable = True
    invite = scene.alice.build("INVITE", BOB, body=sdp("198.51.100.1"))
    scene.alice.send(invite)
    scene.gateway()
    assert asks_restoration(scene.alice.answer_to(invite))
    assert len(scene.world.steps(MediaDelete)) == 1


def test_media_that_are_lost_end_the_call(scene: Scene) -> None:
    """A-EPCSCF: TS 24.229 clause 5.2.8.1; both sides get a BYE that says why."""
    invite, _ = scene.call()
    scene.alice.answer = lambda request: response_to(request, 200)
    (name,) = scene.media
    scene.world.feed(MediaLost(name, Loss.CONSENT))
    (towards_bob,), (towards_alice,) = scene.world.to_core("BYE"), scene.alice.requests("BYE")
    for bye in (towards_bob, towards_alice):
        assert bye.call_id == invite.call_id
        assert {reason.protocol for reason in bye.reasons} == {"SIP", "Q.850"}
    assert towards_bob.cseq.number == invite.cseq.number + 1
    assert scene.world.edge.dialogs == 0
    assert "ended" in [step.kind.value for step in scene.world.steps(CallStep)]


def test_the_end_of_the_registration_frees_the_media(scene: Scene) -> None:
    scene.call()
    (name,) = scene.media
    assert scene.alice.register_with_token(expires=0).status == 200
    assert [output.request.call_id for output in scene.world.steps(MediaDelete)] == [name]
    assert scene.world.to_core("BYE") and scene.alice.requests("BYE")
    # What the gateway says of it later finds nothing.
    scene.world.feed(MediaLost(name, Loss.GATEWAY))
    assert len(scene.world.to_core("BYE")) == 1


def test_an_answer_that_the_gateway_refuses(scene: Scene) -> None:
    """The callee has answered: it gets ACK and BYE, the caller a final response."""

    def answer(request: Request) -> Response | None:
        if request.method not in ("INVITE", "BYE"):
            return None
        response = response_to(request, 200, to_tag="bob")
        response.headers.add("Contact", "<sip:bob@10.45.0.1:5062>")
        if request.method == "INVITE":
            response.set_body(sdp("10.46.0.2"), "application/sdp")
        return response

    def only_offers() -> None:
        (offer,) = scene.world.steps(MediaOffer)
        scene.world.feed(MediaReady(offer.key, offer.request.sdp))
        (asked,) = scene.world.steps(MediaAnswer)
        scene.world.feed(MediaFailed(asked.key, 500, "codec"))

    scene.world.on_request = answer
    invite = scene.alice.build("INVITE", BOB, body=sdp("198.51.100.1"))
    scene.alice.send(invite)
    only_offers()
    assert scene.alice.answer_to(invite).status >= 400
    assert len(scene.world.to_core("ACK")) == len(scene.world.to_core("BYE")) == 1
    assert not scene.alice.requests("BYE")
    assert scene.world.edge.dialogs == 0


def test_a_call_whose_client_comes_back_keeps_its_media(scene: Scene) -> None:
    scene.call()
    scene.world.close(scene.alice)
    scene.world.run(10)
    scene.alice.reconnect()
    assert scene.alice.register_with_token().status == 200
    scene.world.run(100)
    assert not scene.world.steps(MediaDelete)
    kinds = [step.kind.value for step in scene.world.steps(CallStep)]
    assert "flow-lost" in kinds and "flow-back" in kinds


def _from_bob(scene: Scene, method: str, invite: Request, *fields: tuple[str, object]) -> Request:
    (sent, *_) = scene.world.to_core("INVITE")
    request = scene.world.core_request(
        method,
        scene.alice.contact,
        ("Route", ", ".join(f"<{route.uri}>" for route in sent.record_routes)),
        ("From", f"<{BOB}>;tag=bob"),
        ("To", invite.headers.get("From")),
        ("Call-ID", invite.call_id),
        *fields,
    )
    scene.world.from_core(request)
    return request


@pytest.mark.parametrize("status", [408, 481])
def test_media_are_lost_after_a_request_without_answer(scene: Scene, status: int) -> None:
    """The user of the phone is released, though nobody sends a BYE."""
    invite, response = scene.call()
    answer = scene.world.on_request
    scene.world.on_request = lambda request: (
        response_to(request, status) if request.method == "INFO" else answer(request)
    )
    info = scene.alice.build(
        "INFO", "sip:bob@10.45.0.1:5062", ("To", response.headers.get("To")), ("Call-ID", invite.call_id)
    )
    answered = scene.alice.outcome(info)
    assert answered.status == 481 if status == 481 else answered is None  # RFC 4320 section 4.2
    scene.alice.answer = lambda request: response_to(request, 200)
    (name,) = scene.media
    scene.world.feed(MediaLost(name, Loss.TRANSPORT))
    assert len(scene.world.to_core("BYE")) == len(scene.alice.requests("BYE")) == 1
    assert scene.world.edge.dialogs == 0


def test_the_other_side_hangs_up_while_the_client_is_away(scene: Scene) -> None:
    """Its media end at once, as a call that ended well; the client hears of it once when it is back."""
    invite, _ = scene.call()
    scene.world.close(scene.alice)
    bye = _from_bob(scene, "BYE", invite)
    assert scene.world.core_answer(bye).status == 200
    (name,) = scene.media
    assert [output.request.call_id for output in scene.world.steps(MediaDelete)] == [name]
    scene.world.run(25)
    scene.world.feed(MediaLost(name, Loss.MEDIA_TIMEOUT))
    assert "media-lost" not in [step.kind.value for step in scene.world.steps(CallStep)]
    scene.alice.reconnect()
    scene.alice.answer = lambda request: response_to(request, 200)
    assert scene.alice.register_with_token().status == 200
    assert len(scene.alice.requests("BYE")) == 1
    assert not scene.world.to_core("BYE")
    assert scene.world.edge.dialogs == 0


def test_media_are_lost_while_the_client_is_away(scene: Scene) -> None:
    """TS 24.229 clause 5.2.8.1.2: IMS hears of it now, the client when it is back."""
    scene.call()
    scene.world.close(scene.alice)
    (name,) = scene.media
    scene.world.feed(MediaLost(name, Loss.MEDIA_TIMEOUT))
    assert len(scene.world.to_core("BYE")) == 1
    scene.world.run(30)
    scene.alice.reconnect()
    scene.alice.answer = lambda request: response_to(request, 200)
    assert scene.alice.register_with_token().status == 200
    (bye,) = scene.alice.requests("BYE")
    assert "media-timeout" in bye.headers.get("Reason")
    assert len(scene.world.to_core("BYE")) == 1
    assert scene.world.edge.dialogs == 0


# ---- early answers for clients without 100rel ----------------------------------------------------------------

REMOTE = "<sip:bob@10.45.0.1:5062>"


@dataclass
class Early:
    """Alice, who has no PRACK, calls; Bob answers early and wants one."""

    scene: Scene
    invite: Request

    def bob(self, status: int, *fields: tuple[str, object], body: bytes = b"", tag: str = "bob") -> None:
        """A response of Bob's."""
        (sent,) = self.scene.world.to_core("INVITE")
        response = response_to(sent, status, to_tag=tag)
        response.headers.add("Contact", REMOTE)
        for name, value in fields:
            response.headers.add(name, value)
        if body:
            response.set_body(body, "application/sdp")
        self.scene.world.from_core(response)
        self.scene.gateway()

    def reliable(self, status: int, number: int, body: bytes = b"", tag: str = "bob") -> None:
        self.bob(status, ("Require", "100rel"), ("RSeq", number), body=body, tag=tag)

    def heard(self) -> list[Response]:
        """What Alice got of her INVITE."""
        found = [each for each in self.scene.alice.received if isinstance(each, Response)]
        return [each for each in found if each.cseq == self.invite.cseq and each.status > 100]

    def pracks(self) -> list[tuple[str, str, str | None]]:
        sent = self.scene.world.to_core("PRACK")
        return [(str(each.rack), str(each.cseq), each.to.tag) for each in sent]

    def send(self, method: str, number: int, *fields: tuple[str, object]) -> Response | None:
        """A request of Alice's in the dialog."""
        usual = (("To", f"<{BOB}>;tag=bob"), ("Call-ID", self.invite.call_id), ("CSeq", f"{number} {method}"))
        request = self.scene.alice.build(method, "sip:bob@10.45.0.1:5062", *usual, *fields)
        return self.scene.alice.outcome(request)


def early_call(scene: Scene, *fields: tuple[str, object]) -> Early:
    scene.world.on_request = lambda request: (
        response_to(request, 200) if request.method not in ("INVITE", "REGISTER", "ACK", "SUBSCRIBE") else None
    )
    invite = scene.alice.build("INVITE", BOB, *fields, body=sdp("198.51.100.1"))
    scene.alice.send(invite)
    scene.gateway()
    return Early(scene, invite)


def test_the_edge_confirms_for_a_client_without_prack(scene: Scene) -> None:
    """RFC 3262, TS 24.229 clause 5.2.1 (IMS-ALG): the client has the answer while it rings."""
    call = early_call(scene, ("Supported", "timer"), ("Allow", "INVITE, ACK, BYE"))
    (sent,) = scene.world.to_core("INVITE")
    number = call.invite.cseq.number
    assert sent.supported == ["timer", "100rel"] and "PRACK" in sent.headers.elements("Allow")
    call.reliable(183, 7001, sdp("10.46.0.2"))
    assert call.pracks() == [(f"7001 {number} INVITE", f"{number + 1} PRACK", "bob")]
    (prack,) = scene.world.to_core("PRACK")
    assert prack.uri == "sip:bob@10.45.0.1:5062" and prack.from_.tag == call.invite.from_.tag
    (early,) = call.heard()
    assert b"203.0.113.12" in early.body
    assert "RSeq" not in early.headers and not early.require
    # The same again, and one too early: neither is confirmed, or told.
    call.reliable(183, 7001, sdp("10.46.0.2"))
    call.reliable(180, 7003)
    assert len(call.pracks()) == len(call.heard()) == 1
    call.reliable(180, 7002)
    assert call.pracks()[1:] == [(f"7002 {number} INVITE", f"{number + 2} PRACK", "bob")]
    call.bob(200)
    ringing, answered = call.heard()[1:]
    assert (ringing.status, answered.status) == (180, 200)
    assert answered.body == early.body


def test_numbers_go_on_behind_the_edges_own(scene: Scene) -> None:
    """Towards IMS each request of the client's has the next number, towards the client its own."""
    call = early_call(scene)
    first = call.invite.cseq.number
    call.reliable(183, 1, sdp("10.46.0.2"))
    call.bob(200)
    call.send("ACK", first)
    assert [each.cseq.number for each in scene.world.to_core("ACK")] == [first]
    answered = call.send("INFO", first + 1)
    assert answered is not None and answered.status == 200 and answered.cseq.number == first + 1
    assert [each.cseq.number for each in scene.world.to_core("INFO")] == [first + 2]
    scene.world.on_request = lambda request: (
        response_to(request, 500 if request.method == "UPDATE" else 200)
        if request.method not in ("REGISTER", "ACK", "SUBSCRIBE")
        else None
    )
    refused = call.send("UPDATE", first + 2)
    assert refused is not None and (refused.status, refused.cseq.number) == (500, first + 2)
    again = call.send("INVITE", first + 3)
    assert again is not None and (again.status, again.cseq.number) == (200, first + 3)
    call.send("ACK", first + 3)
    assert [each.cseq.number for each in scene.world.to_core("ACK")] == [first, first + 4]
    assert call.send("REFER", first + 4, ("Refer-To", "<sip:x@y>")) is not None
    (sent,) = scene.world.to_core("REFER")
    scene.alice.answer = lambda request: response_to(request, 200)
    for package, known in (("refer", first + 4), ("other", sent.cseq.number)):
        _from_bob(scene, "NOTIFY", call.invite, ("Event", f"{package};id={sent.cseq.number}"))
        notify = scene.alice.requests("NOTIFY")[-1]
        assert notify.event is not None and (notify.event.package, notify.event.id) == (package, str(known))
    bye = call.send("BYE", first + 5)
    assert bye is not None and bye.status == 200
    assert scene.world.to_core("BYE")[0].cseq.number == first + 6
    assert scene.world.edge.dialogs == 0


def test_a_release_counts_on_too(scene: Scene) -> None:
    call = early_call(scene)
    call.reliable(183, 1, sdp("10.46.0.2"))
    call.bob(200)
    call.send("ACK", call.invite.cseq.number)
    call.send("INFO", call.invite.cseq.number + 1)
    (name,) = scene.media
    scene.world.feed(MediaLost(name, Loss.CONSENT))
    assert [each.cseq.number for each in scene.world.to_core("BYE")] == [call.invite.cseq.number + 3]


def test_each_fork_counts_for_itself(scene: Scene) -> None:
    call = early_call(scene)
    number = call.invite.cseq.number
    for tag in ("bob", "desk"):
        call.reliable(183, 50, sdp("10.46.0.2"), tag)
    assert call.pracks() == [(f"50 {number} INVITE", f"{number + 1} PRACK", tag) for tag in ("bob", "desk")]
    assert len(call.heard()) == 2


def test_a_client_with_100rel_confirms_itself(scene: Scene) -> None:
    call = early_call(scene, ("Supported", "100rel"))
    call.reliable(183, 9, sdp("10.46.0.2"))
    (early,) = call.heard()
    assert (early.rseq, early.require) == (9, ["100rel"])
    assert not call.pracks()
    number = call.invite.cseq.number + 1
    answered = call.send("PRACK", number, ("RAck", f"9 {number - 1} INVITE"))
    assert answered is not None and answered.status == 200
    assert call.pracks() == [(f"9 {number - 1} INVITE", f"{number} PRACK", "bob")]


def test_a_reliable_response_without_contact(scene: Scene) -> None:
    """There is nowhere to send the PRACK: nothing is told that is not confirmed."""
    call = early_call(scene)
    (sent,) = scene.world.to_core("INVITE")
    response = response_to(sent, 183, to_tag="bob")
    for name, value in (("Require", "100rel"), ("RSeq", "1")):
        response.headers.add(name, value)
    scene.world.from_core(response)
    assert not call.pracks() and not call.heard()
    call.reliable(183, 1, sdp("10.46.0.2"))
    assert len(call.pracks()) == len(call.heard()) == 1


@pytest.mark.parametrize("number", ["4294967296", "x"])
def test_numbers_that_are_none(scene: Scene, number: str) -> None:
    call = early_call(scene)
    call.bob(183, ("Require", "100rel"), ("RSeq", number), body=sdp("10.46.0.2"))
    assert not call.heard() and not call.pracks()
    call.bob(200, body=sdp("10.46.0.2"))
    assert call.heard()[-1].status == 200
