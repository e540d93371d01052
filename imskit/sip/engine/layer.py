"""The transaction layer: messages in, transactions matched or made, messages out (RFC 3261 section 17 and 18).

An engine (`imskit.engine`).  Its owner, a user agent or a proxy core, feeds what the transport received and what it
wants to send itself, and drains `Transmit` for the transport and the rest for itself.  On the way in the layer

- refuses statelessly what cannot be parsed or matched, and everything new (503) when it is full;
- sets ``received`` and ``rport`` of the top Via (RFC 3261 section 18.2.1, RFC 3581);
- absorbs retransmissions and the ACK of failed INVITEs, answers a CANCEL that matches, answers a merged request 482
  (section 8.2.2.2; not in a proxy, section 16.3);
- drops responses that match nothing (`StrayResponse`, RFC 6026 section 7.3).

On the way out it puts the Via on top, sends requests above 1300 bytes over TCP instead of UDP and comes back to UDP
when there is no connection (section 18.1.1), and runs all timers.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from imskit.engine import Tick, Tokens
from imskit.sip.engine.events import (
    AckReceived,
    CancelReceived,
    Event,
    FlowClosed,
    Key,
    Output,
    Received,
    RequestReceived,
    ResponseReceived,
    SendCancel,
    SendRequest,
    SendResponse,
    SendStateless,
    SentBy,
    StrayResponse,
    TransactionEnded,
    TransactionFailed,
    TransactionTimeout,
    Transmit,
    TransportFailed,
)
from imskit.sip.engine.machines import Input, State
from imskit.sip.engine.timers import RFC3261, TimerProfile
from imskit.sip.engine.transaction import ClientTransaction, ServerTransaction, cancel_of, response_route
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Address, Flow, Target, Transport
from imskit.sip.wire.grammar import NO_PARAMETERS, Parameters
from imskit.sip.wire.headers import Via
from imskit.sip.wire.message import Message, Request, Response, response_to
from imskit.sip.wire.validate import parse_and_validate, refusal

__all__ = [
    "AckReceived",
    "CancelReceived",
    "Event",
    "FlowClosed",
    "Key",
    "Output",
    "Received",
    "RequestReceived",
    "ResponseReceived",
    "SendCancel",
    "SendRequest",
    "SendResponse",
    "SendStateless",
    "SentBy",
    "StrayResponse",
    "Tick",
    "TransactionEnded",
    "TransactionFailed",
    "TransactionLayer",
    "TransactionTimeout",
    "Transmit",
    "TransportFailed",
]

_log = logging.getLogger(__name__)

MAGIC = "z9hG4bK"
"""What a branch begins with (RFC 3261 section 8.1.1.7)."""
LARGEST_DATAGRAM = 1300
"""Bytes of a request above which a stream is used (RFC 3261 section 18.1.1)."""

type _Match = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Detour:
    """A request that its size sent over TCP, and where it goes if there is no connection to be had."""

    udp: Flow | Target
    sent_by: SentBy | None


class TransactionLayer:
    """The engine of this module's text.

    ``sent_by`` gives host and port for the Via by transport; without an entry the local address of the flow is
    used, and a request to a `Target` needs its own.  ``local_profiles`` gives other timers to the traffic of a
    local address: a P-CSCF has one set towards the UEs and one towards the core (TS 24.229 section 7.7).
    ``refuse_merged`` is for a user agent server, not for a proxy.  Above ``max_transactions`` new requests are
    answered 503 with Retry-After (seconds) and forgotten.
    """

    def __init__(
        self,
        tokens: Tokens,
        profile: TimerProfile = RFC3261,
        *,
        sent_by: Mapping[Transport, SentBy] | None = None,
        local_profiles: Mapping[Address, TimerProfile] | None = None,
        refuse_merged: bool = True,
        max_transactions: int = 20_000,
        retry_after: int = 10,
    ) -> None:
        self._tokens = tokens
        self._profile = profile
        self._sent_by = dict(sent_by or {})
        self._local_profiles = dict(local_profiles or {})
        self._refuse_merged = refuse_merged
        self._max_transactions = max_transactions
        self._retry_after = retry_after
        # The To tag of stateless answers begins with this, so that their ACKs are known without state.
        self._refusal_tag = tokens(16)
        self._clients: dict[Key, ClientTransaction] = {}
        self._client_matches: dict[tuple[str, str], ClientTransaction] = {}
        self._servers: dict[Key, ServerTransaction] = {}
        self._server_matches: dict[_Match, ServerTransaction] = {}
        self._merges: dict[tuple[str, str, int, str], ServerTransaction] = {}
        self._detours: dict[Key, _Detour] = {}
        self._of_flow: dict[Flow, dict[Key, ClientTransaction]] = {}
        """The client transactions over each WebSocket."""
        self._count = 0
        self._outputs: deque[Output] = deque()
        self._queue: list[tuple[float, int, ClientTransaction | ServerTransaction]] = []
        self._queued = 0

    # ---- the engine's contract -------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take in one event; raises `ValueError` for a misuse by the owner (a key in use, no sent-by), nothing else."""
        match event:
            case Received(message, flow):
                self._receive(message, flow, now)
            case SendRequest():
                self._send_request(event, now)
            case SendResponse(key, response):
                if (server := self._servers.get(key)) is not None:
                    server.respond(response, now)
                    self._settle(server)
                else:
                    _log.debug("transaction %s has ended: %d not sent", key, response.status)
            case SendCancel(key, headers):
                if (client := self._clients.get(key)) is not None:
                    client.cancel(headers)
                    self._after_client(client, now)
            case SendStateless(request, destination, sent_by, branch):
                towards = self._address(request, destination, sent_by, branch)
                self._outputs.append(Transmit(request, towards))
            case TransportFailed(key, reason):
                self._transport_failed(key, reason, now)
            case FlowClosed(flow, reason):
                self._flow_closed(flow, reason, now)
            case Tick():
                pass
        self._fire_due(now)

    def poll(self) -> Output | None:
        """Return the next output."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When the next timer fires."""
        while self._queue:
            due, _, transaction = self._queue[0]
            if transaction.scheduled == due and not transaction.ended:
                return due
            heapq.heappop(self._queue)
        return None

    @property
    def transactions(self) -> int:
        """How many transactions there are."""
        return len(self._clients) + len(self._servers)

    def uses(self, way: Callable[[Flow | Target], bool]) -> bool:
        """Tell whether a transaction that has not ended has a way that ``way`` is true for."""
        clients, servers = self._clients.values(), self._servers.values()
        return any(way(each.destination) for each in clients) or any(way(each.flow) for each in servers)

    # ---- from the network ------------------------------------------------------------------------------------

    def _receive(self, message: Message | bytes, flow: Flow, now: float) -> None:
        if isinstance(message, bytes):
            data = message
            try:
                message = parse_and_validate(data)
            except SipParseError as error:
                _log.info("bad message over %s: %s", flow, error)
                if (response := refusal(data, error)) is not None:
                    self._outputs.append(Transmit(response, flow))
                return
        if isinstance(message, Request):
            self._receive_request(message, flow, now)
        elif isinstance(message, Response):
            self._receive_response(message, flow, now)

    def _receive_request(self, request: Request, flow: Flow, now: float) -> None:
        _mark_source(request, flow)
        match = _server_match(request)
        server = self._server_matches.get(match)
        if request.method == "ACK":
            self._receive_ack(request, server, flow, now)
        elif server is not None:
            server.step(Input.REQUEST, now, request)
            self._settle(server)
        elif self.transactions >= self._max_transactions and request.method != "CANCEL":
            _log.warning("%d transactions: %s over %s refused", self.transactions, request.method, flow)
            self._refuse(request, flow, 503)
        elif self._merged(request):
            _log.info("merged %s over %s refused", request.method, flow)
            self._refuse(request, flow, 482, "Merged Request")
        elif request.method == "CANCEL" and (invite := self._cancelled(match)) is not None:
            self._answer_cancel(request, invite, match, flow, now)
        else:
            self._start_server(request, match, flow, now)

    def _receive_ack(self, ack: Request, server: ServerTransaction | None, flow: Flow, now: float) -> None:
        if server is not None and server.step(Input.ACK, now, ack):
            self._settle(server)
        elif server is None and not (ack.to.tag or "").startswith(self._refusal_tag):
            self._outputs.append(AckReceived(ack, flow))

    def _merged(self, request: Request) -> bool:
        return (
            self._refuse_merged
            and request.method not in ("CANCEL", "ACK")
            and request.to.tag is None
            and _merge_key(request) in self._merges
        )

    def _cancelled(self, match: _Match) -> ServerTransaction | None:
        return self._server_matches.get((*match[:-1], "INVITE"))

    def _answer_cancel(self, cancel: Request, invite: ServerTransaction, match: _Match, flow: Flow, now: float) -> None:
        server = self._start_server(cancel, match, flow, now, quiet=True)
        # Section 9.2: the To tag of this answer and of the INVITE's should be the same.
        last = invite.last_response
        tag = last.to.tag if last is not None and last.status > 100 else None
        server.respond(response_to(cancel, 200, to_tag=tag or self._tokens(16)), now)
        self._settle(server)
        if invite.state is State.PROCEEDING:
            self._outputs.append(CancelReceived(invite.key, cancel, flow))

    def _start_server(
        self, request: Request, match: _Match, flow: Flow, now: float, *, quiet: bool = False
    ) -> ServerTransaction:
        self._count += 1
        profile = self._local_profiles.get(flow.local, self._profile)
        server = ServerTransaction(
            f"server-{self._count}", request, flow, profile, self._outputs.append, match, quiet=quiet
        )
        self._servers[server.key] = self._server_matches[match] = server
        if self._refuse_merged and request.to.tag is None and not quiet:
            self._merges[_merge_key(request)] = server
        server.start(now)
        self._settle(server)
        return server

    def _receive_response(self, response: Response, flow: Flow, now: float) -> None:
        via = response.top_via
        client = self._client_matches.get((via.branch or "", response.cseq.method))
        if client is None or client.sent_by != via.sent_by or _too_many_hops(response, client.via_count):
            _log.debug("stray response %d over %s", response.status, flow)
            self._outputs.append(StrayResponse(response, flow))
            return
        client.respond(response, flow, now)
        self._after_client(client, now)

    def _refuse(self, request: Request, flow: Flow, status: int, reason: str | None = None) -> None:
        """Answer without state; the To tag makes the ACK known."""
        response = response_to(request, status, reason, to_tag=self._refusal_tag + self._tokens(8))
        if status == 503:
            response.headers.add("Retry-After", self._retry_after)
        destination, fallback = response_route(request, flow)
        self._outputs.append(Transmit(response, destination, None, fallback))

    # ---- from the owner --------------------------------------------------------------------------------------

    def _send_request(self, event: SendRequest, now: float) -> None:
        if event.key in self._clients:
            raise ValueError(f"a client transaction has the key {event.key} already")
        if event.request.method in ("ACK", "CANCEL"):
            raise ValueError(f"{event.request.method} makes no client transaction: SendStateless, SendCancel")
        destination = self._address(event.request, event.destination, event.sent_by, event.branch)
        client = ClientTransaction(
            event.key,
            event.request,
            destination,
            event.profile or self._profile_towards(event.destination),
            self._outputs.append,
        )
        if destination is not event.destination:
            self._detours[event.key] = _Detour(event.destination, event.sent_by)
        self._start_client(client, now)

    def _start_client(self, client: ClientTransaction, now: float) -> None:
        self._clients[client.key] = self._client_matches[client.branch, client.request.method] = client
        way = client.destination
        if way.transport in ("WS", "WSS") and isinstance(way, Flow):
            self._of_flow.setdefault(way, {})[client.key] = client
        client.start(now)
        self._settle(client)

    def _after_client(self, client: ClientTransaction, now: float) -> None:
        if client.cancel_now:
            cancel = ClientTransaction(
                f"cancel {client.branch}",
                cancel_of(client.request, client.cancel_headers or ()),
                client.destination,
                client.profile,
                self._outputs.append,
                quiet=True,
            )
            client.cancelled(now)
            self._start_client(cancel, now)
        self._settle(client)

    def _address(
        self, request: Request, wanted: Flow | Target, sent_by: SentBy | None, branch: str | None
    ) -> Flow | Target:
        """Put the Via on top and return where the request goes: to a stream if it is too long for a datagram."""
        branch = branch or MAGIC + self._tokens(20)
        self._push_via(request, wanted, sent_by or self._name_for(wanted, wanted), branch)
        if wanted.transport != "UDP" or len(request.encode()) <= LARGEST_DATAGRAM:
            return wanted
        if isinstance(wanted, Flow):
            # Who knows this element by one of its addresses gets the connection from there too.
            stream = Target("TCP", wanted.remote, source=wanted.local[0])
        else:
            stream = replace(wanted, transport="TCP")
        request.headers.pop_element("Via")
        self._push_via(request, stream, sent_by or self._name_for(stream, wanted), branch)
        return stream

    def _push_via(self, request: Request, destination: Flow | Target, sent_by: SentBy, branch: str) -> None:
        parameters = Parameters.of((*sent_by.parameters, ("branch", branch)))
        request.headers.prepend("Via", Via(destination.transport, sent_by.host, sent_by.port, parameters))

    def _name_for(self, destination: Flow | Target, wanted: Flow | Target) -> SentBy:
        """Return the sent-by towards ``destination``, which may be a stream in the place of a datagram."""
        # Section 18.2.1: who listens for datagrams listens for connections on the same address and port.
        for way in (destination, wanted):
            if (sent_by := self._sent_by.get(way.transport)) is not None:
                return sent_by
        if isinstance(wanted, Target):
            raise ValueError(f"no sent-by for {wanted.transport} without a flow")
        return SentBy(*wanted.local)

    def _profile_towards(self, destination: Flow | Target) -> TimerProfile:
        if isinstance(destination, Target):
            return self._profile
        return self._local_profiles.get(destination.local, self._profile)

    # ---- from the transport ----------------------------------------------------------------------------------

    def _transport_failed(self, key: Key | None, reason: str, now: float) -> None:
        if key is None:
            return
        if (client := self._clients.get(key)) is not None:
            detour = self._detours.pop(key, None)
            if detour is not None and client.state in (State.CALLING, State.TRYING):
                _log.info("no stream for %s (%s): back to UDP", key, reason)
                client.request.headers.pop_element("Via")
                sent_by = detour.sent_by or self._name_for(detour.udp, detour.udp)
                self._push_via(client.request, detour.udp, sent_by, client.branch)
                client.resend_over(detour.udp, now)
            else:
                client.fail(Input.TRANSPORT_ERROR, reason, now)
            self._after_client(client, now)
        elif (server := self._servers.get(key)) is not None:
            server.fail(Input.TRANSPORT_ERROR, reason, now)
            self._settle(server)

    def _flow_closed(self, flow: Flow, reason: str, now: float) -> None:
        for client in list(self._of_flow.get(flow, {}).values()):
            client.fail(Input.FLOW_CLOSED, reason, now)
            self._after_client(client, now)

    # ---- time and tables -------------------------------------------------------------------------------------

    def _fire_due(self, now: float) -> None:
        while (due := self.deadline()) is not None and due <= now:
            _, _, transaction = heapq.heappop(self._queue)
            transaction.scheduled = None
            transaction.fire_due(now)
            if isinstance(transaction, ClientTransaction):
                self._after_client(transaction, now)
            else:
                self._settle(transaction)

    def _settle(self, transaction: ClientTransaction | ServerTransaction) -> None:
        """Queue the next deadline of a transaction, or forget it."""
        if transaction.ended:
            self._forget(transaction)
            return
        due = transaction.deadline
        if due is not None and due != transaction.scheduled:
            self._queued += 1
            heapq.heappush(self._queue, (due, self._queued, transaction))
        transaction.scheduled = due

    def _forget(self, transaction: ClientTransaction | ServerTransaction) -> None:
        key = transaction.key
        if isinstance(transaction, ClientTransaction):
            if self._clients.pop(key, None) is None:
                return
            self._client_matches.pop((transaction.branch, transaction.request.method), None)
            self._detours.pop(key, None)
            way = transaction.destination
            if way.transport in ("WS", "WSS") and isinstance(way, Flow) and (others := self._of_flow.get(way)):
                others.pop(key, None)
                if not others:
                    del self._of_flow[way]
        else:
            if self._servers.pop(key, None) is None:
                return
            self._server_matches.pop(transaction.match, None)
            if self._refuse_merged:
                merge = _merge_key(transaction.request)
                if self._merges.get(merge) is transaction:
                    del self._merges[merge]
        transaction.end()


