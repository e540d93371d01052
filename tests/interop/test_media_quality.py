"""How speech sounds after the bridge, by PESQ-WB (ITU-T P.862.2): real speech by espeak-ng, through sockets.

The bridge must cost next to nothing beside the two codecs themselves, and bear a bad path.
"""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence

import av
import numpy as np
import pytest

from imskit.media.bridge import Bridge
from imskit.media.codecs import CodecSpec, make_decoder, make_encoder
from imskit.media.codecs.amr import payload_format
from imskit.media.plane import Address, LegId, Notice, SocketId
from imskit.media.python_plane import PythonPlane
from imskit.rtp.packet import RtpPacket
from imskit.sdp.attributes import Direction
from imskit.sdp.codec import AmrParameters
from imskit.sdp.interworking import plan
from imskit.sdp.negotiation import AgreedCodec, LegMedia

pesq = pytest.importorskip("pesq")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng"),
]

TEXT = "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background."
CODECS = {
    "opus": AgreedCodec("opus", 48000, 2, 111, 111),
    "AMR-WB": AgreedCodec("AMR-WB", 16000, 1, 104, 104, amr=AmrParameters()),
}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Two Harvard sentences at 16 kHz."""
    sound = subprocess.run(["espeak-ng", "--stdout", TEXT], capture_output=True, check=True).stdout
    resampler = av.AudioResampler("s16", "mono", 16000)
    with av.open(io.BytesIO(sound), "r") as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    pcm = np.frombuffer(b"".join([bytes(out.planes[0])[: 2 * out.samples] for out in frames]), np.int16)
    return pcm[: len(pcm) // 320 * 320]


class Silent:
    """A leg's handler that wants nothing."""

    def punt(self, data: bytes, address: Address) -> None: ...

    def rtcp(self, data: bytes, address: Address) -> None: ...

    def notice(self, notice: Notice, now: float) -> None: ...


class Wire:
    """The bridge with a plain socket at each end."""

    def __init__(self) -> None:
        self.plane = PythonPlane()
        self.ends: list[tuple[socket.socket, socket.socket, SocketId, LegId]] = []
        for ssrc in (1, 2):
            far, near = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
            far.setblocking(False)
            for sock in (far, near):
                sock.bind(("127.0.0.1", 0))
            socket_id = self.plane.open_socket(near, lambda data, address: None)
            leg = self.plane.leg_open(socket_id, Silent(), ssrc=ssrc, secured=False)
            self.plane.leg_remote(leg, far.getsockname())
            self.ends.append((far, near, socket_id, leg))
        self.bridge = Bridge(self.plane, self.ends[0][3], self.ends[1][3])
        web, ims = (LegMedia(0, True, (codec,), (), Direction.SENDRECV) for codec in CODECS.values())
        self.bridge.apply(plan(web, ims))

    async def carry(self, packets: Sequence[RtpPacket], source: int) -> list[RtpPacket]:
        """Send the packets and return what has come out when all is quiet."""
        far, near = self.ends[source][0], self.ends[source][1]
        out = self.ends[1 - source][0]
        loop = asyncio.get_running_loop()
        heard: list[RtpPacket] = []
        loop.add_reader(out, lambda: heard.append(RtpPacket.parse(out.recv(2048))))
        try:
            for packet in packets:
                far.sendto(packet.encode(), near.getsockname())
                await asyncio.sleep(0.004)  # five times as fast as speech; only the patience is in real time
            quiet = -1
            while quiet != len(heard):
                quiet = len(heard)
                await asyncio.sleep(0.2)
        finally:
            loop.remove_reader(out)
        return heard

    def close(self) -> None:
        self.bridge.close()
        for far, near, socket_id, _ in self.ends:
            self.plane.close_socket(socket_id)
            far.close()
            near.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


def encode(name: str, pcm: np.ndarray) -> list[RtpPacket]:
    encoder, codec = make_encoder(CodecSpec(name), 16000), CODECS[name]
    ticks = codec.clock_rate // 50
    return [
        RtpPacket(codec.receive_payload_type, n, n * ticks, 7, encoder.encode(pcm[i : i + 320].tobytes()) or b"")
        for n, i in enumerate(range(0, len(pcm), 320))
    ]


