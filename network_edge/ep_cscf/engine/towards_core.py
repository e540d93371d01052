"""The ways from the eP-CSCF into the core: its entry, and along routes that the core itself named."""

from __future__ import annotations

from dataclasses import replace

from imskit.sip.engine import dialog
from imskit.sip.engine.events import SentBy
from imskit.sip.engine.proxy import ForwardTarget, RecordRoute
from imskit.sip.engine.proxy_routing import literal_destination, next_hop
from imskit.sip.wire.flow import Target
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request
from imskit.sip.wire.uri import SipUri


class TowardsCore:
    """``entry`` is the way to the I-CSCF; ``sent_by`` the Via of everything on Mw."""

    def __init__(self, core: Target, sent_by: SentBy) -> None:
        self._core = core
        self.sent_by = sent_by
        self.entry = ForwardTarget(destinations=(core,), sent_by=sent_by)

    def along(self, routes: tuple[str, ...], record: RecordRoute | None = None) -> ForwardTarget:
        """Return the way along ``routes`` (Route values), to the entry if there are none.

        The request carries them already; a host name in the first is left to the look-up (RFC 3263).
        """
        hop = NameAddr.parse(routes[0], "Route").uri if routes else None
        target = self._core if hop is None else self._literal(hop) if isinstance(hop, SipUri) else None
        destinations = () if target is None else (target,)
        return ForwardTarget(destinations=destinations, record_route=record, sent_by=self.sent_by)

    def hop(self, request: Request) -> Target:
        """Return where a request of the edge's own goes: its first Route, else the entry.

        Raises `SipParseError` if that leads nowhere.
        """
        if "Route" not in request.headers and request.to.tag is None:
            return self._core
        uri = next_hop(request)
        literal = self._literal(uri) if uri is not None else None
        return literal if literal is not None else dialog.next_hop(request)

    def _literal(self, uri: SipUri) -> Target | None:
        found = literal_destination(uri)
        if found is None:
            return None
        if found.address == self._core.address:
            return self._core
        return replace(self._core, transport=found.transport, address=found.address, host="")
