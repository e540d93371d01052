"""What goes into and comes out of a `ProxyCore`, beside the events of its transaction layer.

A context is one request on its way: from `RouteRequest` to `ContextEnded`.  Its key is that of the server
transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imskit.sip.engine.events import Event, Key, Output, SentBy
from imskit.sip.engine.timers import TimerProfile
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Request, Response
from imskit.sip.wire.uri import SipUri

type Origin = Literal["received", "timeout", "unreachable"]
"""Who made a final response: somebody downstream, or the core because nobody answered or could be reached."""

# ---- in ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordRoute:
    """The URIs by which this proxy stays in the dialog; ``lr`` is added where it is missing.

    Where the two differ (other address, port or transport), both are recorded, each towards its side, and marked
    ``r2=on`` so that both are taken off again together (RFC 5658 section 3.1).
    """

    previous: SipUri
    """For the side that the request came from."""
    next: SipUri
    """For the side that it goes to."""


@dataclass(frozen=True, slots=True)
class ForwardTarget:
    """One branch: where to, and what is special about its copy of the request."""

    uri: str = ""
    """The new Request-URI; empty: unchanged."""
    destinations: tuple[Flow | Target, ...] = ()
    """To be tried in this order; none: by first Route or Request-URI, asked through `Resolve` if that is a name."""
    routes: tuple[str, ...] = ()
    """Route values (``<sip:…;lr>``) to go in front: a Path vector, a Service-Route, the next proxy."""
    record_route: RecordRoute | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    """Fields to set; with ``None`` to remove."""
    group: int = 0
    """Targets of one group are tried in parallel, groups one after the other from the lowest."""
    sent_by: SentBy | None = None
    profile: TimerProfile | None = None
    """As in `SendRequest`."""
    alternatives: tuple[ForwardTarget, ...] = ()
    """Other flows to the same instance (RFC 5626 section 7): one takes the branch's place when that ends with 430 or
    408, or cannot be reached, and never after another response.  Their own group does not count."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request on; answers `RouteRequest`.

    It may be given again until a final response has gone out, also in the place of a `RelayResponse` to a final
    response that is no 2xx: that response is forgotten and the new targets are tried (call forwarding, 3xx).
    """

    context: Key
    targets: tuple[ForwardTarget, ...] = (ForwardTarget(),)
    """As it stands, the request follows its Route or Request-URI."""
    request: Request | None = None
    """An edited copy of `RouteRequest.request` for these targets; ``None``: unedited."""


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer the request here; a final response also cancels every branch.  To gets a tag if it has none."""

    context: Key
    response: Response


@dataclass(frozen=True, slots=True)
class RelayResponse:
    """Let a `ResponseReady` go on, edited or not; ``None`` drops it."""

    context: Key
    response: Response | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Answers `Resolve`: destinations in the order of RFC 3263, none if there are none."""

    branch: Key
    destinations: tuple[Flow | Target, ...]


type ProxyEvent = Event | Forward | Respond | RelayResponse | Resolved

# ---- out -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """Where does this request go?  Answer with `Forward` or `Respond`; an ACK only with one `Forward` target.

    ``request`` has passed the checks of RFC 3261 section 16.3 and lost the Route values that name this proxy.
    """

    context: Key
    request: Request
    flow: Flow
    own_routes: tuple[SipUri, ...]
    """The values of this proxy's own that were taken off, as the request carried them: their user part or
    parameters may hold what the owner once put into a Record-Route, Path or Service-Route."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """The next hop is a name: answer with `Resolved`."""

    branch: Key
    uri: SipUri


@dataclass(frozen=True, slots=True)
class ResponseReady:
    """A response is to go back: answer with `RelayResponse` (or `Forward`); the next one comes after that."""

    context: Key
    response: Response
    """Without this proxy's Via; a copy that may be edited."""
    flow: Flow | None
    """Where it came from; ``None`` if the core made it."""
    origin: Origin


@dataclass(frozen=True, slots=True)
class FlowFailed:
    """A target answered 430: the flow that it leads to is gone (RFC 5626 section 11.5)."""

    context: Key
    target: ForwardTarget


@dataclass(frozen=True, slots=True)
class ContextEnded:
    """Nothing more will come about this context; what was kept for it can go."""

    context: Key


type ProxyOutput = Output | RouteRequest | Resolve | ResponseReady | FlowFailed | ContextEnded
