"""Ending calls in the network's name (TS 24.229 clause 5.2.8.1)."""

from __future__ import annotations

import logging

from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Response
from network_edge.ep_cscf.engine.dialogs import Dialogs, WebDialog
from network_edge.ep_cscf.engine.effects import Side
from network_edge.ep_cscf.engine.own_requests import OwnRequests
from network_edge.ep_cscf.engine.registrations import Binding

_log = logging.getLogger(__name__)


class NetworkRelease:
    """Sends BYE both ways in dialogs that a 2xx confirmed, after the ACK that nobody sent; forgets the dialogs.

    A client whose connection is gone is told when it is back; until then its dialogs stay, for nothing else.
    """

    def __init__(self, dialogs: Dialogs, own: OwnRequests) -> None:
        self._dialogs = dialogs
        self._own = own

    def relayed(self, context: str, response: Response) -> None:
        """A response goes to the caller: of a dialog whose 2xx got there, both sides know."""
        if response.success:
            self._dialogs.relayed(context, response.to.tag or "")

    def hung_up(self, dialog: WebDialog, now: float) -> None:
        """IMS has ended a dialog that the client cannot be told of yet."""
        self._dialogs.owe(dialog, 'SIP;cause=200;text="the other side has hung up"', now)

    def flow_back(self, binding: Binding, now: float) -> None:
        """The client is back: tell it what has ended meanwhile."""
        for dialog in self._dialogs.of(binding.token):
            if dialog.owed:
                self._part(dialog, Side.WEB, binding.flow, dialog.owed, now)
                self._dialogs.remove(dialog, now)

    def dialog_of(
        self, binding: Binding, call_id: str, caller_tag: str, callee_tag: str, reason: str, now: float
    ) -> None:
        """End one confirmed dialog, whichever side called."""
        for tags in ((caller_tag, callee_tag), (callee_tag, caller_tag)):
            dialog = self._dialogs.get((binding.token, call_id, *tags))
            if dialog is not None:
                self._end(dialog, binding, reason, now)

    def everything_of(self, binding: Binding, reason: str, now: float, *, returns: bool) -> None:
        """End all confirmed dialogs of a registration.  INVITEs that are not answered yet are the owner's to refuse.

        ``returns``: the client may still come back, and then learns of it.
        """
        for dialog in self._dialogs.of(binding.token):
            self._end(dialog, binding, reason, now, returns=returns)

    def _end(self, dialog: WebDialog, binding: Binding, reason: str, now: float, *, returns: bool = True) -> None:
        owed = False
        if dialog.is_call and dialog.confirmed:
            called = Side.IMS if dialog.caller is Side.WEB else Side.WEB
            for side in (called, dialog.caller):
                if side is not called and not dialog.relayed:
                    continue  # it knows of no dialog
                if side is Side.WEB and binding.flow is None:
                    owed = returns
                elif side is Side.WEB or not dialog.owed:
                    self._part(dialog, side, binding.flow, reason, now)
        if owed:
            self._dialogs.owe(dialog, reason, now)
        else:
            self._dialogs.remove(dialog, now)

    def _part(self, dialog: WebDialog, side: Side, flow: Flow | None, reason: str, now: float) -> None:
        """Send a BYE, and before it the ACK that the called side waits for."""
        if side is not dialog.caller and not dialog.acknowledged:
            self._own.send(dialog, "ACK", side, flow, now)
        _log.info("BYE in the network's name towards %s: %s", side.value, reason)
        self._own.send(dialog, "BYE", side, flow, now, ("Reason", reason))
