"""Whatever two owners and a bad network do: nothing raises, every call ends once, everything is released."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.events import Received
from imskit.sip.engine.timers import TS24229_UE
from imskit.sip.memory_network import Host, Link, Pair, Script, counter
from imskit.sip.wire.message import Request, Response

WAITS = (0.0, 0.0, 0.01, 0.01, 0.05, 0.05, 0.1, 0.1, 0.1, 0.3, 0.3, 1.0, 5.0, 40.0)
STATUSES = (101, 180, 183, 199, 200, 302, 401, 407, 422, 481, 486, 487, 491, 500, 503, 603)


class Owner:
    """Does legal, illegal, late and repeated things at random with what its user agent told it."""

    def __init__(self, host: Host, random: Random) -> None:
        self.host = host
        self.random = random
        self.started = 0
        self.answered: set[str] = set()

    def names(self, kind: type[Any], field: str) -> list[Any]:
        """Return what an output kind has named of late, and now and then something that never was."""
        return [getattr(output, field) for output in self.host.all(kind)[-3:]] or ["nobody"]

    def call(self) -> str:
        """Return some call, mostly a live one."""
        alive: list[str] = list(self.host.engine.calls) * 9  # type: ignore[attr-defined]
        return self.random.choice([*alive, "nobody", *self.names(ua.Ended, "call")])

    def exchange(self) -> str:
        """Return some question, mostly an open one."""
        asked = [
            output.exchange
            for output in self.host.outputs
            if isinstance(output, ua.OfferReceived | ua.OfferRequested | ua.PrackDue)
        ]
        fresh = [name for name in asked if name not in self.answered] or asked or ["nobody"]
        name: str = self.random.choice(fresh)
        self.answered.add(name)
        return name

    def dialog(self) -> Any:
        """Return some dialog, mostly none."""
        known = [output.dialog for output in self.host.all(ua.Progress)[-3:] if output.dialog]
        return self.random.choice([None, None, None, *known])

    def sdp(self) -> bytes | None:
        """Return an SDP or none."""
        return self.random.choice([None, b"sdp", b"sdp", b"sdp"])

    def command(self) -> Any:
        """Return some command."""
        pick, call = self.random.choice, self.call()
        if not self.host.engine.calls and self.random.random() < 0.5:  # type: ignore[attr-defined]
            return self.dial()
        if self.host.engine.calls and self.random.random() < 0.8:  # type: ignore[attr-defined]
            return self.useful(call)
        builders = [
            self.dial,
            lambda: ua.Provisional(call, pick(STATUSES), None, self.sdp(), (), pick([None, None, True, False])),
            *[lambda: ua.Provisional(call, 183, None, b"sdp")] * 4,
            lambda: ua.Answer(call, self.sdp()),
            *[lambda: ua.Answer(call, b"sdp")] * 5,
            lambda: ua.Reject(call, pick(STATUSES)),
            lambda: ua.Hangup(call, (("Reason", "SIP;cause=200"),), self.dialog()),
            lambda: ua.Modify(call, self.sdp(), pick(["UPDATE", "INVITE"]), (), self.dialog()),
            *[lambda: ua.Modify(call, b"sdp", pick(["UPDATE", "INVITE"]))] * 5,
            lambda: ua.Modify(call, None, "INVITE"),
            *[lambda: ua.AnswerOffer(self.exchange(), b"sdp")] * 5,
            lambda: ua.RejectOffer(self.exchange(), pick(STATUSES)),
            *[lambda: ua.Prack(self.exchange(), self.sdp())] * 3,
            lambda: ua.SendInDialog("key", call, pick(["INFO", "MESSAGE", "OPTIONS", "BYE"]), (), b"", ""),
            lambda: ua.Respond(pick(self.names(ua.RequestReceived, "request")), pick(STATUSES)),
            lambda: ua.Authorize(pick(self.names(ua.Challenged, "challenge")), (("Authorization", "Digest x=1"),)),
            lambda: ua.Decline(pick(self.names(ua.Challenged, "challenge"))),
            lambda: ua.Subscribe(f"s{pick([1, 2])}", "sip:bob@x", "<sip:a@x>", "<sip:b@x>", "reg", pick([0, 60, 9000])),
            lambda: ua.Unsubscribe(f"s{pick([1, 2])}"),
        ]
        return pick(builders)()

    def useful(self, call: str) -> Any:
        """Return a command that drives a call on."""
        pick = self.random.choice
        waiting = [
            output.exchange
            for output in self.host.outputs
            if isinstance(output, ua.OfferReceived | ua.OfferRequested | ua.PrackDue)
            and output.exchange not in self.answered
        ]
        if waiting and self.random.random() < 0.7:
            self.answered.add(waiting[-1])
            if waiting[-1] in [output.exchange for output in self.host.all(ua.PrackDue)]:
                return ua.Prack(waiting[-1], pick([None, None, b"sdp"]))
            return ua.AnswerOffer(waiting[-1], b"sdp")
        if call.startswith("incoming") and self.random.random() < 0.6:
            return pick(
                [
                    ua.Provisional(call, 183, None, b"sdp"),
                    ua.Provisional(call, 180),
                    ua.Provisional(call, 180, reliable=True),
                    ua.Answer(call, b"sdp"),
                ]
            )
        return pick(
            [
                ua.Modify(call, b"sdp", "UPDATE"),
                ua.Modify(call, b"sdp", "INVITE"),
                ua.Modify(call, None, "INVITE"),
                ua.Modify(call, None, "UPDATE"),
                ua.SendInDialog("key", call, "INFO"),
            ]
        )

    def dial(self) -> Any:
        """Return a new call."""
        self.started += 1
        return ua.Call(
            f"call-{self.started - 1}",
            "sip:peer@192.0.2.9",
            "<sip:me@example.org>",
            "<sip:peer@example.org>",
            sdp=self.sdp(),
            require=self.random.choice([(), (), ("100rel",)]),
            manual_prack=self.random.random() < 0.3,
            no_answer=self.random.choice([None, 20.0]),
        )


def check(host: Host, owner: Owner) -> None:
    """Assert that a host's story is well formed and over."""
    engine = host.engine
    assert isinstance(engine, ua.UserAgent)
    assert engine.idle and engine.calls == () and engine.deadline() is None
    ended = Counter(output.call for output in host.all(ua.Ended))
    begun = {output.call for output in host.all(ua.IncomingCall)}
    refused = {output.command.call for output in host.all(ua.Refused) if isinstance(output.command, ua.Call)}
    begun |= {f"call-{n}" for n in range(owner.started)} - refused
    assert ended == Counter(begun)
    over: set[str] = set()
    for output in host.outputs:
        call = getattr(output, "call", None)
        if call is not None and not isinstance(output, ua.RequestReceived | ua.Challenged | ua.Refused):
            assert call not in over, f"{type(output).__name__} after the end of {call}"
        if isinstance(output, ua.Ended):
            over.add(output.call)
    for kind in (ua.Answered, ua.Confirmed):
        assert max(Counter(output.call for output in host.all(kind)).values(), default=0) <= 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1, 0.4]),
    jitter=st.sampled_from([0.0, 0.5]),
    transport=st.sampled_from(["UDP", "UDP", "TCP"]),
    ims_timers=st.booleans(),
)
def test_random_owners(seed: int, loss: float, jitter: float, transport: Any, ims_timers: bool) -> None:
    random = Random(seed)
    timers = {"timers": TS24229_UE} if ims_timers else {}
    pair = Pair(
        Link(0.02, jitter, loss, duplication=0.1),
        seed=seed,
        transport=transport,
        session_timer=ua.SessionTimerPolicy(interval=100),
        **timers,
    )
    owners = (Owner(pair.a, random), Owner(pair.b, random))
    for _ in range(60):
        owner = random.choice(owners)
        pair.at(
            owner.host,
            owner.command(),
            wait=random.choice(WAITS),
        )
    for owner in owners:
        for call in owner.host.engine.calls:  # type: ignore[attr-defined]
            pair.at(owner.host, ua.Hangup(call), wait=0.0)
        for name in ("s1", "s2"):
            pair.at(owner.host, ua.Unsubscribe(name), wait=0.0)
    pair.net.settle()
    for owner in owners:
        check(owner.host, owner)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_a_dead_peer_leaves_nothing_behind(seed: int) -> None:
    """At some moment the peer falls silent; calls that nobody hangs up end by their timers."""
    random = Random(seed)
    pair = Pair(seed=seed, session_timer=ua.SessionTimerPolicy(interval=100))
    owner, peer = Owner(pair.a, random), Owner(pair.b, random)
    pair.at(pair.a, owner.dial())
    for _ in range(25):
        one = random.choice((owner, peer))
        pair.at(one.host, one.command(), wait=random.choice([0.0, 0.05, 1.0]))
    pair.net.drop = lambda _sender, _message: True
    for name in ("s1", "s2"):
        pair.at(pair.a, ua.Unsubscribe(name))
    pair.net.settle()
    check(pair.a, owner)


