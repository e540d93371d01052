"""Messages of an IMS UE: SIP MESSAGE in pager mode, and SMS over IP in it (RFC 3428, TS 24.341 clause 5.3).

A short message makes two transactions: the RP-DATA, and the RP-ACK that the other side sends in a MESSAGE of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.ims.calls import caller
from imskit.ims.events import MessageReceived, MessageSent, Output, SendMessage, SendSms
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request, Response
from imskit.sms.wire import parts, rp, tpdu
from imskit.sms.wire.errors import SmsError
from imskit.sms.wire.fields import Number

_log = logging.getLogger(__name__)

MAXIMUM_OCTETS = 1300
"""Longest MESSAGE body (RFC 3428 section 8)."""
REPORT_SECONDS = 42.0
"""How long a submit report may take: timer TR1M, 35 to 45 s (TS 24.011 clause 10.2)."""
MAXIMUM_QUEUED = 64
_TEXT = "text/plain"
_SMS_TAG = "*;+g.3gpp.smsip"


@dataclass(slots=True)
class _Sending:
    """A text on its way as one or more short messages, one after the other."""

    key: str
    number: Number
    pieces: deque[tpdu.Text]
    reference: int = 0
    """RP-MR of the piece under way."""
    request: str = ""
    until: float = 0.0


class Messages:
    """See the module's text.  ``command`` reaches the user agent, ``emit`` the owner of the UE."""

    def __init__(self, command: Callable[[ua.Command], None], emit: Callable[[Output], None], tokens: Tokens) -> None:
        self._command = command
        self._emit = emit
        self._tokens = tokens
        self._pager: dict[str, str] = {}
        """MESSAGEs of text under way: key of the request, key of the owner."""
        self._queue: deque[_Sending] = deque()
        """Short messages; the first is under way (TS 24.011 clause 10: one at a time)."""
        self._reference = int(tokens(2), 16)
        self._assembler = parts.Assembler()
        self._centre: tuple[str, Number] = ("", Number("0"))
        self._impu = ""
        self._count = 0

    def deadline(self) -> float | None:
        """When `tick` is due."""
        return self._queue[0].until if self._queue else None

    def tick(self, now: float) -> None:
        """Give up a short message whose report does not come."""
        if self._queue and now >= self._queue[0].until:
            self._sms_done("the message centre has not confirmed it", None, now)

    # ---- ours -----------------------------------------------------------------------------------------------------

    def send(self, event: SendMessage | SendSms, impu: str, now: float) -> None:
        """Send a text."""
        self._impu = impu
        if isinstance(event, SendMessage):
            self._send_text(event)
            return
        try:
            number = Number(event.number)
            number.encode()
            pieces = deque(parts.split(event.text, self._reference + 1))
        except SmsError as error:
            self._emit(MessageSent(event.key, None, f"this cannot be sent as a short message: {error}"))
            return
        if len(self._queue) >= MAXIMUM_QUEUED:
            self._emit(MessageSent(event.key, None, "too many messages wait"))
            return
        self._centre = (event.centre, Number(_number(event.centre)))
        self._queue.append(_Sending(event.key, number, pieces))
        if len(self._queue) == 1:
            self._send_piece(now)

    def _send_text(self, event: SendMessage) -> None:
        body = event.text.encode("utf-8", "replace")
        if len(body) > MAXIMUM_OCTETS:
            reason = f"the message has {len(body)} octets, more than {MAXIMUM_OCTETS} (RFC 3428 section 8)"
            self._emit(MessageSent(event.key, None, reason))
            return
        key = self._key()
        self._pager[key] = event.key
        try:
            request = self._message(event.target, body, f"{_TEXT};charset=UTF-8")
        except SipParseError as error:
            del self._pager[key]
            self._emit(MessageSent(event.key, None, f"this address takes no message: {error}"))
            return
        self._command(ua.Send(key, request))

    def _send_piece(self, now: float) -> None:
        sending = self._queue[0]
        self._reference = (self._reference + 1) % 256
        sending.reference, sending.until = self._reference, now + REPORT_SECONDS
        submit = tpdu.Submit(self._reference, sending.number, sending.pieces[0])
        uri, centre = self._centre
        data = rp.RpData(self._reference, centre, submit.encode(), from_ue=True)
        sending.request = self._key()
        try:
            request = self._message(uri, data.encode(), rp.MEDIA_TYPE, ("Accept-Contact", _SMS_TAG))
        except SipParseError as error:
            self._sms_done(f"the message centre cannot be addressed: {error}", None, now)
            return
        self._command(ua.Send(sending.request, request))

    def _message(self, target: str, body: bytes, kind: str, *fields: tuple[str, str]) -> Request:
        request = Request.create(
            "MESSAGE",
            target,
            [
                ("From", f"<{self._impu}>;tag={self._tokens(16)}"),
                ("To", f"<{target}>"),
                ("Call-ID", self._tokens(32)),
                ("CSeq", "1 MESSAGE"),
                ("P-Preferred-Identity", f"<{self._impu}>"),
                *fields,
            ],
        )
        request.set_body(body, kind)
        return request

    def _key(self) -> str:
        self._count += 1
        return f"message-{self._count}"

    def answered(self, key: str, response: Response | None, now: float) -> bool:
        """Take the answer to a request; False if it is none of ours."""
        if not key.startswith("message-"):
            return False
        if (owner := self._pager.pop(key, None)) is not None:
            self._emit(MessageSent(owner, response.status if response is not None else None, _reason(response)))
        elif self._queue and self._queue[0].request == key and (response is None or not response.success):
            self._sms_done(_reason(response), response.status if response is not None else None, now)
        return True

    def refused(self, command: ua.Command, text: str, now: float) -> bool:
        """The user agent does not carry out a command; False if it is none of ours."""
        if not isinstance(command, ua.Send) or not command.key.startswith("message-"):
            return False
        if (owner := self._pager.pop(command.key, None)) is not None:
            self._emit(MessageSent(owner, None, f"this cannot be sent: {text}"))
        elif self._queue and self._queue[0].request == command.key:
            self._sms_done(f"this cannot be sent: {text}", None, now)
        return True

    def _sms_done(self, reason: str, status: int | None, now: float) -> None:
        """The first short message of the queue is sent, or lost."""
        sending = self._queue.popleft()
        self._emit(MessageSent(sending.key, status, reason))
        if self._queue:
            self._send_piece(now)

    # ---- others' --------------------------------------------------------------------------------------------------

    def request(self, request: str, message: Request, impu: str, now: float) -> bool:
        """Take a MESSAGE; False for another method.  Reports go out as ``impu``."""
        if message.method != "MESSAGE":
            return False
        self._impu = impu
        try:
            kind, sender = message.content_type, str(caller(message).uri)
            asserted = sender in [str(each.uri) for each in message.addresses("P-Asserted-Identity")]
        except SipParseError as error:
            self._command(ua.Respond(request, error.status, error.reason))
            return True
        if kind is not None and kind.essence == rp.MEDIA_TYPE:
            self._command(ua.Respond(request, 200))
            self._short_message(message, now)
        elif kind is not None and kind.essence == _TEXT:
            self._command(ua.Respond(request, 200))
            charset = (kind.parameters.get("charset") or "utf-8").lower()
            codec = "latin-1" if charset in ("iso-8859-1", "latin1") else "utf-8"
            self._emit(MessageReceived(sender, message.body.decode(codec, "replace"), False, asserted))
        else:
            self._command(ua.Respond(request, 415, None, (("Accept", f"{_TEXT}, {rp.MEDIA_TYPE}"),)))
        return True

    def _short_message(self, message: Request, now: float) -> None:
        try:
            received = rp.parse(message.body)
        except SmsError as error:
            _log.warning("a short message cannot be read: %s", error)
            self._answer(message, rp.RpError(rp.reference_of(message.body), error.cause, b"", from_ue=True))
            return
        match received:
            case rp.RpAck(reference, _, False):
                self._confirmed(reference, now)
            case rp.RpError(reference, cause, _, False):
                if self._queue and self._queue[0].reference == reference:
                    self._sms_done(f"the message centre refused it ({_CAUSES.get(cause, f'cause {cause}')})", 480, now)
            case rp.RpData(reference, _, data, False):
                self._delivered(message, reference, data)
            case _:
                _log.warning("a short message that only a UE sends is passed over")

    def _confirmed(self, reference: int, now: float) -> None:
        if not self._queue or self._queue[0].reference != reference:
            return
        sending = self._queue[0]
        sending.pieces.popleft()
        if sending.pieces:
            self._send_piece(now)
        else:
            self._sms_done("sent", 200, now)

    def _delivered(self, message: Request, reference: int, data: bytes) -> None:
        try:
            delivered = tpdu.from_network(data)
        except SmsError as error:
            _log.warning("a short message cannot be read: %s", error)
            report = tpdu.DeliverReport(failure=0xFF).encode()
            self._answer(message, rp.RpError(reference, error.cause, report, from_ue=True))
            return
        self._answer(message, rp.RpAck(reference, tpdu.DeliverReport().encode(), from_ue=True))
        if isinstance(delivered, tpdu.Deliver):
            text = self._assembler.take(delivered.origin.text, delivered.text)
            if text is not None:
                origin = delivered.origin
                sender = _name(origin.text) if origin.alphanumeric else f"tel:{origin.text}"
                self._emit(MessageReceived(sender, text, sms=True, asserted=not origin.alphanumeric))

    def _answer(self, message: Request, report: rp.RpAck | rp.RpError) -> None:
        """Send a delivery report to whoever sent the short message (TS 24.341 clause 5.3.2.4)."""
        try:
            asserted = message.addresses("P-Asserted-Identity")
        except SipParseError:
            asserted = []
        if not asserted:
            _log.warning("a short message without an asserted sender gets no report")
            return
        fields = (("In-Reply-To", message.call_id), ("Request-Disposition", "no-fork"))
        request = self._message(str(asserted[0].uri), report.encode(), rp.MEDIA_TYPE, *fields)
        self._command(ua.Send(self._key(), request))


_CAUSES = {
    1: "the number is not in use",
    8: "barred by the operator",
    10: "the call is barred",
    21: "rejected",
    27: "the destination is out of order",
    28: "the subscriber is not known",
    38: "the network is out of order",
    41: "a temporary failure",
    42: "congestion",
    50: "not subscribed",
    69: "not offered by this network",
}
"""RP-Cause in words (TS 24.011 table 8.4)."""


def _name(text: str) -> str:
    """Return a sender's name, which anybody may choose, so that it neither passes for a URI nor breaks a line."""
    return "".join(c if c.isprintable() and c != ":" else " " for c in text).strip() or "?"


def _number(uri: str) -> str:
    """Return the digits of the message centre's URI, for RP-DA."""
    user = uri.partition(":")[2].partition("@")[0].partition(";")[0]
    digits = user.removeprefix("+")
    return user if digits.isascii() and digits.isdigit() and len(digits) <= 20 else "0"


def _reason(response: Response | None) -> str:
    if response is None:
        return "the network does not answer"
    return "sent" if response.success else f"{response.status} {response.reason}".rstrip()
