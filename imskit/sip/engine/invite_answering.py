"""The server side of one INVITE or re-INVITE: 1xx in order until their PRACKs, the 2xx until its ACK.

RFC 3262 section 3 and RFC 3261 section 13.3.1.  One reliable provisional response is under way at a time; the
next ones and the 2xx wait for its PRACK where they must.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from imskit.sip.engine.alarms import Alarm
from imskit.sip.engine.user_agent_core import Core
from imskit.sip.wire.headers import RAck
from imskit.sip.wire.message import Request, Response

EXTEND = 60.0
"""Seconds after which an unreliable provisional response is repeated (RFC 3261 section 13.3.1.1)."""
EXTEND_RELIABLY = 150.0
"""Seconds after which a reliable one is followed by another (RFC 3262 section 3)."""


@dataclass(frozen=True, slots=True)
class _Reliable:
    response: Response
    sdp: bool
    """It carries an offer or answer: the 2xx waits for its PRACK."""


class Answering:
    """See the module's text.  ``no_prack`` and ``no_ack`` are told when the peer stays silent for 64*T1."""

    def __init__(
        self,
        core: Core,
        key: str,
        request: Request,
        *,
        no_prack: Callable[[], None],
        no_ack: Callable[[], None],
    ) -> None:
        self.key = key
        self.request = request
        self.final: Response | None = None
        """The final response, once it is sent."""
        self._success_sdp = False
        """The 2xx carries an offer or answer."""
        self._success_offer = False
        self.confirmed = False
        """The ACK of the 2xx came."""
        self._core = core
        self._no_prack = no_prack
        self._no_ack = no_ack
        self._rseq = 1 + core.random(2**31 - 1)
        self._sent: _Reliable | None = None
        self._waiting: deque[_Reliable] = deque()
        self._success: Response | None = None
        self._holds = 0
        self._silent = False
        """64*T1 went by without the ACK."""
        self._retransmission: Alarm | None = None
        self._extension: Alarm | None = None

    @property
    def complete(self) -> bool:
        """True after a final response and, if that was 2xx, its ACK or 64*T1."""
        return self.final is not None and (self.confirmed or self._silent or not self.final.success)

    @property
    def accepting(self) -> bool:
        """True if the 2xx is sent, or waits to be."""
        return self._success is not None

    @property
    def unconfirmed_sdp(self) -> bool:
        """True while a 1xx or 2xx with an offer or answer is not known to have arrived."""
        return self._sdp_under_way if self.final is None else self._success_sdp and not self.complete

    @property
    def owes_answer(self) -> bool:
        """True while the PRACK of an offer or answer, or the ACK of an offer, is due (RFC 6337 section 4.3)."""
        return self._sdp_under_way if self.final is None else self._success_offer and not self.complete

    @property
    def _sdp_under_way(self) -> bool:
        sent = self._sent is not None and self._sent.sdp
        return sent or any(waiting.sdp for waiting in self._waiting)

    @property
    def reliable(self) -> bool:
        """True if the peer takes reliable provisional responses."""
        return "100rel" in self.request.supported or self.reliable_only

    @property
    def reliable_only(self) -> bool:
        """True if the peer insists on them."""
        return "100rel" in self.request.require

    # ---- provisional ------------------------------------------------------------------------------------------

    def provisional(self, response: Response, *, reliable: bool, sdp: bool) -> None:
        """Send a 101..199 response, reliably in its turn; nothing after the final response."""
        if self.final is not None or self._success is not None:
            return
        if not reliable:
            self._core.respond(self.key, response)
            self._extend(EXTEND, lambda: self.provisional(response, reliable=False, sdp=sdp))
            return
        self._waiting.append(_Reliable(response, sdp))
        self._send_next()

    def _send_next(self) -> None:
        if self._sent is not None or not self._waiting:
            return
        self._sent = sent = self._waiting.popleft()
        sent.response.headers.add("Require", "100rel")
        sent.response.headers.add("RSeq", self._rseq)
        self._repeat(sent.response, self._core.timers.t1, self._core.now + self._core.timers.timeout)

        def again() -> None:
            # Without a body: an offer or answer is sent once.
            response = sent.response.copy()
            response.set_body(b"", "")
            response.headers.remove("RSeq")
            response.headers.remove("Require")
            self.provisional(response, reliable=True, sdp=False)

        self._extend(EXTEND_RELIABLY, again)

    def _repeat(self, response: Response, interval: float, until: float) -> None:
        self._core.respond(self.key, response)

        def again() -> None:
            if self._core.now >= until:
                self._stop()
                self._no_prack()
            else:
                # RFC 3262 section 3: the interval doubles and is not capped.
                self._repeat(response, 2 * interval, until)

        self._retransmission = self._core.alarm(min(interval, until - self._core.now), again)

    def _extend(self, delay: float, action: Callable[[], None]) -> None:
        if self._extension is not None:
            self._extension.cancel()
        self._extension = self._core.alarm(delay, action)

    def matches(self, rack: RAck) -> Response | None:
        """Return the unacknowledged reliable response that ``rack`` names."""
        if self._sent is None or rack.method != "INVITE" or rack.cseq != self.request.cseq.number:
            return None
        return self._sent.response if rack.rseq == self._rseq else None

    def acknowledge(self) -> None:
        """The PRACK of the response under way came."""
        self._sent = None
        self._rseq += 1
        if self.final is not None:
            return
        self._stop_retransmission()
        self._send_next()
        self._send_success()

    # ---- final ------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Do not send the 2xx yet: a PRACK's offer waits for its answer."""
        self._holds += 1

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        self._send_success()

    def accept(self, response: Response, *, sdp: bool, offer: bool) -> None:
        """Send the 2xx, when no 1xx with SDP waits for its PRACK any more (RFC 3262 section 5)."""
        if self.final is not None or self._success is not None:
            return
        self._success, self._success_sdp, self._success_offer = response, sdp, offer
        # What was not sent yet and has no SDP is outdated.
        while self._waiting and not self._waiting[-1].sdp:
            self._waiting.pop()
        self._send_success()

    def _send_success(self) -> None:
        if self._success is None or self.final is not None or self._holds or self._sdp_under_way:
            return
        self.final = self._success
        self._stop()
        timers = self._core.timers
        self._repeat_success(timers.t1, self._core.now + timers.timeout)

    def _repeat_success(self, interval: float, until: float) -> None:
        assert self.final is not None
        self._core.respond(self.key, self.final)

        def again() -> None:
            if self._core.now >= until:
                self._stop()
                self._silent = True
                self._no_ack()
            else:
                self._repeat_success(min(2 * interval, self._core.timers.t2), until)

        self._retransmission = self._core.alarm(min(interval, until - self._core.now), again)

    def refuse(self, response: Response) -> bool:
        """Send a 3xx..6xx, unless a final response went out."""
        if self.final is not None:
            return False
        self.final = response
        self._stop()
        self._core.respond(self.key, response)
        return True

    def confirm(self) -> bool:
        """The ACK came; False if no 2xx waits for one."""
        if self.final is None or not self.final.success or self.confirmed:
            return False
        self.confirmed = True
        self._stop()
        return True

    def stop(self) -> None:
        """Send nothing any more."""
        self._stop()

    def _stop_retransmission(self) -> None:
        if self._retransmission is not None:
            self._retransmission.cancel()
            self._retransmission = None

    def _stop(self) -> None:
        self._stop_retransmission()
        if self._extension is not None:
            self._extension.cancel()
            self._extension = None
