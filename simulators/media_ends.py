"""The two ends of a gateway's call without their programs: a browser's media and a phone's, with sound that is known.

Used by the tests and benches of the network edge.  Each end speaks a tone and listens; descriptions are made by
``imskit.sdp``, packets by ``imskit.media``.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time

import numpy as np

from imskit.media.bridge import codec_spec
from imskit.media.call import new_crypto_keys, srtp_keys
from imskit.media.codecs import make_decoder, make_encoder
from imskit.media.events import LegEvent, Step
from imskit.media.ims_leg import ImsLeg
from imskit.media.plane import Address, LegId, SocketId, Source
from imskit.media.python_plane import PythonPlane
from imskit.media.transports import Certificate
from imskit.media.webrtc_leg import WebRtcLeg, WebRtcParameters
from imskit.rtp.packet import RtpPacket
from imskit.sdp import ims_side, web_side
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import AgreedCodec, LegMedia
from imskit.sdp.profile import AMR_WB, OPUS, PCMA, Format
from imskit.sdp.sdes import Suite
from imskit.sdp.web_side import WebEndpoint
from imskit.secrets import Secret

_RATE = 16000
_FRAME = 0.02


class MediaEnd:
    """What both ends can: speak, listen, say what they heard."""

    def __init__(self, plane: PythonPlane) -> None:
        self.plane = plane
        self.leg_id: LegId
        self.codec: AgreedCodec
        self.media: LegMedia
        self.packets: list[RtpPacket] = []
        """All RTP that arrived."""
        self.events: list[LegEvent] = []
        self._stirred = asyncio.Event()
        self._sent = 0

    async def until(self, *steps: Step, timeout: float = 10) -> LegEvent:
        """Return when one of ``steps`` has happened; ``TimeoutError``."""
        async with asyncio.timeout(timeout):
            while True:
                for event in self.events:
                    if event.step in steps:
                        return event
                await self._stir()

    async def hears(self, packets: int, timeout: float = 10) -> None:
        """Return when this many packets more have arrived; ``TimeoutError``."""
        wanted = len(self.packets) + packets
        async with asyncio.timeout(timeout):
            while len(self.packets) < wanted:
                await self._stir()

    async def talk(self, tone: float, seconds: float) -> None:
        """Speak a tone (Hz) in real time with the agreed format."""
        clock = self.codec.clock_rate
        rate = _RATE if clock >= _RATE else clock
        size = round(rate * _FRAME)
        encoder = make_encoder(codec_spec(self.codec), rate)
        start = time.monotonic()
        for index in range(round(seconds / _FRAME)):
            at = (index * size + np.arange(size)) / rate
            pcm = (8000 * np.sin(2 * np.pi * tone * at)).astype(np.int16)
            payload = encoder.encode(pcm.tobytes())
            if payload is not None:
                timestamp = round(self._sent * clock * _FRAME) & 0xFFFFFFFF
                self.plane.inject(self.leg_id, self.codec.send_payload_type, timestamp, payload)
            self._sent += 1
            await asyncio.sleep(max(0.0, start + (index + 1) * _FRAME - time.monotonic()))

    def pitch(self, last: int = 50) -> float:
        """The strongest frequency (Hz) in the last packets heard."""
        clock = self.codec.clock_rate
        rate = _RATE if clock >= _RATE else clock
        decoder = make_decoder(codec_spec(self.codec), rate)
        number = self.codec.receive_payload_type
        pcm = b"".join([decoder.decode(item.payload) for item in self.packets[-last:] if item.payload_type == number])
        samples = np.frombuffer(pcm, np.int16).astype(float)
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        return float(np.argmax(spectrum[5:]) + 5) * rate / len(samples)

    def _event(self, event: LegEvent) -> None:
        self.events.append(event)
        self._stirred.set()

    def _heard(self, data: bytes, now: float) -> None:
        self.packets.append(RtpPacket.parse(data))
        self._stirred.set()

    async def _stir(self) -> None:
        self._stirred.clear()
        await self._stirred.wait()


class BrowserEnd(MediaEnd):
    """A browser's transport: ICE, DTLS-SRTP, everything on one port of ``host``."""

    def __init__(
        self,
        plane: PythonPlane,
        *,
        offers: bool,
        formats: tuple[Format, ...] = (OPUS, PCMA),
        host: str = "127.0.0.1",
        ice_lite: bool = False,
    ) -> None:
        super().__init__(plane)
        self.formats = formats
        self._certificate = Certificate()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((host, 0))
        self._socket_id: SocketId = plane.open_socket(self._socket, _ignored)
        self.leg = WebRtcLeg(
            plane,
            self._socket_id,
            candidates=[self._socket.getsockname()],
            certificate=self._certificate,
            controlling=offers,
            cname="browser",
            clock_rate=48000,
            on_event=self._event,
            ice_lite=ice_lite,
        )
        self.leg_id = self.leg.id
        plane.tap(self.leg.id, self._heard)
        self._session = secrets.randbits(60)
        self.said: SessionDescription | None = None

    @property
    def endpoint(self) -> WebEndpoint:
        """Its own side of descriptions."""
        local = self.leg.local
        return WebEndpoint(
            self._session,
            local.ufrag,
            local.password.reveal(),
            local.candidates,
            local.fingerprints,
            self.leg.ssrc,
            ice_lite=local.ice_lite,
        )

    def offer(self) -> SessionDescription:
        """Make a first offer."""
        self.said = web_side.make_offer(self.endpoint, self.formats)
        return self.said

    def take_answer(self, answer: SessionDescription) -> LegMedia:
        """Take the answer to ``offer`` and connect."""
        assert self.said is not None
        return self._agreed(web_side.read_answer(self.said, answer))

    def take_offer(self, offer: SessionDescription) -> SessionDescription:
        """Answer an offer and connect."""
        self.said, media = web_side.make_answer(offer, self.endpoint, self.formats)
        self._agreed(media)
        return self.said

    def _agreed(self, media: LegMedia) -> LegMedia:
        self.media, self.codec = media, media.codec
        assert media.ice is not None and media.dtls_client is not None
        ice = media.ice
        remote = WebRtcParameters(ice.ufrag, Secret(ice.pwd), media.fingerprints, ice.candidates, ice.lite)
        self.leg.start(remote, dtls_client=media.dtls_client)
        return media

    def vanish(self) -> None:
        """Be gone without a word: no check and no packet is answered from now on."""
        setattr(self.leg, "punt", _ignored)  # noqa: B010 (a method of the class)

    async def close(self) -> None:
        """End properly."""
        await self.leg.close()
        if self._socket.fileno() >= 0:
            self.plane.close_socket(self._socket_id)
            self._socket.close()


