"""REFER at an IMS UE, both ways: what we ask others to call, what others ask us to (RFC 3515, 3891, 4488, TS 24.629).

Nothing here makes a call: a REFER of somebody else's is told to the owner, who dials or refuses.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from imskit.engine import Tokens
from imskit.ims import sipfrag
from imskit.ims.events import Hangup, Output, ReferralProgress, ReferralReceived
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.engine.dialog import DialogId
from imskit.sip.engine.subscription_notifier import Notifier
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import Replaces
from imskit.sip.wire.message import Request, Response
from imskit.sip.wire.uri import SipUri, TelUri, parse_uri, unescape

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 300.0
"""How long the other side may take to carry out a referral of ours."""
MAXIMUM = 16
"""Referrals of others at a time."""
_HEADER = re.compile(r"replaces=([^&]*+)", re.IGNORECASE)


@dataclass(slots=True)
class _Asked:
    """A REFER of ours."""

    call: str
    """The call that the owner knows it by."""
    target: str
    ends_call: bool
    """Whether ``call`` is to end when it is done: a transfer."""
    until: float
    id: str | None = None
    """CSeq number of the REFER, once known."""
    within: str = ""
    """The call in whose dialog it was sent; empty: outside any."""


@dataclass(slots=True)
class _Received:
    """A REFER of somebody else's that the owner carries out."""

    within: str
    """The call in whose dialog it came; empty: outside any."""
    id: str
    notifier: Notifier | None
    silent: bool
    """Nothing is to be told (Refer-Sub: false)."""
    replaces: str
    referred_by: str
    until: float
    """Until when the owner may decide."""
    taken: bool = False
    """The owner makes the call."""
    last: int = 0


