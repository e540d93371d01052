"""The dialogs that run through the eP-CSCF: the only ways on which their clients' later requests go.

What is kept is also what it takes to end a call in the network's name (TS 24.229 clause 5.2.8.1).

This table alone says how long a dialog lives.  Whoever keeps something else about dialogs (the IMS-ALG: media) is told
when one is over, and has no rule of its own about it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from imskit.sip.engine.dialog import MAX_FORWARDS
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Message, Request
from imskit.sip.wire.uri import SipUri
from network_edge.ep_cscf.engine.effects import Side

MAKES_DIALOGS = frozenset({"INVITE", "SUBSCRIBE", "REFER"})

type DialogKey = tuple[str, str, str, str]
"""The registration, Call-ID, tag of the client, tag of the IMS side."""


@dataclass(slots=True)
class Root:
    """A request that may make dialogs, and those that it made."""

    mark: str
    """User part of the Record-Route values in it, and nowhere else: by it the core's requests find their dialog."""
    registration: str
    context: str
    """Empty when it is over."""
    call_id: str
    web_tag: str
    """The client's, if the client sent it to subscribe: its NOTIFYs may come before the dialog is known."""
    keys: set[DialogKey] = field(default_factory=set)

    def notifies(self, request: Request) -> bool:
        """Whether a request of IMS is about the subscription, in a dialog that no response made (RFC 6665 4.1.2)."""
        if request.method != "NOTIFY" or not self.web_tag:
            return False
        return (request.call_id, request.to.tag) == (self.call_id, self.web_tag)


@dataclass(slots=True)
class WebDialog:
    """One dialog between a client and IMS."""

    key: DialogKey
    mark: str
    """Of its `Root`."""
    method: str
    """Of the request that made it."""
    caller: Side
    icid: str
    """Charging identifier, the same in the whole dialog (TS 24.229 clause 4.5.2)."""
    routes: tuple[str, ...]
    """From here into IMS."""
    asserted: str
    """The client's public identity in it, by which IMS knows the client."""
    web: str
    """The client's address with tag, as in From or To."""
    ims: str
    web_target: str
    """The client's Contact."""
    ims_target: str
    first: int
    """CSeq number of the request that made it."""
    web_sequence: int
    """Latest CSeq number of the client, 0 for none."""
    ims_sequence: int
    shift: int = 0
    """How many requests of the edge's own IMS has had in the client's place: CSeq numbers are so far ahead there."""
    reliable: int | None = None
    """RSeq of the last provisional response that the edge has confirmed in the client's place."""
    confirmed: bool = False
    relayed: bool = False
    """The 2xx has gone on to the caller."""
    acknowledged: bool = False
    owed: str = ""
    """Over for IMS, and the client, whose connection is gone, is still to get a BYE with this Reason."""
    over_at: float | None = None
    """When a subscription ends that nobody renews."""

    @property
    def registration(self) -> str:
        """Whose it is."""
        return self.key[0]

    @property
    def is_call(self) -> bool:
        """Whether an INVITE made it; else it is a subscription."""
        return self.method == "INVITE"

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self.key[1]

    def saw(self, request: Request, side: Side) -> None:
        """Take in a request from ``side``: sequence, and target if it refreshes that."""
        number = request.cseq.number
        if request.method == "ACK":
            self.acknowledged = True
        elif side is Side.WEB:
            self.web_sequence = max(self.web_sequence, number)
        else:
            self.ims_sequence = max(self.ims_sequence, number)
        if request.method in ("INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY"):
            self.refresh(request, side)

    def refresh(self, message: Message, side: Side) -> None:
        """Take the Contact of ``side`` as its new target, if there is one."""
        target = contact_of(message)
        if target and side is Side.WEB:
            self.web_target = target
        elif target:
            self.ims_target = target

    def request(self, method: str, towards: Side) -> Request:
        """Build a request of the network's own within the dialog: BYE, PRACK, or the ACK that nobody sent."""
        if towards is Side.WEB:
            uri, sender, receiver = self.web_target, self.ims, self.web
            self.ims_sequence += method != "ACK"
            sequence = self.ims_sequence
        else:
            uri, sender, receiver = self.ims_target, self.web, self.ims
            self.shift += method != "ACK"
            sequence = self.web_sequence + self.shift
        if method == "ACK":
            sequence = self.first
        fields: list[tuple[str, object]] = []
        if towards is Side.IMS:
            fields += [("Route", route) for route in self.routes]
        fields += [
            ("Max-Forwards", MAX_FORWARDS),
            ("From", sender),
            ("To", receiver),
            ("Call-ID", self.call_id),
            ("CSeq", f"{sequence} {method}"),
        ]
        return Request.create(method, uri, fields)