class PhoneEnd(MediaEnd):
    """A phone's RTP, or SRTP, at a pair of ports of ``host``."""

    def __init__(
        self,
        plane: PythonPlane,
        formats: tuple[Format, ...] = (AMR_WB, PCMA),
        host: str = "127.0.0.1",
        *,
        suites: tuple[Suite, ...] = (),
    ) -> None:
        """With ``suites`` it speaks SRTP with SDES, and nothing else."""
        super().__init__(plane)
        self.formats = formats
        self.leg = ImsLeg(
            plane,
            host,
            cname="phone",
            clock_rate=16000,
            on_event=self._event,
            ports=range(20000, 29998),
            secured=bool(suites),
        )
        self._crypto = tuple(key for key in new_crypto_keys() if key.suite in suites)
        self.leg_id = self.leg.id
        plane.tap(self.leg.id, self._heard)
        self._session = secrets.randbits(60)
        self.said: SessionDescription | None = None

    @property
    def endpoint(self) -> ImsEndpoint:
        """Its own side of descriptions."""
        host, port = self.leg.rtp_address
        return ImsEndpoint(host, port, self._session, crypto=self._crypto)

    def offer(self) -> SessionDescription:
        """Make a first offer."""
        self.said = ims_side.make_offer(self.endpoint, self.formats)
        return self.said

    def take_answer(self, answer: SessionDescription) -> LegMedia:
        """Take the answer to ``offer``."""
        assert self.said is not None
        return self._agreed(ims_side.read_answer(self.said, answer))

    def take_offer(self, offer: SessionDescription) -> SessionDescription:
        """Answer an offer."""
        self.said, media = ims_side.make_answer(offer, self.endpoint, self.formats, previous=self.said)
        self._agreed(media)
        return self.said

    def _agreed(self, media: LegMedia) -> LegMedia:
        self.media, self.codec = media, media.codec
        assert media.remote_address is not None and media.remote_port is not None
        self.leg.set_remote((media.remote_address, media.remote_port), source=Source.SAME_HOST)
        if media.srtp is not None:
            self.leg.set_keys(srtp_keys(media.srtp))
        self.leg.reports.configure(clock_rate=self.codec.clock_rate, sender_bandwidth=800, receiver_bandwidth=2400)
        return media

    def close(self) -> None:
        """End properly."""
        self.leg.close()


def _ignored(data: bytes, address: Address) -> None:
    """What comes when the leg is closed."""
