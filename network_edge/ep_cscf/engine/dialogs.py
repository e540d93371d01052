"""The dialogs that run through the eP-CSCF: the only ways on which their clients' later requests go.

What is kept is also what it takes to end a call in the network's name (TS 24.229 clause 5.2.8.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from imskit.sip.engine.dialog import MAX_FORWARDS
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Message, Request
from imskit.sip.wire.uri import SipUri
from network_edge.ep_cscf.engine.effects import Side

MAKES_DIALOGS = frozenset({"INVITE", "SUBSCRIBE", "REFER"})

type DialogKey = tuple[str, str, str, str]
"""Token of the registration, Call-ID, tag of the client, tag of the IMS side."""


@dataclass(slots=True)
class WebDialog:
    """One dialog between a client and IMS."""

    key: DialogKey
    method: str
    """Of the request that made it."""
    caller: Side
    context: str
    """Of the request that made it, until a 2xx confirms the dialog."""
    icid: str
    """Charging identifier, the same in the whole dialog (TS 24.229 clause 4.5.2)."""
    routes: tuple[str, ...]
    """From here into IMS."""
    web: str
    """The client's address with tag, as in From or To."""
    ims: str
    web_target: str
    """The client's Contact."""
    ims_target: str
    web_sequence: int
    """Latest CSeq number of the client, 0 for none."""
    ims_sequence: int
    confirmed: bool = False
    relayed: bool = False
    """The 2xx has gone on to the caller."""
    acknowledged: bool = False

    @property
    def token(self) -> str:
        """The registration's."""
        return self.key[0]

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
        """Build a request of the network's own within the dialog: BYE, or the ACK that nobody sent."""
        if towards is Side.WEB:
            uri, sender, receiver, sequence = self.web_target, self.ims, self.web, self.ims_sequence
        else:
            uri, sender, receiver, sequence = self.ims_target, self.web, self.ims, self.web_sequence
        if method != "ACK":
            sequence += 1
            if towards is Side.WEB:
                self.ims_sequence = sequence
            else:
                self.web_sequence = sequence
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
    """All of them, by key and registration."""

    def __init__(self) -> None:
        self._dialogs: dict[DialogKey, WebDialog] = {}
        self._by_token: dict[str, dict[DialogKey, None]] = {}
        self._by_context: dict[str, set[DialogKey]] = {}

    def __len__(self) -> int:
        return len(self._dialogs)

    def get(self, key: DialogKey) -> WebDialog | None:
        """Return a dialog."""
        return self._dialogs.get(key)

    def of(self, token: str) -> Iterator[WebDialog]:
        """Give the dialogs of a registration."""
        for key in list(self._by_token.get(token, ())):
            yield self._dialogs[key]

    def count(self, token: str) -> int:
        """How many dialogs a registration has."""
        return len(self._by_token.get(token, ()))

    def add(self, dialog: WebDialog) -> None:
        """Keep a new dialog."""
        self._dialogs[dialog.key] = dialog
        self._by_token.setdefault(dialog.token, {})[dialog.key] = None
        self._by_context.setdefault(dialog.context, set()).add(dialog.key)

    def remove(self, dialog: WebDialog) -> None:
        """Forget a dialog."""
        if self._dialogs.pop(dialog.key, None) is None:
            return
        keys = self._by_token[dialog.token]
        keys.pop(dialog.key, None)
        if not keys:
            del self._by_token[dialog.token]

    def relayed(self, context: str, callee_tag: str) -> None:
        """The 2xx of one of these dialogs has gone on to the caller."""
        for key in self._by_context.get(context, ()):
            if callee_tag in key[2:] and (dialog := self._dialogs.get(key)) is not None:
                dialog.relayed = True

    def context_ended(self, context: str) -> None:
        """The request that made them is over: what no 2xx has confirmed is no dialog any more."""
        for key in self._by_context.pop(context, ()):
            dialog = self._dialogs.get(key)
            if dialog is not None and not dialog.confirmed:
                self.remove(dialog)
