"""Dialogs (RFC 3261 section 12, RFC 6141 section 4, RFC 6665 section 4.4.1): identity, sequence, targets, routes.

A `Dialog` builds the requests sent within it and judges the sequence of those received.  What the dialog is used
for (an INVITE session, a subscription) is its owner's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import DEFAULT_PORTS, Target, Transport
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Message, Request, Response
from imskit.sip.wire.uri import SipUri

MAX_FORWARDS = 70

_TRANSPORTS: dict[tuple[str, bool], Transport] = {
    ("udp", False): "UDP",
    ("tcp", False): "TCP",
    ("tls", False): "TLS",
    ("ws", False): "WS",
    ("wss", False): "WSS",
    ("tcp", True): "TLS",
    ("tls", True): "TLS",
    ("ws", True): "WSS",
    ("wss", True): "WSS",
}
"""By the URI's transport parameter, and whether it is sips (RFC 3261 section 26.2.2, RFC 7118 section 5.2)."""


@dataclass(frozen=True, slots=True)
class DialogId:
    """Call-ID and tags, seen from here (RFC 3261 section 12)."""

    call_id: str
    local_tag: str
    remote_tag: str
    """Empty if the peer has none (an RFC 2543 element, section 12.1.1)."""

    @classmethod
    def of_request(cls, request: Request) -> DialogId:
        """Return the dialog that a received in-dialog request belongs to."""
        return cls(request.call_id, request.to.tag or "", request.from_.tag or "")

    @classmethod
    def of_response(cls, response: Response) -> DialogId:
        """Return the dialog that a received response belongs to or makes."""
        return cls(response.call_id, response.from_.tag or "", response.to.tag or "")


@dataclass(slots=True)
class Dialog:
    """State of one dialog; made by `from_response` or `from_request`."""

    id: DialogId
    local: str
    """Our address with tag: From of our requests."""
    remote: str
    """The peer's address with tag: To of our requests."""
    remote_target: str
    """Request-URI of our requests."""
    route_set: list[NameAddr]
    local_sequence: int
    """CSeq number of our latest request."""
    remote_sequence: int | None
    """CSeq number of the peer's latest request."""
    caller: bool
    """True if we sent the request that made the dialog: we own the Call-ID."""
    confirmed: bool = False

    @classmethod
    def from_response(cls, request: Request, response: Response) -> Dialog:
        """Make the dialog of a 101..299 response to our ``request`` (section 12.1.2).

        Raises `SipParseError` if the response has no usable Contact.
        """
        return cls(
            id=DialogId.of_response(response),
            local=_need(request, "From"),
            remote=_need(response, "To"),
            remote_target=target_of(response),
            route_set=response.record_routes[::-1],
            local_sequence=request.cseq.number,
            remote_sequence=None,
            caller=True,
            confirmed=response.success,
        )

    @classmethod
    def from_request(cls, request: Request, local_tag: str, *, confirmed: bool = False) -> Dialog:
        """Make the dialog of a ``request`` that we accept (section 12.1.1).

        Raises `SipParseError` (400) if the request has no usable Contact.
        """
        return cls(
            id=DialogId(request.call_id, local_tag, request.from_.tag or ""),
            local=_with_tag(_need(request, "To"), request.to, local_tag),
            remote=_need(request, "From"),
            remote_target=target_of(request),
            route_set=request.record_routes,
            local_sequence=0,
            remote_sequence=request.cseq.number,
            caller=False,
            confirmed=confirmed,
        )

    def confirm(self, response: Response) -> None:
        """Take in the 2xx to the initial INVITE: target and route set are computed anew (section 13.2.2.4)."""
        self.remote_target = target_of(response)
        self.route_set = response.record_routes[::-1]
        self.confirmed = True

    def accepts(self, request: Request) -> bool:
        """Judge the sequence of a received request and remember it; False: answer 500 (section 12.2.2)."""
        number = request.cseq.number
        if self.remote_sequence is not None and number <= self.remote_sequence:
            return False
        self.remote_sequence = number
        return True

    def refresh_target(self, message: Message) -> None:
        """Take the peer's Contact, if it has a usable one, as the new target (RFC 6141 sections 4.6, 4.7)."""
        contacts = message.contacts
        if contacts != "*" and contacts:
            self.remote_target = str(contacts[0].uri)

    def request(self, method: str, *, sequence: int | None = None) -> Request:
        """Build the next request (section 12.2.1.1); ``sequence`` is given for ACK only: its INVITE's number."""
        if sequence is None:
            self.local_sequence += 1
            sequence = self.local_sequence
        uri, routes = self._routing()
        fields: list[tuple[str, object]] = [("Route", route) for route in routes]
        fields += [
            ("Max-Forwards", MAX_FORWARDS),
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.id.call_id),
            ("CSeq", f"{sequence} {method}"),
        ]
        return Request.create(method, uri, fields)

    def _routing(self) -> tuple[str, list[str]]:
        if not self.route_set:
            return self.remote_target, []
        first = self.route_set[0].uri
        if isinstance(first, SipUri) and not first.loose_router:
            # A strict router in front: it wants its own URI there, and the target at the end of the Route.
            strict = first.without_parameters("method", "maddr", "ttl") if first.parameters else first
            routes = [str(route) for route in self.route_set[1:]]
            return str(strict), [*routes, f"<{self.remote_target}>"]
        return self.remote_target, [str(route) for route in self.route_set]


def target_of(message: Message) -> str:
    """Return the one Contact URI that makes or refreshes a dialog (section 12.1.1).

    Raises `SipParseError` (400) if there is none.
    """
    contacts = message.contacts
    if contacts == "*" or not contacts:
        raise SipParseError("a dialog needs a Contact", where="Contact", clause="RFC 3261 section 12.1")
    return str(contacts[0].uri)


def next_hop(request: Request) -> Target:
    """Return where a request goes, without look-up: the first Route, else the Request-URI (section 8.1.2).

    A host name is left to whoever sends (RFC 3263).  Raises `SipParseError` for a URI that is neither sip nor sips
    and for a transport that is not spoken here.
    """
    route = request.headers.first_element("Route")
    uri = NameAddr.parse(route, "Route").uri if route else request.request_uri
    if not isinstance(uri, SipUri):
        raise SipParseError("only a SIP URI says where to send to", where="URI", clause="RFC 3261 section 8.1.2")
    secure = uri.scheme == "sips"
    named = uri.transport or ("tls" if secure else "udp")
    transport = _TRANSPORTS.get((named, secure))
    if transport is None:
        raise SipParseError("the transport is not spoken here", where="URI", found=named)
    host = uri.parameters.get("maddr") or uri.host
    return Target(transport, (host, uri.port or DEFAULT_PORTS[transport]), uri.host)


def _need(message: Message, name: str) -> str:
    value = message.headers.get(name)
    if not value:
        raise SipParseError("the header is missing", where=name, clause="RFC 3261 section 8.1.1")
    return value


def _with_tag(value: str, address: NameAddr, tag: str) -> str:
    return value if address.tag is not None else f"{value};tag={tag}"
