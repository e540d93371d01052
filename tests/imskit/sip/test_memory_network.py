"""The network in memory that other tests stand on."""

from __future__ import annotations

from imskit.sip.engine import user_agent as ua
from imskit.sip.memory_network import Link, MemoryNetwork, Pair, Script, answer_to
from imskit.sip.wire.message import Request


def sequences(seed: int, link: Link) -> list[int]:
    """Send twenty numbered requests and return the numbers in the order in which they arrive."""
    pair = Pair(link, seed=seed, a=Script(), b=Script())
    script, receiver = pair.a.engine, pair.b.engine
    assert isinstance(script, Script) and isinstance(receiver, Script)
    for number in range(20):
        pair.at(pair.a, script.build("OPTIONS", number), wait=0.001)
    pair.net.settle()
    return [each.cseq.number for each in receiver.received]


def test_delay_and_order() -> None:
    assert sequences(1, Link(0.5)) == list(range(20))


def test_loss_duplication_and_reordering_are_seeded() -> None:
    bad = Link(0.01, jitter=0.5, loss=0.3, duplication=0.3)
    first = sequences(1, bad)
    assert first == sequences(1, bad) != sequences(2, bad)
    assert first != sorted(first) and len(set(first)) < 20 and len(first) > len(set(first))


def test_a_stream_loses_nothing() -> None:
    pair = Pair(Link(0.01, 0.5, 1.0, 1.0), transport="TCP")
    pair.dial()
    assert pair.arrows() == ["> INVITE (sdp)"] and len(pair.b.all(ua.IncomingCall)) == 1


def test_a_host_that_is_not_there() -> None:
    net = MemoryNetwork()
    script = Script()
    host = net.add("alice", script, ("192.0.2.1", 5060))
    script.flow = net.flow(host.address, ("192.0.2.99", 5060))
    host.feed(script.build("OPTIONS", 1))
    assert net.ladder == ["alice -x 192.0.2.99:5060  OPTIONS"]
    assert net.now == 0.0
    net.run(7)
    assert net.now == 7.0


def test_the_owner_reacts_and_the_ladder_is_checked() -> None:
    pair = Pair()
    pair.b.react = lambda output: [ua.Reject(output.call, 486)] if isinstance(output, ua.IncomingCall) else []
    pair.dial()
    try:
        pair.expect("> INVITE (sdp)")
    except AssertionError as error:
        assert "< 486 INVITE" in str(error)
    else:
        raise AssertionError("a wrong ladder passed")
    assert pair.quiet()


def test_a_script_answers() -> None:
    script = Script()
    pair = Pair(b=script)
    pair.dial()
    invite = script.request("INVITE")
    assert isinstance(invite, Request)
    pair.at(pair.b, answer_to(invite, 180, "b1"), answer_to(invite, 486))
    assert pair.a.last(ua.Ended).cause is ua.Cause.REJECTED
