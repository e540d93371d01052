"""The DNS proxy's machine on a virtual clock.  Requirement S7-DNS."""

from __future__ import annotations

import random
from collections.abc import Hashable
from ipaddress import ip_address

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.engine import Tick
from ue_agent.dns_proxy.engine import proxy as p
from ue_agent.dns_proxy.wire.local import LocalAnswers


class Bench:
    """An engine, a clock, and what it wants done."""

    def __init__(self, upstreams: int = 2) -> None:
        numbers = random.Random(1)
        self.now = 100.0
        self.engine = p.DnsProxyEngine(
            upstreams,
            LocalAnswers({"turn.ims.example": [ip_address("10.99.0.1")]}),
            ["ims.example"],
            lambda digits: f"{numbers.getrandbits(4 * digits):0{digits}x}",
        )
        self.asks: list[p.Ask] = []
        self.replies: list[p.Reply] = []
        self.changes: list[tuple[int, bool]] = []
        self.hangups: list[Hashable] = []

    def handle(self, event: p.Event | Tick) -> None:
        self.engine.handle(event, self.now)
        while (output := self.engine.poll()) is not None:
            if isinstance(output, p.Ask):
                self.asks.append(output)
            elif isinstance(output, p.Reply):
                self.replies.append(output)
            elif isinstance(output, p.Hangup):
                self.hangups.append(output.client)
            else:
                self.changes.append((output.upstream, output.up))

    def run_until(self, when: float) -> None:
        while (deadline := self.engine.deadline()) is not None and deadline <= when:
            self.now = deadline
            self.handle(Tick())
        self.now = when

    def query(self, client: Hashable = "c1", name: str = "www.example", rdtype: str = "A", **options: object) -> bytes:
        stream = bool(options.pop("stream", False))
        options.setdefault("use_edns", 0)
        data = dns.message.make_query(name, rdtype, **options).to_wire()
        self.handle(p.ClientQuery(client, data, stream))
        return data

    def answer(self, ask: p.Ask, *records: str, rcode: str = "NOERROR", change: object = None) -> None:
        message = dns.message.make_response(dns.message.from_wire(ask.data), recursion_available=True)
        message.set_rcode(dns.rcode.from_text(rcode))
        for record in records:
            name, ttl, rdtype, data = record.split(" ", 3)
            message.answer.append(dns.rrset.from_text(name, int(ttl), "IN", rdtype, data))
        data = message.to_wire()
        if change is not None:
            data = change(data)
        self.handle(p.UpstreamReply(ask.upstream, ask.path, data))

    def reply(self) -> dns.message.Message:
        assert len(self.replies) == 1, self.replies
        return dns.message.from_wire(self.replies.pop().data)


A = "www.example. 60 A 192.0.2.1"


def test_local_names_never_leave() -> None:
    bench = Bench()
    data = bench.query(name="turn.ims.example")
    assert not bench.asks
    reply = bench.reply()
    assert reply.id == int.from_bytes(data[:2], "big")
    assert reply.answer[0][0].to_text() == "10.99.0.1"


def test_a_local_answer_is_known_the_second_time() -> None:
    bench = Bench()
    assert bench.engine.known_answer(dns.message.make_query("turn.ims.example", "A").to_wire()) is None
    data = bench.query(name="TURN.ims.example")
    first = bench.replies.pop().data
    again = b"\x12\x34" + data[2:]
    assert bench.engine.known_answer(again) == b"\x12\x34" + first[2:]
    assert bench.engine.known_answer(b"\x12") is None
    forwarded = bench.query(name="www.example")
    assert bench.engine.known_answer(forwarded) is None
    bench.engine.set_answers(LocalAnswers({"turn.ims.example": [ip_address("10.99.0.2")]}))
    assert bench.engine.known_answer(again) is None
    for number in range(2 * p.MAXIMUM_KNOWN):
        bench.query(name="turn.ims.example", use_edns=0, payload=512 + number)
    assert len(bench.engine._known) == p.MAXIMUM_KNOWN