def contact_of(message: Message) -> str:
    """Return the one Contact URI, empty if there is none that can be used."""
    try:
        contacts = message.contacts
    except SipParseError:
        return ""
    if not contacts or contacts == "*":
        return ""
    uri = contacts[0].uri
    return str(replace(uri, headers=None).without_parameters("method") if isinstance(uri, SipUri) else uri)


class Dialogs:
    """All of them, by key and registration; ``gone`` is told of each that is over, once or twice."""

    def __init__(self, gone: Callable[[WebDialog, float], None] = lambda _dialog, _now: None) -> None:
        self._gone = gone
        self._dialogs: dict[DialogKey, WebDialog] = {}
        self._by_registration: dict[str, dict[DialogKey, None]] = {}
        self._roots: dict[str, Root] = {}
        self._by_context: dict[str, Root] = {}
        self._due: list[tuple[float, DialogKey]] = []

    def __len__(self) -> int:
        return len(self._dialogs)

    def get(self, key: DialogKey) -> WebDialog | None:
        """Return a dialog."""
        return self._dialogs.get(key)

    def of(self, registration: str) -> Iterator[WebDialog]:
        """Give the dialogs of a registration."""
        for key in list(self._by_registration.get(registration, ())):
            yield self._dialogs[key]

    def count(self, registration: str, *, calls: bool) -> int:
        """How many calls a registration has, or how many subscriptions."""
        keys = self._by_registration.get(registration, ())
        return sum(1 for key in keys if self._dialogs[key].is_call is calls)

    def begin(self, root: Root) -> None:
        """A request goes on that may make dialogs."""
        self._roots[root.mark] = self._by_context[root.context] = root

    def root(self, mark: str) -> Root | None:
        """Return what this Record-Route belongs to, as long as the request or a dialog of it lives."""
        return self._roots.get(mark)

    def add(self, dialog: WebDialog) -> None:
        """Keep a new dialog, made by a request that `begin` was told of."""
        self._dialogs[dialog.key] = dialog
        self._by_registration.setdefault(dialog.registration, {})[dialog.key] = None
        self._roots[dialog.mark].keys.add(dialog.key)

    def remove(self, dialog: WebDialog, now: float) -> None:
        """Forget a dialog."""
        if self._dialogs.pop(dialog.key, None) is None:
            return
        keys = self._by_registration[dialog.registration]
        keys.pop(dialog.key, None)
        if not keys:
            del self._by_registration[dialog.registration]
        root = self._roots[dialog.mark]
        root.keys.discard(dialog.key)
        self._forget_if_over(root)
        self._gone(dialog, now)

    def owe(self, dialog: WebDialog, reason: str, now: float) -> None:
        """A dialog is over, but its client cannot be told of it yet."""
        dialog.owed = dialog.owed or reason
        self._gone(dialog, now)

    def relayed(self, context: str, callee_tag: str) -> None:
        """The 2xx of one of these dialogs has gone on to the caller."""
        root = self._by_context.get(context)
        for key in root.keys if root is not None else ():
            if callee_tag in key[2:]:
                self._dialogs[key].relayed = True

    def context_ended(self, context: str, now: float) -> None:
        """The request that made them is over: what no 2xx has confirmed is no dialog any more."""
        root = self._by_context.pop(context, None)
        if root is None:
            return
        root.context = ""
        for key in list(root.keys):
            if not self._dialogs[key].confirmed:
                self.remove(self._dialogs[key], now)
        self._forget_if_over(root)

    def _forget_if_over(self, root: Root) -> None:
        if not root.context and not root.keys:
            self._roots.pop(root.mark, None)

    # ---- subscriptions that run out -----------------------------------------------------------------------------

    def lasts(self, dialog: WebDialog, until: float) -> None:
        """A subscription ends then, unless it is renewed."""
        dialog.over_at = until
        heapq.heappush(self._due, (until, dialog.key))
        if len(self._due) > 64 + 4 * len(self._dialogs):
            # Renewals leave their old times behind.
            self._due = sorted((each.over_at, key) for key, each in self._dialogs.items() if each.over_at is not None)

    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        while self._due and self._stale(*self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def tick(self, now: float) -> None:
        """Forget the subscriptions that have run out."""
        while (due := self.deadline()) is not None and due <= now:
            self.remove(self._dialogs[heapq.heappop(self._due)[1]], now)

    def _stale(self, at: float, key: DialogKey) -> bool:
        dialog = self._dialogs.get(key)
        return dialog is None or dialog.over_at != at
