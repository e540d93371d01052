"""The IMS leg: ports, marking, both address families, who may send, silence, keep-alive."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imskit.media import ims_leg
from imskit.media.events import Step
from imskit.media.ims_leg import ImsLeg, open_port_pair
from imskit.media.plane import Source
from imskit.rtp.packet import RtpPacket
from imskit.rtp.rtcp import Goodbye, ReceiverReport, SenderReport, SourceDescription, encode_compound, parse_compound


@pytest.fixture
def legs(bench: Any) -> Iterator[Callable[..., tuple[ImsLeg, Any]]]:
    """Makes legs on loopback, and closes them."""
    made: list[ImsLeg] = []

    def make(host: str = "127.0.0.1", **arguments: Any) -> tuple[ImsLeg, Any]:
        events = bench.events()
        leg = ImsLeg(bench.plane, host, cname="agent", clock_rate=16000, on_event=events, **arguments)
        made.append(leg)
        return leg, events

    yield make
    for leg in made:
        leg.close()


def peer_pair(bench: Any, host: str) -> tuple[Any, Any]:
    """RTP and RTCP sockets of a peer, on neighbouring ports."""
    rtp, rtcp = open_port_pair(host)
    pair = bench.peer(), bench.peer()
    for peer, sock in zip(pair, (rtp, rtcp), strict=True):
        peer.sock.close()
        sock.setblocking(False)
        peer.sock = sock
    return pair


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_rtp_and_rtcp_on_an_even_port_and_the_next(bench: Any, legs: Callable[..., Any], host: str) -> None:
    """RFC 3550 11; IPv4 and IPv6; packets are marked Expedited Forwarding."""
    leg, events = legs(host)
    assert leg.rtp_address[0] == host and leg.rtp_address[1] % 2 == 0
    assert leg.rtcp_address == (host, leg.rtp_address[1] + 1)
    rtp, rtcp = peer_pair(bench, host)
    if host == "127.0.0.1":
        rtp.sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    else:
        rtp.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    leg.set_remote(rtp.address)
    tapped: asyncio.Queue[bytes] = asyncio.Queue()
    bench.plane.tap(leg.id, lambda packet, now: tapped.put_nowait(packet))
    rtp.send(RtpPacket(104, 1, 0, 5, b"in").encode(), leg.rtp_address)
    assert (await asyncio.wait_for(tapped.get(), 2))[12:] == b"in"
    bench.plane.inject(leg.id, 104, 320, b"out")
    while True:
        try:
            data, ancillary, _, source = rtp.sock.recvmsg(2048, 64)
            break
        except BlockingIOError:
            await asyncio.sleep(0)
    assert source[:2] == leg.rtp_address
    packet = RtpPacket.parse(data)
    assert (packet.ssrc, packet.payload) == (leg.ssrc, b"out")
    assert ancillary[0][2][0] == 46 << 2
    rtcp.send(encode_compound([ReceiverReport(5)]), leg.rtcp_address)
    await bench.settle()
    assert leg.reports.received == 1
    bench.plane.send_rtcp(leg.id, leg.reports.report())
    report, description = parse_compound(await rtcp.receive())
    assert isinstance(report, SenderReport) and isinstance(description, SourceDescription)
    assert (report.packet_count, report.octet_count) == (1, 3)
    assert report.reports[0].ssrc == 5
    assert description.chunks[0].cname == b"agent"
    assert {Step.FIRST_RECEIVED, Step.FIRST_SENT} <= set(events.steps)


async def test_rtcp_where_the_peer_wants_it(bench: Any, legs: Callable[..., Any]) -> None:
    """a=rtcp (RFC 3605), and RTCP on the RTP port (RFC 5761)."""
    leg, _ = legs()
    rtp, elsewhere = bench.peer(), bench.peer()
    leg.set_remote(rtp.address, elsewhere.address)
    bench.plane.send_rtcp(leg.id, leg.reports.report())
    assert isinstance(parse_compound(await elsewhere.receive())[0], ReceiverReport)
    leg.set_remote(rtp.address, rtp.address)
    rtp.send(encode_compound([ReceiverReport(5)]), leg.rtp_address)
    await bench.settle()
    assert leg.reports.received == 1
    bench.plane.send_rtcp(leg.id, leg.reports.report())
    assert isinstance(parse_compound(await rtp.receive())[0], ReceiverReport)


async def test_a_refresh_does_not_undo_a_latch(bench: Any, legs: Callable[..., Any]) -> None:
    """Symmetric RTP (RFC 4961): the port that sends is the port that hears, until the description changes."""
    leg, events = legs()
    signalled, real, moved = bench.peer(), bench.peer(), bench.peer()
    leg.set_remote(signalled.address, source=Source.SAME_HOST)
    real.send(RtpPacket(104, 1, 0, 5, b"x").encode(), leg.rtp_address)
    await bench.settle()
    await events.until(Step.LATCHED)
    leg.set_remote(signalled.address, source=Source.SAME_HOST)
    bench.plane.inject(leg.id, 104, 0, b"y")
    assert await real.receive()
    leg.set_remote(moved.address, source=Source.SAME_HOST)
    bench.plane.inject(leg.id, 104, 320, b"z")
    assert await moved.receive()
    assert signalled.nothing() and real.nothing()


async def test_silence_and_its_end_are_told(
    bench: Any, legs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTCP counts as a sign of life, so a hold is no silence."""
    monkeypatch.setattr(ims_leg, "_CHECK_SECONDS", 0.05)
    leg, events = legs(media_timeout=0.3)
    peer = bench.peer()
    leg.set_remote(peer.address, peer.address)
    await events.until(Step.MEDIA_TIMEOUT)
    peer.send(encode_compound([ReceiverReport(5)]), leg.rtp_address)
    await events.until(Step.MEDIA_BACK)
    await events.until(Step.MEDIA_TIMEOUT, count=2)
    peer.send(RtpPacket(104, 1, 0, 5, b"x").encode(), leg.rtp_address)
    await events.until(Step.MEDIA_BACK, count=2)


