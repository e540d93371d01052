"""The browser's side of a call: ICE, then DTLS, then SRTP with RTP and RTCP on one path (RFC 8835, RFC 8827).

A leg is made before the first description is written, so that its parameters can be signalled, and does nothing until
``start``: the peer's parameters are known then, and only then.  The order after that is fixed: a pair of candidates,
the handshake, the fingerprint, the keys; before the keys no RTP passes (the plane sees to that).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imskit.media.events import LegEvent, OnLegEvent, Step
from imskit.media.peer_addresses import Network, PeerAddresses
from imskit.media.plane import Address, MediaPlane, Notice, SocketId
from imskit.media.rtcp_session import RtcpSession
from imskit.media.transports import Certificate, DtlsAssociation, DtlsError, IceAgent, IceError
from imskit.sdp.attributes import Candidate, Fingerprint
from imskit.secrets import Secret
from imskit.tasks import spawn

_log = logging.getLogger(__name__)

CONNECT_SECONDS = 90.0
"""Time for ICE and DTLS after ``start``: longer than a callee rings, as a browser may begin only at the answer."""
HANDSHAKE_SECONDS = 15.0
"""Time for DTLS once ICE is connected."""

_ICE_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _ice_token(length: int) -> str:
    return "".join(secrets.choice(_ICE_CHARACTERS) for _ in range(length))


@dataclass(frozen=True, slots=True)
class WebRtcParameters:
    """What one side signals of itself (RFC 8839, RFC 8842)."""

    ufrag: str
    password: Secret[str]
    fingerprints: tuple[Fingerprint, ...]
    candidates: tuple[Candidate, ...] = ()
    ice_lite: bool = False


class WebRtcLeg:
    """One bundled transport to a WebRTC peer, at a virtual address or on a socket."""

    def __init__(
        self,
        plane: MediaPlane,
        at: SocketId | Address,
        *,
        candidates: Sequence[Address],
        certificate: Certificate,
        controlling: bool,
        cname: str,
        clock_rate: int,
        on_event: OnLegEvent,
        ice_lite: bool = False,
        denied: Sequence[Network] = (),
    ) -> None:
        """``candidates`` are the addresses signalled; ``controlling``: our side made the offer (RFC 8445 6.1.1).

        ``clock_rate`` is that of the RTP sent to the peer.  ``ice_lite``: make no checks, only answer the peer's.
        ``denied``: networks that no check is to reach, beside those that no peer can be in.  At a virtual address the
        relay in front has its own rules.
        """
        self._plane = plane
        self._virtual = isinstance(at, tuple)
        self._addresses = tuple(candidates)
        self._certificate = certificate
        self._controlling = controlling
        self._lite = ice_lite
        self._peers = None if self._virtual else PeerAddresses((host for host, _ in candidates), denied)
        self._on_event = on_event
        self.ssrc = secrets.randbits(32) | 1
        """SSRC of all RTP sent to the peer."""
        self.cname = cname
        self.id = plane.leg_open(at, self, ssrc=self.ssrc, secured=True)
        """The leg in the plane."""
        self.reports = RtcpSession(plane, self.id, cname=cname, clock_rate=clock_rate, on_bye=self._bye)
        self._ice = self._new_ice()
        self._old_ice: IceAgent | None = None
        """The agent in use while a restarted one has no pair yet."""
        self._next_ice: IceAgent | None = None
        """The agent of a restart that is described, and not agreed yet."""
        self._dtls = self._new_dtls()
        self._remote: WebRtcParameters | None = None
        self._dtls_client = False
        self._handshake_due = True
        self._pair_selected = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._closed = False
        self.state = Step.CLOSED
        """The last step of ICE and DTLS; ``CLOSED`` before ``start``."""
        self.waiting_for = "the peer's description"
        """What the set-up waits for, for people who look at a call that does not connect."""
        self.unproven = 0
        """DTLS packets dropped because their sender had not proved its address by ICE."""

    @property
    def local(self) -> WebRtcParameters:
        """What to signal of this side in the next description."""
        agent = self._next_ice or self._ice
        return WebRtcParameters(
            agent.ufrag, agent.password, (self._certificate.fingerprint,), agent.candidates, self._lite
        )

    @property
    def remote(self) -> WebRtcParameters | None:
        """What the peer signalled, ``None`` before ``start``."""
        return self._remote

    def start(self, remote: WebRtcParameters, *, dtls_client: bool, within: float = CONNECT_SECONDS) -> None:
        """Begin ICE and DTLS; ``dtls_client``: our role is active (RFC 8842 5).

        Called again with the same parameters this changes nothing; with a new ufrag and password it restarts ICE
        (call ``restart`` before the description is written), with new fingerprints also DTLS.
        """
        if self._remote is None:
            self._remote = remote
            self._dtls_client = dtls_client
            self._arm(within)
            self._tell(Step.ICE_STARTED)
            passive = self._virtual or self._lite
            self.waiting_for = "the peer's ICE checks" if passive else "an answer to ICE checks"
            self._tasks = [spawn(self._connect(remote), "ICE"), spawn(self._run(), "DTLS")]
            return
        previous, self._remote = self._remote, remote
        if (previous.ufrag, previous.password) != (remote.ufrag, remote.password):
            self.restart()
            self._swap()
            self._tasks.append(spawn(self._connect(remote), "ICE restart"))
        elif previous.candidates != remote.candidates:
            for candidate in remote.candidates:
                if candidate not in previous.candidates:
                    self.add_candidate(candidate)
        if previous.fingerprints != remote.fingerprints:
            _log.info("new fingerprint: DTLS starts again")
            self._dtls_client = dtls_client
            self._tasks.append(spawn(self._replace_dtls(), "DTLS restart"))

    def restart(self) -> None:
        """Have new ICE credentials in the next description; what is in use stays until ``start`` is told the peer's."""
        if self._next_ice is None:
            self._next_ice = self._new_ice()

    def cancel_restart(self) -> None:
        """Forget the new credentials: the offer or answer with them came to nothing (RFC 3264 section 4)."""
        agent, self._next_ice = self._next_ice, None
        if agent is not None:
            spawn(agent.close(), "ICE agent of a refused restart")

    def add_candidate(self, candidate: Candidate) -> None:
        """Take a candidate trickled by the peer (RFC 8838)."""
        spawn(self._ice.add_candidate(candidate), "ICE candidate")

    def connect_within(self, seconds: float) -> None:
        """Fail unless the leg is connected in time: for when the call has been answered."""
        if self._handshake_due and self._remote is not None and not self._closed:
            self._arm(seconds)

    async def close(self) -> None:
        """Say BYE and close_notify, end checks, free the address."""
        if self._closed:
            return
        self._closed = True
        self._disarm()
        self.reports.close()
        for task in self._tasks:
            task.cancel()
        await self._dtls.close()
        for agent in (self._ice, self._old_ice, self._next_ice):
            if agent is not None:
                await agent.close()
        self._plane.close(self.id)
        self._tell(Step.CLOSED)

    # What the plane hands up

    def punt(self, data: bytes, address: Address) -> None:
        """Take STUN and DTLS (RFC 7983)."""
        first = data[0] if data else 255
        if first <= 3:
            for agent in (self._old_ice, self._next_ice):
                if agent is not None and agent.is_for(data):
                    agent.datagram_received(data, address)
                    return
            self._ice.datagram_received(data, address)
        elif 20 <= first <= 63:
            if self._ice.validated(address) or (self._old_ice is not None and self._old_ice.validated(address)):
                if self._remote is None:
                    _log.info("a DTLS packet came early and is kept until the fingerprint is known")
                self._dtls.datagram_received(data, address)
            else:
                self.unproven += 1

    def rtcp(self, data: bytes, address: Address) -> None:
        """Take RTCP in the clear."""
        self.reports.packet_received(data)

    def notice(self, notice: Notice, now: float) -> None:
        """Take a one-time event of the plane."""
        steps = {Notice.FIRST_RECEIVED: Step.FIRST_RECEIVED, Notice.FIRST_SENT: Step.FIRST_SENT}
        if notice in steps:
            self._on_event(LegEvent(steps[notice], now))

    # ICE and DTLS

    def _new_ice(self) -> IceAgent:
        first = True

        def selected(address: Address) -> None:
            nonlocal first
            self._plane.leg_remote(self.id, address)
            self._dtls.selected(address)
            _log.info("ICE selected the pair with %s port %d", *address)
            if first:
                first = False
                self._tell(Step.ICE_CONNECTED)
            self._pair_selected.set()

        return IceAgent(
            self._addresses,
            self._send,
            ufrag=_ice_token(8),
            password=Secret(_ice_token(24)),
            controlling=self._controlling,
            wait_for_peer=self._virtual,
            selected=selected,
            lite=self._lite,
            peers=self._peers,
        )

    def _new_dtls(self) -> DtlsAssociation:
        return DtlsAssociation(self._certificate, self._send)

    def _send(self, data: bytes, address: Address) -> None:
        if not self._closed or data[0] >= 20:  # close_notify still leaves
            self._plane.leg_send(self.id, data, address)

    def _swap(self) -> None:
        """Put the agent of the next description into the place of the one that is agreed."""
        assert self._next_ice is not None
        if self._old_ice is None:
            self._old_ice = self._ice
        else:  # a restart upon one that found no pair: what works is the older one
            spawn(self._ice.close(), "ICE agent without a pair")
        self._ice, self._next_ice = self._next_ice, None

    async def _connect(self, remote: WebRtcParameters) -> None:
        """Run ICE with the newest credentials; an older agent is in use until this one has a pair."""
        agent = self._ice
        try:
            agent.set_remote(remote.ufrag, remote.password.reveal(), lite=remote.ice_lite)
            for candidate in remote.candidates:
                await agent.add_candidate(candidate)
            await agent.connect()
        except IceError as error:
            if not self._closed and agent is self._ice:
                self._fail(str(error))
            return
        if agent is not self._ice:
            return  # a restart has begun meanwhile, and this is now the old agent, in use until the new one has a pair
        old, self._old_ice = self._old_ice, None
        self._changed.set()
        if old is not None:
            await old.close()

    async def _run(self) -> None:
        """Do the handshake when there is a pair; then watch the consent and the association."""
        await self._pair_selected.wait()
        self._arm(min(HANDSHAKE_SECONDS, self._left()))
        try:
            while True:
                if self._handshake_due:
                    await self._handshake()
                await self._watch()
        except (IceError, DtlsError) as error:
            if not self._closed:
                self._fail(str(error))

    async def _handshake(self) -> None:
        assert self._remote is not None
        self._handshake_due = False
        self.waiting_for = "the peer's DTLS ServerHello" if self._dtls_client else "the peer's DTLS ClientHello"
        _log.info("DTLS waits for %s", self.waiting_for)
        association = self._dtls
        try:
            keys = await association.handshake(self._remote.fingerprints, client=self._dtls_client)
        except DtlsError:
            if association is self._dtls:
                raise
            return
        self._plane.leg_keys(self.id, keys)
        self._disarm()
        self.waiting_for = ""
        self._tell(Step.DTLS_CONNECTED)

    async def _watch(self) -> None:
        """Return when there is another agent or association to watch; raise when the one in use has ended."""
        lost = spawn(self._ice.consent_lost(), "ICE consent")
        closed = spawn(self._dtls.closed(), "DTLS association")
        changed = spawn(self._changed.wait(), "WebRTC leg change")
        tasks: set[asyncio.Task[Any]] = {lost, closed, changed}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if self._changed.is_set():
            self._changed.clear()
        elif lost.done() and not lost.cancelled():
            self._tell(Step.CONSENT_LOST)
            raise IceError("the peer has not answered STUN for 30 s (RFC 7675 5.1)")
        else:
            raise DtlsError("the peer closed the DTLS association")

    async def _replace_dtls(self) -> None:
        """Make a new association (RFC 8842 3.1); the plane takes the old key for 2 s more."""
        old, self._dtls = self._dtls, self._new_dtls()
        remote = self._plane.stats(self.id).remote
        if remote is not None:
            self._dtls.selected(remote)
        self._handshake_due = True
        self._changed.set()
        await old.close()

    # Time and events

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._too_late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _left(self) -> float:
        if self._deadline is None:
            return HANDSHAKE_SECONDS
        return max(0.0, self._deadline.when() - asyncio.get_running_loop().time())

    def _too_late(self) -> None:
        self._fail(f"not connected in time: still waiting for {self.waiting_for}")

    def _fail(self, reason: str) -> None:
        self._disarm()
        self._plane.leg_keys(self.id, None)
        _log.warning("WebRTC leg failed: %s", reason)
        self._tell(Step.FAILED, reason)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _bye(self) -> None:
        self._on_event(LegEvent(Step.BYE, time.monotonic()))

    def _tell(self, step: Step, reason: str = "") -> None:
        self.state = step
        _log.info("WebRTC leg: %s", step.value)
        self._on_event(LegEvent(step, time.monotonic(), reason))
