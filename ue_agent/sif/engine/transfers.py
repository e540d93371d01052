"""Transfer through the SIF, both ways (TS 24.629, RFC 3515, RFC 3891).

A REFER of the page becomes a `Transfer` at the IMS client, whose progress the page hears in NOTIFYs.  A REFER of IMS is
passed to the page with a token in place of what only IMS understands; the page's INVITE brings the token back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.ims import events as ims
from imskit.ims import sipfrag
from imskit.ims.referrals import read_refer_uri
from imskit.sip.engine import user_agent as page
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import NameAddr, Replaces
from imskit.sip.wire.message import Request, Response
from imskit.sip.wire.uri import SipUri, Uri, parse_uri
from ue_agent.sif.engine.addresses import caller_for_page, is_emergency, target
from ue_agent.sif.engine.call import GatewayCall
from ue_agent.sif.engine.events import Output, ToIms, ToPage
from ue_agent.sif.engine.words import warning

_log = logging.getLogger(__name__)

TOKEN = "referral"
"""URI parameter that brings a page's INVITE together with what it carries out."""
_MAXIMUM = 16
_NO_EMERGENCY = "an emergency service is no target of a transfer"


@dataclass(frozen=True, slots=True)
class Referral:
    """What IMS asks the page to do."""

    name: str
    """At the IMS client."""
    target: str
    """Whom to call, as IMS says it."""


class Transfers:
    """See the module's text.  ``emit`` takes the outputs, ``calls`` gives those under way."""

    def __init__(
        self, emit: Callable[[Output], None], calls: Callable[[], Iterable[GatewayCall]], tokens: Tokens
    ) -> None:
        self._emit = emit
        self._calls = calls
        self._tokens = tokens
        self._asked: dict[str, str] = {}
        """Calls on the IMS side that the page has a REFER for: the id of its subscription."""
        self._offered: dict[str, tuple[Referral, str]] = {}
        """Referrals of IMS that a page has been told of, by token, and in which call on the IMS side."""
        self._count = 0

    # ---- the page asks --------------------------------------------------------------------------------------------

    def from_page(self, request: str, message: Request, call: GatewayCall, domain: str) -> None:
        """Take a REFER of the page; `SipParseError` if it cannot be read."""
        values = message.headers.get_all("Refer-To")
        if len(values) != 1 or message.refer_to is None:
            raise SipParseError("one Refer-To is needed", where="Refer-To", clause="RFC 3515 section 2.4.2")
        whom, replaces = read_refer_uri(str(message.refer_to.uri))
        uri = parse_uri(whom)
        if is_emergency(uri):
            self._respond(request, 403, _NO_EMERGENCY)
            return
        consult = ""
        if replaces:
            other = self._of_dialog(Replaces.parse(replaces))
            if other is None or other is call or not other.answered:
                self._respond(request, 481, "there is no such second call")
                return
            consult = other.ims_call
        if call.ims_call in self._asked or not call.answered:
            self._respond(request, 491, "this call is being transferred already" if call.answered else None)
            return
        self._asked[call.ims_call] = str(message.cseq.number)
        self._emit(ToPage(page.Respond(request, 202)))
        self._notify(call, 100, final=False)
        _log.info("call %s: the page transfers it", call.name)
        self._emit(ToIms(ims.Transfer(call.ims_call, "" if consult else target(uri, domain), consult)))

    def _of_dialog(self, replaces: Replaces) -> GatewayCall | None:
        # As the page sees it: what is remote there is ours.
        wanted = DialogId(replaces.call_id, replaces.to_tag, replaces.from_tag)
        return next((call for call in self._calls() if call.page_dialog == wanted), None)

    def progress(self, told: ims.ReferralProgress, call: GatewayCall | None) -> None:
        """IMS tells how a transfer goes."""
        if told.call not in self._asked:
            return
        if call is not None:
            status = told.status if told.status is not None else 503
            self._notify(call, status, final=told.final)
        if told.final:
            self._asked.pop(told.call, None)

    def _notify(self, call: GatewayCall, status: int, *, final: bool) -> None:
        state = "terminated;reason=noresource" if final else "active;expires=300"
        fields = (("Event", f"refer;id={self._asked[call.ims_call]}"), ("Subscription-State", state))
        body = sipfrag.write_status(max(status, 200) if final else status)
        key = self._key("notify")
        self._emit(ToPage(page.SendInDialog(key, call.page_call, "NOTIFY", fields, body, sipfrag.MEDIA_TYPE)))

    def call_over(self, ims_call: str) -> None:
        """A call has ended on both sides."""
        self._asked.pop(ims_call, None)
        self._offered = {token: item for token, item in self._offered.items() if item[1] != ims_call}

    def _respond(self, request: str, status: int, words: str | None) -> None:
        self._emit(ToPage(page.Respond(request, status, None, warning(words) if words else ())))

    # ---- IMS asks ---------------------------------------------------------------------------------------------------

    def from_ims(self, referral: ims.ReferralReceived, call: GatewayCall | None, domain: str) -> None:
        """Pass a REFER of IMS to the page that has the call; there is nobody to ask without one."""
        try:
            shown = _for_page(parse_uri(referral.target), domain)
        except SipParseError as error:
            _log.info("a transfer is refused: %s", error)
            shown = None
        if call is None or not call.answered or shown is None or len(self._offered) >= _MAXIMUM:
            self._emit(ToIms(ims.RejectReferral(referral.referral)))
            return
        token = self._tokens(16)
        self._offered[token] = (Referral(referral.referral, referral.target), call.ims_call)
        fields = [("Refer-To", f"<{shown.with_parameter(TOKEN, token)}>")]
        if referral.referred_by:
            fields.append(("Referred-By", f"<{referral.referred_by}>"))
        _log.info("call %s: the other side transfers it", call.name)
        self._emit(ToPage(page.SendInDialog(f"refer-{token}", call.page_call, "REFER", tuple(fields))))

    def answered(self, key: str, response: Response | None) -> None:
        """The page's answer to a request within a call."""
        token = key.removeprefix("refer-")
        if token != key and (response is None or not response.success):
            self._refuse(token)

    def reported(self, message: Request, call: GatewayCall | None) -> None:
        """The page's NOTIFY of a referral: one that says that nothing is done is a refusal."""
        try:
            status = sipfrag.read_status(message.body)
        except SipParseError:
            return
        about = [token for token, (_, of) in self._offered.items() if call is not None and of == call.ims_call]
        if status >= 300 and about:
            self._refuse(about[-1])  # whatever it was offered last in this call

    def _refuse(self, token: str) -> None:
        referral, _ = self._offered.pop(token, (None, ""))
        if referral is not None:
            self._emit(ToIms(ims.RejectReferral(referral.name)))

    def claimed(self, uri: Uri) -> Referral | None:
        """Return what the INVITE with this Request-URI carries out, once."""
        token = uri.parameters.get(TOKEN) if isinstance(uri, SipUri) else None
        return self._offered.pop(token, (None, ""))[0] if token else None

    def _key(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"


def _for_page(uri: Uri, domain: str) -> SipUri | None:
    """Return a URI as a page can call it."""
    shown = caller_for_page(NameAddr(uri), domain).uri
    return shown if isinstance(shown, SipUri) else None
