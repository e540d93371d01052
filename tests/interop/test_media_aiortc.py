"""A whole path with a stranger at each end: aiortc as the browser, our TURN proxy, RMF and bridge, then plain RTP.

aiortc brings its own ICE, TURN client, DTLS, SRTP, jitter buffer and Opus; libavcodec decodes the AMR-WB at the phone.
"""

from __future__ import annotations

import asyncio
import fractions
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aioice.ice
import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

from imskit.media.codecs import CodecSpec, make_encoder
from imskit.media.codecs.amr import payload_format
from imskit.media.events import LegEvent, Step
from imskit.media.ims_leg import ImsLeg
from imskit.media.python_plane import PythonPlane
from imskit.rtp.packet import RtpPacket
from imskit.sdp import ims_side, interworking
from imskit.sdp.attributes import Direction
from imskit.sdp.description import SessionDescription
from imskit.sdp.negotiation import LegMedia, MediaMode
from imskit.sdp.profile import AMR_WB, PCMA, Format
from imskit.secrets import Secret
from imskit.stun.engine.credentials import CredentialStore
from imskit.stun.engine.policy import SessionPeers
from ue_agent.rmf import Call, Rmf
from ue_agent.turn_proxy.io.relays import VirtualRelays
from ue_agent.turn_proxy.io.server import TurnProxy

pytestmark = pytest.mark.interop

RELAYED_HOST = "192.0.2.1"


def speech(rate: int, seconds: float) -> np.ndarray:
    """A chirped buzz with syllables: every moment differs from every other, so that delays can be found."""
    t = np.arange(int(rate * seconds)) / rate
    pitch = 2 * np.pi * np.cumsum(110 + 40 * t / seconds) / rate
    sound = sum(
        np.sin(k * pitch) * (np.exp(-(((k * 120 - 600) / 300) ** 2)) + 0.5 * np.exp(-(((k * 120 - 1500) / 400) ** 2)))
        for k in range(1, 26)
    )
    return (3000 * sound * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * t))).astype(np.int16)


def best_correlation(reference: np.ndarray, heard: np.ndarray) -> float:
    """Normalised correlation at the best delay, over the part that was heard."""
    reference, heard = reference.astype(float), heard.astype(float)
    size = len(reference) + len(heard)
    cross = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(reference, size)))
    delay = int(np.argmax(np.abs(cross)))
    if delay >= len(heard):
        delay -= size
    a = reference[max(0, -delay) :]
    b = heard[max(0, delay) :]
    length = min(len(a), len(b))
    a, b = a[:length], b[:length]
    return float(abs(np.dot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))