def test_a_query_is_forwarded_unchanged_but_for_its_id() -> None:
    bench = Bench()
    data = bench.query(options=[dns.edns.GenericOption(65001, b"hello")], payload=1400, want_dnssec=True)
    (ask,) = bench.asks
    assert ask.upstream == 0
    assert ask.data[2:] == data[2:]
    bench.answer(ask, A)
    reply = bench.reply()
    assert reply.id == int.from_bytes(data[:2], "big")
    assert reply.answer[0].ttl == 60
    assert bench.engine.deadline() is None


def test_ids_and_sockets_vary() -> None:
    bench = Bench()
    for number in range(100):
        bench.query(name=f"n{number}.example")
    assert len({ask.data[:2] for ask in bench.asks}) > 95
    assert {ask.path for ask in bench.asks} == set(range(p.SOCKETS))


def test_the_second_asker_is_served_from_memory_until_the_ttl_ends() -> None:
    bench = Bench()
    bench.query()
    bench.answer(bench.asks[0], A)
    bench.reply()
    bench.now += 59
    bench.query(name="WWW.example")
    reply = bench.reply()
    assert (reply.answer[0].ttl, reply.question[0].name.to_text()) == (1, "WWW.example.")
    bench.now += 1
    bench.query()
    assert len(bench.asks) == 2
    assert bench.engine.counters.answered_from_cache == 1


def test_a_query_with_other_flags_is_another_query() -> None:
    bench = Bench()
    bench.query()
    bench.answer(bench.asks[0], A)
    bench.query(want_dnssec=True)
    bench.query(flags=dns.flags.RD | dns.flags.CD)
    bench.query(use_edns=False)
    assert len(bench.asks) == 4


def test_those_who_ask_the_same_wait_together() -> None:
    bench = Bench()
    first = bench.query("c1")
    second = bench.query("c2", name="Www.Example")
    bench.handle(p.ClientQuery("c1", first, False))  # a repetition by the same client
    assert len(bench.asks) == 1
    bench.answer(bench.asks[0], A)
    assert [reply.client for reply in bench.replies] == ["c1", "c2"]
    assert bench.replies[0].data[:2] == first[:2]
    assert bench.replies[1].data[:2] == second[:2]
    assert b"\x03Www\x07Example" in bench.replies[1].data


@pytest.mark.parametrize(
    "forge",
    [
        lambda d: bytes([d[0] ^ 1]) + d[1:],  # another ID
        lambda d: d.replace(b"\x03www", b"\x03wwx"),  # another question
        lambda d: d[:2] + b"\x01" + d[3:],  # no response
        lambda d: d[:4] + b"\0\2" + d[6:],
        lambda d: d[:20],
        lambda d: d[:12],
        lambda d: d[:3],
    ],
)
def test_what_does_not_match_is_ignored(forge) -> None:
    bench = Bench()
    bench.query()
    bench.answer(bench.asks[0], A, change=forge)
    assert not bench.replies
    counters = bench.engine.counters
    assert counters.unexpected + counters.malformed == 1
    bench.answer(bench.asks[0], A)
    bench.reply()


def test_a_response_by_another_path_is_ignored() -> None:
    bench = Bench()
    bench.query()
    ask = bench.asks[0]
    bench.answer(ask._replace(path=(ask.path + 1) % p.SOCKETS), A)
    bench.answer(ask._replace(upstream=1), A)
    assert not bench.replies
    assert bench.engine.counters.unexpected == 2


def test_silence_leads_to_the_next_upstream_and_then_to_preferring_it() -> None:
    bench = Bench()
    bench.query(name="a.example")
    bench.run_until(101.0)
    assert [ask.upstream for ask in bench.asks] == [0, 1]
    bench.answer(bench.asks[1], A.replace("www", "a"))
    bench.query(name="b.example")
    bench.run_until(102.0)
    assert bench.changes == [(0, False)]
    bench.asks.clear()
    bench.query(name="c.example")
    assert [ask.upstream for ask in bench.asks] == [1]