# ---- a hostile peer ---------------------------------------------------------------------------------------------


def noise(random: Random, messages: list[Any], dialogs: list[Any]) -> Any:
    """Build some message: legal parts in illegal places."""
    pick = random.choice
    methods = ["INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO", "NOTIFY", "OPTIONS", "REFER", "XYZ"]
    requests = [each for each in messages if isinstance(each, Request)]
    if requests and random.random() < 0.6:
        request = pick(requests[-6:])
        response = Response(pick(STATUSES))
        for name in ("Via", "From", "Call-ID", "CSeq"):
            response.headers.copy_from(request.headers, name)
        to = request.headers.get("To") or ""
        response.headers.add("To", to if ";tag=" in to else to + pick(["", ";tag=b1", ";tag=b2", ";tag=b3"]))
        message: Any = response
    else:
        local, remote, call_id = pick([*dialogs, ("nobody", "x", "script")])
        message = Request.create(
            pick(methods),
            "sip:bob@192.0.2.2",
            [
                ("Via", f"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{random.randrange(40)}"),
                ("From", f"<sip:alice@example.org>;tag={remote}"),
                ("To", "<sip:bob@example.org>" + (f";tag={local}" if random.random() < 0.8 else "")),
                ("Call-ID", call_id),
            ],
        )
        message.headers.add("CSeq", f"{random.randrange(1, 30)} {message.method}")
    for name, values in (
        ("Contact", ["<sip:a@192.0.2.1>", "*", "<sip:", "<tel:+1>", ""]),
        ("Require", ["100rel", "timer", "other", "100rel,,"]),
        ("Supported", ["100rel, timer", "timer", '"']),
        ("RSeq", ["1", "2", "3", "-1", "x"]),
        ("RAck", ["1 1 INVITE", "2 1 INVITE", "x"]),
        ("Session-Expires", ["90", "10;refresher=uas", "x", "99999999999999"]),
        ("Min-SE", ["90", "4000", "x"]),
        ("Allow", ["INVITE, UPDATE", "a,,b", ""]),
        ("Retry-After", ["1", "5 (x", "99999"]),
        ("Record-Route", ["<sip:p;lr>", "<sip:p>", "<sip", '"\\\0" <sip:p;lr>']),
        ("Event", ["reg", "x;id=1", ";"]),
        ("Subscription-State", ["active;expires=10", "terminated;reason=x", "", "active;expires=x"]),
        ("Expires", ["0", "10", "x"]),
    ):
        if random.random() < 0.35:
            message.headers.add_parsed(name, pick(values))
    if random.random() < 0.5:
        message.body = b"--x\r\n\r\nbody"
        message.headers.add("Content-Type", pick(["application/sdp", "multipart/mixed;boundary=x", "x", "a/b"]))
    return message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_a_hostile_peer_makes_nothing_raise(seed: int) -> None:
    random = Random(seed)
    script = Script()
    pair = Pair(a=script, session_timer=ua.SessionTimerPolicy(interval=100))
    owner = Owner(pair.b, random)
    invite = script.build("INVITE", 1, random.choice([b"", b"sdp"]), Supported="100rel, timer", Allow="UPDATE")
    pair.at(pair.a, invite)
    for _ in range(60):
        dialogs = [
            (d.local_tag, d.remote_tag, d.call_id)
            for output in pair.b.outputs[-30:]
            if (d := getattr(output, "dialog", None)) is not None
        ]
        if random.random() < 0.3:
            pair.at(pair.b, owner.command(), wait=0.02)
        else:
            pair.at(pair.a, noise(random, script.received, dialogs), wait=random.choice([0.02, 0.02, 2.0]))
    for name in ("s1", "s2"):
        pair.at(pair.b, ua.Unsubscribe(name))
    for call in pair.b.engine.calls:  # type: ignore[attr-defined]
        pair.at(pair.b, ua.Hangup(call))
    pair.net.settle()
    check(pair.b, owner)