def _too_many_hops(response: Response, via_count: int) -> bool:
    """True if a user agent's request comes back with more Vias than it had: somebody else's (section 8.1.3.3)."""
    try:
        return via_count == 1 and len(response.headers.elements("Via")) > 1
    except SipParseError:
        return True


def _mark_source(request: Request, flow: Flow) -> None:
    """Put ``received`` and ``rport`` into the top Via (RFC 3261 section 18.2.1, RFC 3581 section 4)."""
    via = request.top_via
    host, port = flow.remote
    marked = via
    if via.wants_rport:
        marked = marked.with_parameter("rport", str(port)).with_parameter("received", host)
    elif via.host.lower() != host.lower() or via.received is not None:
        marked = marked.with_parameter("received", host)
    if marked != via:
        request.headers.replace_element("Via", marked)


def _server_match(request: Request) -> _Match:
    """Return what makes a request part of a server transaction (RFC 3261 section 17.2.3); the method comes last."""
    via = request.top_via
    method = "INVITE" if request.method == "ACK" else request.method
    branch = via.branch
    if branch is not None and branch.startswith(MAGIC) and branch != MAGIC:
        return (branch, via.sent_by, method)
    # RFC 2543: no branch to rely on.  The To tag of an ACK is that of the response, so it cannot take part.
    to_tag = None if method in ("INVITE", "CANCEL") else request.to.tag
    return (
        request.uri,
        request.from_.tag,
        to_tag,
        request.call_id,
        request.cseq.number,
        str(Via(via.transport, via.host, via.port, via.parameters.without("received", "rport") or NO_PARAMETERS)),
        method,
    )


def _merge_key(request: Request) -> tuple[str, str, int, str]:
    cseq = request.cseq
    return (request.from_.tag or "", request.call_id, cseq.number, cseq.method)
