"""IP-SM-GW and message centre in one: takes short messages in SIP MESSAGE, keeps them, delivers them (TS 24.341 5.3.3).

A submitted message is confirmed with RP-ACK once it is kept; it is delivered at once and, if the recipient cannot be
reached, again after a while.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from imskit.engine import Tick, Tokens
from imskit.sip.engine import user_agent as ua
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Target
from imskit.sip.wire.message import Request, Response
from imskit.sip.wire.uri import SipUri, TelUri
from imskit.sms.wire import rp, tpdu
from imskit.sms.wire.errors import SmsError
from imskit.sms.wire.fields import Number

_log = logging.getLogger(__name__)

HOST = "ipsmgw"
"""First label of the centre's host name."""
NUMBER = "+15550999"
"""Its number, which RP messages name."""
MAXIMUM_KEPT = 256
RETRY_SECONDS = 30.0
TRIES = 5
REPORT_SECONDS = 60.0
"""How long a delivery report may take (timer TR2N and the way)."""
_PERMANENT = frozenset({403, 404, 410, 604})
"""Answers after which no further attempt is made."""
_MEMORY_FULL, _UNKNOWN = 22, 1


@dataclass(slots=True)
class _Kept:
    """A short message on its way to its recipient."""

    origin: Number
    sender: str
    """URI of whoever submitted it."""
    submit: tpdu.Submit
    taken: datetime
    reference: int = -1
    """RP-MR of the delivery under way."""
    request: str = ""
    tries: int = 0
    at: float = 0.0
    """When to try again, or to stop waiting for the report."""


