"""ICE by aioice and DTLS by aiortc, fed from the media plane: the one module that knows their insides.

aioice would make its own sockets, and aiortc would read from them; the plane is the only reader here.  So a
connection gets candidates and a transport of ours, and DTLS gets a queue.  ``tests/imskit/media/test_transports.py``
pins every private name used.

Departures from aioice
    * A check is repeated at once when the peer's own check arrives on the same pair (RFC 8445 7.3.1.4): aioice would
      wait for its 0.5 s timer, which is lost whenever the first check came before the TURN permission existed.
    * ``wait_for_peer``: no check before one of the peer's has arrived.  For a candidate that only our own TURN server
      reaches nothing else can get through, and a call may ring for a minute before the browser begins.
    * ICE does not fail by itself; the leg has a deadline.
    * Consent (RFC 7675) is lost 30 s after the last answer, and the loss is reported.
    * Floods: a message that does not name our user fragment is dropped unread and unanswered, what else comes from
      addresses that have proved nothing is rationed, and a peer may have proved so many addresses, no more.
    * An ICE-lite agent (RFC 8445 2.5, 5.3): controlled, host candidates only; it answers checks and makes none.  The
      pair is the one that the peer nominates.  RFC 7675 section 1 leaves consent to full agents; that the peer is gone
      is inferred here, when no authenticated check has come from it for the same 30 s.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import aioice
from aioice import ice, stun
from aioice.candidate import candidate_priority
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport, State

from imskit.media.peer_addresses import PeerAddresses
from imskit.media.plane import Address, SrtpKeys, SrtpProfile
from imskit.sdp.attributes import Candidate, Fingerprint
from imskit.secrets import Secret

_log = logging.getLogger(__name__)

CONSENT_SECONDS = 30.0
"""Without an answer for this long nothing more may be sent (RFC 7675 5.1)."""

_CONSENT_INTERVAL = 5.0
_RESEND_AFTER = 0.02
"""A check is not repeated sooner than this after it was sent."""
_EARLY_PACKETS = 16
_COMPONENT = 1
_MAX_PROVEN = 64
"""Addresses that one peer may have proved: a browser has a handful."""
_MAX_CANDIDATES = 50
"""Candidates taken of one peer: each costs checks to an address that somebody wrote down."""
_UNPROVEN_RATE, _UNPROVEN_BURST = 100.0, 200.0
"""STUN messages a second, and at once, read from addresses that have proved nothing."""


class IceError(Exception):
    """The agent was closed before it had a pair, or consent was lost; the text says which."""


class _Transport(asyncio.DatagramTransport):
    """What a ``StunProtocol`` sends with."""

    def __init__(self, send: Callable[[bytes, Address], None]) -> None:
        super().__init__()
        self._send = send
        self.protocol: asyncio.DatagramProtocol | None = None

    def sendto(self, data: Any, addr: Any = None) -> None:
        self._send(bytes(data), (addr[0], addr[1]))

    def close(self) -> None:
        if self.protocol is not None:
            self.protocol.connection_lost(None)
            self.protocol = None

    def is_closing(self) -> bool:
        return self.protocol is None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class _StunProtocol(ice.StunProtocol):
    """Remembers the check under way to each address, so that it can be repeated."""

    def __init__(self, receiver: aioice.Connection) -> None:
        super().__init__(receiver)
        self._checks: dict[Address, tuple[stun.Message, float]] = {}

    async def request(
        self,
        request: stun.Message,
        addr: Address,
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> tuple[stun.Message, Address]:
        self._checks[addr] = (request, asyncio.get_running_loop().time())
        try:
            return await super().request(request, addr, integrity_key, retransmissions)
        finally:
            if addr in self._checks and self._checks[addr][0] is request:
                del self._checks[addr]

    def repeat(self, addr: Address) -> None:
        """Send the check that waits for an answer from ``addr`` once more."""
        request, sent = self._checks.get(addr, (None, 0.0))
        now = asyncio.get_running_loop().time()
        if request is not None and now - sent >= _RESEND_AFTER:
            self._checks[addr] = (request, now)
            self.send_stun(request, addr)


class _Connection(aioice.Connection):
    def __init__(self, *, wait_for_peer: bool, selected: Callable[[Address], None], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._wait_for_peer = wait_for_peer
        self._selected = selected
        self._selected_address: Address | None = None
        self.validated: set[Address] = set()
        """Addresses from which an authenticated check or answer has come."""
        self.consent_lost = asyncio.Event()

    def use(self, protocol: _StunProtocol, candidates: Sequence[aioice.Candidate]) -> None:
        """Take candidates of ours in place of gathering."""
        protocol.local_candidate = candidates[0]
        self._protocols.append(protocol)
        self._local_candidates = list(candidates)
        self._local_candidates_start = self._local_candidates_end = True

    async def connect(self) -> None:
        if not self._wait_for_peer:
            await super().connect()
            return
        for candidate in self._remote_candidates:
            self._pair_remote_candidate(candidate)
        self.sort_check_list()
        for early in self._early_checks:
            self.check_incoming(*early)
        self._early_checks.clear()
        self._early_checks_done = True
        if await self._check_list_state.get() != ice.ICE_COMPLETED:
            raise ConnectionError("ICE negotiation failed")
        for pair in self._check_list:
            if pair.task:
                pair.task.cancel()
        self._query_consent_task = asyncio.create_task(self.query_consent())  # noqa: TID251 (aioice cancels it)

    def check_incoming(self, message: stun.Message, addr: Address, protocol: ice.StunProtocol) -> None:
        super().check_incoming(message, addr, protocol)
        assert isinstance(protocol, _StunProtocol)
        protocol.repeat(addr)

    def request_received(self, message: stun.Message, addr: Address, protocol: ice.StunProtocol) -> None:
        if addr not in self.validated and self._authentic(message):
            if len(self.validated) >= _MAX_PROVEN:
                return
            self.validated.add(addr)
        super().request_received(message, addr, protocol)

    def _authentic(self, message: stun.Message) -> bool:
        return (
            "USERNAME" in message.attributes
            and self._valid_username(message.attributes["USERNAME"])
            and message.check_message_integrity(self.local_password.encode())
        )

    def check_complete(self, pair: ice.CandidatePair) -> None:
        super().check_complete(pair)
        nominated = self._nominated.get(_COMPONENT)
        if nominated is not None and nominated.remote_addr != self._selected_address:
            self._selected_address = nominated.remote_addr
            self.validated.add(nominated.remote_addr)
            self._selected(nominated.remote_addr)

    async def query_consent(self) -> None:
        loop = asyncio.get_running_loop()
        assert self.remote_password is not None
        answered = loop.time()
        while loop.time() - answered < CONSENT_SECONDS:
            await asyncio.sleep(_CONSENT_INTERVAL * random.uniform(0.8, 1.2))  # RFC 7675 5.1
            pair = self._nominated.get(_COMPONENT)
            if pair is None:
                return  # closed
            try:
                await pair.protocol.request(
                    self.build_request(pair, nominate=False),
                    pair.remote_addr,
                    integrity_key=self.remote_password.encode(),
                    retransmissions=0,
                )
                answered = loop.time()
            except stun.TransactionError:
                continue
        self.consent_lost.set()


class _LiteConnection(_Connection):
    """An ICE-lite agent: it answers, and takes the pair that the peer nominates."""

    _heard = 0.0

    async def connect(self) -> None:
        if self.remote_is_lite:
            raise ConnectionError("both sides are ICE-lite, so nobody would make checks (RFC 8445 6.1.1)")
        for early in self._early_checks:
            self.check_incoming(*early)
        self._early_checks.clear()
        self._early_checks_done = True
        if await self._check_list_state.get() != ice.ICE_COMPLETED:
            raise ConnectionError("ICE negotiation failed")
        self._query_consent_task = asyncio.create_task(self.query_consent())  # noqa: TID251 (aioice cancels it)

    def check_incoming(self, message: stun.Message, addr: Address, protocol: ice.StunProtocol) -> None:
        """Take a check that was authenticated and answered (RFC 8445 7.3.2)."""
        self._heard = asyncio.get_running_loop().time()
        if "USE-CANDIDATE" not in message.attributes or addr == self._selected_address:
            return
        self._selected_address = addr
        self._selected(addr)
        if not self._check_list_done:
            self._check_list_done = True
            self._check_list_state.put_nowait(ice.ICE_COMPLETED)

    def switch_role(self, ice_controlling: bool) -> None:
        """Stay controlled: the one role of a lite agent beside a full one (RFC 8445 6.1.1)."""

    async def query_consent(self) -> None:
        loop = asyncio.get_running_loop()
        while (left := self._heard + CONSENT_SECONDS - loop.time()) > 0:  # noqa: ASYNC110 (a check moves the end)
            await asyncio.sleep(left)
        self.consent_lost.set()


class IceAgent:
    """One component (RTP and RTCP multiplexed) of ICE over a path of the plane."""

    def __init__(
        self,
        addresses: Sequence[Address],
        send: Callable[[bytes, Address], None],
        *,
        ufrag: str,
        password: Secret[str],
        controlling: bool,
        wait_for_peer: bool,
        selected: Callable[[Address], None],
        lite: bool = False,
        peers: PeerAddresses | None = None,
    ) -> None:
        """``addresses`` are our host candidates; ``selected`` is told the peer's address of the pair in use.

        ``lite``: an ICE-lite agent, which is never controlling.  ``peers``: where checks may go, and come from.
        """
        self.ufrag = ufrag
        self.password = password
        self.dropped = 0
        """STUN messages that were not for us, could not be read, or came too fast from addresses not proved."""
        self._peers = peers
        self._prefix = ufrag.encode() + b":"
        self._ration = _UNPROVEN_BURST
        self._rationed_at = 0.0
        kind = _LiteConnection if lite else _Connection
        self._connection = kind(
            ice_controlling=controlling and not lite,
            local_username=ufrag,
            local_password=password.reveal(),
            wait_for_peer=wait_for_peer,
            selected=selected,
        )
        transport = _Transport(send)
        self._protocol = _StunProtocol(self._connection)
        self._protocol.connection_made(transport)
        transport.protocol = self._protocol
        self._local = [_host_candidate(address, preference) for preference, address in enumerate(addresses)]
        self._connection.use(self._protocol, self._local)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Our candidates as they are signalled."""
        return tuple(
            Candidate(c.foundation, c.component, c.transport, c.priority, c.host, c.port, c.type) for c in self._local
        )

    def datagram_received(self, data: bytes, address: Address) -> None:
        """Take a STUN message; one that is not for us, comes in a flood, or cannot be read is dropped."""
        if not self._admitted(data, address):
            self.dropped += 1
            return
        try:
            self._protocol.datagram_received(data, address)
        except Exception as error:
            self.dropped += 1
            # aioice trusts authenticated peers to send well-formed attributes, and unpacks before it authenticates.
            _log.debug("STUN message of %d octets dropped: %s", len(data), error)

    def _admitted(self, data: bytes, address: Address) -> bool:
        if data[:2] == b"\0\x01" and not self._names_us(data):
            return False
        if address in self._connection.validated:
            return True
        now = asyncio.get_running_loop().time()
        self._ration = min(_UNPROVEN_BURST, self._ration + (now - self._rationed_at) * _UNPROVEN_RATE)
        self._rationed_at = now
        if self._ration < 1:
            return False
        self._ration -= 1
        return self._peers is None or self._peers.allows(address[0])

    def _names_us(self, data: bytes) -> bool:
        """Whether a Binding request's USERNAME begins with our user fragment (RFC 8445 7.2.2); linear, no copy."""
        at, end = 20, min(len(data), 2048)
        while at + 4 <= end:
            length = data[at + 2] << 8 | data[at + 3]
            if data[at : at + 2] == b"\0\x06":
                return data.startswith(self._prefix, at + 4)
            at += 4 + length + -length % 4
        return False

    def is_for(self, data: bytes) -> bool:
        """Whether a check names our user fragment, or an answer is to our check: of several agents in a restart."""
        return self._names_us(data) if data[:2] == b"\0\x01" else data[8:20] in self._protocol.transactions

    def validated(self, address: Address) -> bool:
        """Return whether the peer has proved by STUN that it is at ``address``."""
        return address in self._connection.validated

    def set_remote(self, ufrag: str, password: str, *, lite: bool) -> None:
        """Set the peer's credentials; beside a lite peer a full agent is controlling (RFC 8445 6.1.1)."""
        self._connection.remote_username = ufrag
        self._connection.remote_password = password
        self._connection.remote_is_lite = lite
        if lite and not isinstance(self._connection, _LiteConnection):
            self._connection.ice_controlling = True

    async def add_candidate(self, candidate: Candidate) -> None:
        """Add a candidate of the peer; what cannot be used here is ignored.

        Ignored are addresses that are denied, TCP, components beside the first, and names: mDNS names (``.local``)
        cannot be resolved from the agent, and other names are not to be (RFC 8839 5.1).  There is no end of candidates:
        checks go on until the owner gives up, since the peer's own checks may bring another (RFC 8863 4).
        """
        try:
            host = str(ipaddress.ip_address(candidate.address))
        except ValueError:
            _log.debug("candidate %s with a name is ignored", candidate.foundation)
            return
        if candidate.transport.lower() != "udp" or candidate.component != _COMPONENT or not candidate.port:
            return
        if self._peers is not None and not self._peers.allows(host):
            _log.info("a candidate of the peer is ignored: no checks go to %s", host)
            return
        if len(self._connection.remote_candidates) >= _MAX_CANDIDATES:
            _log.debug("candidate %s is one too many", candidate.foundation)
            return
        await self._connection.add_remote_candidate(
            aioice.Candidate(
                candidate.foundation, _COMPONENT, "udp", candidate.priority, host, candidate.port, candidate.type
            )
        )

    async def connect(self) -> None:
        """Return when a pair is selected; ``IceError`` when the agent is closed before."""
        try:
            await self._connection.connect()
        except ConnectionError as error:
            raise IceError(str(error)) from None

    async def consent_lost(self) -> None:
        """Return when the peer has not answered for 30 s."""
        await self._connection.consent_lost.wait()

    async def close(self) -> None:
        """Stop checks."""
        await self._connection.close()


