"""The sound of one call: an RTP session towards IMS, a microphone that plays a file, an ear that records one."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from imskit.media.bridge import codec_spec
from imskit.media.codecs import Encoder, Resampler, make_encoder
from imskit.media.events import LegEvent, Step
from imskit.media.ims_leg import ImsLeg
from imskit.media.plane import MediaPlane
from imskit.rtp.errors import RtpError
from imskit.rtp.packet import RtpPacket
from imskit.sdp.attributes import Direction
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint, make_answer, make_offer, read_answer
from imskit.sdp.negotiation import AgreedCodec, LegMedia, next_offer
from imskit.sdp.profile import AMR, AMR_OCTET_ALIGNED, AMR_WB, AMR_WB_OCTET_ALIGNED, Format
from simulators.phone.playout import FRAME_SECONDS, Playout
from simulators.phone.tones import Tones
from simulators.phone.wav import SAMPLE_RATE

_log = logging.getLogger(__name__)

_FORMATS = {"AMR-WB": (AMR_WB, AMR_WB_OCTET_ALIGNED), "AMR": (AMR, AMR_OCTET_ALIGNED)}
_CATCH_UP = 50
"""Frames made in one go at most after the process was held up."""


class Mouth(Protocol):
    """What is spoken."""

    def frame(self) -> bytes:
        """Return the next 20 ms at 16 kHz."""


class Ear(Protocol):
    """What hears."""

    def write(self, pcm: bytes) -> None:
        """Take the next 20 ms at 16 kHz; ``OSError`` if it can take no more."""

    def close(self) -> None:
        """The call is over."""


@dataclass(frozen=True)
class Hearing:
    """How a call sounds: what is spoken, where it is recorded, how long packets are waited for (seconds)."""

    speaker: Mouth
    recorder: Ear | None
    playout_delay: float


def formats(names: Sequence[str]) -> tuple[Format, ...]:
    """Return the SDP formats of codecs by name, the preferred first."""
    return tuple(item for name in names for item in _FORMATS[name])


class CallMedia:
    """Media of one call: make or read descriptions, then ``start``."""

    def __init__(
        self,
        plane: MediaPlane,
        host: str,
        codecs: Sequence[str],
        hearing: Hearing,
        on_step: Callable[[Step, float], None],
        *,
        interface: str | None = None,
    ) -> None:
        """Take ports on ``host``; ``OSError`` if there are none."""
        self._plane = plane
        self._formats = formats(codecs)
        self._hearing = hearing
        self._on_step = on_step
        self._leg = ImsLeg(
            plane, host, cname=secrets.token_hex(8), clock_rate=SAMPLE_RATE, on_event=self._told, interface=interface
        )
        local, port = self._leg.rtp_address
        self._endpoint = ImsEndpoint(local, port, secrets.randbits(48), self._leg.rtcp_address[1])
        self._ours: SessionDescription | None = None
        self.agreed: LegMedia | None = None
        """What both sides have agreed on."""
        self.direction = Direction.SENDRECV
        """What this side wants: ``SENDONLY`` holds the other side."""
        self.tones = Tones()
        self._encoder: Encoder | None = None
        self._encoder_codec: AgreedCodec | None = None
        self._down: Resampler | None = None
        self._playout: Playout | None = None
        self._timestamp = secrets.randbits(32)
        self._marker = True
        self._origin: float | None = None
        self._frames = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._recording_failed = False
        plane.tap(self._leg.id, self._received)

    # ---- descriptions -----------------------------------------------------------------------------------------

    def offer(self) -> bytes:
        """Our offer: the first one, or later the one that continues the session."""
        if self._ours is None or self.agreed is None or not self.agreed.accepted:
            self._ours = make_offer(self._endpoint, self._formats, direction=self.direction)
        else:
            self._ours = next_offer(self._ours, self.agreed, direction=self.direction)
        return self._ours.encode()

    def answer(self, offer: bytes) -> bytes:
        """Answer the peer's offer; ``SdpError`` with the status to answer if nothing in it fits."""
        answer, agreed = make_answer(
            SessionDescription.parse(offer),
            self._endpoint,
            self._formats,
            direction=self.direction,
            previous=self._ours,
        )
        self._ours = answer
        self._apply(agreed)
        return answer.encode()

    def answered(self, answer: bytes) -> None:
        """Take the peer's answer to our offer; ``SdpError`` if it is none, or refuses."""
        assert self._ours is not None
        agreed = read_answer(self._ours, SessionDescription.parse(answer))
        _ = agreed.codec
        self._apply(agreed)

    def _apply(self, agreed: LegMedia) -> None:
        codec = agreed.codec
        if codec != self._encoder_codec:
            spec = codec_spec(codec)
            self._encoder = make_encoder(spec, SAMPLE_RATE)
            rate = self._encoder.sample_rate
            self._down = Resampler(SAMPLE_RATE, rate) if rate != SAMPLE_RATE else None
            self._encoder_codec = codec
            _log.info("speaks %s", codec.encoding)
        if self.agreed is None or self.agreed.codecs != agreed.codecs:
            self._playout = Playout(
                {item.receive_payload_type: codec_spec(item) for item in agreed.codecs}, self._hearing.playout_delay
            )
            clocks = {item.receive_payload_type: item.clock_rate for item in agreed.codecs}
            self._plane.leg_clocks(self._leg.id, clocks)
        self.tones.agree(agreed)
        senders, receivers = agreed.rtcp_bandwidths
        self._leg.reports.configure(clock_rate=codec.clock_rate, sender_bandwidth=senders, receiver_bandwidth=receivers)
        if agreed.remote_address is not None and agreed.remote_port is not None:
            rtcp = (agreed.rtcp_address, agreed.rtcp_port)
            self._leg.set_remote(
                (agreed.remote_address, agreed.remote_port),
                (rtcp[0], rtcp[1]) if rtcp[0] is not None and rtcp[1] is not None else None,
            )
        self._leg.set_direction(send=agreed.direction.sends, receive=agreed.direction.receives)
        self.agreed = agreed

    # ---- sound ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Speak and record from now on."""
        if self._origin is None and not self._closed:
            self._origin = time.monotonic()
            self._tick()

    def _tick(self) -> None:
        """Do all frames that are due; the clock is the wall's, however late this is called."""
        assert self._origin is not None
        now = time.monotonic()
        due = int((now - self._origin) / FRAME_SECONDS) + 1 - self._frames
        for late in range(due, 0, -1):
            self._hear(now - (late - 1) * FRAME_SECONDS)
            if late <= _CATCH_UP:
                self._speak()
            self._frames += 1
        at = self._origin + self._frames * FRAME_SECONDS
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._tick)

    def _hear(self, now: float) -> None:
        pcm = self._playout.frame(now) if self._playout is not None else bytes(2 * SAMPLE_RATE // 50)
        self._record(pcm)
        if self._playout is not None and self._encoder is not None and self._playout.requested_mode is not None:
            self._encoder.request_mode(self._playout.requested_mode)

    def _record(self, pcm: bytes) -> None:
        if self._hearing.recorder is None or self._recording_failed:
            return
        try:
            self._hearing.recorder.write(pcm)
        except OSError as error:
            self._recording_failed = True
            _log.error("the recording ends here: %s", error)

    def _speak(self) -> None:
        if self._encoder is None or self._encoder_codec is None or self.agreed is None:
            return
        pcm = self._hearing.speaker.frame()
        if self._down is not None:
            pcm = self._down.convert(pcm)
        payload = self._encoder.encode(pcm)
        self._timestamp = (self._timestamp + self._encoder_codec.clock_rate // 50) & 0xFFFFFFFF
        if payload is None or not self.agreed.direction.sends:
            self._marker = True
            return
        if (tone := self.tones.packet(self._timestamp)) is not None:
            payload_type, packet = tone
            self._plane.inject(self._leg.id, payload_type, packet.timestamp, packet.payload, marker=packet.marker)
            self._marker = True
            return
        number = self._encoder_codec.send_payload_type
        self._plane.inject(self._leg.id, number, self._timestamp, payload, marker=self._marker)
        self._marker = False

    def _received(self, data: bytes, now: float) -> None:
        try:
            packet = RtpPacket.parse(data)
        except RtpError:
            return
        if self.tones.received(packet.ssrc, packet.payload_type, packet.timestamp, packet.payload, now):
            return
        if self._playout is not None:
            self._playout.arrived(packet.ssrc, packet.payload_type, packet.timestamp, packet.payload, now)

    def _told(self, event: LegEvent) -> None:
        self._on_step(event.step, event.at)

    # ---- the end ----------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """Codec, packets and delays as plain values; times in milliseconds."""
        stats = self._plane.stats(self._leg.id)
        reception = stats.reception
        codec = self._encoder_codec
        found: dict[str, Any] = {
            "codec": codec.encoding if codec is not None else None,
            "seconds": round(self._frames * FRAME_SECONDS, 2),
            "packets_sent": stats.packets_sent,
            "packets_received": stats.packets_received,
            "packets_lost": max(0, reception.lost) if reception is not None else 0,
            "dropped": stats.dropped,
            "keys_heard": len(self.tones.heard),
        }
        if reception is not None and reception.clock_rate:
            found["jitter_ms"] = round(1000 * reception.jitter / reception.clock_rate, 2)
        if self._leg.reports.round_trip_time is not None:
            found["round_trip_ms"] = round(1000 * self._leg.reports.round_trip_time, 2)
        if (remote := self._leg.reports.remote) is not None:
            found["peer_lost"] = remote.cumulative_lost
        if self._playout is not None:
            played = self._playout.stats
            found |= {
                "frames_concealed": played.concealed,
                "frames_comfort_noise": played.noise,
                "packets_late": played.late,
                "packets_damaged": played.damaged,
                "playout_delay_ms": round(played.delay_ms, 1),
            }
        return found

    def close(self) -> dict[str, Any]:
        """Stop, complete the recording, free the ports; returns the last ``statistics``."""
        if self._closed:
            return {}
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        statistics = self.statistics()
        self._leg.close()
        if self._hearing.recorder is not None:
            try:
                self._hearing.recorder.close()
            except OSError as error:
                _log.error("the recording is not whole: %s", error)
        return statistics
