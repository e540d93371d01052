"""S7-IMS: the four transaction machines, every rule of their tables, on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine.machines import (
    INVITE_CLIENT,
    INVITE_SERVER,
    NON_INVITE_CLIENT,
    NON_INVITE_SERVER,
    Do,
    Input,
    Machine,
    State,
)
from imskit.sip.engine.timers import RFC3261, Timer
from imskit.sip.engine.transaction import ClientTransaction, ServerTransaction
from imskit.sip.wire.message import response_to

MACHINES = (INVITE_CLIENT, NON_INVITE_CLIENT, INVITE_SERVER, NON_INVITE_SERVER)

# The figures, written down a second time by hand as "state: input -> state" (RFC 6026 figures 5 and 7, RFC 3261
# figures 6 and 8), so that a slip in a table does not go unseen.
FIGURES = {
    INVITE_CLIENT.name: """
        CALLING: A CALLING, B TERMINATED, TRANSPORT_ERROR TERMINATED, RESPONSE_100 PROCEEDING, RESPONSE_1XX PROCEEDING
        CALLING: RESPONSE_2XX ACCEPTED, RESPONSE_3XX_6XX COMPLETED
        PROCEEDING: RESPONSE_100 PROCEEDING, RESPONSE_1XX PROCEEDING, RESPONSE_2XX ACCEPTED, RESPONSE_3XX_6XX COMPLETED
        COMPLETED: RESPONSE_3XX_6XX COMPLETED, TRANSPORT_ERROR TERMINATED, D TERMINATED
        ACCEPTED: RESPONSE_2XX ACCEPTED, M TERMINATED
        CALLING: FLOW_CLOSED TERMINATED
        PROCEEDING: FLOW_CLOSED TERMINATED, C PROCEEDING, CANCELLED TERMINATED
    """,
    NON_INVITE_CLIENT.name: """
        TRYING: E TRYING, F TERMINATED, TRANSPORT_ERROR TERMINATED, RESPONSE_100 PROCEEDING, RESPONSE_1XX PROCEEDING
        TRYING: RESPONSE_2XX COMPLETED, RESPONSE_3XX_6XX COMPLETED
        PROCEEDING: E PROCEEDING, F TERMINATED, TRANSPORT_ERROR TERMINATED
        PROCEEDING: RESPONSE_100 PROCEEDING, RESPONSE_1XX PROCEEDING, RESPONSE_2XX COMPLETED, RESPONSE_3XX_6XX COMPLETED
        COMPLETED: K TERMINATED
        TRYING: FLOW_CLOSED TERMINATED
        PROCEEDING: FLOW_CLOSED TERMINATED
    """,
    INVITE_SERVER.name: """
        PROCEEDING: REQUEST PROCEEDING, RESPONSE_100 PROCEEDING, RESPONSE_1XX PROCEEDING, TRANSPORT_ERROR PROCEEDING
        PROCEEDING: RESPONSE_2XX ACCEPTED, RESPONSE_3XX_6XX COMPLETED, TRYING PROCEEDING
        COMPLETED: REQUEST COMPLETED, G COMPLETED, H TERMINATED, ACK CONFIRMED, TRANSPORT_ERROR COMPLETED
        CONFIRMED: I TERMINATED
        ACCEPTED: RESPONSE_2XX ACCEPTED, ACK ACCEPTED, TRANSPORT_ERROR ACCEPTED, L TERMINATED
        PROCEEDING: ABANDONED TERMINATED
    """,
    NON_INVITE_SERVER.name: """
        TRYING: RESPONSE_2XX COMPLETED, RESPONSE_3XX_6XX COMPLETED, TRYING_NON_INVITE PROCEEDING
        PROCEEDING: REQUEST PROCEEDING, RESPONSE_2XX COMPLETED, RESPONSE_3XX_6XX COMPLETED, TRANSPORT_ERROR TERMINATED
        COMPLETED: REQUEST COMPLETED, TRANSPORT_ERROR TERMINATED, J TERMINATED
        TRYING: UNANSWERED TERMINATED
        PROCEEDING: UNANSWERED TERMINATED
    """,
}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_table_is_the_figure(machine: Machine) -> None:
    drawn = set()
    for line in FIGURES[machine.name].split("\n"):
        state, _, arrows = line.strip().partition(": ")
        drawn |= {(state, *arrow.split()) for arrow in arrows.split(", ") if arrow}
    assert {(state.name, what.name, rule.next.name) for (state, what), rule in machine.rules.items()} == drawn


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_table_is_sound(machine: Machine) -> None:
    """Every timer that may run has a rule and a starter, and every state but the last has a way to the end."""
    reached, todo = set(), [machine.initial]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += [rule.next for (source, _), rule in machine.rules.items() if source is state]
    assert reached == {state for state, _ in machine.rules} | {State.TERMINATED}
    starters = set(machine.start) | {action for rule in machine.rules.values() for action in rule.actions}
    for state, timers in machine.timers.items():
        for timer in timers:
            assert (state, timer) in machine.rules or timer is Timer.C, (state, timer)
            # CANCELLED is started when the layer has sent the CANCEL.
            assert timer in starters or timer is Timer.CANCELLED
    for (state, what), rule in machine.rules.items():
        if isinstance(what, Timer):
            assert what in machine.timers[state], (state, what)
        started = {action for action in rule.actions if isinstance(action, Timer)}
        assert started <= machine.timers.get(rule.next, frozenset()), (state, what)
    assert State.TERMINATED not in machine.timers


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@pytest.mark.parametrize("reliable", [False, True])
def test_every_state_ends_by_timers_alone(machine: Machine, reliable: bool) -> None:
    """In each state, with nothing but time, there is a timer running that leads on: nothing can hang."""
    for state, timers in machine.timers.items():
        running = {
            timer
            for timer in timers
            if timer is Timer.CANCELLED or RFC3261.initial(timer, reliable=reliable) is not None
        }
        leads = {machine.rules[state, timer].next for timer in running if (state, timer) in machine.rules}
        cancels = machine is INVITE_CLIENT and state is State.PROCEEDING
        assert cancels or leads - {state}, state


# ---- each rule, run ------------------------------------------------------------------------------------------------

STATUS = {Input.RESPONSE_100: 100, Input.RESPONSE_1XX: 180, Input.RESPONSE_2XX: 200, Input.RESPONSE_3XX_6XX: 486}

# What brings a fresh transaction into a state.
WAY: dict[tuple[str, State], list[Any]] = {
    (INVITE_CLIENT.name, State.CALLING): [],
    (INVITE_CLIENT.name, State.PROCEEDING): [Input.RESPONSE_1XX],
    (INVITE_CLIENT.name, State.COMPLETED): [Input.RESPONSE_3XX_6XX],
    (INVITE_CLIENT.name, State.ACCEPTED): [Input.RESPONSE_2XX],
    (NON_INVITE_CLIENT.name, State.TRYING): [],
    (NON_INVITE_CLIENT.name, State.PROCEEDING): [Input.RESPONSE_100],
    (NON_INVITE_CLIENT.name, State.COMPLETED): [Input.RESPONSE_2XX],
    (INVITE_SERVER.name, State.PROCEEDING): [],
    (INVITE_SERVER.name, State.COMPLETED): [Input.RESPONSE_3XX_6XX],
    (INVITE_SERVER.name, State.CONFIRMED): [Input.RESPONSE_3XX_6XX, Input.ACK],
    (INVITE_SERVER.name, State.ACCEPTED): [Input.RESPONSE_2XX],
    (NON_INVITE_SERVER.name, State.TRYING): [],
    (NON_INVITE_SERVER.name, State.PROCEEDING): [Timer.TRYING_NON_INVITE],
    (NON_INVITE_SERVER.name, State.COMPLETED): [Input.RESPONSE_2XX],
}

# What each action puts out; SEND_LAST_RESPONSE is checked where there is one.
LINES = {
    Do.SEND_REQUEST: lambda method: f"-> {method}",
    Do.SEND_ACK: lambda method: "-> ACK",
    Do.INFORM_TIMEOUT: lambda method: "k timeout",
    Do.INFORM_FAILURE: lambda method: "k failed: why",
}


class Bench:
    """One transaction and its outputs."""

    def __init__(self, sip: Any, machine: Machine) -> None:
        self.sip = sip
        self.method = "INVITE" if machine in (INVITE_CLIENT, INVITE_SERVER) else "MESSAGE"
        self.outputs: list[Any] = []
        self.transaction: ClientTransaction | ServerTransaction
        self.request = sip.received(self.method)
        if machine in (INVITE_CLIENT, NON_INVITE_CLIENT):
            self.transaction = ClientTransaction("k", self.request, sip.build_flow(), RFC3261, self.outputs.append)
        else:
            self.transaction = ServerTransaction("k", self.request, sip.build_flow(), RFC3261, self.outputs.append, ())
        self.transaction.start(0.0)

    def step(self, what: Input | Timer) -> bool:
        self.outputs.clear()
        transaction = self.transaction
        if what in STATUS:
            response = response_to(self.request, STATUS[what], to_tag="b")  # type: ignore[index]
            if isinstance(transaction, ClientTransaction):
                before = transaction.state
                transaction.respond(response, self.sip.build_flow(), 1.0)
                return bool(self.outputs) or transaction.state is not before
            return transaction.step(what, 1.0, response)
        if what in (Input.TRANSPORT_ERROR, Input.FLOW_CLOSED):
            before = transaction.state
            transaction.fail(what, "why", 1.0)  # type: ignore[arg-type]
            return bool(self.outputs) or transaction.state is not before
        message = self.sip.received("ACK") if what is Input.ACK else self.request if what is Input.REQUEST else None
        return transaction.step(what, 1.0, message)

    @property
    def lines(self) -> list[str]:
        return [self.sip.describe(output) for output in self.outputs]


def into(sip: Any, machine: Machine, state: State) -> Bench:
    bench = Bench(sip, machine)
    for what in WAY[machine.name, state]:
        assert bench.step(what)
    assert bench.transaction.state is state
    return bench


@pytest.mark.parametrize(
    ("machine", "state", "what"),
    [(machine, state, what) for machine in MACHINES for state, what in machine.rules],
    ids=lambda value: value.name,
)
def test_every_rule(sip: Any, machine: Machine, state: State, what: Input | Timer) -> None:
    """Each rule leads where the table says and does what the table says, seen from outside."""
    bench = into(sip, machine, state)
    rule = machine.rules[state, what]
    bench.step(what)
    assert bench.transaction.state is rule.next
    expected = []
    for action in rule.actions:
        if action in LINES:
            expected.append(LINES[action](bench.method))
        elif action is Do.PASS_UP and isinstance(bench.transaction, ClientTransaction):
            expected.append(f"k got {STATUS[what]}")  # type: ignore[index]
        elif action is Do.PASS_UP:
            expected.append("ack")
        elif action is Do.SEND_RESPONSE:
            expected.append(f"-> {STATUS[what]} {bench.method}")  # type: ignore[index]
        elif action is Do.SEND_TRYING:
            expected.append(f"-> 100 {bench.method}")
        elif action is Do.SEND_LAST_RESPONSE and state is not State.PROCEEDING:
            expected.append(f"-> {486 if machine is INVITE_SERVER else 200} {bench.method}")
        elif action is Do.SEND_LAST_RESPONSE and machine is NON_INVITE_SERVER:
            expected.append(f"-> 100 {bench.method}")
    assert bench.lines == expected
    assert (bench.transaction.deadline is None) == (rule.next is State.TERMINATED)


@pytest.mark.parametrize(
    ("machine", "state", "what"),
    [
        (machine, state, what)
        for machine in MACHINES
        for state in machine.timers
        for what in (*Input, *Timer)
        if (state, what) not in machine.rules
    ],
    ids=lambda value: value.name,
)
def test_everything_else_is_absorbed(sip: Any, machine: Machine, state: State, what: Input | Timer) -> None:
    bench = into(sip, machine, state)
    deadline = bench.transaction.deadline
    bench.step(what)
    assert (bench.transaction.state, bench.lines, bench.transaction.deadline) == (state, [], deadline)
