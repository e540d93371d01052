"""The WebRTC leg: two of them against each other on loopback, and what must not connect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from imskit.media import transports, webrtc_leg
from imskit.media.events import Step
from imskit.media.plane import Address, SocketId
from imskit.media.transports import Certificate
from imskit.media.webrtc_leg import WebRtcLeg, WebRtcParameters
from imskit.sdp.attributes import Candidate, Fingerprint
from imskit.secrets import Secret

VIRTUAL = ("192.0.2.2", 40000)
RELAYED = ("192.0.2.1", 50000)


class End:
    """One leg with its socket, certificate and events."""

    def __init__(self, bench: Any, *, controlling: bool, certificate: Certificate | None = None) -> None:
        self.bench = bench
        self.certificate = certificate or Certificate()
        self.events = bench.events()
        self.socket: SocketId
        self.socket, self.address = bench.open()
        self.leg = WebRtcLeg(
            bench.plane,
            self.socket,
            candidates=[self.address],
            certificate=self.certificate,
            controlling=controlling,
            cname="test",
            clock_rate=48000,
            on_event=self.events,
        )
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        bench.plane.tap(self.leg.id, lambda packet, now: self.heard.put_nowait(packet))

    async def receive(self) -> bytes:
        return await asyncio.wait_for(self.heard.get(), 5)

    def say(self, payload: bytes, timestamp: int = 0) -> None:
        self.bench.plane.inject(self.leg.id, 111, timestamp, payload)


@pytest.fixture
async def ends(bench: Any) -> AsyncIterator[tuple[End, End]]:
    pair = End(bench, controlling=True), End(bench, controlling=False)
    yield pair
    for end in pair:
        await end.leg.close()


def start(here: End, there: End, *, client: bool, **changes: Any) -> None:
    here.leg.start(replace(there.leg.local, **changes), dtls_client=client)


async def connect(pair: tuple[End, End], *, offerer_is_client: bool = False) -> None:
    one, two = pair
    start(one, two, client=offerer_is_client)
    start(two, one, client=not offerer_is_client)
    for end in pair:
        await end.events.until(Step.DTLS_CONNECTED)


@pytest.mark.parametrize("offerer_is_client", [True, False])
async def test_connects_and_carries_speech_both_ways(ends: tuple[End, End], offerer_is_client: bool) -> None:
    """The DTLS role comes from the descriptions, whatever the ICE role; steps come in order."""
    await connect(ends, offerer_is_client=offerer_is_client)
    one, two = ends
    one.say(b"hello")
    two.say(b"world")
    assert (await two.receive())[12:] == b"hello"
    assert (await one.receive())[12:] == b"world"
    for end in ends:
        await end.events.until(Step.FIRST_RECEIVED)
        steps = end.events.steps
        assert steps[:3] == [Step.ICE_STARTED, Step.ICE_CONNECTED, Step.DTLS_CONNECTED]
        assert {Step.FIRST_SENT, Step.FIRST_RECEIVED} <= set(steps)
        assert end.leg.waiting_for == ""
        assert end.bench.plane.stats(end.leg.id).dropped == {}


async def test_rtp_before_dtls_is_dropped_and_none_leaves(ends: tuple[End, End]) -> None:
    """No plaintext passes a secured leg, before ICE, before DTLS, or after a failure."""
    one, two = ends
    stranger = one.bench.peer()
    stranger.send(b"\x80\x6f" + bytes(30), one.address)
    one.say(b"too early")
    await one.bench.settle()
    assert one.heard.empty() and stranger.nothing()
    dropped = one.bench.plane.stats(one.leg.id).dropped
    assert dropped["no-keys"] == 1 and dropped["no-remote"] == 1
    await connect(ends)
    one.say(b"now")
    assert (await two.receive())[12:] == b"now"


@pytest.mark.parametrize(
    "fingerprints",
    [
        (Fingerprint("sha-256", ":".join(["AB"] * 32)),),
        (Fingerprint("sha-1", ":".join(["AB"] * 20)),),
        (),
    ],
    ids=["wrong", "unsupported hash", "none"],
)
@pytest.mark.parametrize("client", [True, False])
async def test_a_peer_nobody_vouches_for_is_refused(
    ends: tuple[End, End], fingerprints: tuple[Fingerprint, ...], client: bool
) -> None:
    """The fingerprint check is mandatory; the leg stays locked."""
    one, two = ends
    start(one, two, client=client, fingerprints=fingerprints)
    start(two, one, client=not client)
    failed = await one.events.until(Step.FAILED)
    assert "fingerprint" in failed.reason
    assert Step.DTLS_CONNECTED not in one.events.steps
    one.say(b"secret")
    two.say(b"secret")
    await one.bench.settle()
    assert one.heard.empty() and two.heard.empty()


async def test_one_good_fingerprint_does_not_excuse_a_wrong_one(ends: tuple[End, End]) -> None:
    one, two = ends
    good = two.leg.local.fingerprints
    start(one, two, client=True, fingerprints=(*good, Fingerprint("sha-512", ":".join(["00"] * 64))))
    start(two, one, client=False)
    assert "fingerprint" in (await one.events.until(Step.FAILED)).reason


async def test_client_hello_before_the_answer_is_kept(ends: tuple[End, End]) -> None:
    """The peer has our description and begins; we learn its fingerprint only later (2145 of rtpengine)."""
    one, two = ends
    two.leg.start(one.leg.local, dtls_client=True)
    kept = asyncio.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "kept until the fingerprint" in record.getMessage():
                kept.set()

    watch = Watch()
    logging.getLogger("imskit.media.webrtc_leg").addHandler(watch)
    logging.getLogger("imskit.media.webrtc_leg").setLevel(logging.INFO)
    try:
        # The controlled side nominates nothing by itself, so let it act as the controlling one.
        two.leg._ice._connection.ice_controlling = True
        one.leg._ice._connection.ice_controlling = False
        await asyncio.wait_for(kept.wait(), 5)
    finally:
        logging.getLogger("imskit.media.webrtc_leg").removeHandler(watch)
    loop = asyncio.get_running_loop()
    began = loop.time()
    start(one, two, client=False)
    for end in ends:
        await end.events.until(Step.DTLS_CONNECTED)
    assert loop.time() - began < 0.9  # OpenSSL would repeat its ClientHello after a second


async def test_dtls_from_an_unproven_address_is_dropped(ends: tuple[End, End]) -> None:
    """Only who has passed an ICE check may talk DTLS."""
    one, _ = ends
    stranger = one.bench.peer()
    stranger.send(b"\x16\xfe\xfd" + bytes(50), one.address)
    await one.bench.settle()
    assert one.leg.unproven == 1
    assert stranger.nothing()


async def test_not_connected_in_time(ends: tuple[End, End]) -> None:
    """The reason names what was waited for."""
    one, two = ends
    one.leg.start(two.leg.local, dtls_client=True, within=0.3)
    assert "still waiting for" in (await one.events.until(Step.FAILED)).reason


async def test_ringing_does_not_count_until_the_answer(ends: tuple[End, End]) -> None:
    """A minute of ringing is allowed for; from the answer on the owner sets a shorter time."""
    one, two = ends
    assert webrtc_leg.CONNECT_SECONDS > 60
    one.leg.start(two.leg.local, dtls_client=True)
    one.leg.connect_within(0.2)
    await one.events.until(Step.FAILED, 5)


async def test_session_refresh_changes_nothing(ends: tuple[End, End]) -> None:
    """A re-offer with unchanged ufrag and fingerprint is a media no-op."""
    await connect(ends)
    one, two = ends
    before = one.leg.local
    start(one, two, client=False)
    assert one.leg.local == before
    one.say(b"still here")
    assert (await two.receive())[12:] == b"still here"
    assert one.events.steps.count(Step.ICE_STARTED) == one.events.steps.count(Step.DTLS_CONNECTED) == 1


async def test_ice_restart_keeps_the_sound(ends: tuple[End, End]) -> None:
    """New credentials on both sides: a new pair, the same DTLS association."""
    await connect(ends)
    one, two = ends
    old = one.leg.local
    one.leg.restart()
    two.leg.restart()
    assert one.leg.local.ufrag != old.ufrag and one.leg.local.password != old.password
    assert one.leg.local.fingerprints == old.fingerprints
    one.say(b"during")
    assert (await two.receive())[12:] == b"during"
    start(one, two, client=False)
    start(two, one, client=True)
    for end in ends:
        await end.events.until(Step.ICE_CONNECTED, count=2)
    two.say(b"after")
    assert (await one.receive())[12:] == b"after"
    assert one.events.steps.count(Step.DTLS_CONNECTED) == 1


async def test_a_new_fingerprint_makes_a_new_association(bench: Any, ends: tuple[End, End]) -> None:
    """RFC 8842: the peer's side moved; keys change, sound goes on."""
    await connect(ends)
    one, two = ends
    old_keys = bench.plane._legs[one.leg.id].send
    moved = Certificate()
    two.leg._certificate = moved
    remote_of_two = replace(one.leg.local, fingerprints=one.leg.local.fingerprints)
    start(one, two, client=False)
    # The same certificate on our side, but for the peer the association is new as well.
    two.leg._remote = replace(remote_of_two, fingerprints=())
    two.leg.start(remote_of_two, dtls_client=True)
    for end in ends:
        await end.events.until(Step.DTLS_CONNECTED, count=2)
    assert bench.plane._legs[one.leg.id].send is not old_keys
    one.say(b"new keys")
    assert (await two.receive())[12:] == b"new keys"


