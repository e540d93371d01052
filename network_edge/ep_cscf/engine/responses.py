"""What is edited in responses, and the dialogs that they make and end (TS 24.229 clause 5.2.6)."""

from __future__ import annotations

import logging
from itertools import dropwhile

from imskit.ims.alternative_service import add_restoration
from imskit.ims.public_identities import key_of
from imskit.sip.engine.proxy import ResponseReady
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import SipUri
from network_edge.ep_cscf.engine.access import unavailable
from network_edge.ep_cscf.engine.dialogs import MAKES_DIALOGS, Dialogs, WebDialog, contact_of
from network_edge.ep_cscf.engine.early_answers import number_towards_web
from network_edge.ep_cscf.engine.effects import Side
from network_edge.ep_cscf.engine.registering import refuse
from network_edge.ep_cscf.engine.registrations import LINGER_SECONDS
from network_edge.ep_cscf.engine.requests import Transit
from network_edge.ep_cscf.engine.settings import EpCscfSettings
from network_edge.ep_cscf.engine.telephone_uris import restore
from network_edge.ep_cscf.engine.trust import TrustBorder

_log = logging.getLogger(__name__)

_UNTOLD_SECONDS = 3600
"""How long a subscription is kept whose end nobody has told."""


class Responses:
    """Edits responses to all but REGISTER.

    Raises `SipParseError` for responses that cannot be read.
    """

    def __init__(self, settings: EpCscfSettings, dialogs: Dialogs, border: TrustBorder) -> None:
        self._settings = settings
        self._dialogs = dialogs
        self._border = border

    def edit(self, ready: ResponseReady, context: Transit, now: float) -> Response:
        """Return what goes back in the place of a response."""
        response = ready.response
        if context.side is Side.IMS:
            if ready.origin == "unreachable" and context.dialog is None:
                response = refuse(context.request, 430, "the client's connection is gone")
            self._from_called(context, response)
        else:
            if ready.origin != "received":
                response = self._core_is_gone(context, response)
            number_towards_web(response, context.request)
            self._border.outward(response)
        self._note_dialog(ready.context, context, response, now)
        return response

    def made(self, context: Transit, response: Response) -> WebDialog | None:
        """Return the dialog that a response to a client's request has made."""
        request, registration = context.request, context.binding.token
        return self._dialogs.get((registration, request.call_id, request.from_.tag or "", response.to.tag or ""))

    def _core_is_gone(self, context: Transit, response: Response) -> Response:
        """Clause 5.2.6.3.3: the S-CSCF cannot be reached; the client may find another by registering anew."""
        if context.dialog is None:
            gone = response_to(context.request, 504)
            for route in context.binding.service_route[:1]:
                gone.headers.add("P-Asserted-Identity", route)
            add_restoration(gone)
            return gone
        if response.status >= 500:
            return unavailable(context.request, self._settings.retry_after)
        return response

    def _from_called(self, context: Transit, response: Response) -> None:
        """Clause 5.2.6.4.4: who answers is who was called; the route is what was recorded on the way."""
        headers, request, binding = response.headers, context.request, context.binding
        restore(response, request)
        self._border.inward(response)
        self._border.charge_response(response, context.vector)
        if request.to.tag is None and binding.identities:
            called = request.addresses("P-Called-Party-ID")
            wanted = key_of(called[0].uri) if called else ""
            answering = next((each for each in binding.identities if key_of(each) == wanted), binding.identities[0])
            context.asserted = str.__str__(answering)
            headers.add("P-Asserted-Identity", f"<{context.asserted}>")
        if context.record_routes is not None and 100 < response.status < 300:
            headers.remove("Record-Route")
            for value in context.record_routes:
                headers.add("Record-Route", value)

    def _note_dialog(self, key: str, context: Transit, response: Response, now: float) -> None:
        """Keep the dialogs that responses make, and forget those that they end."""
        request, dialog = context.request, context.dialog
        if dialog is not None:
            self._within(dialog, context, response, now)
            return
        if response.status >= 300:
            self._dialogs.context_ended(key, now)
        tag = response.to.tag
        if not context.mark or not tag or not 100 < response.status < 300:
            return
        if request.method == "REFER" and (response.headers.get("Refer-Sub") or "").strip().lower() == "false":
            return  # RFC 4488 section 4: no subscription, so no dialog
        registration, call_id, own = context.binding.token, request.call_id, request.from_.tag or ""
        from_web = context.side is Side.WEB
        dialog_key = (registration, call_id, own, tag) if from_web else (registration, call_id, tag, own)
        known = self._dialogs.get(dialog_key)
        if known is None:
            if self._dialogs.root(context.mark) is None:
                return  # over meanwhile
            if self._dialogs.count(registration, calls=request.method == "INVITE") >= self._settings.limits.dialogs:
                _log.warning("more forks of one request than a registration may have dialogs")
                return
            caller, called = request.headers.get("From") or "", response.headers.get("To") or ""
            routes = response.record_routes[::-1] if from_web else request.record_routes
            # Only what this leg put in: beyond may be another leg of this edge, to another client of its own.
            beyond = dropwhile(lambda each: isinstance(each.uri, SipUri) and each.uri.user == context.mark, routes)
            sequence = request.cseq.number
            known = WebDialog(
                key=dialog_key,
                mark=context.mark,
                method=request.method,
                caller=context.side,
                icid=context.icid,
                routes=tuple(str(route) for route in beyond),
                asserted=context.asserted,
                web=caller if from_web else called,
                ims=called if from_web else caller,
                web_target=contact_of(request if from_web else response),
                ims_target=contact_of(response if from_web else request),
                first=sequence,
                web_sequence=sequence if from_web else 0,
                ims_sequence=0 if from_web else sequence,
            )
            self._dialogs.add(known)
        elif contact_of(response):
            known.refresh(response, Side.IMS if from_web else Side.WEB)
        known.confirmed = known.confirmed or response.success
        self._lasts(known, request, response, now)

    def _within(self, dialog: WebDialog, context: Transit, response: Response, now: float) -> None:
        request = context.request
        if response.success:
            dialog.refresh(response, Side.IMS if context.side is Side.WEB else Side.WEB)
            self._lasts(dialog, request, response, now)
        if response.provisional:
            return
        # After 408 or 481 a call goes on until its BYE, which has to find its way (RFC 3261 section 12.2.1.2); without
        # a BYE its media are lost.  A subscription just ends (RFC 5057 section 5.1).
        if (request.method == "BYE" and response.status not in (401, 407)) or (
            response.status in (408, 481) and not dialog.is_call
        ):
            self._dialogs.remove(dialog, now)

    def _lasts(self, dialog: WebDialog, request: Request, response: Response, now: float) -> None:
        """A 2xx to SUBSCRIBE says until when; for a transfer's reports only a NOTIFY does (RFC 3515 section 2.4.4)."""
        if dialog.is_call or request.method not in MAKES_DIALOGS or not response.success:
            return
        granted = request.expires if response.expires is None else response.expires
        if request.method == "REFER" or granted is None:
            granted = _UNTOLD_SECONDS
        # The last NOTIFY comes after the end.
        self._dialogs.lasts(dialog, now + granted + LINGER_SECONDS)
