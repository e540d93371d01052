"""The Python plane on real loopback sockets: relay, SRTP, source checks, TURN channels, own peers."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Any

import pylibsrtp
import pytest

from imskit.media import plane_path
from imskit.media.plane import Address, LegId, Notice, Relay, Source, SrtpKeys, SrtpProfile
from imskit.media.python_plane import PythonPlane
from imskit.rtp.packet import HeaderExtension, RtpPacket
from imskit.secrets import Secret

VIRTUAL = ("192.0.0.8", 40000)
KEY_A = bytes(range(30))
KEY_B = bytes(range(100, 130))


def rtp(sequence: int, *, ssrc: int = 0x1111, payload_type: int = 8, payload: bytes = b"speech", **more) -> bytes:
    timestamp = more.pop("timestamp", sequence * 160 & 0xFFFFFFFF)
    return RtpPacket(payload_type, sequence, timestamp, ssrc, payload, **more).encode()


def srtp(key: bytes, *, outbound: bool) -> pylibsrtp.Session:
    kind = pylibsrtp.Policy.SSRC_ANY_OUTBOUND if outbound else pylibsrtp.Policy.SSRC_ANY_INBOUND
    return pylibsrtp.Session(pylibsrtp.Policy(key=key, ssrc_type=kind))


def keys(send: bytes = KEY_A, receive: bytes = KEY_B) -> SrtpKeys:
    return SrtpKeys(SrtpProfile.AES128_CM_SHA1_80, Secret(send), Secret(receive))


async def test_relay_rewrites_the_header_and_strips_extensions(bench: Any) -> None:
    left, right = bench.peer(), bench.peer()
    a, a_address, a_handler = bench.plain_leg(left)
    b, _, b_handler = bench.plain_leg(right)
    bench.plane.route(a, b, Relay({8: 96}, 8000))
    extension = HeaderExtension.of([(1, b"\x90"), (3, b"mid")])
    left.send(rtp(65535, extension=extension, csrcs=(7, 8), payload=b"one"), a_address)
    left.send(rtp(0, timestamp=65536 * 160, payload=b"two"), a_address)
    first = RtpPacket.parse(await right.receive())
    second = RtpPacket.parse(await right.receive())
    assert (first.payload, second.payload) == (b"one", b"two")
    assert first.ssrc == second.ssrc == 0xAAAA
    assert first.payload_type == second.payload_type == 96
    assert first.extension is None and first.csrcs == ()
    assert (second.sequence_number - first.sequence_number) & 0xFFFF == 1
    assert (second.timestamp - first.timestamp) & 0xFFFFFFFF == 160
    assert first.marker and not second.marker
    stats = bench.plane.stats(a)
    assert (stats.packets_received, stats.octets_received) == (2, 6)
    assert stats.reception is not None and stats.reception.lost == 0 and stats.reception.expected == 2
    assert bench.plane.stats(b).packets_sent == 2
    assert a_handler.notices == [Notice.FIRST_RECEIVED] and b_handler.notices == [Notice.FIRST_SENT]


async def test_a_change_of_source_continues_the_leaving_stream(bench: Any) -> None:
    left, right = bench.peer(), bench.peer()
    a, a_address, _ = bench.plain_leg(left)
    b, _, _ = bench.plain_leg(right)
    bench.plane.route(a, b, Relay({8: 8}, 8000))
    left.send(rtp(10), a_address)
    first = RtpPacket.parse(await right.receive())
    bench.plane.inject(b, 8, first.timestamp + 160 & 0xFFFFFFFF, b"x")
    injected = RtpPacket.parse(await right.receive())
    left.send(rtp(40000, ssrc=0x2222, timestamp=5), a_address)
    third = RtpPacket.parse(await right.receive())
    assert [p.ssrc for p in (first, injected, third)] == [0xAAAA] * 3
    assert (third.sequence_number - first.sequence_number) & 0xFFFF == 2
    assert 0 < (third.timestamp - injected.timestamp) & 0xFFFFFFFF < 8000
    assert third.marker


async def test_what_is_not_routed_goes_to_the_tap_else_is_counted(bench: Any) -> None:
    left, right = bench.peer(), bench.peer()
    a, a_address, _ = bench.plain_leg(left)
    b, _, _ = bench.plain_leg(right)
    tapped: list[bytes] = []
    bench.plane.route(a, b, Relay({8: 8}, 8000))
    left.send(rtp(1, payload_type=101), a_address)
    await bench.settle()
    bench.plane.tap(a, lambda packet, now: tapped.append(packet))
    packet = rtp(2, payload_type=101)
    left.send(packet, a_address)
    await bench.settle()
    assert tapped == [packet]
    assert bench.plane.stats(a).dropped == {"no-route": 1}
    assert right.nothing()


async def test_secured_leg_drops_both_ways_before_keys(bench: Any) -> None:
    """No plaintext RTP ever leaves or is taken by a secured leg."""
    browser, ims = bench.peer(), bench.peer()
    a, a_address, handler = bench.secured_leg(browser)
    b, b_address, _ = bench.plain_leg(ims)
    bench.plane.route(a, b, Relay({8: 8}, 8000))
    bench.plane.route(b, a, Relay({8: 8}, 8000))
    browser.send(rtp(1), a_address)
    ims.send(rtp(1), b_address)
    bench.plane.inject(a, 8, 1, b"speech")
    bench.plane.send_rtcp(a, bytes.fromhex("80c90001") + bytes(4))
    await bench.settle()
    assert browser.nothing() and ims.nothing()
    assert bench.plane.stats(a).dropped == {"no-keys": 4}
    assert handler.notices == []


@pytest.mark.parametrize(("profile", "size"), [(SrtpProfile.AES128_CM_SHA1_80, 10), (SrtpProfile.AEAD_AES_128_GCM, 16)])
async def test_srtp_relay_both_ways(bench: Any, profile: SrtpProfile, size: int) -> None:
    browser, ims = bench.peer(), bench.peer()
    a, a_address, handler = bench.secured_leg(browser)
    b, b_address, _ = bench.plain_leg(ims)
    bench.plane.route(a, b, Relay({111: 96}, 48000))
    bench.plane.route(b, a, Relay({96: 111}, 48000))
    length = profile.key_length + profile.salt_length
    key_out, key_in = bytes(range(length)), bytes(range(50, 50 + length))
    bench.plane.leg_keys(a, SrtpKeys(profile, Secret(key_out), Secret(key_in)))
    number = {10: pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 16: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM}
    sender = pylibsrtp.Session(pylibsrtp.Policy(key_in, pylibsrtp.Policy.SSRC_ANY_OUTBOUND, srtp_profile=number[size]))
    receiver = pylibsrtp.Session(
        pylibsrtp.Policy(key_out, pylibsrtp.Policy.SSRC_ANY_INBOUND, srtp_profile=number[size])
    )
    extension = HeaderExtension.of([(1, b"\x90")])
    browser.send(sender.protect(rtp(7, payload_type=111, payload=b"opus", extension=extension)), a_address)
    plain = RtpPacket.parse(await ims.receive())
    assert plain.payload == b"opus" and plain.payload_type == 96
    ims.send(rtp(9, payload_type=96, payload=b"back"), b_address)
    protected = await browser.receive()
    assert len(protected) == 12 + 4 + size
    back = RtpPacket.parse(receiver.unprotect(protected))
    assert back.payload == b"back" and back.payload_type == 111 and back.ssrc == 0xBBBB
    report = bytes.fromhex("80c90001") + struct.pack("!I", 0x1111)
    browser.send(sender.protect_rtcp(report), a_address)
    await bench.settle()
    assert handler.rtcp_packets == [report]
    bench.plane.send_rtcp(a, report)
    assert receiver.unprotect_rtcp(await browser.receive()) == report


async def test_replayed_forged_and_malformed_packets_are_counted(bench: Any) -> None:
    browser, ims = bench.peer(), bench.peer()
    a, a_address, _ = bench.secured_leg(browser)
    b, _, _ = bench.plain_leg(ims)
    bench.plane.route(a, b, Relay({8: 8}, 8000))
    bench.plane.leg_keys(a, keys())
    packet = srtp(KEY_B, outbound=True).protect(rtp(1))
    forged = srtp(bytes(30), outbound=True).protect(rtp(2))
    for data in (packet, packet, forged, packet[:11], rtp(3, payload=bytes(40))):
        browser.send(data, a_address)
    await bench.settle()
    assert len(await ims.receive()) == 12 + 6
    assert ims.nothing()
    dropped = bench.plane.stats(a).dropped
    assert dropped == {"replay": 1, "authentication": 2, "malformed": 1}


@pytest.mark.parametrize("profile", [SrtpProfile.AES128_CM_SHA1_80, SrtpProfile.AEAD_AES_128_GCM])
async def test_old_key_is_taken_for_two_seconds(
    bench: Any, profile: SrtpProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, ims = bench.peer(), bench.peer()
    a, a_address, _ = bench.secured_leg(browser)
    b, _, _ = bench.plain_leg(ims)
    bench.plane.route(a, b, Relay({8: 8}, 8000))
    length = profile.key_length + profile.salt_length
    old, new = bytes(range(length)), bytes(range(9, 9 + length))
    number = (
        pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80
        if profile is SrtpProfile.AES128_CM_SHA1_80
        else pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM
    )

    def sender(key: bytes) -> pylibsrtp.Session:
        return pylibsrtp.Session(pylibsrtp.Policy(key, pylibsrtp.Policy.SSRC_ANY_OUTBOUND, srtp_profile=number))

    before, after = sender(old), sender(new)
    bench.plane.leg_keys(a, SrtpKeys(profile, Secret(old), Secret(old)))
    browser.send(before.protect(rtp(1, payload=b"1")), a_address)
    await bench.settle()
    bench.plane.leg_keys(a, SrtpKeys(profile, Secret(new), Secret(new)))
    browser.send(before.protect(rtp(2, payload=b"2")), a_address)
    browser.send(after.protect(rtp(3, payload=b"3")), a_address)
    await bench.settle()
    assert [RtpPacket.parse(await ims.receive()).payload for _ in range(3)] == [b"1", b"2", b"3"]
    late = time.monotonic() + 2.1
    monkeypatch.setattr(plane_path, "now_of", lambda: late)
    browser.send(before.protect(rtp(4)), a_address)
    browser.send(after.protect(rtp(5, payload=b"5")), a_address)
    assert RtpPacket.parse(await ims.receive()).payload == b"5"
    assert bench.plane.stats(a).dropped == {"authentication": 1}


async def test_a_key_that_stays_keeps_its_replay_list(bench: Any) -> None:
    """RFC 4568 7.1.4: with a new sending key alone, what has been received once is a replay still, and the reverse."""
    peer = bench.peer()
    leg, address, _ = bench.secured_leg(peer)
    arrived: list[bytes] = []
    bench.plane.tap(leg, lambda data, now: arrived.append(data))
    bench.plane.leg_keys(leg, keys())
    packet = srtp(KEY_B, outbound=True).protect(rtp(1))
    peer.send(packet, address)
    await bench.settle()
    bench.plane.leg_keys(leg, keys(send=bytes(range(50, 80))))
    peer.send(packet, address)
    await bench.settle()
    assert len(arrived) == 1 and bench.plane.stats(leg).dropped == {"replay": 1}
    bench.plane.leg_keys(leg, keys(send=bytes(range(50, 80)), receive=KEY_A))
    peer.send(srtp(KEY_A, outbound=True).protect(rtp(2)), address)
    await bench.settle()
    assert len(arrived) == 2


async def test_taking_the_keys_away_locks_the_leg(bench: Any) -> None:
    browser, ims = bench.peer(), bench.peer()
    a, _, _ = bench.secured_leg(browser)
    bench.plane.leg_keys(a, keys())
    bench.plane.inject(a, 8, 1, b"speech")
    assert len(await browser.receive()) == 28
    bench.plane.leg_keys(a, None)
    bench.plane.inject(a, 8, 2, b"speech")
    assert browser.nothing()
    with pytest.raises(ValueError, match="secured"):
        bench.plane.leg_keys(bench.plain_leg(ims)[0], keys())
    with pytest.raises(ValueError, match="30 octets"):
        bench.plane.leg_keys(a, keys(b"short"))


@pytest.mark.parametrize(
    ("source", "accepted"), [(Source.EXACT, False), (Source.SAME_HOST, True), (Source.FIRST, True)]
)
async def test_source_policy_of_a_plain_leg(bench: Any, source: Source, accepted: bool) -> None:
    signalled, real, thief = bench.peer(), bench.peer(), bench.peer()
    leg, address, handler = bench.plain_leg(signalled, source)
    tapped: list[bytes] = []
    bench.plane.tap(leg, lambda packet, now: tapped.append(packet))
    real.send(rtp(1, payload=b"real"), address)
    await bench.settle()
    thief.send(rtp(2, payload=b"thief"), address)
    await bench.settle()
    assert len(tapped) == accepted
    assert bench.plane.stats(leg).dropped == {"source": 2 - accepted}
    assert (Notice.LATCHED in handler.notices) is accepted
    bench.plane.inject(leg, 8, 1, b"speech")
    assert await (real if accepted else signalled).receive()


async def test_same_host_refuses_another_host(bench: Any) -> None:
    """A sender at another address is not believed, whatever its port."""
    signalled = bench.peer()
    leg, address, _ = bench.plain_leg(signalled, Source.SAME_HOST)
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.bind(("127.0.0.2", 0))
    stranger.sendto(rtp(1), address)
    await bench.settle()
    stranger.close()
    assert bench.plane.stats(leg).dropped == {"source": 1}
    assert bench.plane.stats(leg).remote == signalled.address


async def test_hold_stops_rtp_but_not_rtcp(bench: Any) -> None:
    left, right = bench.peer(), bench.peer()
    a, a_address, handler = bench.plain_leg(left)
    b, _, _ = bench.plain_leg(right)
    bench.plane.route(a, b, Relay({8: 8}, 8000))
    bench.plane.leg_direction(a, send=False, receive=False)
    report = bytes.fromhex("80c90001") + bytes(4)
    left.send(rtp(1), a_address)
    left.send(report, a_address)
    bench.plane.inject(a, 8, 1, b"speech")
    bench.plane.send_rtcp(a, report)
    await bench.settle()
    assert right.nothing()
    assert await left.receive() == report
    assert handler.rtcp_packets == [report]
    assert bench.plane.stats(a).dropped == {"direction": 2}
    bench.plane.inject(a, 20, 1, b"", keep_alive=True)
    assert len(await left.receive()) == 12
    bench.plane.leg_direction(a, send=True, receive=True)
    left.send(rtp(2), a_address)
    assert await right.receive()


async def test_rtcp_on_its_own_port(bench: Any) -> None:
    remote, remote_rtcp = bench.peer(), bench.peer()
    handler = bench.handler()
    rtp_socket, _ = bench.open()
    rtcp_socket, rtcp_address = bench.open()
    leg = bench.plane.leg_open(rtp_socket, handler, ssrc=1, secured=False, rtcp_socket=rtcp_socket)
    bench.plane.leg_remote(leg, remote.address, remote_rtcp.address)
    report = bytes.fromhex("80c90001") + bytes(4)
    remote_rtcp.send(report, rtcp_address)
    remote_rtcp.send(rtp(1), rtcp_address)
    await bench.settle()
    assert handler.rtcp_packets == [report]
    assert bench.plane.stats(leg).dropped == {"malformed": 1}
    bench.plane.send_rtcp(leg, report)
    assert await remote_rtcp.receive() == report
    assert remote.nothing()


async def test_demultiplexing_of_rfc_7983(bench: Any) -> None:
    remote = bench.peer()
    leg, address, handler = bench.secured_leg(remote)
    others = [bytes([first]) + b"data" for first in (0, 3, 20, 63, 64, 79, 80, 127, 192, 255)]
    for data in [*others, b""]:
        remote.send(data, address)
    await bench.settle()
    assert handler.punted == [(data, remote.address) for data in [*others, b""]]
    with pytest.raises(ValueError, match="RTP"):
        bench.plane.leg_send(leg, rtp(1), remote.address)
    bench.plane.leg_send(leg, b"\x16dtls", remote.address)
    assert await remote.receive() == b"\x16dtls"


async def test_jitter_and_loss(bench: Any) -> None:
    left = bench.peer()
    leg, address, _ = bench.plain_leg(left)
    bench.plane.leg_clocks(leg, {8: 8000})
    for sequence in (65534, 65535, 1, 2, 2):
        left.send(rtp(sequence, timestamp=(sequence + 2 & 0xFFFF) * 160), address)
    await bench.settle()
    reception = bench.plane.stats(leg).reception
    assert reception is not None
    assert (reception.expected, reception.received, reception.lost) == (5, 5, 0)
    assert reception.clock_rate == 8000
    # Four packets sent at once whose timestamps are 20 ms apart, once 40, once 0: RFC 3550 A.8 by hand.
    expected = 0.0
    for step in (160, 320, 160, 0):
        expected += (step - expected) / 16
    assert reception.jitter == pytest.approx(expected, abs=8)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_channel_between_client_and_foreign_peer(bench: Any, family: socket.AddressFamily) -> None:
    """S7-TURN: ChannelData is relayed both ways, unknown channels and peers go up."""
    client, peer, stranger = bench.peer(family), bench.peer(family), bench.peer(family)
    punted: list[tuple[bytes, Address]] = []
    server, server_address = bench.open(lambda data, address: punted.append((data, address)), family)
    relay, relay_address = bench.open(lambda data, address: punted.append((data, address)), family)
    bench.plane.bind_channel(
        server,
        client.address,
        0x4001,
        relay=relay,
        relayed=relay_address,
        peer=peer.address,
        expiry=time.monotonic() + 60,
    )
    client.send(b"\x40\x01\x00\x05hello\x00\x00\x00", server_address)
    assert await peer.receive() == b"hello"
    peer.send(b"\x90answer", relay_address)
    assert await client.receive() == b"\x40\x01\x00\x07\x90answer"
    stranger.send(b"who", relay_address)
    client.send(b"\x40\x02\x00\x01x", server_address)
    client.send(b"\x40\x01\x00\x09short", server_address)
    stranger.send(b"\x40\x01\x00\x01x", server_address)
    await bench.settle()
    assert sorted(punted) == sorted(
        [(b"who", stranger.address), (b"\x40\x02\x00\x01x", client.address), (b"\x40\x01\x00\x01x", stranger.address)]
    )
    assert peer.nothing()
    bench.plane.unbind_channel(server, client.address, 0x4001)
    client.send(b"\x40\x01\x00\x01x", server_address)
    await bench.settle()
    assert punted[-1] == (b"\x40\x01\x00\x01x", client.address)


async def test_channel_expires_in_the_loop(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expiry is the plane's: nobody has to tell it."""
    client, peer = bench.peer(), bench.peer()
    server, server_address = bench.open()
    relay, relay_address = bench.open()
    binding = {"relay": relay, "relayed": relay_address, "peer": peer.address}
    start = time.monotonic()
    bench.plane.bind_channel(server, client.address, 0x4001, **binding, expiry=start + 10)
    bench.plane.bind_channel(server, client.address, 0x4001, **binding, expiry=start + 20)
    monkeypatch.setattr(plane_path, "now_of", lambda: start + 15)
    client.send(b"\x40\x01\x00\x02ok", server_address)
    assert await peer.receive() == b"ok"
    monkeypatch.setattr(plane_path, "now_of", lambda: start + 21)
    client.send(b"\x40\x01\x00\x02no", server_address)
    peer.send(b"no", relay_address)
    await bench.settle()
    assert peer.nothing() and client.nothing()


