"""The response context of a forwarded request: its branches and the responses so far (RFC 3261 section 16.7)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from imskit.sip.engine.events import Key
from imskit.sip.engine.proxy_events import ForwardTarget, Origin
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Request, Response, response_to

_PREFERRED = (401, 407, 415, 420, 484)
"""They tell the caller how to send the request again (section 16.7 step 6)."""
_LEAST = (408, 487, 503)
"""They tell of a branch that said nothing of its own."""
FLOW_FAILED = 430
"""What an edge proxy says of a flow that is gone (RFC 5626 section 11.5)."""
_CHALLENGES = ("WWW-Authenticate", "Proxy-Authenticate")


@dataclass(slots=True)
class Final:
    """A final response of a branch, without this proxy's Via."""

    response: Response
    flow: Flow | None
    origin: Origin


@dataclass(slots=True)
class Branch:
    """One target and the attempts to reach it."""

    number: int
    target: ForwardTarget
    unprepared: Request
    """As the owner gave it."""
    request: Request
    """Ready but for its Via; each attempt sends a copy."""
    breadth: int
    destinations: deque[Flow | Target] = field(default_factory=deque)
    attempts: int = 0
    current: Key | None = None
    """The client transaction of the last attempt."""
    heard: bool = False
    """A provisional response has come."""
    done: bool = False
    """A final response has come, or nothing more can."""


@dataclass(slots=True)
class Waiting:
    """A target whose turn has not come yet."""

    target: ForwardTarget
    request: Request


@dataclass(slots=True)
class ResponseContext:
    """Everything about one request between its arrival and the end of its transactions."""

    key: Key
    request: Request
    """As `RouteRequest` showed it."""
    flow: Flow
    mark: str
    """Second part of every branch value (RFC 5393)."""
    breadth: int
    """Incoming Max-Breadth."""
    branches: list[Branch] = field(default_factory=list)
    waiting: deque[Waiting] = field(default_factory=deque)
    finals: list[Final] = field(default_factory=list)
    outbox: deque[Final] = field(default_factory=deque)
    """Responses for the owner to see, in order; provisional ones too."""
    shown: Final | None = None
    """The one that the owner has before it."""
    live: set[Key] = field(default_factory=set)
    """Client transactions that have not ended."""
    closed: bool = False
    """Nothing new is started any more: a final response, a 6xx, or a CANCEL has come."""
    cancelled: bool = False
    """A CANCEL has come from upstream."""
    final_chosen: bool = False
    server_ended: bool = False

    @property
    def invite(self) -> bool:
        """True for an INVITE."""
        return self.request.method == "INVITE"

    @property
    def pending(self) -> list[Branch]:
        """Branches without a final response."""
        return [branch for branch in self.branches if not branch.done]

    @property
    def free_breadth(self) -> int:
        """What is left of the Incoming Max-Breadth (RFC 5393 section 5.3.3)."""
        return self.breadth - sum(branch.breadth for branch in self.pending)

    @property
    def over(self) -> bool:
        """True if no transaction of it is left."""
        return self.server_ended and not self.live


def leaves_the_instance_unheard(final: Final) -> bool:
    """Whether another flow of the same instance may be tried after this (RFC 5626 section 7)."""
    status = final.response.status
    return status in (408, FLOW_FAILED) or (status == 503 and final.origin != "received")


def choose_best(request: Request, finals: list[Final]) -> Final:
    """Choose and complete the best of some final responses without 2xx (section 16.7 steps 6 and 7)."""
    best = min(finals, key=_rank)
    status = best.response.status
    others = [final.response for final in finals if final is not best]
    if status in (401, 407):
        for other in others:
            if other.status in (401, 407):
                for name in _CHALLENGES:
                    best.response.headers.copy_from(other.headers, name)
    elif 300 <= status < 400:
        _join_contacts(best.response, [other for other in others if 300 <= other.status < 400])
    elif status == 503:
        # A 503 of the proxy's own would tell the caller to send it nothing more.
        return Final(response_to(request, 500), None, best.origin)
    return best


def _rank(final: Final) -> tuple[int, int]:
    status = final.response.status
    if status == FLOW_FAILED:
        # Nothing for an endpoint, and the instance may answer elsewhere (RFC 5626 section 11.5).
        return 9, 0
    group = 0 if status >= 600 else status // 100
    if status in _PREFERRED:
        return group, _PREFERRED.index(status)
    return group, len(_PREFERRED) + (1 + _LEAST.index(status) if status in _LEAST else 0)


def _join_contacts(best: Response, others: list[Response]) -> None:
    try:
        known = set(best.headers.elements("Contact"))
        for other in others:
            for contact in other.headers.elements("Contact"):
                if contact not in known:
                    known.add(contact)
                    best.headers.add_parsed("Contact", contact)
    except SipParseError:
        # Somebody's unreadable contact list is no reason to lose the others.
        return
