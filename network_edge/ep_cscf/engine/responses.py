"""What is edited in responses, and the dialogs that they make and end (TS 24.229 clause 5.2.6)."""

from __future__ import annotations

import logging
from itertools import dropwhile

from imskit.sip.engine.proxy import ResponseReady
from imskit.sip.wire.flow import Address
from imskit.sip.wire.message import Response
from imskit.sip.wire.uri import SipUri, Uri
from network_edge.ep_cscf.engine.dialogs import MAKES_DIALOGS, Dialogs, WebDialog, contact_of
from network_edge.ep_cscf.engine.effects import Side
from network_edge.ep_cscf.engine.identities import key_of
from network_edge.ep_cscf.engine.registering import refuse
from network_edge.ep_cscf.engine.requests import Context
from network_edge.ep_cscf.engine.settings import EpCscfSettings
from network_edge.ep_cscf.engine.telephone_uris import restore
from network_edge.ep_cscf.engine.trust import TrustBorder

_log = logging.getLogger(__name__)

_OF_SESSIONS = frozenset({"INVITE", "UPDATE", "PRACK", "INFO"})
"""Methods whose 408 or 481 ends a call; others only end what they were for (RFC 5057 section 5.1)."""


class Responses:
    """Edits responses to all but REGISTER; ``own`` are this proxy's addresses.

    Raises `SipParseError` for responses that cannot be read.
    """

    def __init__(
        self, settings: EpCscfSettings, own: tuple[Address, ...], dialogs: Dialogs, border: TrustBorder
    ) -> None:
        self._settings = settings
        self._own = own
        self._dialogs = dialogs
        self._border = border

    def edit(self, ready: ResponseReady, context: Context) -> Response:
        """Return what goes back in the place of a response."""
        response = ready.response
        if context.side is Side.IMS:
            if ready.origin == "unreachable" and context.dialog is None:
                response = refuse(context.request, 430, "the client's connection is gone")
            self._from_called(context, response)
        else:
            if ready.origin != "received" and response.status == 503:
                response.headers.set("Retry-After", self._settings.retry_after)
            self._border.outward(response)
        self._note_dialog(ready.context, context, response)
        return response

    def _from_called(self, context: Context, response: Response) -> None:
        """Clause 5.2.6.4.4: who answers is who was called; the route is what was recorded on the way."""
        headers, request, binding = response.headers, context.request, context.binding
        restore(response, request)
        self._border.inward(response)
        self._border.charge_response(response, context.vector)
        if request.to.tag is None and binding.identities:
            called = request.addresses("P-Called-Party-ID")
            wanted = key_of(called[0].uri) if called else ""
            answering = next((each for each in binding.identities if key_of(each) == wanted), binding.identities[0])
            headers.add("P-Asserted-Identity", f"<{str.__str__(answering)}>")
        if context.record_routes is not None and 100 < response.status < 300:
            headers.remove("Record-Route")
            for value in context.record_routes:
                headers.add("Record-Route", value)

    def _note_dialog(self, key: str, context: Context, response: Response) -> None:
        """Keep the dialogs that responses make, and forget those that they end."""
        request, dialog = context.request, context.dialog
        if dialog is not None:
            if response.success:
                dialog.refresh(response, Side.IMS if context.side is Side.WEB else Side.WEB)
            if not response.provisional and (
                (request.method == "BYE" and response.status not in (401, 407))
                or (response.status in (408, 481) and (dialog.method != "INVITE" or request.method in _OF_SESSIONS))
            ):
                self._dialogs.remove(dialog)
            return
        if response.status >= 300:
            self._dialogs.context_ended(key)
        tag = response.to.tag
        if request.method not in MAKES_DIALOGS or not tag or not 100 < response.status < 300:
            return
        token, call_id, own = context.binding.token, request.call_id, request.from_.tag or ""
        from_web = context.side is Side.WEB
        dialog_key = (token, call_id, own, tag) if from_web else (token, call_id, tag, own)
        known = self._dialogs.get(dialog_key)
        if known is None:
            if self._dialogs.count(token) >= self._settings.limits.dialogs:
                _log.warning("more forks of one request than a registration may have dialogs")
                return
            caller, called = request.headers.get("From") or "", response.headers.get("To") or ""
            routes = response.record_routes[::-1] if from_web else request.record_routes
            # Only what this leg put in: beyond may be another leg of this edge, to another client of its own.
            beyond = tuple(str(route) for route in dropwhile(lambda each: self._ours(each.uri, token), routes))
            sequence = request.cseq.number
            known = WebDialog(
                key=dialog_key,
                method=request.method,
                caller=context.side,
                context=key,
                icid=context.icid,
                routes=beyond,
                web=caller if from_web else called,
                ims=called if from_web else caller,
                web_target=contact_of(request if from_web else response),
                ims_target=contact_of(response if from_web else request),
                web_sequence=sequence if from_web else 0,
                ims_sequence=0 if from_web else sequence,
            )
            self._dialogs.add(known)
        elif contact_of(response):
            known.refresh(response, Side.IMS if from_web else Side.WEB)
        known.confirmed = known.confirmed or response.success

    def _ours(self, uri: Uri, token: str) -> bool:
        return isinstance(uri, SipUri) and uri.user == token and (uri.host, uri.port) in self._own
