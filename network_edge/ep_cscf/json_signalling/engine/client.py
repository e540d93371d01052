"""One JSON client as a WIC inside the edge: what it says becomes SIP of the kit's user agent, and the reverse.

An engine (`imskit.engine`).  The SIP goes to the eP-CSCF over a flow of its own like that of any WIC, so registration,
trust, descriptions and release are the same code.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace

from imskit.engine import Tick, Tokens
from imskit.secrets import Identity
from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.alarms import Alarm, Alarms
from imskit.sip.engine.events import Received, SentBy, Transmit, TransportFailed
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Message, Request, Response
from network_edge.ep_cscf.engine.trickle import FRAGMENT
from network_edge.ep_cscf.json_signalling.wire import messages as wire
from network_edge.ep_cscf.json_signalling.wire.messages import ClientMessage, JsonError, ServerMessage

_log = logging.getLogger(__name__)

MOST_CALLS = 8
"""At a time, of one client."""
_REGISTER = "register"
_STATUS = {"busy": 486, "declined": 603, "normal": 480}
_KEY_MILLISECONDS = 160

type JsonOutput = ServerMessage | Transmit


class JsonClient:
    """The engine of this module's text; ``domain`` is the home domain, ``flow`` the way to the eP-CSCF."""

    def __init__(self, domain: str, flow: Flow, tokens: Tokens) -> None:
        self._domain = domain
        self._tokens = tokens
        host = f"{tokens(12)}.invalid"
        contact = f"<sip:{tokens(8)}@{host};transport=ws>"
        self._instance = f"<urn:uuid:{_uuid(tokens(32))}>"
        self._profile = ua.Profile(
            contact=contact,
            hop=flow,
            sent_by=SentBy(host),
            allow=("INVITE", "ACK", "CANCEL", "BYE", "UPDATE", "PRACK", "MESSAGE", "INFO", "OPTIONS"),
            supported=("timer", "outbound"),
        )
        self._agent = ua.UserAgent(self._profile, tokens)
        self._identity: Identity | None = None
        self._registering: tuple[str | None, int] | None = None
        """Id of the message and seconds asked for, while a REGISTER is under way."""
        self._registered = 0
        """Seconds that the registrar gave, 0: not registered."""
        self._register_call_id = tokens(24)
        self._sequence = 0
        self._keys = 0
        self._waiting: dict[str, tuple[str | None, str | None]] = {}
        """Requests under way: id of the client's message, and the call."""
        self._exchanges: dict[str, str] = {}
        """The offer of the other side that a call's client has to answer."""
        self._unanswered: set[str] = set()
        """Incoming calls."""
        self._refresh: Alarm | None = None
        self._alarms = Alarms()
        self._outputs: deque[JsonOutput] = deque()
        self._now = 0.0

    # ---- the engine's contract -------------------------------------------------------------------------------

    def handle(self, event: ClientMessage | Received | TransportFailed | Tick, now: float) -> None:
        """Take in what the client says, or what comes from the eP-CSCF; never raises for either."""
        self._now = now
        match event:
            case Received() | TransportFailed():
                self._agent.handle(event, now)
            case Tick():
                self._agent.handle(event, now)
                while self._alarms.run_due(now):
                    pass
            case _:
                try:
                    self._said(event)
                except JsonError as error:
                    self._error(error.code, error.what, event.id)
        self._drain()

    def poll(self) -> JsonOutput | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When to call ``handle(Tick(), now)`` next."""
        times = (self._agent.deadline(), self._alarms.deadline())
        return min((at for at in times if at is not None), default=None)

    def refuse(self, error: JsonError) -> None:
        """Tell the client that its message could not be read."""
        self._error(error.code, error.what, error.id)

    def close(self, now: float) -> None:
        """The client is gone: end its calls and its registration."""
        self._now = now
        for call in self._agent.calls:
            self._command(ua.Hangup(call, (("Reason", 'SIP;cause=480;text="the client has gone"'),)))
        if self._registered and self._registering is None:
            self._send_register(None, 0)
        self._drain()

    # ---- what the client says --------------------------------------------------------------------------------

    def _said(self, message: ClientMessage) -> None:
        match message:
            case wire.Login(_, token, identity):
                self._identity = identity
                bearer = (("Authorization", f"Bearer {token.reveal()}"),)
                self._profile = replace(self._profile, rules=(ua.HeaderRule(bearer),))
                self._command(ua.Configure(self._profile))
                self._ok(message.id)
            case wire.Register(_, expires):
                self._send_register(message.id, expires)
            case wire.Unregister():
                self._send_register(message.id, 0)
            case wire.Call(_, call, to, sdp):
                self._call(message.id, call, to, sdp)
            case wire.Ring(_, call):
                self._known(call)
                self._tell(message.id, call, ua.Provisional(call, 180))
            case wire.Answer(_, call, sdp):
                self._answer(message.id, call, sdp)
            case wire.Offer(_, call, sdp):
                self._known(call)
                self._tell(message.id, call, ua.Modify(call, sdp, "INVITE"))
            case wire.Candidates():
                self._candidates(message)
            case wire.Hangup(_, call, reason):
                self._known(call)
                if call in self._unanswered:
                    self._tell(message.id, call, ua.Reject(call, _STATUS[reason]))
                else:
                    self._tell(message.id, call, ua.Hangup(call))
            case wire.Dtmf(_, call, digits):
                self._known(call)
                for index, digit in enumerate(digits):
                    last = index == len(digits) - 1
                    body = f"Signal={digit}\r\nDuration={_KEY_MILLISECONDS}\r\n".encode()
                    self._in_dialog(message.id if last else None, call, body, "application/dtmf-relay", ())
            case wire.Text(_, to, text):
                self._text(message.id, to, text)

    def _own(self) -> Identity:
        if self._identity is None:
            raise JsonError("login", "log in first")
        return self._identity

    def _known(self, call: str) -> None:
        if call not in self._agent.calls:
            raise JsonError("unknown-call", "there is no such call, or it has ended")

    def _call(self, id: str | None, call: str, to: Identity, sdp: bytes) -> None:
        own = self._own()
        if len(self._agent.calls) >= MOST_CALLS:
            raise JsonError("too-many", f"{MOST_CALLS} calls at a time")
        if call in self._agent.calls:
            raise JsonError("call", "this name is another call's")
        target = str.__str__(to)
        self._tell(id, call, ua.Call(call, target, f"<{str.__str__(own)}>", f"<{target}>", sdp))

    def _answer(self, id: str | None, call: str, sdp: bytes) -> None:
        self._known(call)
        exchange = self._exchanges.pop(call, None)
        if exchange is not None:
            self._tell(id, call, ua.AnswerOffer(exchange, sdp))
        elif call in self._unanswered:
            if self._tell(id, call, ua.Answer(call, sdp)):
                self._unanswered.discard(call)
        else:
            raise JsonError("state", "nothing is to be answered in this call")

    def _candidates(self, message: wire.Candidates) -> None:
        self._known(message.call)
        lines = [f"a=ice-ufrag:{message.ufrag}", f"a=ice-pwd:{message.pwd}", "m=audio 9 RTP/AVP 0", "a=mid:0"]
        lines += [f"a=candidate:{candidate}" for candidate in message.candidates]
        if message.ended:
            lines.append("a=end-of-candidates")
        headers = (("Info-Package", "trickle-ice"), ("Content-Disposition", "Info-Package"))
        self._in_dialog(message.id, message.call, "\r\n".join([*lines, ""]).encode(), FRAGMENT, headers)

    def _text(self, id: str | None, to: Identity, text: str) -> None:
        target = str.__str__(to)
        request = self._request("MESSAGE", target, target, self._tokens(24), 1)
        request.set_body(text.encode(), "text/plain;charset=UTF-8")
        key = self._key(id, None)
        self._tell(None, None, ua.Send(key, request))

    # ---- the registration ------------------------------------------------------------------------------------

    def _send_register(self, id: str | None, expires: int) -> None:
        own = str.__str__(self._own())
        if self._registering is not None:
            raise JsonError("state", "a registration is under way")
        self._registering = (id, expires)
        self._sequence += 1
        request = self._request("REGISTER", f"sip:{self._domain}", own, self._register_call_id, self._sequence)
        contact = f'{self._profile.contact};reg-id=1;+sip.instance="{self._instance}";expires={expires}'
        for name, value in (("Contact", contact), ("Supported", "path, outbound, gruu"), ("Expires", str(expires))):
            request.headers.add(name, value)
        self._tell(None, None, ua.Send(_REGISTER, request))

    def _register_outcome(self, response: Response | None) -> None:
        id, asked = self._registering or (None, 0)
        self._registering = None
        if self._refresh is not None:
            self._refresh.cancel()
        if response is None or not response.success:
            status = 408 if response is None else response.status
            known = self._registered > 0
            self._registered = 0
            self._error("register", f"the registration was refused with {status}", id, status=status)
            if known:
                self._send(ServerMessage.of("unregistered", status=status))
            return
        self._registered = _granted(response, asked) if asked else 0
        if not self._registered:
            self._send(ServerMessage.of("unregistered", id=id))
            return
        identities = response.addresses("P-Associated-URI")
        identity = str(identities[0].uri) if identities else str.__str__(self._own())
        self._send(ServerMessage.of("registered", id=id, identity=identity, expires=self._registered))
        # TS 24.229 5.1.1.4.1: 600 s before the end, or at half the time.
        after = self._registered - 600 if self._registered > 1200 else self._registered / 2
        self._refresh = self._alarms.set(self._now + after, lambda: self._renew(asked))

    def _renew(self, expires: int) -> None:
        if self._registering is None:
            self._send_register(None, expires)

    # ---- what the user agent says ----------------------------------------------------------------------------

    def _drain(self) -> None:
        while (output := self._agent.poll()) is not None:
            try:
                self._take(output)
            except SipParseError as error:
                _log.info("a message of the eP-CSCF is passed over: %s", error.brief)

    def _take(self, output: ua.Output) -> None:
        match output:
            case Transmit():
                self._outputs.append(output)
            case ua.IncomingCall(call, _, request, sdp):
                self._incoming(call, request, sdp)
            case ua.Progress(call, _, response):
                self._send(ServerMessage.of("progress", call=call, status=response.status))
            case ua.AnswerReceived(call, _, sdp):
                self._send(ServerMessage.of("answer", call=call, sdp=_text_of(sdp)))
            case ua.Answered(call):
                self._send(ServerMessage.of("answered", call=call))
            case ua.OfferReceived(call, _, exchange, sdp):
                self._exchanges[call] = exchange
                self._send(ServerMessage.of("offer", call=call, sdp=_text_of(sdp)))
            case ua.OfferRequested(call, _, exchange):
                self._exchanges[call] = exchange
                self._send(ServerMessage.of("offer", call=call))
            case ua.OfferWithdrawn(call, _, exchange):
                if self._exchanges.get(call) == exchange:
                    del self._exchanges[call]
            case ua.OfferFailed(call, _, cause, response):
                status = response.status if response is not None else None
                self._error("offer", f"the offer was not taken: {cause.value}", None, call, status)
            case ua.Ended(call, cause, message):
                self._ended(call, cause, message)
            case ua.RequestReceived(request, message):
                self._request_received(request, message)
            case ua.ResponseReceived(key, response):
                self._response_received(key, response)
            case ua.Challenged(challenge):
                self._command(ua.Decline(challenge))

    def _incoming(self, call: str, request: Request, sdp: bytes | None) -> None:
        if len(self._agent.calls) > MOST_CALLS:
            self._command(ua.Reject(call, 486))
            return
        try:
            caller = _sender(request)
        except SipParseError:
            self._command(ua.Reject(call, 400))
            return
        self._unanswered.add(call)
        self._send(
            ServerMessage.of("incoming", call=call, sdp=_text_of(sdp), **{"from": caller, "to": str(request.to.uri)})
        )

    def _ended(self, call: str, cause: ua.Cause, message: Message | None) -> None:
        self._exchanges.pop(call, None)
        self._unanswered.discard(call)
        status = message.status if isinstance(message, Response) else None
        reason = cause.value
        try:
            reasons = message.reasons if message is not None else []
        except SipParseError:
            reasons = []
        if reasons and reasons[0].text:
            reason = reasons[0].text
        self._send(ServerMessage.of("ended", call=call, status=status, reason=reason))

    def _request_received(self, request: str, message: Request) -> None:
        if message.method == "MESSAGE":
            kind = message.content_type
            if kind is None or kind.essence != "text/plain":
                self._command(ua.Respond(request, 415, headers=(("Accept", "text/plain"),)))
                return
            self._send(ServerMessage.of("message", text=_text_of(message.body), **{"from": _sender(message)}))
            self._command(ua.Respond(request, 200))
        elif message.method == "OPTIONS":
            self._command(ua.Respond(request, 200))
        else:
            self._command(ua.Respond(request, 469 if message.method == "INFO" else 405))

    def _response_received(self, key: str, response: Response | None) -> None:
        if key == _REGISTER:
            self._register_outcome(response)
            return
        id, call = self._waiting.pop(key, (None, None))
        if response is not None and response.success:
            self._ok(id)
        elif id is not None:
            status = 408 if response is None else response.status
            self._error("refused", f"refused with {status}", id, call, status)

    # ---- helpers ---------------------------------------------------------------------------------------------

    def _request(self, method: str, uri: str, to: str, call_id: str, sequence: int) -> Request:
        fields: list[tuple[str, object]] = [
            ("From", f"<{str.__str__(self._own())}>;tag={self._tokens(16)}"),
            ("To", f"<{to}>"),
            ("Call-ID", call_id),
            ("CSeq", f"{sequence} {method}"),
        ]
        return Request.create(method, uri, fields)

    def _in_dialog(
        self, id: str | None, call: str, body: bytes, kind: str, headers: tuple[tuple[str, str], ...]
    ) -> None:
        key = self._key(id, call)
        if not self._tell(None, call, ua.SendInDialog(key, call, "INFO", headers, body, kind)):
            self._waiting.pop(key, None)

    def _key(self, id: str | None, call: str | None) -> str:
        self._keys += 1
        key = f"json-{self._keys}"
        self._waiting[key] = (id, call)
        return key

    def _tell(self, id: str | None, call: str | None, command: ua.Command) -> bool:
        """Give a command, answer the client's message of this id, and say whether the command was taken."""
        self._agent.handle(command, self._now)
        outputs: list[ua.Output] = []
        while (output := self._agent.poll()) is not None:
            outputs.append(output)
        refused = next((each for each in outputs if isinstance(each, ua.Refused) and each.command is command), None)
        if refused is None:
            self._ok(id)
        else:
            self._error("state", f"not now: {refused.refusal.value}", id, call)
        for output in outputs:
            self._take(output)
        return refused is None

    def _command(self, command: ua.Command) -> None:
        """Give a command that needs no answer; what comes of it is drained by the caller."""
        self._agent.handle(command, self._now)

    def _ok(self, id: str | None) -> None:
        if id is not None:
            self._send(ServerMessage.of("ok", id=id))

    def _error(self, code: str, text: str, id: str | None, call: str | None = None, status: int | None = None) -> None:
        self._send(ServerMessage.of("error", id=id, call=call, code=code, status=status, text=text))

    def _send(self, message: ServerMessage) -> None:
        self._outputs.append(message)


def _granted(response: Response, asked: int) -> int:
    contacts = response.contacts
    if contacts == "*":
        return 0
    longest = max((contact.expires or 0 for contact in contacts), default=0)
    return min(longest or response.expires or asked, asked)


def _sender(request: Request) -> str:
    """Who a request is from, as the network says."""
    asserted = request.addresses("P-Asserted-Identity")
    return str(asserted[0].uri if asserted else request.from_.uri)


def _text_of(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


def _uuid(digits: str) -> str:
    """A UUID of version 4 (RFC 9562 section 5.4) of 32 hex digits."""
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"