def own_leg(bench: Any) -> tuple[LegId, Any]:
    handler = bench.handler()
    leg = bench.plane.leg_open(VIRTUAL, handler, ssrc=0xCCCC, secured=True)
    return leg, handler


async def test_channel_to_an_own_leg_crosses_no_socket(bench: Any) -> None:
    """S7-TURN, S7-RMF: the relayed address is the leg's peer; nothing is sent to or from the relay socket."""
    client = bench.peer()
    server, server_address = bench.open()
    relay, relayed = bench.open()
    assert not bench.plane.owns(VIRTUAL)
    leg, handler = own_leg(bench)
    assert bench.plane.owns(VIRTUAL)
    tapped: list[bytes] = []
    bench.plane.tap(leg, lambda packet, now: tapped.append(packet))
    bench.plane.bind_channel(
        server,
        client.address,
        0x4000,
        relay=relay,
        relayed=relayed,
        peer=VIRTUAL,
        expiry=time.monotonic() + 60,
    )
    bench.plane.leg_remote(leg, relayed)
    bench.plane.leg_keys(leg, keys())
    client.send(b"\x40\x00\x00\x04\x00stu", server_address)
    packet = srtp(KEY_B, outbound=True).protect(rtp(1))
    client.send(b"\x40\x00" + struct.pack("!H", len(packet)) + packet, server_address)
    await bench.settle()
    assert handler.punted == [(b"\x00stu", relayed)]
    assert tapped == [rtp(1)]
    bench.plane.inject(leg, 8, 5, b"speech")
    number, length = struct.unpack_from("!HH", frame := await client.receive())
    assert (number, length) == (0x4000, len(frame) - 4)
    assert RtpPacket.parse(srtp(KEY_A, outbound=False).unprotect(frame[4:])).timestamp == 5
    bench.plane.leg_send(leg, b"\x01stun", relayed)
    assert await client.receive() == b"\x40\x00\x00\x05\x01stun"
    bench.plane.close(leg)
    assert not bench.plane.owns(VIRTUAL)


