"""Requests that the edge itself sends within others' dialogs: BYE and ACK of a release, PRACK in a client's place."""

from __future__ import annotations

import logging
from collections.abc import Callable

from imskit.engine import Tokens
from imskit.sip.engine.events import SendRequest, SendStateless
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow
from network_edge.ep_cscf.engine.dialogs import WebDialog
from network_edge.ep_cscf.engine.effects import Side
from network_edge.ep_cscf.engine.towards_core import TowardsCore
from network_edge.ep_cscf.engine.trust import TrustBorder

_log = logging.getLogger(__name__)

type Send = Callable[[SendRequest | SendStateless, float], None]


class OwnRequests:
    """Builds and sends them; nobody waits for their answers."""

    def __init__(self, core: TowardsCore, border: TrustBorder, tokens: Tokens, send: Send) -> None:
        self._core = core
        self._border = border
        self._random = tokens
        self._send = send

    def send(
        self,
        dialog: WebDialog,
        method: str,
        side: Side,
        flow: Flow | None,
        now: float,
        *fields: tuple[str, object],
    ) -> None:
        """Send a request towards ``side``; towards a client only over ``flow``, and if there is one."""
        if side is Side.WEB and flow is None:
            return
        try:
            request = dialog.request(method, side)
            for name, value in fields:
                request.headers.add(name, value)
            if side is Side.IMS and dialog.icid:
                self._border.charge(request, dialog.icid)
            destination = flow if side is Side.WEB and flow is not None else self._core.hop(request)
            sent_by = None if side is Side.WEB else self._core.sent_by
            if method == "ACK":
                self._send(SendStateless(request, destination, sent_by), now)
            else:
                self._send(SendRequest(request, destination, f"own-{self._random(16)}", sent_by), now)
        except (SipParseError, ValueError) as error:
            _log.warning("%s towards %s cannot be sent: %s", method, side.value, error)
