"""S7-IMS: the transaction layer on a virtual clock: schedules in numbers, matching, refusals, limits."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine.layer import (
    AckReceived,
    CancelReceived,
    FlowClosed,
    Received,
    RequestReceived,
    ResponseReceived,
    SendCancel,
    SendRequest,
    SendResponse,
    SendStateless,
    SentBy,
    StrayResponse,
    TransactionLayer,
    Transmit,
    TransportFailed,
)
from imskit.sip.engine.timers import RFC3261, TS24229_UE, TimerProfile
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Request, Response, response_to


@pytest.fixture
def make(sip: Any) -> Any:
    def make(profile: TimerProfile = RFC3261, **options: Any) -> Any:
        return sip.Playbook(TransactionLayer(sip.Tokens(), profile, **options))

    return make


def answer(book: Any, sip: Any, status: int, *, tag: str = "b", flow: Flow | None = None, **edit: str) -> list[str]:
    """Let the peer answer the request sent last with the method of its first message."""
    request = next(
        output.message
        for _, output in reversed(book.log)
        if isinstance(output, Transmit) and isinstance(output.message, Request) and output.message.method != "ACK"
    )
    response = response_to(request, status, to_tag=tag)
    for name, value in edit.items():
        response.headers.set(name, value)
    return book.do(Received(response.encode(), flow or sip.build_flow()))  # type: ignore[no-any-return]


# ---- client: schedules ---------------------------------------------------------------------------------------------


def test_invite_over_udp_is_sent_seven_times(make: Any, sip: Any) -> None:
    """RFC 3261 section 17.1.1.2: T1 doubling, given up after 64*T1."""
    book = make()
    assert book.do(SendRequest(sip.build_request(), sip.build_flow(), "k")) == ["-> INVITE"]
    assert book.wait(1000) == [
        "0.5 -> INVITE",
        "1.5 -> INVITE",
        "3.5 -> INVITE",
        "7.5 -> INVITE",
        "15.5 -> INVITE",
        "31.5 -> INVITE",
        "32 k timeout",
        "32 k ended",
    ]


def test_invite_at_the_ue(make: Any, sip: Any) -> None:
    """TS 24.229 table 7.7.1: T1 2 s, timer B 128 s."""
    book = make(TS24229_UE)
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    times = [time for time, output in book.run(1000) if isinstance(output, Transmit)]
    assert times == [2, 6, 14, 30, 62, 126]
    assert book.log[-1][0] == 128


def test_non_invite_over_udp(make: Any, sip: Any) -> None:
    """RFC 3261 section 17.1.2.2: doubling up to T2, given up after 64*T1: 11 times in all."""
    book = make()
    book.do(SendRequest(sip.build_request("MESSAGE"), sip.build_flow(), "k"))
    times = [time for time, output in book.run(1000) if isinstance(output, Transmit)]
    assert times == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert [sip.describe(output) for _, output in book.log[-2:]] == ["k timeout", "k ended"]
    assert book.log[-1][0] == 32


def test_non_invite_at_the_ue(make: Any, sip: Any) -> None:
    book = make(TS24229_UE)
    book.do(SendRequest(sip.build_request("REGISTER"), sip.build_flow(), "k"))
    times = [time for time, output in book.run(1000) if isinstance(output, Transmit)]
    assert times == [2, 6, 14, 30, 46, 62, 78, 94, 110, 126]


def test_provisional_slows_non_invite_to_t2(make: Any, sip: Any) -> None:
    book = make()
    book.do(SendRequest(sip.build_request("MESSAGE"), sip.build_flow(), "k"))
    book.wait(1)
    assert answer(book, sip, 100) == ["k got 100"]
    times = [time for time, output in book.run(1000) if isinstance(output, Transmit)]
    assert times == [1.5, 5.5, 9.5, 13.5, 17.5, 21.5, 25.5, 29.5]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_nothing_is_retransmitted_over_tcp(make: Any, sip: Any, method: str) -> None:
    book = make()
    book.do(SendRequest(sip.build_request(method), sip.build_flow("TCP"), "k"))
    assert book.wait(1000) == ["32 k timeout", "32 k ended"]


def test_final_response_lingers_over_udp_and_not_over_tcp(make: Any, sip: Any) -> None:
    for transport, method, status, ended in (
        ("UDP", "INVITE", 486, "32 k ended"),
        ("UDP", "INVITE", 200, "32 k ended"),
        ("UDP", "MESSAGE", 200, "5 k ended"),
        ("TCP", "INVITE", 486, None),
        ("TCP", "INVITE", 200, "32 k ended"),
        ("TCP", "MESSAGE", 200, None),
    ):
        book = make()
        book.do(SendRequest(sip.build_request(method), sip.build_flow(transport), "k"))
        lines = answer(book, sip, status)
        assert ("k ended" in lines) == (ended is None), (transport, method, status)
        assert book.wait(100) == ([ended] if ended else [])
        assert book.engine.transactions == 0
        assert book.engine.deadline() is None


def test_failure_is_acknowledged_each_time_and_passed_up_once(make: Any, sip: Any) -> None:
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    assert answer(book, sip, 180) == ["k got 180"]
    assert answer(book, sip, 486) == ["-> ACK", "k got 486"]
    assert answer(book, sip, 486) == ["-> ACK"]
    assert book.sent().top_via == book.sent(2).top_via
    assert book.sent().to.tag == "b"


def test_forked_2xx_all_go_up(make: Any, sip: Any) -> None:
    """RFC 6026 section 7.2: also after the first one, for 64*T1; no ACK by the layer."""
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    assert answer(book, sip, 200) == ["k got 200"]
    book.wait(31)
    assert answer(book, sip, 200, tag="c") == ["k got 200"]
    book.wait(1.5)
    assert answer(book, sip, 200, tag="c") == ["stray 200"]


def test_lost_first_invite(make: Any, sip: Any) -> None:
    """Two ends over a wire that loses the first INVITE and the first 486."""
    client, server = make(), make()
    client.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    assert client.wait(0.5) == ["0.5 -> INVITE"]
    server.now = client.now
    assert server.do(Received(client.sent(), sip.build_flow())) == ["request INVITE"]
    key = server.last(RequestReceived).key
    assert server.do(SendResponse(key, response_to(client.sent(), 486, to_tag="b"))) == ["-> 486 INVITE"]
    assert server.wait(0.5) == ["1 -> 486 INVITE"]
    client.wait(0.5)
    assert client.do(Received(server.sent(), sip.build_flow())) == ["-> ACK", "k got 486"]
    assert server.do(Received(client.sent(), sip.build_flow())) == []
    assert server.wait(100) == [f"6 {key} ended"]
    assert client.wait(100) == ["33 k ended"]


# ---- client: CANCEL, timer C ---------------------------------------------------------------------------------------


def test_cancel_waits_for_a_provisional_response(make: Any, sip: Any) -> None:
    """RFC 3261 section 9.1."""
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    assert book.do(SendCancel("k", (("Reason", "SIP;cause=200"),))) == []
    assert answer(book, sip, 100) == ["k got 100", "-> CANCEL"]
    cancel = book.sent()
    assert cancel.top_via == book.sent(2).top_via
    assert cancel.headers.get("Reason") == "SIP;cause=200"
    assert answer(book, sip, 200) == []  # to the CANCEL
    invite = book.sent(2)
    assert book.do(Received(response_to(invite, 487, to_tag="b"), sip.build_flow())) == ["-> ACK", "k got 487"]
    assert book.wait(100) == ["32 k ended"]
    assert book.engine.transactions == 0


def test_cancel_goes_at_once_while_ringing_and_only_once(make: Any, sip: Any) -> None:
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    answer(book, sip, 180)
    assert book.do(SendCancel("k")) == ["-> CANCEL"]
    assert book.do(SendCancel("k")) == []


@pytest.mark.parametrize("status", [200, 486])
def test_cancel_after_the_final_response_is_nothing(make: Any, sip: Any, status: int) -> None:
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    answer(book, sip, status)
    assert book.do(SendCancel("k")) == []


def test_cancelled_invite_is_given_up_after_64_t1(make: Any, sip: Any) -> None:
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow("TCP"), "k"))
    answer(book, sip, 180)
    book.do(SendCancel("k"))
    assert book.wait(1000) == ["32 k timeout", "32 k ended"]


def test_timer_c_cancels_an_invite_that_rings_forever(make: Any, sip: Any) -> None:
    """RFC 3261 section 16.6 step 11, 16.7 step 2, 16.8: above 3 minutes, restarted by 101..199 but not by 100."""
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow("TCP"), "k"))
    answer(book, sip, 180)
    book.wait(100)
    answer(book, sip, 180)
    book.wait(100)
    answer(book, sip, 100)
    assert book.wait(1000) == ["285 -> CANCEL", "317 k timeout", "317 k ended"]


def test_cancel_of_a_non_invite_is_nothing(make: Any, sip: Any) -> None:
    book = make()
    book.do(SendRequest(sip.build_request("MESSAGE"), sip.build_flow(), "k"))
    answer(book, sip, 100)
    assert book.do(SendCancel("k")) == []


# ---- client: Via, size, transport ----------------------------------------------------------------------------------


def test_via_names_the_local_address_of_the_flow(make: Any, sip: Any) -> None:
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    via = book.sent().top_via
    assert (via.transport, via.host, via.port, via.wants_rport) == ("UDP", "192.0.2.1", 5060, True)
    assert via.branch.startswith("z9hG4bK")


def test_via_of_the_layer_and_of_the_request(make: Any, sip: Any) -> None:
    book = make(sent_by={"TCP": SentBy("ue.example", 5070, ()), "WSS": SentBy("abc.invalid", None, ())})
    book.do(SendRequest(sip.build_request(), Target("TCP", ("192.0.2.20", 5060)), "1"))
    assert str(book.sent().top_via).startswith("SIP/2.0/TCP ue.example:5070;branch=")
    assert not book.sent().top_via.wants_rport
    book.do(SendRequest(sip.build_request(), sip.build_flow("WSS"), "2"))
    assert str(book.sent().top_via).startswith("SIP/2.0/WSS abc.invalid;branch=")
    own = SentBy("2001:db8::1", 5061, (("keep", None),))
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "3", sent_by=own, branch="z9hG4bKmine"))
    assert str(book.sent().top_via) == "SIP/2.0/UDP [2001:db8::1]:5061;keep;branch=z9hG4bKmine"


def test_misuse_by_the_owner_is_told(make: Any, sip: Any) -> None:
    book = make()
    with pytest.raises(ValueError, match="no sent-by"):
        book.do(SendRequest(sip.build_request(), Target("TCP", ("192.0.2.20", 5060)), "k"))
    for method in ("ACK", "CANCEL"):
        with pytest.raises(ValueError, match=method):
            book.do(SendRequest(sip.build_request(method), sip.build_flow(), "k"))
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    with pytest.raises(ValueError, match="already"):
        book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    assert book.engine.transactions == 1


def test_large_request_takes_a_stream(make: Any, sip: Any) -> None:
    """RFC 3261 section 18.1.1: above 1300 bytes not by UDP."""
    book = make()
    request = sip.build_request("MESSAGE")
    request.set_body(b"x" * 1000, "text/plain")
    book.do(SendRequest(request.copy(), sip.build_flow(), "small"))
    assert book.last(Transmit).destination == sip.build_flow()
    assert len(book.sent().encode()) <= 1300
    request.set_body(b"x" * 1300, "text/plain")
    book.do(SendRequest(request, sip.build_flow(), "large"))
    # From the address by which the peer knows this element.
    assert book.last(Transmit).destination == Target("TCP", ("192.0.2.20", 5060), source="192.0.2.1")
    assert book.sent().top_via.transport == "TCP"
    assert {line.partition(" ")[2] for line in book.wait(31)} == {"-> MESSAGE"}
    assert [line for line in book.wait(100) if "large" in line] == ["32 large timeout", "32 large ended"]


@pytest.mark.parametrize("size", range(900, 1300, 7))
def test_no_datagram_above_1300_bytes(make: Any, sip: Any, size: int) -> None:
    book = make()
    request = sip.build_request("MESSAGE")
    request.set_body(b"x" * size, "text/plain")
    book.do(SendRequest(request, sip.build_flow(), "k"))
    transmit = book.last(Transmit)
    assert transmit.destination.transport == "TCP" or len(transmit.message.encode()) <= 1300


def test_large_request_comes_back_to_udp_without_a_connection(make: Any, sip: Any) -> None:
    book = make()
    request = sip.build_request()
    request.set_body(b"x" * 1300, "application/sdp")
    book.do(SendRequest(request, sip.build_flow(), "k"))
    branch = book.sent().top_via.branch
    assert book.do(TransportFailed("k", "refused")) == ["-> INVITE"]
    transmit = book.last(Transmit)
    assert transmit.destination == sip.build_flow()
    assert len(book.sent().vias) == 1
    assert (book.sent().top_via.transport, book.sent().top_via.branch) == ("UDP", branch)
    assert book.wait(2) == ["0.5 -> INVITE", "1.5 -> INVITE"]
    assert answer(book, sip, 486) == ["-> ACK", "k got 486"]
    assert book.do(TransportFailed("k", "port unreachable")) == ["k failed: port unreachable", "k ended"]


def test_transport_failure_ends_a_client_transaction(make: Any, sip: Any) -> None:
    """RFC 3261 section 17.1.4."""
    for method in ("INVITE", "MESSAGE"):
        book = make()
        book.do(SendRequest(sip.build_request(method), sip.build_flow(), "k"))
        assert book.do(TransportFailed("k", "unreachable")) == ["k failed: unreachable", "k ended"]
        assert book.wait(100) == []


def test_late_icmp_error_does_not_end_a_call_that_rings(make: Any, sip: Any) -> None:
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    answer(book, sip, 180)
    assert book.do(TransportFailed("k", "unreachable")) == []


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_closed_websocket_fails_what_waits_on_it(make: Any, sip: Any, method: str) -> None:
    book = make()
    flow = sip.build_flow("WSS")
    book.do(SendRequest(sip.build_request(method), flow, "k"))
    book.do(SendRequest(sip.build_request(method), sip.build_flow("TCP"), "other"))
    book.do(Received(response_to(book.sent(2), 100), flow))
    assert book.do(FlowClosed(sip.build_flow("TCP"), "gone")) == []
    assert book.do(FlowClosed(flow, "gone")) == ["k failed: gone", "k ended"]


def test_responses_must_match(make: Any, sip: Any) -> None:
    """RFC 3261 section 17.1.3, 18.1.2, 8.1.3.3: branch, method, sent-by, and no more hops than the request had."""
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    via = str(book.sent().top_via)
    assert answer(book, sip, 200, Via=via.replace("z9hG4bK", "z9hG4bKx")) == ["stray 200"]
    assert answer(book, sip, 200, Via=via.replace("192.0.2.1:", "192.0.2.2:")) == ["stray 200"]
    assert answer(book, sip, 200, Via=f"{via}, SIP/2.0/UDP other.example;branch=z9hG4bK9") == ["stray 200"]
    assert answer(book, sip, 200, CSeq="1 MESSAGE") == ["stray 200"]
    assert book.last(StrayResponse).flow == sip.build_flow()
    assert answer(book, sip, 200) == ["k got 200"]
    assert book.last(ResponseReceived).flow == sip.build_flow()


def test_broken_responses_are_dropped(make: Any, sip: Any) -> None:
    book = make()
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "k"))
    assert answer(book, sip, 200, CSeq="nonsense") == []
    assert answer(book, sip, 200, Via="nonsense") == []
    assert answer(book, sip, 200, Via=f"{book.sent().top_via}, ,") == []
    unreadable = response_to(book.sent(), 200, to_tag="b")
    unreadable.headers.add("Via", "SIP/2.0/UDP other.example, ,")
    assert book.do(Received(unreadable.encode(), sip.build_flow())) == ["stray 200"]


def test_stateless_ack_gets_a_via_of_its_own(make: Any, sip: Any) -> None:
    book = make()
    ack = sip.build_request("ACK")
    assert book.do(SendStateless(ack.copy(), sip.build_flow())) == ["-> ACK"]
    first = book.sent().top_via.branch
    assert book.do(SendStateless(ack.copy(), sip.build_flow())) == ["-> ACK"]
    assert book.sent().top_via.branch != first
    book.do(SendStateless(ack, sip.build_flow(), branch="z9hG4bKsame"))
    assert book.sent().top_via.branch == "z9hG4bKsame"
    assert book.last(Transmit).key is None
    assert book.engine.transactions == 0


# ---- server: schedules ---------------------------------------------------------------------------------------------


def receive(book: Any, sip: Any, method: str = "INVITE", *, transport: str = "UDP", **fields: str) -> Any:
    """Let a request come in and return the `RequestReceived`."""
    flow = sip.build_flow(transport)
    lines = book.do(Received(sip.received(method, transport=transport, **fields), flow))
    assert lines == [f"request {method}"]
    return book.last(RequestReceived)


def test_100_after_200_ms(make: Any, sip: Any) -> None:
    """RFC 3261 section 17.2.1; Timestamp is echoed (section 8.2.6.1)."""
    book = make()
    receive(book, sip, timestamp="54")
    assert book.wait(10) == ["0.2 -> 100 INVITE"]
    assert book.sent().headers.get("Timestamp") == "54"
    assert book.sent().to.tag is None
    quick = make()
    received = receive(quick, sip)
    quick.do(SendResponse(received.key, response_to(received.request, 180, to_tag="b")))
    assert quick.wait(10) == []


def test_100_to_non_invite_is_late(make: Any, sip: Any) -> None:
    """RFC 4320 section 4.1: not before timer E of the peer reaches T2, then always."""
    for transport in ("UDP", "TCP"):
        book = make()
        key = receive(book, sip, "MESSAGE", transport=transport).key
        assert book.wait(30) == ["3.5 -> 100 MESSAGE"]
        assert book.wait(10) == [f"32 {key} timeout", f"32 {key} ended"]


def test_failure_response_over_udp_until_acknowledged(make: Any, sip: Any) -> None:
    """RFC 3261 section 17.2.1: timers G and H."""
    book = make()
    received = receive(book, sip)
    assert book.do(SendResponse(received.key, response_to(received.request, 486, to_tag="b"))) == ["-> 486 INVITE"]
    times = [time for time, output in book.run(1000) if isinstance(output, Transmit)]
    assert times == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert [sip.describe(output) for _, output in book.log[-2:]] == [f"{received.key} timeout", f"{received.key} ended"]


def test_failure_response_over_tcp_is_sent_once(make: Any, sip: Any) -> None:
    book = make()
    received = receive(book, sip, transport="TCP")
    book.do(SendResponse(received.key, response_to(received.request, 486, to_tag="b")))
    assert book.wait(1000) == [f"32 {received.key} timeout", f"32 {received.key} ended"]


@pytest.mark.parametrize(("transport", "ended"), [("UDP", "5"), ("TCP", None)])
def test_ack_confirms(make: Any, sip: Any, transport: str, ended: str | None) -> None:
    book = make()
    received = receive(book, sip, transport=transport)
    book.do(SendResponse(received.key, response_to(received.request, 486, to_tag="b")))
    ack = sip.received("ACK", transport=transport, to="<sip:bob@example.org>;tag=b")
    lines = book.do(Received(ack, sip.build_flow(transport)))
    assert lines == ([] if ended else [f"{received.key} ended"])
    if ended:
        assert book.do(Received(ack, sip.build_flow(transport))) == []
    assert book.wait(100) == ([f"{ended} {received.key} ended"] if ended else [])


def test_retransmitted_requests_are_absorbed(make: Any, sip: Any) -> None:
    book = make()
    received = receive(book, sip)
    again = Received(sip.received(), sip.build_flow())
    assert book.do(again) == []
    book.do(SendResponse(received.key, response_to(received.request, 180, to_tag="b")))
    assert book.do(again) == ["-> 180 INVITE"]
    book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b")))
    assert book.do(again) == []  # RFC 6026: the UAS core retransmits
    assert book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b"))) == ["-> 200 INVITE"]
    assert book.do(SendResponse(received.key, response_to(received.request, 486, to_tag="b"))) == []
    assert book.wait(100) == [f"32 {received.key} ended"]
    assert book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b"))) == []


def test_retransmitted_non_invite_gets_the_final_response_again(make: Any, sip: Any) -> None:
    book = make()
    received = receive(book, sip, "MESSAGE")
    again = Received(sip.received("MESSAGE"), sip.build_flow())
    assert book.do(again) == []
    book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b")))
    assert book.do(again) == ["-> 200 MESSAGE"]
    assert book.wait(100) == [f"32 {received.key} ended"]
    assert book.do(again) == ["request MESSAGE"]


def test_non_invite_takes_neither_1xx_nor_408(make: Any, sip: Any) -> None:
    """RFC 4320 section 4."""
    book = make()
    received = receive(book, sip, "MESSAGE")
    for status in (100, 180, 183, 408):
        assert book.do(SendResponse(received.key, response_to(received.request, status, to_tag="b"))) == []
    book.wait(10)
    assert book.do(SendResponse(received.key, response_to(received.request, 408, to_tag="b"))) == []
    assert book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b"))) == ["-> 200 MESSAGE"]


def test_408_to_invite_is_sent(make: Any, sip: Any) -> None:
    book = make()
    received = receive(book, sip)
    assert book.do(SendResponse(received.key, response_to(received.request, 408, to_tag="b"))) == ["-> 408 INVITE"]


def test_ringing_phone_keeps_its_transaction_and_a_forgotten_one_loses_it(make: Any, sip: Any) -> None:
    book = make()
    received = receive(book, sip)
    for _ in range(20):
        book.do(SendResponse(received.key, response_to(received.request, 180, to_tag="b")))
        book.wait(60)
    assert book.engine.transactions == 1
    assert book.wait(1000) == [f"1510 {received.key} timeout", f"1510 {received.key} ended"]


def test_undeliverable_response(make: Any, sip: Any) -> None:
    """RFC 6026 section 7.1 for INVITE, RFC 3261 figure 8 for the others."""
    book = make()
    received = receive(book, sip)
    book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b")))
    assert book.do(TransportFailed(received.key, "gone")) == [f"{received.key} failed: gone"]
    assert book.do(Received(sip.received(), sip.build_flow())) == []
    book = make()
    received = receive(book, sip, "MESSAGE")
    book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b")))
    assert book.do(TransportFailed(received.key, "gone")) == [
        f"{received.key} failed: gone",
        f"{received.key} ended",
    ]
    assert book.do(TransportFailed("nobody", "gone")) == book.do(TransportFailed(None, "gone")) == []


# ---- server: matching ----------------------------------------------------------------------------------------------


def test_transactions_are_told_apart(make: Any, sip: Any) -> None:
    """RFC 3261 section 17.2.3: branch, sent-by with port, method."""
    book = make(refuse_merged=False)
    flow = sip.build_flow()
    assert book.do(Received(sip.received(), flow)) == ["request INVITE"]
    assert book.do(Received(sip.received(branch="z9hG4bKb2"), flow)) == ["request INVITE"]
    assert book.do(Received(sip.received(host="192.0.2.21"), flow)) == ["request INVITE"]
    assert book.do(Received(sip.received("MESSAGE"), flow)) == ["request MESSAGE"]
    assert book.do(Received(sip.received(host="192.0.2.20"), flow)) == []


@pytest.mark.parametrize("branch", ["", "1", "z9hG4bK"])
def test_rfc2543_client(make: Any, sip: Any, branch: str) -> None:
    """Without a usable branch: Request-URI, tags, Call-ID, CSeq and Via (RFC 3261 section 17.2.3)."""
    book = make()
    received = receive(book, sip, branch=branch)
    flow = sip.build_flow()
    assert book.do(Received(sip.received(branch=branch), flow)) == []
    assert book.do(Received(sip.received(branch=branch, call_id="other"), flow)) == ["request INVITE"]
    assert book.do(Received(sip.received(branch=branch, cseq="2 INVITE"), flow)) == ["request INVITE"]
    book.do(SendResponse(received.key, response_to(received.request, 486, to_tag="b")))
    ack = sip.received("ACK", branch=branch, to="<sip:bob@example.org>;tag=b")
    assert book.do(Received(ack, flow)) == []
    assert [line for line in book.wait(10) if "486" in line] == []


def test_rfc2543_ack_of_2xx_goes_up(make: Any, sip: Any) -> None:
    """RFC 6026 section 6: it matches the INVITE's transaction, which must not swallow it."""
    book = make()
    received = receive(book, sip, branch="")
    book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b")))
    ack = sip.received("ACK", branch="", to="<sip:bob@example.org>;tag=b")
    assert book.do(Received(ack, sip.build_flow())) == ["ack"]