class SmsGateway:
    """An engine (`imskit.engine`); ``clock`` tells the time of day for time stamps."""

    def __init__(
        self, domain: str, own: Address, s_cscf: Target, tokens: Tokens, clock: Callable[[], datetime]
    ) -> None:
        self._uri = f"sip:{NUMBER}@{HOST}.{domain}"
        self._tokens = tokens
        self._clock = clock
        name = ua.SentBy(*own)
        profile = ua.Profile(
            contact=f"<{self._uri}>", hop=s_cscf, software="imsbridge-smsc", allow=("MESSAGE", "OPTIONS"), supported=()
        )
        self._agent = ua.UserAgent(profile, tokens, sent_by={"UDP": name, "TCP": name})
        self._kept: list[_Kept] = []
        self._reference = 0
        self._outputs: deque[ua.Transmit] = deque()
        self._now = 0.0
        self.delivered = 0
        """Short messages whose recipient has confirmed them."""

    @property
    def uri(self) -> str:
        """Public service identity."""
        return self._uri

    @property
    def waiting(self) -> int:
        """Short messages that are kept."""
        return len(self._kept)

    # ---- engine -------------------------------------------------------------------------------------------------

    def handle(self, event: ua.Event | Tick, now: float) -> None:
        """Take in one event."""
        self._now = now
        self._agent.handle(event, now)
        if isinstance(event, Tick):
            for kept in [kept for kept in self._kept if now >= kept.at]:
                self._again(kept) if kept.reference >= 0 else self._deliver(kept)
        while (output := self._agent.poll()) is not None:
            match output:
                case ua.Transmit():
                    self._outputs.append(output)
                case ua.RequestReceived(request, message):
                    self._received(request, message)
                case ua.ResponseReceived(key, response):
                    self._answered(key, response)
                case _:
                    pass

    def poll(self) -> ua.Transmit | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When something is due next."""
        times = [self._agent.deadline(), *(kept.at for kept in self._kept)]
        return min((at for at in times if at is not None), default=None)

    # ---- from UEs ---------------------------------------------------------------------------------------------------

    def _received(self, request: str, message: Request) -> None:
        try:
            kind, asserted = message.content_type, message.addresses("P-Asserted-Identity")
        except SipParseError as error:
            self._agent.handle(ua.Respond(request, error.status), self._now)
            return
        if kind is None or kind.essence != rp.MEDIA_TYPE:
            self._agent.handle(ua.Respond(request, 415, None, (("Accept", rp.MEDIA_TYPE),)), self._now)
            return
        numbers = [number for address in asserted if (number := _number(address.uri)) is not None]
        if not numbers:
            self._agent.handle(ua.Respond(request, 403), self._now)
            return
        self._agent.handle(ua.Respond(request, 202), self._now)
        sender = str(asserted[0].uri)
        try:
            self._take(rp.parse(message.body), message, sender, numbers[0])
        except SmsError as error:
            _log.info("a short message is refused: %s", error)
            report = tpdu.SubmitReport(self._clock(), 0xFF).encode()
            self._report(message, sender, rp.RpError(rp.reference_of(message.body), error.cause, report, False))

    def _take(self, received: rp.RpMessage, message: Request, sender: str, origin: Number) -> None:
        match received:
            case rp.RpData(reference, _, data, True):
                submit = tpdu.from_ue(data)
                if not isinstance(submit, tpdu.Submit):
                    raise SmsError("only SUBMIT comes in RP-DATA", "TS 23.040 clause 9.2.3.1", cause=97)
                if len(self._kept) >= MAXIMUM_KEPT:
                    self._report(message, sender, rp.RpError(reference, _MEMORY_FULL, b"", False))
                    return
                taken = self._clock()
                self._report(message, sender, rp.RpAck(reference, tpdu.SubmitReport(taken).encode(), False))
                kept = _Kept(origin, sender, submit, taken)
                self._kept.append(kept)
                self._deliver(kept)
            case rp.RpAck(reference, _, True):
                self._confirmed(reference, message, received=True)
            case rp.RpError(reference, _, _, True):
                self._confirmed(reference, message, received=False)
            case rp.RpMemoryAvailable(reference):
                self._report(message, sender, rp.RpAck(reference, b"", False))
            case _:
                raise SmsError("only a message centre sends this", "TS 24.011 clause 7.3", cause=97)

    def _confirmed(self, reference: int, message: Request, *, received: bool) -> None:
        for kept in self._kept:
            if kept.reference == reference:
                self._kept.remove(kept)
                self.delivered += received
                self._tell_sender(kept, 0x00 if received else 0x45)
                return

    def _report(self, message: Request, to: str, report: rp.RpAck | rp.RpError) -> None:
        self._send(to, report.encode(), f"report-{self._tokens(8)}", ("In-Reply-To", message.call_id))

    # ---- to UEs -----------------------------------------------------------------------------------------------------

    def _deliver(self, kept: _Kept) -> None:
        self._reference = (self._reference + 1) % 256
        kept.reference, kept.tries, kept.at = self._reference, kept.tries + 1, self._now + REPORT_SECONDS
        kept.request = f"deliver-{self._tokens(8)}"
        deliver = tpdu.Deliver(kept.origin, kept.submit.text, kept.taken)
        data = rp.RpData(kept.reference, Number(NUMBER), deliver.encode(), from_ue=False)
        self._send(f"tel:{kept.submit.destination.text}", data.encode(), kept.request)

    def _answered(self, key: str, response: Response | None) -> None:
        kept = next((kept for kept in self._kept if kept.request == key), None)
        if kept is None or (response is not None and response.success):
            return  # the report follows in a MESSAGE of the UE's
        if response is not None and response.status in _PERMANENT:
            self._kept.remove(kept)
            self._tell_sender(kept, 0x41)
        else:
            self._again(kept)

    def _again(self, kept: _Kept) -> None:
        """The recipient was not reached: wait, or give up."""
        kept.reference = -1
        if kept.tries >= TRIES:
            self._kept.remove(kept)
            self._tell_sender(kept, 0x46)
        else:
            kept.at = self._now + RETRY_SECONDS

    def _tell_sender(self, kept: _Kept, status: int) -> None:
        if not kept.submit.report:
            return
        self._reference = (self._reference + 1) % 256
        report = tpdu.StatusReport(kept.submit.reference, kept.submit.destination, kept.taken, self._clock(), status)
        data = rp.RpData(self._reference, Number(NUMBER), report.encode(), from_ue=False)
        self._send(kept.sender, data.encode(), f"status-{self._tokens(8)}")

    def _send(self, target: str, body: bytes, key: str, *fields: tuple[str, str]) -> None:
        request = Request.create(
            "MESSAGE",
            target,
            [
                ("From", f"<{self._uri}>;tag={self._tokens(16)}"),
                ("To", f"<{target}>"),
                ("Call-ID", self._tokens(32)),
                ("CSeq", "1 MESSAGE"),
                ("P-Asserted-Identity", f"<{self._uri}>"),
                ("Request-Disposition", "no-fork"),
                *fields,
            ],
        )
        request.set_body(body, rp.MEDIA_TYPE)
        self._agent.handle(ua.Send(key, request), self._now)


def _number(uri: object) -> Number | None:
    """Return the number that a public identity is."""
    digits = ""
    if isinstance(uri, TelUri):
        digits = uri.digits
    elif isinstance(uri, SipUri):
        digits = uri.user_text.partition(";")[0]
    bare = digits.removeprefix("+")
    return Number(digits) if bare.isascii() and bare.isdigit() and len(bare) <= 20 else None