def _host_candidate(address: Address, preference: int) -> aioice.Candidate:
    local_preference = 65535 - preference
    return aioice.Candidate(
        foundation=str(preference + 1),
        component=_COMPONENT,
        transport="udp",
        priority=candidate_priority(_COMPONENT, "host", local_preference),
        host=address[0],
        port=address[1],
        type="host",
    )


class DtlsError(Exception):
    """The handshake failed or the peer is not the one whose fingerprint was signalled; the text says which."""


class Certificate:
    """A self-signed certificate for DTLS (RFC 8827 6.5: ECDSA on P-256), made anew for each agent run."""

    def __init__(self) -> None:
        self.inner = RTCCertificate.generateCertificate()

    @property
    def fingerprint(self) -> Fingerprint:
        """Its SHA-256 fingerprint."""
        value = next(print_ for print_ in self.inner.getFingerprints() if print_.algorithm == "sha-256").value
        return Fingerprint("sha-256", value)


_PROFILES = {
    b"SRTP_AES128_CM_SHA1_80": SrtpProfile.AES128_CM_SHA1_80,
    b"SRTP_AEAD_AES_128_GCM": SrtpProfile.AEAD_AES_128_GCM,
    b"SRTP_AEAD_AES_256_GCM": SrtpProfile.AEAD_AES_256_GCM,
}