def decode(name: str, packets: Sequence[RtpPacket]) -> np.ndarray:
    """Decode with libavcodec's AMR-WB, or our Opus, in the order of the timestamps."""
    ordered = sorted(packets, key=lambda packet: (packet.timestamp - packets[0].timestamp + 0x80000000) & 0xFFFFFFFF)
    if name == "opus":
        decoder = make_decoder(CodecSpec("opus"), 16000)
        return np.frombuffer(b"".join([decoder.decode(packet.payload) for packet in ordered]), np.int16)
    context = av.AudioCodecContext.create("amrwb", "r")
    resampler = av.AudioResampler("s16", "mono", 16000)
    form = payload_format(CodecSpec("AMR-WB"))
    pcm = b""
    for packet in ordered:
        for decoded in context.decode(av.Packet(form.unpack(packet.payload)[1][0].stored())):
            decoded.pts = None
            pcm += b"".join([bytes(out.planes[0])[: 2 * out.samples] for out in resampler.resample(decoded)])
    return np.frombuffer(pcm, np.int16)


def score(reference: np.ndarray, heard: np.ndarray) -> float:
    size = 2 * len(reference)
    cross = np.fft.irfft(np.fft.rfft(heard.astype(float), size) * np.conj(np.fft.rfft(reference.astype(float), size)))
    delay = int(np.argmax(cross[:4000]))
    aligned = heard[delay:]
    return float(pesq.pesq(16000, reference[: len(aligned)], aligned, "wb"))


def offline(first: str, second: str, pcm: np.ndarray) -> float:
    """The same two codecs one after the other, no bridge."""
    middle = np.frombuffer(
        b"".join(
            [make.decode(p.payload) for make in [make_decoder(CodecSpec(first), 16000)] for p in encode(first, pcm)]
        ),
        np.int16,
    )
    return score(pcm, decode(second, encode(second, middle)))


@pytest.mark.parametrize(("source", "first", "second"), [(0, "opus", "AMR-WB"), (1, "AMR-WB", "opus")])
async def test_the_bridge_costs_no_quality(
    wire: Wire, speech: np.ndarray, source: int, first: str, second: str
) -> None:
    """PESQ-WB within 0.1 of the two codecs alone (the whole path may lose 0.3)."""
    heard = await wire.carry(encode(first, speech), source)
    assert len(heard) == len(speech) // 320
    through, alone = score(speech, decode(second, heard)), offline(first, second, speech)
    print(f"PESQ-WB {first} to {second}: {through:.2f} through the bridge, {alone:.2f} codecs alone")
    assert through > alone - 0.1


@pytest.mark.parametrize(("source", "first", "second"), [(0, "opus", "AMR-WB"), (1, "AMR-WB", "opus")])
async def test_a_bad_path_stays_intelligible(
    wire: Wire, speech: np.ndarray, source: int, first: str, second: str
) -> None:
    """3 % lost, 3 % out of order: no hole in what leaves, and better than the same packets without concealment."""
    packets = encode(first, speech)
    rng = random.Random(11)
    lost = {n for n in range(5, len(packets) - 1) if rng.random() < 0.03}
    order = [n for n in range(len(packets)) if n not in lost]
    for at in range(len(order) - 1):
        if rng.random() < 0.03:
            order[at], order[at + 1] = order[at + 1], order[at]
    heard = await wire.carry([packets[n] for n in order], source)
    assert len(heard) == len(packets)
    ticks = CODECS[second].clock_rate // 50
    assert {(packet.timestamp - heard[0].timestamp) % ticks for packet in heard} == {0}
    stats = wire.bridge.stats()
    assert stats is not None and stats[source].transcoding.concealed == len(lost)
    bad = score(speech, decode(second, heard))
    decoder = make_decoder(CodecSpec(first), 16000)
    holes = np.frombuffer(
        b"".join([bytes(640) if n in lost else decoder.decode(packet.payload) for n, packet in enumerate(packets)]),
        np.int16,
    )
    without = score(speech, decode(second, encode(second, holes)))
    print(f"PESQ-WB {first} to {second}, 3 % lost: {bad:.2f} concealed, {without:.2f} with holes")
    assert bad > without