async def test_own_leg_without_a_channel_uses_the_server(bench: Any) -> None:
    """Send and Data indications and TCP clients: deliver_to_own and the callback of set_relayed."""
    relayed = ("203.0.113.2", 50000)
    leg, handler = own_leg(bench)
    sent: list[tuple[bytes, Address]] = []
    bench.plane.leg_remote(leg, relayed)
    bench.plane.leg_send(leg, b"\x00lost", relayed)
    assert bench.plane.stats(leg).dropped == {"no-remote": 1}
    bench.plane.set_relayed(relayed, lambda data, peer: sent.append((data, peer)))
    assert bench.plane.deliver_to_own(VIRTUAL, b"\x00check", relayed)
    assert not bench.plane.deliver_to_own(("192.0.0.8", 1), b"\x00check", relayed)
    assert handler.punted == [(b"\x00check", relayed)]
    bench.plane.leg_send(leg, b"\x01answer", relayed)
    assert sent == [(b"\x01answer", VIRTUAL)]
    bench.plane.set_relayed(relayed, None)
    bench.plane.leg_send(leg, b"\x01answer", relayed)
    assert len(sent) == 1


async def test_leg_addresses_are_unique_and_closing_frees_them(bench: Any) -> None:
    leg, _ = own_leg(bench)
    with pytest.raises(ValueError, match="already has a leg"):
        own_leg(bench)
    bench.plane.close(leg)
    bench.plane.close(leg)
    own_leg(bench)
    socket_id, _ = bench.open()
    on_socket = bench.plane.leg_open(socket_id, bench.handler(), ssrc=1, secured=False)
    with pytest.raises(ValueError, match="already has a leg"):
        bench.plane.leg_open(socket_id, bench.handler(), ssrc=1, secured=False)
    bench.plane.close_socket(socket_id)
    with pytest.raises(KeyError):
        bench.plane.stats(on_socket)