class Referrals:
    """See the module's text.  ``command`` reaches the user agent, ``emit`` the owner of the UE."""

    def __init__(
        self,
        command: Callable[[ua.Command], None],
        emit: Callable[[Output], None],
        end_call: Callable[[Hangup], None],
        tokens: Tokens,
    ) -> None:
        self._command = command
        self._emit = emit
        self._end_call = end_call
        self._tokens = tokens
        self._asked: dict[str, _Asked] = {}
        self._received: dict[str, _Received] = {}
        self._notifications: dict[str, str] = {}
        """NOTIFYs under way outside calls: key, and the referral."""

    def deadline(self) -> float | None:
        """When `tick` is due."""
        undecided = [received.until for received in self._received.values() if not received.taken]
        return min((*undecided, *(asked.until for asked in self._asked.values())), default=None)

    def tick(self, now: float) -> None:
        """Give up referrals that nothing is heard of, and those of others that the owner does not decide on."""
        for name, received in list(self._received.items()):
            if not received.taken and now >= received.until:
                received.taken = True
                self.report(name, 408, "", now)
        for key in [key for key, asked in self._asked.items() if now >= asked.until]:
            self._done(key, None)

    # ---- ours -----------------------------------------------------------------------------------------------------

    def ask(self, call: str, target: str, replaces: DialogId | None, impu: str, now: float, *, ends_call: bool) -> None:
        """Ask the peer of ``call`` to call ``target`` and, with ``replaces``, to take over that call of ours."""
        key = f"refer-{self._tokens(8)}"
        self._asked[key] = _Asked(call, target, ends_call, now + PATIENCE_SECONDS, within=call)
        headers = (("Refer-To", f"<{refer_uri(target, replaces)}>"), ("Referred-By", f"<{impu}>"))
        self._command(ua.SendInDialog(key, call, "REFER", headers))

    def ask_outside(self, call: str, target: str, refer_to: str, impu: str, now: float) -> None:
        """Ask ``target``, outside any dialog, to call ``refer_to``: the way into the conference of ``call``."""
        key = f"refer-{self._tokens(8)}"
        self._asked[key] = _Asked(call, target, False, now + PATIENCE_SECONDS)
        fields = (("Referred-By", f"<{impu}>"), ("P-Preferred-Identity", f"<{impu}>"))
        self._command(ua.Refer(key, target, f"<{impu}>", f"<{target}>", f"<{_with_method(refer_to)}>", fields))

    def answered(self, key: str, response: Response | None, now: float) -> bool:
        """Take the answer to a request; False if it is none of ours."""
        if (name := self._notifications.pop(key, None)) is not None:
            self._notified(name, response, now)
            return True
        asked = self._asked.get(key)
        if asked is None:
            return key.startswith("refer-")
        if response is None or not response.success:
            self._done(key, response.status if response is not None else None)
        elif (response.headers.get("Refer-Sub") or "").strip().lower() == "false":
            self._done(key, response.status)  # RFC 4488: accepted, and nothing will be told
        else:
            asked.id = str(response.cseq.number)
        return True

    def refused(self, command: ua.Command, text: str) -> bool:
        """The user agent does not carry out a command; False if it is none of ours."""
        key = command.key if isinstance(command, ua.SendInDialog) else getattr(command, "subscription", "")
        if not key.startswith(("refer-", "report-")):
            return False
        if key in self._asked:
            _log.warning("the referral cannot be sent: %s", text)
            self._done(key, None)
        return True

    def notified(self, key: str, message: Request) -> bool:
        """Take a NOTIFY of a referral outside calls; False if it is none of ours."""
        if key not in self._asked:
            return False
        self._progress(key, message)
        return True

    def ended(self, key: str, message: object) -> bool:
        """The subscription of a referral outside calls is over; False if it is none of ours."""
        if key in self._asked:
            self._done(key, message.status if isinstance(message, Response) else None)
        return key.startswith("refer-")

    def _progress(self, key: str, message: Request) -> None:
        try:
            status = sipfrag.read_status(message.body)
            state = message.subscription_state
        except SipParseError as error:
            _log.warning("a report of a referral is passed over: %s", error)
            return
        asked = self._asked[key]
        if status >= 200 or (state is not None and state.state == "terminated"):
            self._done(key, status)
        else:
            self._emit(ReferralProgress(asked.call, asked.target, status, final=False))

    def _done(self, key: str, status: int | None) -> None:
        asked = self._asked.pop(key)
        _log.info("call %s: the referral ends with %s", asked.call, status)
        self._emit(ReferralProgress(asked.call, asked.target, status, final=True))
        if asked.ends_call and status is not None and 200 <= status < 300:
            self._end_call(Hangup(asked.call))

    def call_ended(self, call: str) -> None:
        """The dialog of a call is gone, and the subscriptions within it."""
        for key in [key for key, asked in self._asked.items() if asked.within == call]:
            self._done(key, None)
        for name, received in list(self._received.items()):
            if received.within == call:
                received.silent = True
                if not received.taken:
                    del self._received[name]

    # ---- others' --------------------------------------------------------------------------------------------------

    def request(self, request: str, message: Request, call: str, contact: str, now: float) -> bool:
        """Take a REFER, or a NOTIFY of a referral within a call; False: somebody else's request."""
        if message.method == "NOTIFY":
            return self._report(request, message, call)
        if message.method != "REFER":
            return False
        try:
            self._referred(request, message, call, contact, now)
        except SipParseError as error:
            self._command(ua.Respond(request, error.status, error.reason))
        return True

    def _report(self, request: str, message: Request, call: str) -> bool:
        event = message.event
        if event is None or event.package != "refer" or not call:
            return False
        keys = [key for key, asked in self._asked.items() if asked.within == call]
        # The NOTIFY may overtake the answer to its REFER, and one without an id means the first (RFC 3515 2.4.6).
        known = [key for key in keys if event.id is None or self._asked[key].id in (None, event.id)]
        self._command(ua.Respond(request, 200 if known else 481))
        if known:
            self._progress(known[0], message)
        return True

    def _referred(self, request: str, message: Request, call: str, contact: str, now: float) -> None:
        values = message.headers.get_all("Refer-To")
        if len(values) != 1 or message.refer_to is None:
            raise SipParseError("one Refer-To is needed", where="Refer-To", clause="RFC 3515 section 2.4.2")
        target, replaces = read_refer_uri(str(message.refer_to.uri))
        if len(self._received) >= MAXIMUM:
            self._command(ua.Respond(request, 486))
            return
        by = message.addresses("Referred-By")[:1]
        tag = self._tokens(16)
        silent = (message.headers.get("Refer-Sub") or "").strip().lower() == "false"
        notifier = None
        if not call and not silent:
            notifier, _ = Notifier.accept(
                message, contact=contact, tokens=lambda _: tag, now=now, most=300, package="refer"
            )
        name = f"referral-{self._tokens(8)}"
        self._received[name] = _Received(
            call,
            str(message.cseq.number),
            notifier,
            silent,
            replaces,
            str(by[0]) if by else "",
            now + PATIENCE_SECONDS,
        )
        fields = (("Refer-Sub", "false"),) if silent else ()
        self._command(ua.Respond(request, 202, None, fields, to_tag=None if call else tag))
        self.report(name, 100, "", now)
        self._emit(ReferralReceived(name, call, target, replaces, str(by[0].uri) if by else ""))

    def fields(self, name: str) -> tuple[tuple[str, str], ...]:
        """Take a referral on; returns what its INVITE says beside the usual, nothing if there is none of that name."""
        received = self._received.get(name)
        if received is None:
            return ()
        received.taken = True
        fields = []
        if received.replaces:
            fields += [("Replaces", received.replaces), ("Require", "replaces")]
        if received.referred_by:
            fields.append(("Referred-By", received.referred_by))
        return tuple(fields)

    def report(self, name: str, status: int, reason: str, now: float) -> None:
        """Tell whoever asked how the call goes; a final status is the last word."""
        received = self._received.get(name)
        if received is None or (status < 200 and status == received.last):
            return
        received.last = status
        final = status >= 200
        if not received.silent:
            self._send(name, received, sipfrag.write_status(status, reason), final=final, now=now)
        if final and (received.silent or received.notifier is None):
            del self._received[name]

    def _send(self, name: str, received: _Received, body: bytes, *, final: bool, now: float) -> None:
        if received.notifier is not None:
            message = received.notifier.notify(
                body,
                sipfrag.MEDIA_TYPE,
                now,
                state="terminated" if final else "active",
                reason="noresource" if final else None,
            )
            self._forward(name, message)
            return
        state = "terminated;reason=noresource" if final else "active;expires=300"
        fields = (("Event", f"refer;id={received.id}"), ("Subscription-State", state))
        key = f"report-{self._tokens(8)}"
        self._command(ua.SendInDialog(key, received.within, "NOTIFY", fields, body, sipfrag.MEDIA_TYPE))

    def _forward(self, name: str, message: Request | None) -> None:
        if message is not None:
            key = f"report-{self._tokens(8)}"
            self._notifications[key] = name
            self._command(ua.Send(key, message))

    def _notified(self, name: str, response: Response | None, now: float) -> None:
        received = self._received.get(name)
        if received is None or received.notifier is None:
            return
        self._forward(name, received.notifier.answered(response.status if response is not None else None, now))
        if received.notifier.terminated and not received.notifier.pending:
            del self._received[name]