def test_a_late_answer_still_counts() -> None:
    bench = Bench()
    bench.query()
    bench.run_until(101.5)
    bench.answer(bench.asks[0], A)
    bench.reply()
    assert bench.engine.deadline() is None


def test_an_upstream_that_returns_is_preferred_again() -> None:
    bench = Bench()
    bench.query(name="a.example")
    bench.handle(p.UpstreamFailed(0, bench.asks[0].path))
    assert [ask.upstream for ask in bench.asks] == [0, 1]  # at once
    assert bench.engine.upstreams_up == (False, True)
    bench.answer(bench.asks[1], A.replace("www", "a"))
    bench.now += p.PROBE_S
    bench.asks.clear()
    bench.query(name="b.example")
    assert [ask.upstream for ask in bench.asks] == [0, 1]  # a real query probes
    bench.query(name="c.example")
    assert len(bench.asks) == 3  # but not each
    bench.answer(bench.asks[0], A.replace("www", "b"))
    assert bench.changes == [(0, False), (0, True)]
    bench.asks.clear()
    bench.query(name="d.example")
    assert [ask.upstream for ask in bench.asks] == [0]


def test_nobody_answers() -> None:
    bench = Bench()
    bench.query("c1")
    bench.query("c2", use_edns=False)
    bench.run_until(110.0)
    assert sorted(ask.upstream for ask in bench.asks) == [0, 0, 0, 0, 1, 1, 1, 1]  # twice each for each
    replies = {reply.client: dns.message.from_wire(reply.data) for reply in bench.replies}
    assert all(reply.rcode() == dns.rcode.SERVFAIL for reply in replies.values())
    assert [option.code for option in replies["c1"].options] == [22]  # RFC 8914
    assert not replies["c2"].options
    assert bench.engine.counters.failed == 2
    assert bench.engine.deadline() is None


def test_all_refuse_connections_fails_at_once() -> None:
    bench = Bench()
    bench.query()
    for ask in bench.asks:
        bench.handle(p.UpstreamFailed(ask.upstream, ask.path))
    assert bench.reply().rcode() == dns.rcode.SERVFAIL
    assert len(bench.asks) == 2


def test_the_next_upstream_may_know_better_than_servfail() -> None:
    bench = Bench()
    bench.query()
    bench.answer(bench.asks[0], rcode="SERVFAIL")
    assert not bench.replies
    bench.answer(bench.asks[1], A)
    assert bench.reply().rcode() == dns.rcode.NOERROR
    assert bench.engine.upstreams_up == (True, True)


def test_if_not_its_own_words_are_handed_on() -> None:
    bench = Bench()
    bench.query()
    bench.answer(bench.asks[0], rcode="REFUSED")
    bench.answer(bench.asks[1], rcode="REFUSED")
    assert bench.reply().rcode() == dns.rcode.REFUSED
    bench.query()
    assert len(bench.asks) == 3  # not cached


def test_an_error_without_a_question_is_not_handed_on() -> None:
    bench = Bench(upstreams=1)
    bench.query()
    bench.answer(bench.asks[0], rcode="FORMERR", change=lambda d: d[:4] + bytes(8))
    reply = bench.reply()
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert reply.question


def test_an_oversized_cached_answer_is_truncated_for_a_small_client() -> None:
    bench = Bench()
    records = [f"www.example. 60 TXT {'x' * 200}{n}" for n in range(5)]
    bench.query(rdtype="TXT", use_edns=False, stream=True)
    ask = bench.asks[0]
    assert ask.path >= p.SOCKETS  # TCP questions go on over TCP
    bench.answer(ask, *records)
    assert len(bench.reply().answer[0]) == 5
    bench.query(rdtype="TXT", use_edns=False)
    reply = bench.reply()
    assert reply.flags & dns.flags.TC
    assert not reply.answer
    assert len(bench.asks) == 1