def test_ack_of_2xx_goes_up(make: Any, sip: Any) -> None:
    book = make()
    received = receive(book, sip)
    book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b")))
    ack = sip.received("ACK", branch="z9hG4bKack", to="<sip:bob@example.org>;tag=b")
    assert book.do(Received(ack, sip.build_flow())) == ["ack"]
    assert book.last(AckReceived).request.to.tag == "b"


def test_cancel_of_a_ringing_invite(make: Any, sip: Any) -> None:
    """RFC 3261 section 9.2: 200 to the CANCEL with the To tag of the INVITE's responses."""
    book = make()
    received = receive(book, sip)
    book.do(SendResponse(received.key, response_to(received.request, 180, to_tag="ringing")))
    cancel = Received(sip.received("CANCEL"), sip.build_flow())
    assert book.do(cancel) == ["-> 200 CANCEL", "cancel"]
    assert book.sent().to.tag == "ringing"
    assert book.last(CancelReceived).key == received.key
    assert book.do(cancel) == ["-> 200 CANCEL"]
    assert book.do(SendResponse(received.key, response_to(received.request, 487, to_tag="ringing"))) == [
        "-> 487 INVITE"
    ]


def test_cancel_before_any_response_and_after_the_final_one(make: Any, sip: Any) -> None:
    book = make()
    received = receive(book, sip)
    book.do(SendResponse(received.key, response_to(received.request, 200, to_tag="b")))
    assert book.do(Received(sip.received("CANCEL"), sip.build_flow())) == ["-> 200 CANCEL"]
    book = make()
    receive(book, sip)
    assert book.do(Received(sip.received("CANCEL"), sip.build_flow())) == ["-> 200 CANCEL", "cancel"]
    assert book.sent().to.tag


