"""The media of one call at the gateway: a WebRTC leg and an IMS leg, each on sockets of its own."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from imskit.media.bridge import DirectionStats
from imskit.media.call import IMS_CLOCK, WEB_CLOCK, CallLegs
from imskit.media.events import LegEvent
from imskit.media.ims_leg import EXPEDITED_FORWARDING, MEDIA_TIMEOUT_SECONDS, ImsLeg, bound_socket
from imskit.media.peer_addresses import Network as PeerNetwork
from imskit.media.plane import Address, LegStats, MediaPlane, Source
from imskit.media.transports import Certificate
from imskit.media.webrtc_leg import WebRtcLeg
from imskit.rtp.rtcp import ReportBlock
from imskit.sdp.attributes import Candidate
from imskit.secrets import Secret
from network_edge.eims_agw.engine.dialog import Side
from network_edge.iq.gateway import Transport

_log = logging.getLogger(__name__)

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
    ice_lite: bool = False
    """Towards browsers an ICE-lite agent, not a full one."""
    ims_transport: Transport = Transport.AVP
    """What IMS is offered where the controller does not say: RTP/AVP(F), or RTP/SAVP(F) with SDES."""
    denied: tuple[PeerNetwork, ...] = ()
    """Networks in which no browser is: no ICE check goes there."""


class CallMedia(CallLegs):
    """Two legs and a bridge; ``OSError`` when there is no free port or the address is gone."""

    def __init__(
        self,
        node: MediaNode,
        *,
        web_offers: bool,
        on_event: OnCallEvent,
        dscp: int = EXPEDITED_FORWARDING,
        media_timeout: float = MEDIA_TIMEOUT_SECONDS,
        ims_secured: bool = False,
        ice_lite: bool = False,
    ) -> None:
        """``web_offers``: the first offer is the browser's; ``ims_secured``: SRTP with SDES towards IMS.

        ``ice_lite``: towards the browser no full ICE agent.
        """
        plane = node.plane
        ims = ImsLeg(
            plane,
            node.ims.address,
            cname=secrets.token_urlsafe(12),
            clock_rate=IMS_CLOCK,
            interface=node.ims.interface,
            ports=node.ims.ports,
            dscp=dscp,
            media_timeout=media_timeout,
            on_event=lambda event: on_event(Side.IMS, event),
            secured=ims_secured,
        )
        try:
            self._socket = _bind(node.web, dscp)
        except OSError:
            ims.close()
            raise
        self._socket_id = plane.open_socket(self._socket, _ignored)
        web = WebRtcLeg(
            plane,
            self._socket_id,
            candidates=[(node.web.told, self._socket.getsockname()[1])],
            certificate=node.certificate,
            controlling=not web_offers,
            cname=secrets.token_urlsafe(12),
            clock_rate=WEB_CLOCK,
            on_event=lambda event: on_event(Side.WEB, event),
            ice_lite=ice_lite,
            denied=node.denied,
        )
        super().__init__(plane, web, ims, source=node.source, ims_address=node.ims.told, executor=node.executor)

    @property
    def waiting_for(self) -> str:
        """What the browser's leg still waits for; empty when it is connected."""
        return self._web.waiting_for

    @property
    def ims_secured(self) -> bool:
        """SRTP towards IMS."""
        return self._ims.secured

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

    def web_candidates(self, ufrag: str, password: str, candidates: tuple[Candidate, ...]) -> None:
        """Take candidates that the browser sent after its description; those of other credentials are ignored."""
        known = self._web.remote
        if known is None or known.ufrag != ufrag or known.password != Secret(password):
            _log.debug("%d candidates of other ICE credentials are ignored", len(candidates))
            return
        for candidate in candidates:
            self._web.add_candidate(candidate)

    def stop_sending(self, side: Side) -> None:
        """Send no more RTP on a side (RFC 8083 section 4.5); RTCP goes on, so that the reports show when it is over."""
        leg = self._web.id if side is Side.WEB else self._ims.id
        self._plane.leg_direction(leg, send=False, receive=True)

    async def close(self) -> None:
        """End the media and free the ports."""
        if self._closed:
            return
        await super().close()
        self._plane.close_socket(self._socket_id)
        self._socket.close()


def _bind(network: Network, dscp: int) -> socket.socket:
    """Bind a free port of ``network``; ``OSError`` when there is none."""
    ports = network.ports
    for _ in range(_ATTEMPTS):
        try:
            return bound_socket(network.address, secrets.choice(ports), interface=network.interface, dscp=dscp)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(f"no free port on {network.address} in {ports.start}-{ports.stop}")


def _ignored(data: bytes, address: Address) -> None:
    """What arrives once the leg is closed."""