@pytest.mark.parametrize("flip", [0x00, 0x0A, 0x22, 0x2C, 0xFF])
def test_every_byte_of_a_call_changed_or_cut(flip: int) -> None:
    """A 183, PRACK, UPDATE and 200, each truncated and changed at every byte in turn."""
    pair = Pair()
    call = pair.dial()
    pair.at(pair.b, ua.Provisional(call, 183, sdp=b"answer"))
    pair.at(pair.a, ua.Modify("call", b"offer2"))
    pair.at(pair.b, ua.AnswerOffer(pair.b.last(ua.OfferReceived).exchange, b"answer2"), ua.Answer(call))
    towards_a = [m for _, sender, m in pair.net.sent if sender == "bob"]
    flow = pair.net.flow(pair.A, pair.B)
    for number, message in enumerate(towards_a):
        data = message.encode()
        for position in range(0, len(data), 3):
            bad = bytearray(data)
            bad[position] = flip
            engine = ua.UserAgent(pair.profile_a, counter("a"))
            for event in (
                ua.Call("call", "sip:bob@192.0.2.2", "<sip:alice@example.org>", "<sip:bob@example.org>", sdp=b"offer"),
                *(Received(each.encode(), flow) for each in towards_a[:number]),
                Received(data[:position], flow),
                Received(bytes(bad), flow),
            ):
                engine.handle(event, 0.0)
                while engine.poll() is not None:
                    pass
