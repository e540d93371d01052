"""The ways from the eP-CSCF into the core: its entry, and along routes that the core itself named."""

from __future__ import annotations

from dataclasses import replace

from imskit.sip.engine import dialog
from imskit.sip.engine.events import SentBy
from imskit.sip.engine.proxy import ForwardTarget, RecordRoute
from imskit.sip.engine.proxy_routing import literal_destination, next_hop
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Target
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request
from imskit.sip.wire.uri import SipUri, parse_uri


class TowardsCore:
    """``entry`` is the way to the I-CSCF; ``sent_by`` the Via of everything on Mw; ``trusted`` the core's hosts.

    Nothing goes anywhere else: the Contact of a peer behind the core is no way of its own.
    """

    def __init__(self, core: Target, sent_by: SentBy, trusted: frozenset[str]) -> None:
        self._core = core
        self._trusted = trusted
        self.sent_by = sent_by
        self.entry = ForwardTarget(destinations=(core,), sent_by=sent_by)

    def along(self, routes: tuple[str, ...], record: RecordRoute | None = None) -> ForwardTarget:
        """Return the way along ``routes`` (Route values), to the entry if there are none.

        The request carries them already; a host name in the first is left to the look-up (RFC 3263).
        """
        hop = NameAddr.parse(routes[0], "Route").uri if routes else None
        target = self._literal(hop) if isinstance(hop, SipUri) else self._core
        # A host that is not the core's is the core's to reach.
        destinations = () if target is None else (target if target.address[0] in self._trusted else self._core,)
        return ForwardTarget(destinations=destinations, record_route=record, sent_by=self.sent_by)

    def within(self, routes: tuple[str, ...], target: str) -> ForwardTarget:
        """Return the way within a dialog: its route; without one ``target`` if that is the core's, else the entry."""
        return self.along(routes) if routes else ForwardTarget(destinations=(self._at(target),), sent_by=self.sent_by)

    def _at(self, target: str) -> Target:
        try:
            uri = parse_uri(target)
        except SipParseError:
            return self._core
        literal = self._literal(uri) if isinstance(uri, SipUri) else None
        return literal if literal is not None and literal.address[0] in self._trusted else self._core

    def hop(self, request: Request) -> Target:
        """Return where a request of the edge's own goes: its first Route, else as `within` a dialog without one.

        Raises `SipParseError` if that leads nowhere.
        """
        if "Route" not in request.headers:
            return self._at(request.uri) if request.to.tag is not None else self._core
        uri = next_hop(request)
        literal = self._literal(uri) if uri is not None else None
        if literal is None:
            return dialog.next_hop(request)
        return literal if literal.address[0] in self._trusted else self._core

    def _literal(self, uri: SipUri) -> Target | None:
        found = literal_destination(uri)
        if found is None:
            return None
        if found.address == self._core.address:
            return self._core
        return replace(self._core, transport=found.transport, address=found.address, host="")