async def test_keep_alive_during_a_hold(bench: Any, legs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """TS 24.229 K.5.2.1: empty, payload type 20, next sequence number, the stream's timestamps."""
    monkeypatch.setattr(ims_leg, "_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(ims_leg, "KEEP_ALIVE_SECONDS", 0.2)
    leg, _ = legs()
    peer = bench.peer()
    leg.set_remote(peer.address)
    bench.plane.inject(leg.id, 104, 5000, b"speech")
    last = RtpPacket.parse(await peer.receive())
    leg.set_direction(send=False, receive=True)
    bench.plane.inject(leg.id, 104, 5320, b"held")
    leg.keep_alive([104, 96])
    packets = [RtpPacket.parse(await peer.receive()) for _ in range(2)]
    for before, packet in zip([last, *packets], packets, strict=False):
        assert (packet.payload_type, packet.payload, packet.ssrc) == (20, b"", leg.ssrc)
        assert (packet.sequence_number - before.sequence_number) & 0xFFFF == 1
        assert 0.15 * 16000 < packet.timestamp - before.timestamp < 2 * 16000
    leg.keep_alive(None)
    leg.keep_alive([20])
    assert RtpPacket.parse(await peer.receive()).payload_type == 21


async def test_goodbye_both_ways(bench: Any, legs: Callable[..., Any]) -> None:
    leg, events = legs()
    peer = bench.peer()
    leg.set_remote(peer.address, peer.address)
    peer.send(encode_compound([ReceiverReport(5), Goodbye((5,))]), leg.rtp_address)
    await events.until(Step.BYE)
    bench.plane.inject(leg.id, 104, 0, b"x")
    leg.close()
    await peer.receive()
    packets = parse_compound(await peer.receive())
    assert isinstance(packets[-1], Goodbye) and packets[-1].ssrcs == (leg.ssrc,)
    assert events.steps[-1] is Step.CLOSED


async def test_ports_are_free_after_closing(bench: Any, legs: Callable[..., Any]) -> None:
    leg, _ = legs(ports=range(40000, 40002))
    with pytest.raises(OSError, match="no free pair of ports"):
        legs(ports=range(40000, 40002))
    leg.close()
    again, _ = legs(ports=range(40000, 40002))
    assert again.rtp_address[1] == 40000


async def test_an_address_that_is_not_ours_is_refused(legs: Callable[..., Any]) -> None:
    with pytest.raises(OSError):
        legs("198.51.100.1")


@pytest.mark.skipif(os.geteuid() != 0, reason="binding to an interface may need rights")
async def test_bound_to_an_interface(bench: Any, legs: Callable[..., Any]) -> None:
    leg, _ = legs(interface="lo")
    peer = bench.peer()
    leg.set_remote(peer.address)
    bench.plane.inject(leg.id, 104, 0, b"x")
    assert await peer.receive()
    with pytest.raises(OSError):
        legs(interface="no-such-if")
