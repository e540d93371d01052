"""What goes into and comes out of a `TransactionLayer`; every name here is also exported by ``layer``.

Keys are opaque strings.  The owner chooses the key of a request that it sends; the layer chooses the key of a
server transaction.  Both name the transaction in everything that follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from imskit.engine import Tick
from imskit.sip.engine.timers import TimerProfile
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.message import Message, Request, Response

type Key = str


@dataclass(frozen=True, slots=True)
class SentBy:
    """What the Via of an own request says about its sender."""

    host: str
    """Name or address, IPv6 without brackets."""
    port: int | None = None
    parameters: tuple[tuple[str, str | None], ...] = (("rport", None),)
    """Via parameters beside branch.  ``rport`` asks for the response at the source port (RFC 3581): leave it out
    where responses go to another port, as with IPsec (TS 24.229 section 5.1.1.2)."""


# ---- in ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A message came in over ``flow``: the bytes of a whole one, or what `wire.validate` has passed."""

    message: Message | bytes
    flow: Flow


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Start a client transaction for ``request`` (any method but ACK and CANCEL).

    The layer takes the request over and puts its Via on top.
    """

    request: Request
    destination: Flow | Target
    key: Key
    """Unused by any live client transaction."""
    sent_by: SentBy | None = None
    """Host and port of the Via, where they differ from the layer's own for that transport."""
    branch: str | None = None
    """A whole branch value beginning with ``z9hG4bK``; ``None``: a fresh one."""
    profile: TimerProfile | None = None
    """``None``: the layer's choice by the local address."""


@dataclass(frozen=True, slots=True)
class SendResponse:
    """Answer a server transaction; one that has ended takes nothing any more (RFC 6026 section 8.3)."""

    key: Key
    response: Response


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Cancel the INVITE of a client transaction: at once, or when its first provisional response comes.

    The CANCEL's own outcome is not reported; the INVITE's is (RFC 3261 section 9.1).
    """

    key: Key
    headers: tuple[tuple[str, str], ...] = ()
    """More fields for the CANCEL, such as Reason (RFC 3326)."""


@dataclass(frozen=True, slots=True)
class SendStateless:
    """Send a request outside any transaction: an ACK for a 2xx.  The layer puts its Via on top."""

    request: Request
    destination: Flow | Target
    sent_by: SentBy | None = None
    branch: str | None = None
    """As in `SendRequest`; give the same one again when the same ACK is sent again."""


@dataclass(frozen=True, slots=True)
class TransportFailed:
    """A `Transmit` could not be delivered: no connection, ICMP error (RFC 3261 section 18.4)."""

    key: Key | None
    """The key of the `Transmit`."""
    reason: str


@dataclass(frozen=True, slots=True)
class FlowClosed:
    """A connection is gone.  Requests waiting on a WebSocket fail at once: nothing can answer them any more."""

    flow: Flow
    reason: str


type Event = Received | SendRequest | SendResponse | SendCancel | SendStateless | TransportFailed | FlowClosed | Tick

# ---- out -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send ``message`` to ``destination``."""

    message: Message
    destination: Flow | Target
    key: Key | None = None
    """Names the transaction in a `TransportFailed`; ``None``: nobody waits for the outcome."""
    fallback: Target | None = None
    """Where a response goes when its connection is gone (RFC 3261 section 18.2.2)."""


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A new request; answer it with `SendResponse`.  A CANCEL comes this way only if it matches nothing."""

    key: Key
    request: Request
    flow: Flow


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """The INVITE of ``key`` is cancelled; the layer has answered the CANCEL 200, the INVITE awaits its 487."""

    key: Key
    request: Request
    """The CANCEL."""
    flow: Flow


@dataclass(frozen=True, slots=True)
class AckReceived:
    """The ACK of a 2xx; those of other responses end in the layer."""

    request: Request
    flow: Flow


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """A response of a client transaction; of a retransmitted final one only 2xx to INVITE come again."""

    key: Key
    response: Response
    flow: Flow


@dataclass(frozen=True, slots=True)
class TransactionTimeout:
    """Timer B or F ran out, a cancelled or silent INVITE never ended, or (server) no ACK or no answer came."""

    key: Key


@dataclass(frozen=True, slots=True)
class TransactionFailed:
    """A message of the transaction could not be sent.  A server INVITE goes on (RFC 6026 section 7.1)."""

    key: Key
    reason: str


@dataclass(frozen=True, slots=True)
class TransactionEnded:
    """The transaction is forgotten and its key free; the last output with this key."""

    key: Key


@dataclass(frozen=True, slots=True)
class StrayResponse:
    """A response without a transaction; it must not be forwarded (RFC 6026 section 7.3)."""

    response: Response
    flow: Flow


type Output = (
    Transmit
    | RequestReceived
    | CancelReceived
    | AckReceived
    | ResponseReceived
    | TransactionTimeout
    | TransactionFailed
    | TransactionEnded
    | StrayResponse
)
