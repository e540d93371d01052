"""The four transaction machines: RFC 3261 section 17 as corrected by RFC 6026 and RFC 4320.

Each machine is data: its initial state and actions, a table of rules, and which timers may run in which state.
A rule ``(state, input) -> Rule(next state, actions)`` says all that happens; an input without a rule in the
current state is absorbed.  A `Timer` among the actions is started with the first value of the transaction's
profile (not at all where the transport makes it useless); entering a state stops every timer that the state does
not list.  The figures of the RFCs are these tables, with five additions that no figure has:

- timer C runs in every INVITE client transaction, not only in proxies: it is restarted by 101..199, and when it
  fires the INVITE is cancelled, so that a peer that rings forever cannot hold state forever;
- after a CANCEL the INVITE is given 64*T1 to end (RFC 3261 section 9.1);
- a client transaction whose WebSocket closes before the final response fails: no response can come any more;
- a server transaction whose owner never answers ends too, INVITE after twice timer C without a word from the
  owner, others after 64*T1 when the client has given up;
- a non-INVITE server transaction takes no provisional response and no 408 from its owner; it sends 100 itself when
  RFC 4320 section 4.1 wants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from imskit.sip.engine.timers import Timer


class State(Enum):
    """The states of the RFC's figures."""

    # Members are singletons, and are looked up with every message; Enum's own is not in C.
    __hash__ = object.__hash__

    CALLING = auto()
    TRYING = auto()
    PROCEEDING = auto()
    COMPLETED = auto()
    CONFIRMED = auto()
    ACCEPTED = auto()
    TERMINATED = auto()


class Input(Enum):
    """What can happen to a transaction beside its timers.

    The four responses come from the network at a client, from the owner at a server transaction.
    """

    __hash__ = object.__hash__

    RESPONSE_100 = auto()
    RESPONSE_1XX = auto()
    """101..199."""
    RESPONSE_2XX = auto()
    RESPONSE_3XX_6XX = auto()
    REQUEST = auto()
    """A retransmission of the request."""
    ACK = auto()
    TRANSPORT_ERROR = auto()
    """What was sent last could not be delivered."""
    FLOW_CLOSED = auto()
    """The only way for a response is gone: a WebSocket closed."""


class Do(Enum):
    """What a rule can ask for, beside starting a timer."""

    SEND_REQUEST = auto()
    SEND_ACK = auto()
    SEND_CANCEL = auto()
    SEND_DUE_CANCEL = auto()
    """Send the CANCEL that was asked for before the first provisional response."""
    SEND_RESPONSE = auto()
    SEND_LAST_RESPONSE = auto()
    SEND_TRYING = auto()
    BACK_OFF = auto()
    """Start the timer that fired again with twice its interval, at most T2 (timer A: no limit)."""
    BACK_OFF_T2 = auto()
    """Start the timer that fired again with T2."""
    PASS_UP = auto()
    INFORM_TIMEOUT = auto()
    INFORM_FAILURE = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """Where an input leads, and what is done, in this order, on the way."""

    next: State
    actions: tuple[Do | Timer, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the four machines; see the module's text."""

    name: str
    initial: State
    start: tuple[Do | Timer, ...]
    rules: dict[tuple[State, Input | Timer], Rule]
    timers: dict[State, frozenset[Timer]]


def _running(**states: str) -> dict[State, frozenset[Timer]]:
    return {State[name]: frozenset(Timer[each] for each in timers.split()) for name, timers in states.items()}


INVITE_CLIENT = Machine(
    name="INVITE client",
    initial=State.CALLING,
    start=(Do.SEND_REQUEST, Timer.A, Timer.B, Timer.C),
    rules={
        (State.CALLING, Timer.A): Rule(State.CALLING, (Do.SEND_REQUEST, Do.BACK_OFF)),
        (State.CALLING, Timer.B): Rule(State.TERMINATED, (Do.INFORM_TIMEOUT,)),
        (State.CALLING, Input.TRANSPORT_ERROR): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.CALLING, Input.FLOW_CLOSED): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.CALLING, Input.RESPONSE_100): Rule(State.PROCEEDING, (Do.PASS_UP, Do.SEND_DUE_CANCEL)),
        (State.CALLING, Input.RESPONSE_1XX): Rule(State.PROCEEDING, (Do.PASS_UP, Timer.C, Do.SEND_DUE_CANCEL)),
        (State.CALLING, Input.RESPONSE_2XX): Rule(State.ACCEPTED, (Do.PASS_UP, Timer.M)),
        (State.CALLING, Input.RESPONSE_3XX_6XX): Rule(State.COMPLETED, (Do.SEND_ACK, Do.PASS_UP, Timer.D)),
        (State.PROCEEDING, Input.RESPONSE_100): Rule(State.PROCEEDING, (Do.PASS_UP,)),
        (State.PROCEEDING, Input.RESPONSE_1XX): Rule(State.PROCEEDING, (Do.PASS_UP, Timer.C)),
        (State.PROCEEDING, Input.RESPONSE_2XX): Rule(State.ACCEPTED, (Do.PASS_UP, Timer.M)),
        (State.PROCEEDING, Input.RESPONSE_3XX_6XX): Rule(State.COMPLETED, (Do.SEND_ACK, Do.PASS_UP, Timer.D)),
        (State.PROCEEDING, Input.FLOW_CLOSED): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.PROCEEDING, Timer.C): Rule(State.PROCEEDING, (Do.SEND_CANCEL,)),
        (State.PROCEEDING, Timer.CANCELLED): Rule(State.TERMINATED, (Do.INFORM_TIMEOUT,)),
        (State.COMPLETED, Input.RESPONSE_3XX_6XX): Rule(State.COMPLETED, (Do.SEND_ACK,)),
        (State.COMPLETED, Input.TRANSPORT_ERROR): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.COMPLETED, Timer.D): Rule(State.TERMINATED),
        (State.ACCEPTED, Input.RESPONSE_2XX): Rule(State.ACCEPTED, (Do.PASS_UP,)),
        (State.ACCEPTED, Timer.M): Rule(State.TERMINATED),
    },
    timers=_running(CALLING="A B C", PROCEEDING="C CANCELLED", COMPLETED="D", ACCEPTED="M"),
)
"""RFC 6026 figure 5."""

