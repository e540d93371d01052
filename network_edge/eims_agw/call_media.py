"""The media of one call at the gateway: a WebRTC leg and an IMS leg on sockets of their own, and the bridge between."""

from __future__ import annotations

import errno
import ipaddress
import logging
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from imskit.media.bridge import Bridge, DirectionStats
from imskit.media.events import LegEvent
from imskit.media.ims_leg import EXPEDITED_FORWARDING, MEDIA_TIMEOUT_SECONDS, ImsLeg
from imskit.media.plane import Address, LegStats, MediaPlane, Source
from imskit.media.transports import Certificate
from imskit.media.webrtc_leg import WebRtcLeg, WebRtcParameters
from imskit.rtp.rtcp import ReportBlock
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import LegMedia, MediaPlan
from imskit.sdp.web_side import WebEndpoint
from imskit.secrets import Secret
from network_edge.eims_agw.engine.dialog import Side

_log = logging.getLogger(__name__)

_OPUS_CLOCK, _AMR_WB_CLOCK = 48000, 16000
_ATTEMPTS = 100

type OnCallEvent = Callable[[Side, LegEvent], None]
"""Takes the side, and what happened there."""


@dataclass(frozen=True, slots=True)
class Network:
    """Where one side's media is: the local address, the one told to the peer if another (NAT 1:1), the ports."""

    address: str
    ports: range
    advertised: str = ""
    interface: str | None = None

    @property
    def told(self) -> str:
        """The address that descriptions name."""
        return self.advertised or self.address


@dataclass(frozen=True, slots=True)
class MediaNode:
    """What all calls of a gateway share."""

    plane: MediaPlane
    web: Network
    ims: Network
    source: Source = Source.SAME_HOST
    """From where RTP of IMS is taken."""
    executor: Executor | None = None
    certificate: Certificate = field(default_factory=Certificate)


