"""The ACKs of 2xx responses in a proxy: forwarded without state (RFC 3261 section 16.11, 13.2.2.4)."""

from __future__ import annotations

import hashlib
import logging

from imskit.sip.engine.events import Key, SendStateless, SentBy
from imskit.sip.engine.layer import MAGIC
from imskit.sip.engine.proxy_events import Forward, Resolve, RouteRequest
from imskit.sip.engine.proxy_routing import (
    destinations_of,
    incoming_breadth,
    loop_mark,
    loops,
    prepare,
    take_own_routes,
    validate,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Request
from imskit.sip.wire.uri import SipUri

_log = logging.getLogger(__name__)

MOST_WAITING = 1_000
"""ACKs that may wait for their owner; one that is lost is sent again when the 2xx is."""


class AckForwarder:
    """Keeps an ACK only until its owner has said where it goes; there is nobody to complain to about a bad one."""

    def __init__(self, salt: str, own: frozenset[tuple[str, int | None]], understood: frozenset[str]) -> None:
        self._salt = salt
        self._own = own
        self._understood = understood
        self._count = 0
        self._waiting: dict[Key, Request] = {}
        self._resolving: dict[Key, tuple[Request, SentBy | None]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting or key in self._resolving

    def received(self, ack: Request, flow: Flow) -> RouteRequest | None:
        """Check an ACK and ask where it goes; ``None`` if it ends here."""
        ack = ack.copy()
        try:
            if validate(ack, self._understood) is not None or loops(ack, loop_mark(ack, self._salt)):
                return None
            own_routes = take_own_routes(ack, self._own)
        except SipParseError as error:
            _log.info("bad ACK over %s: %s", flow, error)
            return None
        self._count += 1
        key = f"ack-{self._count}"
        if len(self._waiting) >= MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[key] = ack
        return RouteRequest(key, ack, flow, own_routes)

    def forward(self, event: Forward) -> SendStateless | Resolve | None:
        """Send an ACK to the first target, or ask for its address."""
        ack = self._waiting.pop(event.context, None)
        if ack is None or not event.targets:
            return None
        ack = event.request or ack
        target = event.targets[0]
        try:
            prepared = prepare(ack, target, incoming_breadth(ack))
            where = destinations_of(target, prepared)
        except SipParseError as error:
            _log.info("an ACK cannot be forwarded: %s", error)
            return None
        if isinstance(where, SipUri):
            if len(self._resolving) >= MOST_WAITING:
                del self._resolving[next(iter(self._resolving))]
            self._resolving[event.context] = (prepared, target.sent_by)
            return Resolve(event.context, where)
        return self._send(prepared, where[0], target.sent_by) if where else None

    def resolved(self, key: Key, destinations: tuple[Flow | Target, ...]) -> SendStateless | None:
        """Send an ACK to the address that was asked for."""
        ack, sent_by = self._resolving.pop(key, (None, None))
        return self._send(ack, destinations[0], sent_by) if ack is not None and destinations else None

    def drop(self, key: Key) -> None:
        """Forget an ACK."""
        self._waiting.pop(key, None)

    def _send(self, ack: Request, destination: Flow | Target, sent_by: SentBy | None) -> SendStateless:
        # Section 16.11: the same ACK gets the same branch each time.
        text = f"{self._salt}\0{ack.headers.first_element('Via')}\0{ack.uri}"
        branch = MAGIC + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]
        return SendStateless(ack, destination, sent_by, branch)