NON_INVITE_CLIENT = Machine(
    name="non-INVITE client",
    initial=State.TRYING,
    start=(Do.SEND_REQUEST, Timer.E, Timer.F),
    rules={
        (State.TRYING, Timer.E): Rule(State.TRYING, (Do.SEND_REQUEST, Do.BACK_OFF)),
        (State.TRYING, Timer.F): Rule(State.TERMINATED, (Do.INFORM_TIMEOUT,)),
        (State.TRYING, Input.TRANSPORT_ERROR): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.TRYING, Input.FLOW_CLOSED): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.TRYING, Input.RESPONSE_100): Rule(State.PROCEEDING, (Do.PASS_UP,)),
        (State.TRYING, Input.RESPONSE_1XX): Rule(State.PROCEEDING, (Do.PASS_UP,)),
        (State.TRYING, Input.RESPONSE_2XX): Rule(State.COMPLETED, (Do.PASS_UP, Timer.K)),
        (State.TRYING, Input.RESPONSE_3XX_6XX): Rule(State.COMPLETED, (Do.PASS_UP, Timer.K)),
        (State.PROCEEDING, Timer.E): Rule(State.PROCEEDING, (Do.SEND_REQUEST, Do.BACK_OFF_T2)),
        (State.PROCEEDING, Timer.F): Rule(State.TERMINATED, (Do.INFORM_TIMEOUT,)),
        (State.PROCEEDING, Input.TRANSPORT_ERROR): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.PROCEEDING, Input.FLOW_CLOSED): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.PROCEEDING, Input.RESPONSE_100): Rule(State.PROCEEDING, (Do.PASS_UP,)),
        (State.PROCEEDING, Input.RESPONSE_1XX): Rule(State.PROCEEDING, (Do.PASS_UP,)),
        (State.PROCEEDING, Input.RESPONSE_2XX): Rule(State.COMPLETED, (Do.PASS_UP, Timer.K)),
        (State.PROCEEDING, Input.RESPONSE_3XX_6XX): Rule(State.COMPLETED, (Do.PASS_UP, Timer.K)),
        (State.COMPLETED, Timer.K): Rule(State.TERMINATED),
    },
    timers=_running(TRYING="E F", PROCEEDING="E F", COMPLETED="K"),
)
"""RFC 3261 figure 6."""