class _DtlsPath:
    """What ``RTCDtlsTransport`` takes for its ICE transport: packets kept from the first one on."""

    role = "controlled"

    def __init__(self, send: Callable[[bytes, Address], None]) -> None:
        self._send_to = send
        self._packets: deque[tuple[bytes, Address]] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self.peer: Address | None = None
        """Where the peer's last packet came from, before that the selected pair: answers go there."""

    def deliver(self, data: bytes, address: Address) -> None:
        if len(self._packets) >= _EARLY_PACKETS:
            return  # what came first stays: a flood must not push the peer's own flight out
        self._packets.append((data, address))
        self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    async def _recv(self) -> bytes:
        while not self._packets:
            if self._closed:
                raise ConnectionError
            self._arrived.clear()
            await self._arrived.wait()
        data, self.peer = self._packets.popleft()
        return data

    async def _send(self, data: bytes) -> None:
        if self.peer is not None:
            self._send_to(data, self.peer)


class _DtlsTransport(RTCDtlsTransport):
    """Gives the keys away in place of making SRTP sessions, and remembers why it failed."""

    def __init__(self, path: _DtlsPath, certificate: Certificate) -> None:
        super().__init__(path, [certificate.inner])  # type: ignore[arg-type]
        self.keys: SrtpKeys | None = None
        self.failure = "the DTLS handshake failed"

    def _validate_peer_identity(self, remoteParameters: RTCDtlsParameters) -> None:
        super()._validate_peer_identity(remoteParameters)
        if self._state == State.FAILED:
            self.failure = "the peer's certificate is not the one whose fingerprint was signalled (RFC 5763 5)"

    def _setup_srtp(self) -> None:
        assert self._ssl is not None
        profile = _PROFILES.get(self._ssl.get_selected_srtp_profile())
        if profile is None:
            self.failure = "no SRTP protection profile in common (RFC 5764 4.1.2)"
            self._set_state(State.FAILED)
            return
        key, salt = profile.key_length, profile.salt_length
        exported = self._ssl.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (key + salt))
        # RFC 5764 4.2: client key, server key, client salt, server salt.
        client = Secret(exported[:key] + exported[2 * key : 2 * key + salt])
        server = Secret(exported[key : 2 * key] + exported[2 * key + salt :])
        ours, theirs = (server, client) if self._role == "server" else (client, server)
        self.keys = SrtpKeys(profile, send=ours, receive=theirs)