async def test_a_failing_callback_does_not_stop_the_plane(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[bytes] = []

    def punt(data: bytes, address: Address) -> None:
        seen.append(data)
        raise RuntimeError("broken")

    _, address = bench.open(punt)
    sender = bench.peer()
    sender.send(b"\x00one", address)
    sender.send(b"\x00two", address)
    await bench.settle()
    assert seen == [b"\x00one", b"\x00two"]
    assert "callback" in caplog.text


async def test_sending_where_there_is_no_route_is_counted(bench: Any) -> None:
    leg, _, _ = bench.plain_leg(bench.peer())
    bench.plane.leg_remote(leg, ("255.255.255.255", 9))
    bench.plane.inject(leg, 8, 1, b"speech")
    assert bench.plane.stats(leg).dropped == {"send-error": 1}
    assert bench.plane.stats(leg).packets_sent == 0


def test_on_uvloop() -> None:
    """The agent's loop where it is installed: the same readers, and the same packets."""
    uvloop = pytest.importorskip("uvloop")

    async def relay() -> list[bytes]:
        plane = PythonPlane()
        pairs = [(_bound(), _bound()) for _ in range(2)]
        legs = []
        for ssrc, (near, far) in enumerate(pairs):
            leg = plane.leg_open(
                plane.open_socket(near, lambda data, address: None), _Silent(), ssrc=ssrc, secured=False
            )
            plane.leg_remote(leg, far.getsockname())
            legs.append(leg)
        plane.route(legs[0], legs[1], Relay({8: 8}, 8000))
        loop = asyncio.get_running_loop()
        payloads = []
        for number in range(3 * plane_path.BATCH):
            pairs[0][1].sendto(rtp(number, payload=b"%d" % number), pairs[0][0].getsockname())
        for _ in range(3 * plane_path.BATCH):
            packet = await asyncio.wait_for(loop.sock_recv(pairs[1][1], 2048), 2)
            payloads.append(RtpPacket.parse(packet).payload)
        for leg in legs:
            plane.close(leg)
        for socket_id in list(plane._sockets):
            plane.close_socket(socket_id)
        for pair in pairs:
            for sock in pair:
                sock.close()
        return payloads

    assert uvloop.run(relay()) == [b"%d" % number for number in range(3 * plane_path.BATCH)]


def _bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    return sock


class _Silent:
    def punt(self, data: bytes, address: Address) -> None: ...

    def rtcp(self, data: bytes, address: Address) -> None: ...

    def notice(self, notice: Notice, now: float) -> None: ...