INVITE_SERVER = Machine(
    name="INVITE server",
    initial=State.PROCEEDING,
    start=(Do.PASS_UP, Timer.TRYING, Timer.ABANDONED),
    rules={
        (State.PROCEEDING, Timer.TRYING): Rule(State.PROCEEDING, (Do.SEND_TRYING,)),
        (State.PROCEEDING, Timer.ABANDONED): Rule(State.TERMINATED, (Do.INFORM_TIMEOUT,)),
        (State.PROCEEDING, Input.REQUEST): Rule(State.PROCEEDING, (Do.SEND_LAST_RESPONSE,)),
        (State.PROCEEDING, Input.RESPONSE_100): Rule(State.PROCEEDING, (Do.SEND_RESPONSE, Timer.ABANDONED)),
        (State.PROCEEDING, Input.RESPONSE_1XX): Rule(State.PROCEEDING, (Do.SEND_RESPONSE, Timer.ABANDONED)),
        (State.PROCEEDING, Input.RESPONSE_2XX): Rule(State.ACCEPTED, (Do.SEND_RESPONSE, Timer.L)),
        (State.PROCEEDING, Input.RESPONSE_3XX_6XX): Rule(State.COMPLETED, (Do.SEND_RESPONSE, Timer.G, Timer.H)),
        (State.PROCEEDING, Input.TRANSPORT_ERROR): Rule(State.PROCEEDING, (Do.INFORM_FAILURE,)),
        (State.COMPLETED, Timer.G): Rule(State.COMPLETED, (Do.SEND_LAST_RESPONSE, Do.BACK_OFF)),
        (State.COMPLETED, Timer.H): Rule(State.TERMINATED, (Do.INFORM_TIMEOUT,)),
        (State.COMPLETED, Input.REQUEST): Rule(State.COMPLETED, (Do.SEND_LAST_RESPONSE,)),
        (State.COMPLETED, Input.ACK): Rule(State.CONFIRMED, (Timer.I,)),
        (State.COMPLETED, Input.TRANSPORT_ERROR): Rule(State.COMPLETED, (Do.INFORM_FAILURE,)),
        (State.CONFIRMED, Timer.I): Rule(State.TERMINATED),
        (State.ACCEPTED, Input.RESPONSE_2XX): Rule(State.ACCEPTED, (Do.SEND_RESPONSE,)),
        (State.ACCEPTED, Input.ACK): Rule(State.ACCEPTED, (Do.PASS_UP,)),
        (State.ACCEPTED, Input.TRANSPORT_ERROR): Rule(State.ACCEPTED, (Do.INFORM_FAILURE,)),
        (State.ACCEPTED, Timer.L): Rule(State.TERMINATED),
    },
    timers=_running(PROCEEDING="TRYING ABANDONED", COMPLETED="G H", CONFIRMED="I", ACCEPTED="L"),
)
"""RFC 6026 figure 7."""

NON_INVITE_SERVER = Machine(
    name="non-INVITE server",
    initial=State.TRYING,
    start=(Do.PASS_UP, Timer.TRYING_NON_INVITE, Timer.UNANSWERED),
    rules={
        (State.TRYING, Timer.TRYING_NON_INVITE): Rule(State.PROCEEDING, (Do.SEND_TRYING,)),
        (State.TRYING, Timer.UNANSWERED): Rule(State.TERMINATED, (Do.INFORM_TIMEOUT,)),
        (State.TRYING, Input.RESPONSE_2XX): Rule(State.COMPLETED, (Do.SEND_RESPONSE, Timer.J)),
        (State.TRYING, Input.RESPONSE_3XX_6XX): Rule(State.COMPLETED, (Do.SEND_RESPONSE, Timer.J)),
        (State.PROCEEDING, Timer.UNANSWERED): Rule(State.TERMINATED, (Do.INFORM_TIMEOUT,)),
        (State.PROCEEDING, Input.REQUEST): Rule(State.PROCEEDING, (Do.SEND_LAST_RESPONSE,)),
        (State.PROCEEDING, Input.RESPONSE_2XX): Rule(State.COMPLETED, (Do.SEND_RESPONSE, Timer.J)),
        (State.PROCEEDING, Input.RESPONSE_3XX_6XX): Rule(State.COMPLETED, (Do.SEND_RESPONSE, Timer.J)),
        (State.PROCEEDING, Input.TRANSPORT_ERROR): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.COMPLETED, Input.REQUEST): Rule(State.COMPLETED, (Do.SEND_LAST_RESPONSE,)),
        (State.COMPLETED, Input.TRANSPORT_ERROR): Rule(State.TERMINATED, (Do.INFORM_FAILURE,)),
        (State.COMPLETED, Timer.J): Rule(State.TERMINATED),
    },
    timers=_running(TRYING="TRYING_NON_INVITE UNANSWERED", PROCEEDING="UNANSWERED", COMPLETED="J"),
)
"""RFC 3261 figure 8 with RFC 4320 section 4."""