class Speaker(MediaStreamTrack):
    """Speaks 48 kHz sound in real time, again and again."""

    kind = "audio"

    def __init__(self, pcm: np.ndarray) -> None:
        super().__init__()
        self._pcm = pcm
        self._frame = 0
        self._start = 0.0

    async def recv(self) -> av.AudioFrame:
        now = time.monotonic()
        if not self._frame:
            self._start = now
        await asyncio.sleep(max(0.0, self._start + 0.02 * self._frame - now))
        at = 960 * self._frame % len(self._pcm)
        frame = av.AudioFrame.from_ndarray(self._pcm[at : at + 960].reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 960 * self._frame, fractions.Fraction(1, 48000)
        self._frame += 1
        return frame


class Phone:
    """A VoLTE phone's media as plain as can be: an ``ImsLeg`` of its own that plays packets and keeps what comes."""

    def __init__(self, formats: tuple[Format, ...]) -> None:
        self.plane = PythonPlane()
        self.leg = ImsLeg(self.plane, "127.0.0.1", cname="phone", clock_rate=16000, on_event=lambda event: None)
        self.formats = formats
        self.heard: list[RtpPacket] = []
        self._enough = asyncio.Event()
        self._wanted = 1 << 30
        self.plane.tap(self.leg.id, self._hear)

    def answer(self, offer: SessionDescription) -> tuple[SessionDescription, LegMedia]:
        host, port = self.leg.rtp_address
        answer, media = ims_side.make_answer(offer, ims_side.ImsEndpoint(host, port, 1), self.formats)
        assert media.remote_address is not None and media.remote_port is not None
        self.leg.set_remote((media.remote_address, media.remote_port))
        self.media = media
        return answer, media

    def _hear(self, data: bytes, now: float) -> None:
        self.heard.append(RtpPacket.parse(data))
        if len(self.heard) >= self._wanted:
            self._enough.set()

    async def hear(self, packets: int) -> list[RtpPacket]:
        self.heard.clear()
        self._enough.clear()
        self._wanted = packets
        await asyncio.wait_for(self._enough.wait(), 10)
        return self.heard[:packets]

    async def speak(self, payloads: list[bytes], ticks: int) -> None:
        start = asyncio.get_running_loop().time()
        number = self.media.codec.send_payload_type
        for index, payload in enumerate(itertools.cycle(payloads)):
            self.plane.inject(self.leg.id, number, index * ticks & 0xFFFFFFFF, payload)
            await asyncio.sleep(max(0.0, start + 0.02 * (index + 1) - asyncio.get_running_loop().time()))


class Path:
    """TURN proxy, RMF, phone and aiortc's peer connection."""

    def __init__(self) -> None:
        self.plane = PythonPlane()
        self.peers = SessionPeers()
        self.rmf = Rmf(self.plane, ims_host=lambda: "127.0.0.1", admit=self.peers.admit, retire=self.peers.retire)
        credentials = CredentialStore("ims.example", rest_secret=None, unix_time=lambda now: time.time())
        credentials.add("page", Secret("turn-password"))
        self.relays = VirtualRelays(self.plane, [RELAYED_HOST])
        self.turn = TurnProxy(self.plane, [("127.0.0.1", 0)], credentials, self.peers, self.relays)
        self.events: list[tuple[str, LegEvent]] = []
        self.calls: list[Call] = []
        self.page: RTCPeerConnection
        self.phone: Phone

    async def open(self, transport: str, formats: tuple[Format, ...] = (AMR_WB,)) -> None:
        await self.turn.start()
        host, port = self.turn.endpoints[0]
        server = RTCIceServer(f"turn:{host}:{port}?transport={transport}", "page", "turn-password")
        self.page = RTCPeerConnection(RTCConfiguration([server]))
        self.phone = Phone(formats)

    async def call_from_page(self, sound: MediaStreamTrack) -> Call:
        """Offer of the page, answer of the phone, as the SIF does it."""
        self.page.addTrack(sound)
        await self.page.setLocalDescription(await self.page.createOffer())
        offer = SessionDescription.parse(self.page.localDescription.sdp)
        call = self.rmf.open_call(page_offers=True, on_event=lambda side, event: self.events.append((side, event)))
        self.calls.append(call)
        ims_offer = interworking.ims_offer(offer, call.ims_endpoint)
        ims_answer, _ = self.phone.answer(ims_offer)
        ims = ims_side.read_answer(ims_offer, ims_answer)
        answer, web = interworking.web_answer(offer, ims, call.web_endpoint)
        call.apply(interworking.plan(web, ims))
        await self.page.setRemoteDescription(RTCSessionDescription(str(answer), "answer"))
        call.answered()
        return call

    async def close(self) -> None:
        for call in self.calls:
            await call.close()
        await self.page.close()
        self.phone.leg.close()
        await self.turn.aclose()


@pytest.fixture
async def path(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    # A page that gathers nothing but its relayed candidate, as with iceTransportPolicy "relay".
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [])
    path = Path()
    yield path
    await path.close()


def amr_wb_payloads(pcm: np.ndarray) -> list[bytes]:
    encoder = make_encoder(CodecSpec("AMR-WB"), 16000)
    return [encoder.encode(pcm[i : i + 320].tobytes()) or b"" for i in range(0, len(pcm) - 319, 320)]


def decode_amr_wb(packets: list[RtpPacket]) -> np.ndarray:
    """libavcodec's own AMR-WB decoder."""
    context = av.AudioCodecContext.create("amrwb", "r")
    resampler = av.AudioResampler("s16", "mono", 16000)
    form = payload_format(CodecSpec("AMR-WB"))
    pcm = b""
    for packet in packets:
        for frame in form.unpack(packet.payload)[1]:
            for decoded in context.decode(av.Packet(frame.stored())):
                decoded.pts = None
                pcm += b"".join([bytes(out.planes[0])[: 2 * out.samples] for out in resampler.resample(decoded)])
    return np.frombuffer(pcm, np.int16)


async def listen(track: Any, frames: int) -> np.ndarray:
    """Take sound from aiortc, 48 kHz stereo, as 16 kHz mono."""
    resampler = av.AudioResampler("s16", "mono", 16000)
    pcm = b""
    for _ in range(frames):
        frame = await asyncio.wait_for(track.recv(), 10)
        frame.pts = None
        pcm += b"".join([bytes(out.planes[0])[: 2 * out.samples] for out in resampler.resample(frame)])
    return np.frombuffer(pcm, np.int16)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_speech_both_ways_through_turn_rmf_and_bridge(path: Path, transport: str) -> None:
    """S7-TURN, S7-RMF: Opus over DTLS-SRTP through the TURN proxy <-> AMR-WB over RTP/AVP."""
    await path.open(transport)
    said, answered = speech(16000, 2.0), speech(16000, 2.0)[::-1].copy()
    tracks: asyncio.Queue[Any] = asyncio.Queue()
    path.page.on("track", tracks.put_nowait)
    call = await path.call_from_page(Speaker(np.repeat(said, 3)))
    speaking = asyncio.create_task(path.phone.speak(amr_wb_payloads(answered), 320))
    try:
        track = await asyncio.wait_for(tracks.get(), 10)
        at_page, at_phone = await asyncio.gather(listen(track, 75), path.phone.hear(75))
    finally:
        speaking.cancel()
    assert best_correlation(np.tile(said, 2), decode_amr_wb(at_phone)) > 0.75
    assert best_correlation(np.tile(answered, 2), at_page[8000:]) > 0.75
    assert {packet.payload_type for packet in at_phone} == {path.phone.media.codec.receive_payload_type}
    numbers = [packet.sequence_number for packet in at_phone]
    assert all((b - a) & 0xFFFF == 1 for a, b in itertools.pairwise(numbers))
    web_steps = [event.step for side, event in path.events if side == "web"]
    assert web_steps[:3] == [Step.ICE_STARTED, Step.ICE_CONNECTED, Step.DTLS_CONNECTED]
    stats = call.stats()
    assert stats.web.remote is not None and stats.web.remote[0] == RELAYED_HOST
    assert stats.web_to_ims is not None and stats.web_to_ims.mode == "transcode"
    # What the phone said before the page was connected had nowhere to go.
    assert set(stats.web.dropped) <= {"no-keys", "no-remote"} and stats.ims.dropped == {}


async def test_shared_codec_is_relayed(path: Path) -> None:
    """S7-RMF: pass-through when both sides share a codec."""
    await path.open("udp", (PCMA,))
    said = speech(16000, 2.0)
    call = await path.call_from_page(Speaker(np.repeat(said, 3)))
    assert call.plan is not None and call.plan.mode is MediaMode.RELAY
    packets = await path.phone.hear(50)
    context = av.AudioCodecContext.create("pcm_alaw", "r")
    context.sample_rate, context.layout = 8000, "mono"
    pcm = b"".join([bytes(f.planes[0])[: 2 * f.samples] for p in packets for f in context.decode(av.Packet(p.payload))])
    assert best_correlation(np.tile(said, 2)[::2], np.frombuffer(pcm, np.int16)) > 0.9
    stats = call.stats()
    assert stats.web_to_ims is not None and stats.web_to_ims.transcoding.frames == 0


async def arrivals(path: Path, call: Call, packets: int) -> None:
    """Return when so many more packets of the page have reached its leg."""
    until = call.stats().web.packets_received + packets
    async with asyncio.timeout(5):
        while True:
            if call.stats().web.packets_received >= until:
                return
            await asyncio.sleep(0.01)


async def test_hold_and_resume(path: Path) -> None:
    """While the call is held nothing reaches the phone; resuming needs no new handshake."""
    await path.open("udp")
    call = await path.call_from_page(Speaker(np.repeat(speech(16000, 2.0), 3)))
    await path.phone.hear(5)
    plan = call.plan
    assert plan is not None
    call.apply(interworking.plan(plan.web, replace(plan.ims, direction=Direction.INACTIVE)))
    await arrivals(path, call, 2)
    path.phone.heard.clear()
    await arrivals(path, call, 10)
    assert path.phone.heard == []
    events = len(path.events)
    call.apply(plan)
    await path.phone.hear(5)
    assert len(path.events) == events


async def test_nobody_reaches_a_leg_after_its_call(path: Path) -> None:
    """The leg's address exists for the TURN proxy only while the call does."""
    await path.open("udp")
    call = await path.call_from_page(Speaker(np.repeat(speech(16000, 1.0), 3)))
    await path.phone.hear(5)
    address = call.web_address
    assert path.peers.allows("page", *address) and path.plane.owns(address)
    assert not path.peers.allows("page", address[0], address[1] ^ 1)
    await call.close()
    assert not path.peers.allows("page", *address) and not path.plane.owns(address)
    assert not path.plane.deliver_to_own(address, b"\x00", (RELAYED_HOST, 50000))
    assert path.rmf.calls == 0
    with pytest.raises(KeyError):
        call.stats()