class DtlsAssociation:
    """One DTLS association; early packets are kept until ``handshake`` is called."""

    def __init__(self, certificate: Certificate, send: Callable[[bytes, Address], None]) -> None:
        self._path = _DtlsPath(send)
        self._transport = _DtlsTransport(self._path, certificate)

    def datagram_received(self, data: bytes, address: Address) -> None:
        """Take a DTLS packet; the owner has checked that ICE validated ``address``.

        What does not begin with a record (RFC 6347 4.1: a version of DTLS, as many octets as it says) is dropped.
        """
        if len(data) < 13 or data[1] != 0xFE or 13 + (data[11] << 8 | data[12]) > len(data):
            return
        self._path.deliver(data, address)

    def selected(self, address: Address) -> None:
        """Name the address of the selected pair, for the first flight of a client."""
        if self._path.peer is None:
            self._path.peer = address

    async def handshake(self, fingerprints: Sequence[Fingerprint], *, client: bool) -> SrtpKeys:
        """Do the handshake and return the SRTP keys; ``DtlsError`` when it fails or nobody vouches for the peer."""
        if not fingerprints:
            raise DtlsError("no fingerprint was signalled (RFC 5763 5)")
        self._transport._set_role("client" if client else "server")
        parameters = RTCDtlsParameters([RTCDtlsFingerprint(f.algorithm, f.value) for f in fingerprints])
        await self._transport.start(parameters)
        if self._transport.keys is None or self._transport.state != "connected":
            raise DtlsError(self._transport.failure)
        return self._transport.keys

    async def closed(self) -> None:
        """Return when the peer has closed the association."""
        task = self._transport._task
        if task is not None:
            await asyncio.wait([task])

    async def close(self) -> None:
        """Send close_notify and end."""
        await self._transport.stop()
        self._path.close()
