"""The media of one call: a WebRTC leg, an IMS leg and the bridge between them.

What the agent (``ue_agent.rmf``) and the gateway (``network_edge.eims_agw``) have in common.  They open the legs, each
in its own place, and say when a call is answered or lost; descriptions are made and judged by ``imskit.sdp``.
"""

from __future__ import annotations

import logging
import secrets
from concurrent.futures import Executor

from imskit.media.bridge import Bridge
from imskit.media.ims_leg import ImsLeg
from imskit.media.plane import Address, MediaPlane, Source, SrtpKeys, SrtpProfile
from imskit.media.webrtc_leg import WebRtcLeg, WebRtcParameters
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import LegMedia, MediaPlan
from imskit.sdp.sdes import CryptoKey, SrtpAgreement, Suite
from imskit.sdp.web_side import WebEndpoint
from imskit.secrets import Secret

_log = logging.getLogger(__name__)

WEB_CLOCK, IMS_CLOCK = 48000, 16000
"""RTP clock rates that the legs are opened with: those of Opus and AMR-WB, until a plan says another."""

_PROFILES = {
    Suite.AES_CM_128_HMAC_SHA1_80: SrtpProfile.AES128_CM_SHA1_80,
    Suite.AES_CM_128_HMAC_SHA1_32: SrtpProfile.AES128_CM_SHA1_32,
    Suite.AEAD_AES_128_GCM: SrtpProfile.AEAD_AES_128_GCM,
}


class CallLegs:
    """Two legs, which are now this object's to close, and their bridge."""

    def __init__(
        self,
        plane: MediaPlane,
        web: WebRtcLeg,
        ims: ImsLeg,
        *,
        source: Source,
        ims_address: str = "",
        executor: Executor | None = None,
    ) -> None:
        """``source``: from where RTP of IMS is taken; ``ims_address``: what descriptions name, if not the leg's own.

        ``executor`` is that of ``Bridge``.
        """
        self._plane = plane
        self._web = web
        self._ims = ims
        self._source = source
        self._ims_address = ims_address
        self._bridge = Bridge(plane, web.id, ims.id, executor=executor)
        self._session_ids = (secrets.randbits(62), secrets.randbits(62))
        self._restarting: tuple[str, Secret[str]] | None = None
        """The browser's ICE credentials in an offer that restarts ICE, until it is answered."""
        self._crypto = new_crypto_keys() if ims.secured else ()
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
            ice_lite=local.ice_lite,
        )

    @property
    def ims_endpoint(self) -> ImsEndpoint:
        """What to say of us in descriptions to IMS."""
        host, port = self._ims.rtp_address
        return ImsEndpoint(self._ims_address or host, port, self._session_ids[1], crypto=self._crypto)

    @property
    def plan(self) -> MediaPlan | None:
        """The plan in force."""
        return self._bridge.plan

    def web_offer(self, offer: SessionDescription) -> None:
        """Look at an offer of the browser: new ICE credentials in it ask for a restart (RFC 8839 4.4.1.1.1).

        Ours are new in the answer then, and in force with the plan of it.  An offer before that came to nothing: of
        what it asked for nothing is left (RFC 3261 14.1).
        """
        known = self._web.remote
        if known is None:
            return
        asked = _ice_credentials(offer)
        if asked == self._restarting:
            return  # the same offer again
        self.forget_offer()
        if asked is not None and asked != (known.ufrag, known.password):
            _log.info("the browser restarts ICE")
            self._restarting = asked
            self._web.restart()

    def forget_offer(self) -> None:
        """The last offer of the browser came to nothing."""
        if self._restarting is not None:
            _log.info("the ICE restart did not come about")
            self._restarting = None
            self._web.cancel_restart()

    def apply(self, plan: MediaPlan) -> None:
        """Put an agreed plan into force; the same plan again changes nothing.

        ``ValueError`` when the browser's side has no ICE or DTLS, or for a codec not known here;
        ``CodecUnavailableError`` for one that is not installed.
        """
        web, ims = plan.web, plan.ims
        if web.ice is None or web.dtls_client is None:
            raise ValueError("the browser's side of the plan has no ICE or DTLS parameters")
        if self._ims.secured and ims.srtp is None:
            raise ValueError("the plan has no keys for SRTP towards IMS")
        self._bridge.apply(plan)
        for reports, media in ((self._web.reports, web), (self._ims.reports, ims)):
            sender, receiver = media.rtcp_bandwidths
            reports.configure(clock_rate=media.codec.clock_rate, sender_bandwidth=sender, receiver_bandwidth=receiver)
        if ims.srtp is not None:
            self._ims.set_keys(srtp_keys(ims.srtp))
        self._send_to(ims)
        ice = web.ice
        remote = WebRtcParameters(ice.ufrag, Secret(ice.pwd), web.fingerprints, ice.candidates, ice.lite)
        self._web.start(remote, dtls_client=web.dtls_client)
        self._restarting = None

    async def close(self) -> None:
        """End the media and free the legs' addresses and ports."""
        if self._closed:
            return
        self._closed = True
        self._bridge.close()
        self._ims.close()
        await self._web.close()

    def _send_to(self, media: LegMedia) -> None:
        if media.remote_address is None or media.remote_port is None:
            return
        rtp: Address = (media.remote_address, media.remote_port)
        rtcp: Address | None = None
        if media.rtcp_mux:
            rtcp = rtp
        elif media.rtcp_port is not None:
            rtcp = (media.rtcp_address or media.remote_address, media.rtcp_port)
        self._ims.set_remote(rtp, rtcp, source=self._source)


def _ice_credentials(offer: SessionDescription) -> tuple[str, Secret[str]] | None:
    """The user fragment and password of the sound that is offered."""
    for media in offer.media:
        if media.media == "audio" and media.port:
            ufrag, password = (next(iter(offer.effective(media, name, str)), "") for name in ("ice-ufrag", "ice-pwd"))
            return (ufrag, Secret(password)) if ufrag and password else None
    return None


def new_crypto_keys() -> tuple[CryptoKey, ...]:
    """Fresh sending keys, one for each suite known here, in the order of preference."""
    return tuple(CryptoKey(suite, Secret(secrets.token_bytes(suite.octets))) for suite in Suite)


def srtp_keys(agreed: SrtpAgreement) -> SrtpKeys:
    """The keys agreed by descriptions as the plane takes them."""
    return SrtpKeys(_PROFILES[agreed.suite], send=agreed.send, receive=agreed.receive)