class CallMedia:
    """Two legs and a bridge; ``OSError`` when there is no free port or the address is gone."""

    def __init__(
        self,
        node: MediaNode,
        *,
        web_offers: bool,
        on_event: OnCallEvent,
        dscp: int = EXPEDITED_FORWARDING,
        media_timeout: float = MEDIA_TIMEOUT_SECONDS,
    ) -> None:
        self._node = node
        self._plane = node.plane
        self._session_ids = (secrets.randbits(62), secrets.randbits(62))
        self._ims = ImsLeg(
            node.plane,
            node.ims.address,
            cname=secrets.token_urlsafe(12),
            clock_rate=_AMR_WB_CLOCK,
            interface=node.ims.interface,
            ports=node.ims.ports,
            dscp=dscp,
            media_timeout=media_timeout,
            on_event=lambda event: on_event(Side.IMS, event),
        )
        try:
            self._socket = _bind(node.web, dscp)
        except OSError:
            self._ims.close()
            raise
        self._socket_id = node.plane.open_socket(self._socket, _ignored)
        self._web = WebRtcLeg(
            node.plane,
            self._socket_id,
            candidates=[(node.web.told, self._socket.getsockname()[1])],
            certificate=node.certificate,
            controlling=not web_offers,
            cname=secrets.token_urlsafe(12),
            clock_rate=_OPUS_CLOCK,
            on_event=lambda event: on_event(Side.WEB, event),
        )
        self._bridge = Bridge(node.plane, self._web.id, self._ims.id, executor=node.executor)
        self._closed = False

    @property
    def web_endpoint(self) -> WebEndpoint:
        """What to say of us in descriptions to the browser."""
        local = self._web.local
        return WebEndpoint(
            self._session_ids[0],
            local.ufrag,
            local.password.reveal(),
            local.candidates,
            local.fingerprints,
            self._web.ssrc,
            self._web.cname,
        )

    @property
    def ims_endpoint(self) -> ImsEndpoint:
        """What to say of us in descriptions to IMS."""
        return ImsEndpoint(self._node.ims.told, self._ims.rtp_address[1], self._session_ids[1])

    @property
    def plan(self) -> MediaPlan | None:
        """The plan in force."""
        return self._bridge.plan

    @property
    def waiting_for(self) -> str:
        """What the browser's leg still waits for; empty when it is connected."""
        return self._web.waiting_for

    def local_port(self, side: Side) -> int:
        """Our RTP port."""
        port: int = self._socket.getsockname()[1] if side is Side.WEB else self._ims.rtp_address[1]
        return port

    def stats(self, side: Side) -> LegStats:
        """Counters of a leg; ``KeyError`` when the call is closed."""
        return self._plane.stats(self._web.id if side is Side.WEB else self._ims.id)

    def reported(self, side: Side) -> tuple[ReportBlock | None, int, float | None]:
        """What the peer last said of our stream, how many RTCP packets came, and the round trip in seconds."""
        reports = self._web.reports if side is Side.WEB else self._ims.reports
        return reports.remote, reports.received, reports.round_trip_time

    def bridge_stats(self) -> tuple[DirectionStats, DirectionStats] | None:
        """Figures of the bridge, browser to IMS and back; None before the first plan."""
        return self._bridge.stats()

    def web_offer(self, offer: SessionDescription) -> None:
        """Look at a later offer of the browser: new ICE credentials in it ask for a restart (RFC 8839 4.4.1.1.1)."""
        known = self._web.remote
        if known is None:
            return
        for media in offer.media:
            ufrag = next(iter(offer.effective(media, "ice-ufrag", str)), known.ufrag)
            if media.port and ufrag != known.ufrag:
                _log.info("the browser restarts ICE")
                self._web.restart()
                return

    def apply(self, plan: MediaPlan) -> None:
        """Put an agreed plan into force; the same plan again changes nothing.

        ``ValueError`` when the browser's side has no ICE or DTLS, or for a codec not known here;
        ``CodecUnavailableError`` for one that is not installed.
        """
        web, ims = plan.web, plan.ims
        if web.ice is None or web.dtls_client is None:
            raise ValueError("the browser's side of the plan has no ICE or DTLS parameters")
        self._bridge.apply(plan)
        for reports, media in ((self._web.reports, web), (self._ims.reports, ims)):
            sender, receiver = media.rtcp_bandwidths
            reports.configure(clock_rate=media.codec.clock_rate, sender_bandwidth=sender, receiver_bandwidth=receiver)
        self._send_to(ims)
        ice = web.ice
        remote = WebRtcParameters(ice.ufrag, Secret(ice.pwd), web.fingerprints, ice.candidates, ice.lite)
        self._web.start(remote, dtls_client=web.dtls_client)

    def stop_sending(self, side: Side) -> None:
        """Send no more RTP on a side (RFC 8083 section 4.5); RTCP goes on, so that the reports show when it is over."""
        leg = self._web.id if side is Side.WEB else self._ims.id
        self._plane.leg_direction(leg, send=False, receive=True)

    async def close(self) -> None:
        """End the media and free the ports."""
        if self._closed:
            return
        self._closed = True
        self._bridge.close()
        self._ims.close()
        await self._web.close()
        self._plane.close_socket(self._socket_id)
        self._socket.close()

    def _send_to(self, media: LegMedia) -> None:
        if media.remote_address is None or media.remote_port is None:
            return
        rtp: Address = (media.remote_address, media.remote_port)
        rtcp: Address | None = None
        if media.rtcp_mux:
            rtcp = rtp
        elif media.rtcp_port is not None:
            rtcp = (media.rtcp_address or media.remote_address, media.rtcp_port)
        self._ims.set_remote(rtp, rtcp, source=self._node.source)


def _bind(network: Network, dscp: int) -> socket.socket:
    """Bind a free port of ``network``; ``OSError`` when there is none."""
    ipv6 = ipaddress.ip_address(network.address).version == 6
    ports = network.ports
    for _ in range(_ATTEMPTS):
        sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if network.interface is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, network.interface.encode() + b"\0")
            if ipv6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
            sock.setblocking(False)
            sock.bind((network.address, secrets.choice(ports)))
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE:
                continue
            raise
        return sock
    raise OSError(f"no free port on {network.address} in {ports.start}-{ports.stop}")


def _ignored(data: bytes, address: Address) -> None:
    """What arrives once the leg is closed."""
