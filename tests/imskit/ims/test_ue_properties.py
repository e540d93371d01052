"""A UE on a bad network, with an owner and a peer who do anything at any time: it never raises, every call ends."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Link

LINES = [(), ("a=sendonly",), ("a=inactive",), ("a=curr:qos local rubbish",)]


class Chaos:
    def __init__(self, bench: Any, seed: int, sdp: Callable[..., bytes], table: Callable[[str, str], Any]) -> None:
        self.bench = bench
        self.random = Random(seed)
        self.sdp = sdp
        self.lines = [*LINES, table("none", "none"), table("sendrecv", "none"), table("sendrecv", "sendrecv")]
        self.count = 0
        self.mine: list[str] = []
        """Every call that the UE's owner has heard of or made."""
        bench.ue.react = self.note

    def note(self, output: Any) -> tuple[Any, ...]:
        if isinstance(output, ims.IncomingCall):
            self.mine.append(output.call)
        if isinstance(output, ims.Ended):
            assert output.call in self.mine, "a call ends once"
            self.mine.remove(output.call)
        return ()

    def body(self) -> bytes:
        return self.sdp("10.46.0.2", *self.random.choice(self.lines)) if self.random.random() < 0.97 else b"rubbish"

    def act(self) -> None:
        random, bench = self.random, self.bench
        self.count += 1
        call = random.choice([*self.mine, *self.mine[-1:] * 5, "nobody"])
        fine = self.sdp()
        exchanges = [each.exchange for each in bench.said(ims.Offer)][-2:] or ["x"]
        owner = [
            ims.Prepare(call, fine, random.random() < 0.5),
            ims.ResourcesReserved(call),
            ims.ResourcesFailed(call),
            ims.Ring(call),
            ims.Accept(call),
            ims.Reject(call, random.choice([486, 603, 999]), None, (("Warning", random.choice(["399 a b", "\r"])),)),
            ims.Hangup(call, random.choice([(), (("Reason", "\n"),)])),
            ims.Modify(call, self.sdp("10.45.0.2", "a=sendonly")),
            ims.AnswerOffer(call, random.choice(exchanges), fine),
            ims.RejectOffer(call, random.choice(exchanges)),
        ]
        calls = bench.network.engine.calls
        theirs = random.choice([*calls, *calls[-1:] * 5, "nobody"])
        offers = [each.exchange for each in bench.network.all(ua.OfferReceived)][-2:] or ["x"]
        peer = [
            ua.Call(f"n{self.count}", "sip:10.45.0.2", "<sip:b@x>", "<sip:me@x>", random.choice([self.body(), None])),
            ua.Provisional(theirs, random.choice([180, 183, 199]), sdp=random.choice([None, self.body()])),
            ua.Provisional(theirs, 183, sdp=self.body(), reliable=True),
            ua.Answer(theirs, self.body()),
            ua.Reject(theirs, random.choice([302, 403, 486, 504, 603])),
            ua.Hangup(theirs),
            ua.Modify(theirs, random.choice([self.body(), None]), random.choice(["UPDATE", "INVITE"])),
            ua.AnswerOffer(random.choice(offers), self.body()),
            ua.RejectOffer(random.choice(offers)),
        ]
        what = random.random()
        if what < 0.1:
            name = f"c{self.count}"
            self.mine.append(name)
            bench.ue.feed(ims.Dial(name, random.choice(["tel:+1555", "no uri"]), fine, random.random() < 0.5))
        elif what < 0.5:
            # What ends a call comes more seldom, so that some calls get far.
            bench.ue.feed(random.choices(owner, [6, 6, 1, 3, 8, 1, 1, 4, 6, 2])[0])
        elif what < 0.9:
            bench.network.feed(random.choices(peer, [3, 4, 6, 8, 1, 1, 6, 8, 2])[0])
        elif what < 0.91:
            bench.ue.feed(random.choice([ims.Stop(), ims.Start()]))
        bench.net.run(random.choice([0.0, 0.05, 0.5, 5.0]))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), length=st.integers(1, 120), loss=st.sampled_from([0.0, 0.0, 0.2]))
def test_any_order_of_events(make_bench: Any, sdp: Any, status_table: Any, seed: int, length: int, loss: float) -> None:
    bench = make_bench(seed=seed)
    bench.net.link = Link(loss=loss, jitter=0.03, duplication=0.1)
    chaos = Chaos(bench, seed, sdp, status_table)
    for _ in range(length):
        chaos.act()
    bench.ue.feed(ims.Stop())
    bench.net.run(3000)  # the longest timers of both sides, no-answer timers and session timers
    assert bench.engine.calls == ()
    assert chaos.mine == [], "the owner was not told of the end"
    assert bench.engine.status.state is State.OFF