def refer_uri(target: str, replaces: DialogId | None) -> str:
    """Return the URI for Refer-To: with the dialog to take over as a header (RFC 3891 section 6.1, RFC 3515)."""
    if replaces is None:
        return target
    # As the target sees it: what is remote here is its own.
    value = f"{replaces.call_id};to-tag={replaces.remote_tag};from-tag={replaces.local_tag}"
    uri = parse_uri(target)
    if isinstance(uri, TelUri):
        raise SipParseError("a tel URI carries no Replaces", where="Refer-To", clause="RFC 3966 section 3")
    bare = target.partition("?")[0]
    return f"{bare}?Replaces={quote(value, safe='')}"


def read_refer_uri(text: str) -> tuple[str, str]:
    """Return whom a Refer-To names and the value of its Replaces, empty if there is none.

    ``SipParseError`` for what is no call: another scheme, another method.
    """
    uri = parse_uri(text, "Refer-To")
    if isinstance(uri, TelUri):
        return text, ""
    if not isinstance(uri, SipUri):
        raise SipParseError("only sip and tel are called", where="Refer-To", status=416)
    method = uri.parameters.get("method")
    if method is not None and method.upper() != "INVITE":
        raise SipParseError("only INVITE is carried out", where="Refer-To", clause="RFC 3515 section 2.1", status=501)
    found = _HEADER.search(uri.headers or "")
    replaces = ""
    if found is not None:
        replaces = str(Replaces.parse(unescape(found[1]), "Refer-To"))
    plain = SipUri(uri.scheme, uri.user, uri.password, uri.host, uri.port, uri.parameters.without("method"))
    return str(plain), replaces


def _with_method(uri: str) -> str:
    parsed = parse_uri(uri)
    return str(parsed.with_parameter("method", "INVITE")) if isinstance(parsed, SipUri) else uri