def test_the_operators_names_lose_what_leads_past_the_proxy() -> None:
    bench = Bench()
    bench.query(name="portal.ims.example", rdtype="HTTPS")
    bench.answer(bench.asks[0], 'portal.ims.example. 60 HTTPS 1 . alpn="h2,h3"')
    assert bench.reply().answer[0][0].to_text() == '1 . alpn="h2"'
    bench.query(name="portal.ims.example", rdtype="HTTPS")
    assert bench.reply().answer[0][0].to_text() == '1 . alpn="h2"'


def test_other_names_keep_it() -> None:
    bench = Bench()
    bench.query(name="www.example", rdtype="HTTPS")
    bench.answer(bench.asks[0], 'www.example. 60 HTTPS 1 . alpn="h2,h3"')
    assert bench.reply().answer[0][0].to_text() == '1 . alpn="h2,h3"'


def test_an_operator_record_that_cannot_be_read_is_not_let_through() -> None:
    bench = Bench(upstreams=1)
    bench.query(name="portal.ims.example", rdtype="HTTPS")
    bench.answer(
        bench.asks[0],
        'portal.ims.example. 60 HTTPS 1 . alpn="h2,h3"',
        change=lambda d: d.replace(b"\x00\x01\x00\x06\x02h2\x02h3", b"\x00\x01\x00\x06\x02h2\x09h3"),
    )
    assert bench.reply().rcode() == dns.rcode.SERVFAIL


def test_malformed_queries() -> None:
    bench = Bench()
    bench.handle(p.ClientQuery("c1", b"\x12\x34\x01\0\0\2" + bytes(20), False))
    assert bench.reply().rcode() == dns.rcode.FORMERR
    bench.handle(p.ClientQuery("c1", b"\x12\x34\x28\0\0\1" + bytes(20), False))
    assert bench.replies.pop().data[3] & 15 == dns.rcode.NOTIMP
    bench.handle(p.ClientQuery("c1", b"short", False))
    assert not bench.replies
    assert not bench.hangups
    bench.handle(p.ClientQuery("t1", b"short", True))
    assert bench.hangups == ["t1"]
    assert bench.engine.counters.malformed == 4


def test_waiting_queries_and_clients_are_bounded() -> None:
    bench = Bench()
    for number in range(p.MAXIMUM_PENDING):
        bench.query(f"c{number}", name=f"n{number}.example")
    bench.query("late", name="late.example")
    assert bench.reply().rcode() == dns.rcode.SERVFAIL
    for number in range(1, p.MAXIMUM_WAITERS + 1):
        bench.query(f"d{number}", name="n1.example")
    assert bench.reply().rcode() == dns.rcode.SERVFAIL
    bench.run_until(200.0)
    assert len(bench.replies) == p.MAXIMUM_PENDING + p.MAXIMUM_WAITERS - 1
    bench.replies.clear()
    bench.query(name="again.example")
    assert not bench.replies


def test_an_engine_needs_an_upstream() -> None:
    with pytest.raises(ValueError, match="upstream"):
        Bench(upstreams=0)


@given(
    st.lists(
        st.tuples(st.sampled_from("qrft"), st.integers(0, 3), st.sampled_from(["NOERROR", "SERVFAIL", "NXDOMAIN"])),
        max_size=40,
    )
)
def test_every_query_is_answered_once_whatever_happens(steps: list[tuple[str, int, str]]) -> None:
    bench = Bench()
    asked = 0
    for kind, number, rcode in steps:
        if kind == "q":
            bench.query(f"client{asked}", name=f"n{number}.example", stream=bool(asked % 3 == 0))
            asked += 1
        elif kind == "t":
            bench.run_until(bench.now + number / 2)
        elif bench.asks:
            ask = bench.asks[number % len(bench.asks)]
            if kind == "r":
                bench.answer(ask, rcode=rcode)
            else:
                bench.handle(p.UpstreamFailed(ask.upstream, ask.path))
    bench.run_until(bench.now + 20)
    assert sorted(str(reply.client) for reply in bench.replies) == sorted(f"client{n}" for n in range(asked))
    assert bench.engine.deadline() is None
