"""The IMS side of a call: (S)RTP over UDP on an even port, RTCP on the next one or the same (RFC 3550 11, RFC 3605).

The leg is bound to one local address, and to an interface where one is named, so that media takes the bearer of the
IMS access and no other; its packets carry DSCP EF (TS 26.114 annex E, GSMA IR.92 4.3).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Iterable

from imskit.media.events import LegEvent, OnLegEvent, Step
from imskit.media.plane import Address, MediaPlane, Notice, SocketId, Source, SrtpKeys
from imskit.media.rtcp_session import DEFAULT_RECEIVER_BANDWIDTH, DEFAULT_SENDER_BANDWIDTH, RtcpSession
from imskit.rtp.packet import keep_alive_payload_type

_log = logging.getLogger(__name__)

EXPEDITED_FORWARDING = 46
"""DSCP of voice (RFC 3246)."""
PORTS = range(49152, 65534)
"""Where local port pairs are taken from by default (RFC 6335 6)."""
MEDIA_TIMEOUT_SECONDS = 20.0
"""Without RTP and RTCP for this long the owner is told."""
KEEP_ALIVE_SECONDS = 15.0
"""After this long without sending, an empty packet keeps a NAT binding alive (RFC 6263 6)."""

_ATTEMPTS = 50
_CHECK_SECONDS = 1.0


def open_port_pair(
    host: str, *, interface: str | None = None, ports: range = PORTS, dscp: int = EXPEDITED_FORWARDING
) -> tuple[socket.socket, ...]:
    """Bind a free even port and the odd one above it on ``host``; return both sockets, whose packets carry ``dscp``.

    ``OSError`` when the address is not local, the interface cannot be used, or no pair is free.
    """
    for _ in range(_ATTEMPTS):
        port = ports.start + secrets.randbelow((ports.stop - ports.start) // 2) * 2
        port += port % 2
        with contextlib.ExitStack() as stack:
            try:
                pair = tuple(
                    stack.enter_context(bound_socket(host, number, interface=interface, dscp=dscp))
                    for number in (port, port + 1)
                )
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
            stack.pop_all()
            return pair
    raise OSError(f"no free pair of ports on {host} in {ports.start}-{ports.stop}")


def bound_socket(
    host: str, port: int, *, interface: str | None = None, dscp: int = EXPEDITED_FORWARDING
) -> socket.socket:
    """A UDP socket on ``host``, and on ``interface`` if one is named; ``OSError`` when it cannot be had."""
    version = ipaddress.ip_address(host).version
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


class ImsLeg:
    """One RTP session of a media line towards IMS."""

    def __init__(
        self,
        plane: MediaPlane,
        host: str,
        *,
        cname: str,
        clock_rate: int,
        on_event: OnLegEvent,
        interface: str | None = None,
        ports: range = PORTS,
        dscp: int = EXPEDITED_FORWARDING,
        sender_bandwidth: int = DEFAULT_SENDER_BANDWIDTH,
        receiver_bandwidth: int = DEFAULT_RECEIVER_BANDWIDTH,
        media_timeout: float = MEDIA_TIMEOUT_SECONDS,
        secured: bool = False,
    ) -> None:
        """Bind ports on ``host``; ``OSError`` as ``open_port_pair``.

        ``clock_rate`` is that of the RTP sent; ``media_timeout`` is in seconds, 0 for none.  ``secured``: SRTP, and
        nothing passes before ``set_keys``.
        """
        self.secured = secured
        """SRTP, not RTP."""
        self._plane = plane
        self._on_event = on_event
        self._timeout = media_timeout
        self._sockets = open_port_pair(host, interface=interface, ports=ports, dscp=dscp)
        self._socket_ids: list[SocketId] = [plane.open_socket(sock, _ignored) for sock in self._sockets]
        self.ssrc = secrets.randbits(32) | 1
        """SSRC of all RTP sent to IMS."""
        self.id = plane.leg_open(
            self._socket_ids[0], self, ssrc=self.ssrc, secured=secured, rtcp_socket=self._socket_ids[1]
        )
        """The leg in the plane."""
        self.reports = RtcpSession(
            plane,
            self.id,
            cname=cname,
            clock_rate=clock_rate,
            sender_bandwidth=sender_bandwidth,
            receiver_bandwidth=receiver_bandwidth,
            on_bye=lambda: self._tell(Step.BYE),
        )
        self._signalled: tuple[Address, Address, Source] | None = None
        self._keep_alive_type: int | None = None
        self._expecting_since: float | None = None
        self._silent = False
        self._closed = False
        self._timer = asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)

    @property
    def rtp_address(self) -> Address:
        """Local address of RTP; the port is even."""
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    @property
    def rtcp_address(self) -> Address:
        """Local address of RTCP, one port above."""
        host, port = self._sockets[1].getsockname()[:2]
        return host, port

    def set_remote(self, rtp: Address, rtcp: Address | None = None, *, source: Source = Source.SAME_HOST) -> None:
        """Set the peer's addresses from its description; ``rtcp`` ``None``: the port above RTP.

        Called again with the same addresses it changes nothing, so a session refresh does not undo a latch.
        """
        if rtcp is None:
            rtcp = (rtp[0], rtp[1] + 1)
        signalled = (rtp, rtcp, source)
        if signalled == self._signalled:
            return
        self._signalled = signalled
        self._plane.leg_remote(self.id, rtp, rtcp, source)
        if self._expecting_since is None:
            self._expecting_since = time.monotonic()

    def set_keys(self, keys: SrtpKeys) -> None:
        """Set the keys of SRTP; one that is in use already goes on where it is (RFC 4568 section 7.1.4)."""
        self._plane.leg_keys(self.id, keys)

    def set_direction(self, *, send: bool, receive: bool) -> None:
        """Let RTP pass or not, as negotiated; RTCP goes on (RFC 3264 5.1)."""
        self._plane.leg_direction(self.id, send=send, receive=receive)

    def keep_alive(self, negotiated: Iterable[int] | None) -> None:
        """Send empty RTP when nothing else is sent (TS 24.229 K.5.2.1); ``None`` ends it.

        ``negotiated`` are the payload types in use, which the empty packets must not have.
        """
        self._keep_alive_type = None if negotiated is None else keep_alive_payload_type(negotiated)

    def close(self) -> None:
        """Say BYE and free the ports."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self.reports.close()
        self._plane.close(self.id)
        for socket_id, sock in zip(self._socket_ids, self._sockets, strict=True):
            self._plane.close_socket(socket_id)
            sock.close()
        self._tell(Step.CLOSED)

    # What the plane hands up

    def punt(self, data: bytes, address: Address) -> None:
        """STUN, DTLS and noise mean nothing on this side."""

    def rtcp(self, data: bytes, address: Address) -> None:
        """Take RTCP."""
        self.reports.packet_received(data)

    def notice(self, notice: Notice, now: float) -> None:
        """Take a one-time event of the plane."""
        step = {
            Notice.FIRST_RECEIVED: Step.FIRST_RECEIVED,
            Notice.FIRST_SENT: Step.FIRST_SENT,
            Notice.LATCHED: Step.LATCHED,
        }[notice]
        self._on_event(LegEvent(step, now))

    def _check(self) -> None:
        """Once a second: is the peer still there, and must the NAT be reminded of us?"""
        self._timer = asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)
        now = time.monotonic()
        stats = self._plane.stats(self.id)
        heard = max(
            (at for at in (stats.last_received, self.reports.last_received, self._expecting_since) if at is not None),
            default=None,
        )
        if heard is not None and self._timeout:
            silent = now - heard > self._timeout
            if silent != self._silent:
                self._silent = silent
                self._tell(Step.MEDIA_TIMEOUT if silent else Step.MEDIA_BACK)
        sending = stats.sending
        if self._keep_alive_type is None or stats.remote is None:
            return
        if sending.at is None or now - sending.at >= KEEP_ALIVE_SECONDS:
            elapsed = 0 if sending.at is None else round((now - sending.at) * self.reports.clock_rate)
            timestamp = (sending.timestamp + elapsed) & 0xFFFFFFFF
            self._plane.inject(self.id, self._keep_alive_type, timestamp, b"", keep_alive=True)

    def _tell(self, step: Step) -> None:
        _log.info("IMS leg: %s", step.value)
        self._on_event(LegEvent(step, time.monotonic()))


def _ignored(data: bytes, address: Address) -> None:
    """What no leg takes after the leg is closed."""