def test_cancel_of_nothing_is_for_the_owner(make: Any, sip: Any) -> None:
    book = make()
    assert book.do(Received(sip.received("CANCEL"), sip.build_flow())) == ["request CANCEL"]


def test_merged_request(make: Any, sip: Any) -> None:
    """RFC 3261 section 8.2.2.2: the same request over two ways; not with a To tag, not in a proxy."""
    flow = sip.build_flow()
    book = make()
    receive(book, sip)
    assert book.do(Received(sip.received(branch="z9hG4bKother"), flow)) == ["-> 482 INVITE"]
    ack = sip.received("ACK", branch="z9hG4bKother", to=book.sent().headers.get("To"))
    assert book.do(Received(ack, flow)) == []
    tagged = sip.received(branch="z9hG4bKthird", to="<sip:bob@example.org>;tag=b")
    assert book.do(Received(tagged, flow)) == ["request INVITE"]
    book.wait(1000)
    assert book.do(Received(sip.received(branch="z9hG4bKlater"), flow)) == ["request INVITE"]
    proxy = make(refuse_merged=False)
    receive(proxy, sip)
    assert proxy.do(Received(sip.received(branch="z9hG4bKother"), flow)) == ["request INVITE"]


# ---- server: source, refusals, limits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bK1", "SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bK1"),
        ("SIP/2.0/UDP pc.example;branch=z9hG4bK1", "SIP/2.0/UDP pc.example;branch=z9hG4bK1;received=192.0.2.20"),
        (
            "SIP/2.0/UDP 192.0.2.20;rport;branch=z9hG4bK1",
            "SIP/2.0/UDP 192.0.2.20;rport=40000;branch=z9hG4bK1;received=192.0.2.20",
        ),
        (
            "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;received=203.0.113.99;rport=7",
            "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;received=192.0.2.20;rport=40000",
        ),
    ],
)
def test_received_and_rport(make: Any, sip: Any, sent: str, expected: str) -> None:
    """RFC 3261 section 18.2.1, RFC 3581 section 4; what the peer says of itself does not count."""
    book = make()
    request = sip.received()
    request.headers.set("Via", sent)
    book.do(Received(request.encode(), sip.build_flow(port=40000)))
    assert book.last(RequestReceived).request.headers.get("Via") == expected


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda text: text.replace(b"SIP/2.0\r\nVia", b"SIP/3.0\r\nVia"), 505),
        (lambda text: text.replace(b"CSeq: 1 INVITE", b"CSeq: 1 BYE"), 400),
        (lambda text: text.replace(b"CSeq: 1 INVITE", b"CSeq: -1 INVITE"), 400),
        (lambda text: text.replace(b"Max-Forwards: 70", b"Max-Forwards: many"), 400),
        (lambda text: text.replace(b"To: <sip:bob", b"To: <<sip:bob"), 400),
        (lambda text: text.replace(b"Max-Forwards: 70", b"no colon here"), 400),
    ],
)
def test_malformed_request_is_refused_without_state(make: Any, sip: Any, spoil: Any, status: int) -> None:
    book = make()
    data = spoil(sip.received().encode())
    flow = sip.build_flow(port=5060)
    assert book.do(Received(data, flow)) in ([f"-> {status} INVITE"], [f"-> {status} BYE"])
    transmit = book.last(Transmit)
    assert isinstance(transmit.message, Response)
    assert (transmit.message.status, transmit.destination, transmit.key) == (status, flow, None)
    assert book.engine.transactions == 0