async def test_consent_lost(ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7675: a peer that no longer answers STUN gets nothing more."""
    monkeypatch.setattr(transports, "CONSENT_SECONDS", 1.0)
    monkeypatch.setattr(transports, "_CONSENT_INTERVAL", 0.2)
    await connect(ends)
    one, two = ends
    await two.leg._ice.close()
    failed = await one.events.until(Step.FAILED)
    assert Step.CONSENT_LOST in one.events.steps
    assert "30 s" in failed.reason
    one.say(b"nothing more")
    await one.bench.settle()
    assert two.heard.empty()


async def test_the_peer_ends(ends: tuple[End, End]) -> None:
    """BYE and close_notify are noticed."""
    await connect(ends)
    one, two = ends
    two.say(b"x")
    await one.receive()
    await two.leg.close()
    await one.events.until(Step.BYE)
    assert "closed the DTLS association" in (await one.events.until(Step.FAILED)).reason
    assert two.events.steps[-1] is Step.CLOSED


async def test_candidates_that_cannot_be_used_are_ignored(ends: tuple[End, End]) -> None:
    """mDNS and other names, TCP, a second component, port 0: the call connects by what is left."""
    one, two = ends
    useless = (
        Candidate("1", 1, "udp", 2122, "b9d1bd4e-3c3d-4d54-9a4c-5a0a4ba81f2d.local", 50000, "host"),
        Candidate("2", 1, "udp", 2122, "host.example", 50000, "host"),
        Candidate("3", 1, "tcp", 2122, "127.0.0.1", 9, "host", extensions=(("tcptype", "active"),)),
        Candidate("4", 2, "udp", 2122, "127.0.0.1", 50001, "host"),
        Candidate("5", 1, "udp", 2122, "127.0.0.1", 0, "host"),
    )
    start(one, two, client=True, candidates=(*useless, *two.leg.local.candidates))
    start(two, one, client=False, candidates=useless)
    for end in ends:
        await end.events.until(Step.DTLS_CONNECTED)


async def test_trickled_candidates(ends: tuple[End, End]) -> None:
    one, two = ends
    start(one, two, client=True, candidates=())
    start(two, one, client=False, candidates=())
    one.leg.add_candidate(two.leg.local.candidates[0])
    one.leg.add_candidate(two.leg.local.candidates[0])  # twice is harmless
    for end in ends:
        await end.events.until(Step.DTLS_CONNECTED)


async def test_no_candidate_of_ours_works_but_the_peer_finds_us(ends: tuple[End, End]) -> None:
    """RFC 8863: a list of candidates that leads nowhere is no failure; the peer's check brings the pair."""
    one, two = ends
    start(one, two, client=True, candidates=())
    await one.bench.settle()
    start(two, one, client=False)
    for end in ends:
        await end.events.until(Step.DTLS_CONNECTED)


async def test_reports_cross_in_both_directions(ends: tuple[End, End]) -> None:
    """Each side sends its own SR or RR and reads the other's; the round trip is measured."""
    await connect(ends)
    one, two = ends
    for sequence in range(5):
        one.say(b"x", sequence * 960)
        await two.receive()
    plane = one.bench.plane
    plane.send_rtcp(one.leg.id, one.leg.reports.report())
    await one.bench.settle()
    plane.send_rtcp(two.leg.id, two.leg.reports.report())
    await one.bench.settle()
    block = one.leg.reports.remote
    assert block is not None and block.ssrc == one.leg.ssrc and block.cumulative_lost == 0
    assert one.leg.reports.round_trip_time is not None and 0 <= one.leg.reports.round_trip_time < 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x01\x00\x00", b"\x15junk", b"\x50", b"\xff" * 30])
async def test_noise_is_survived(ends: tuple[End, End], data: bytes) -> None:
    one, _ = ends
    stranger = one.bench.peer()
    stranger.send(data, one.address)
    await one.bench.settle()
    await connect(ends)


async def test_virtual_leg_waits_for_the_peer(bench: Any) -> None:
    """S7-RMF: nothing is sent before a check of the peer's; then at once, and no 0.5 s timer is waited for."""
    page = End(bench, controlling=True)
    events = bench.events()
    leg = WebRtcLeg(
        bench.plane,
        VIRTUAL,
        candidates=[VIRTUAL],
        certificate=Certificate(),
        controlling=False,
        cname="agent",
        clock_rate=48000,
        on_event=events,
    )
    sent: list[bytes] = []
    ready = asyncio.Event()

    def to_page(data: bytes, peer: Address) -> None:
        """Be the TURN server: no permission until the page has sent something."""
        assert peer == VIRTUAL
        sent.append(data)
        if ready.is_set():
            bench.plane._legs[page.leg.id].handler.punt(data, VIRTUAL)

    bench.plane.set_relayed(RELAYED, to_page)
    page_candidate = Candidate("1", 1, "udp", 16777215, *RELAYED, "relay")
    leg.start(replace(page.leg.local, candidates=(page_candidate,)), dtls_client=False)
    await bench.settle()
    assert sent == []
    ready.set()
    original = bench.plane.leg_send

    def from_page(leg_id: Any, data: bytes, address: Address) -> None:
        if address == VIRTUAL:
            bench.plane.deliver_to_own(VIRTUAL, data, RELAYED)
        else:
            original(leg_id, data, address)

    bench.plane.leg_send = from_page
    loop = asyncio.get_running_loop()
    began = loop.time()
    page.leg.start(leg.local, dtls_client=True)
    await events.until(Step.ICE_CONNECTED)
    assert loop.time() - began < 0.4
    await events.until(Step.DTLS_CONNECTED)
    await page.leg.close()
    await leg.close()


async def test_secrets_do_not_show(ends: tuple[End, End]) -> None:
    parameters = ends[0].leg.local
    assert isinstance(parameters.password, Secret)
    assert parameters.password.reveal() not in repr(parameters)
    assert len(parameters.ufrag) >= 8 and len(parameters.password.reveal()) == 24
    assert parameters.password.reveal() not in repr(WebRtcParameters("u" * 8, parameters.password, ()))