@pytest.mark.parametrize(
    "data", [b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x01" * 50, b"ACK x SIP/2.0\r\n\r\n"]
)
def test_noise_is_dropped(make: Any, sip: Any, data: bytes) -> None:
    book = make()
    assert book.do(Received(data, sip.build_flow())) == []


def test_overload_is_refused_without_state(make: Any, sip: Any) -> None:
    """At the limit: 503 with Retry-After, its ACK absorbed, retransmissions and CANCEL of the old ones still served."""
    book = make(max_transactions=2, retry_after=7)
    flow = sip.build_flow()
    first = receive(book, sip)
    receive(book, sip, branch="z9hG4bKb2", call_id="call-2")
    third = sip.received(branch="z9hG4bKb3", call_id="call-3")
    assert book.do(Received(third.copy(), flow)) == ["-> 503 INVITE"]
    assert book.sent().headers.get("Retry-After") == "7"
    assert book.engine.transactions == 2
    ack = sip.received("ACK", branch="z9hG4bKb3", call_id="call-3", to=book.sent().headers.get("To"))
    assert book.do(Received(ack, flow)) == []
    assert book.do(Received(sip.received(), flow)) == []
    assert book.do(Received(sip.received("CANCEL"), flow)) == ["-> 200 CANCEL", "cancel"]
    book.do(SendResponse(first.key, response_to(first.request, 200, to_tag="b")))
    book.wait(100)
    book.wait(1000)
    assert book.do(Received(third, flow)) == ["request INVITE"]


def test_each_side_has_its_timers(make: Any, sip: Any) -> None:
    """TS 24.229 section 7.7: a P-CSCF has the long timers towards the UE only."""
    ue_side = ("192.0.2.1", 5060)
    book = make(local_profiles={ue_side: TS24229_UE}, refuse_merged=False)
    book.do(SendRequest(sip.build_request(), sip.build_flow(), "ue"))
    book.do(SendRequest(sip.build_request(), sip.build_flow(local="192.0.2.2"), "core"))
    book.do(SendRequest(sip.build_request(), sip.build_flow(local="192.0.2.2"), "given", profile=TS24229_UE))
    ends = {sip.describe(output): time for time, output in book.run(1000) if "ended" in sip.describe(output)}
    assert ends == {"ue ended": 128, "core ended": 32, "given ended": 128}
    for local, due in (("192.0.2.1", 14), ("192.0.2.2", 3.5)):
        book = make(local_profiles={ue_side: TS24229_UE})
        book.do(Received(sip.received("MESSAGE"), sip.build_flow(local=local)))
        assert book.wait(20)[0] == f"{due} -> 100 MESSAGE"
