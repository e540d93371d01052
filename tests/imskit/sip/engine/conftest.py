"""A playbook for SIP engines: feed events on a virtual clock, read back what came out, one short line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.engine import Tick
from imskit.sip.engine import events
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Message, Request, Response, parse_message


class Tokens:
    """A counter in the place of randomness: every run is the same."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, digits: int) -> str:
        self.count += 1
        return f"{self.count:0{digits}x}"


def describe(output: Any) -> str:
    """Return one line: ``-> INVITE`` for a message on the wire, else the output's name, key and message."""
    match output:
        case events.Transmit(message):
            return f"-> {summary(message)}"
        case events.ResponseReceived(key, response):
            return f"{key} got {response.status}"
        case events.RequestReceived(_, request):
            return f"request {request.method}"
        case events.AckReceived():
            return "ack"
        case events.CancelReceived():
            return "cancel"
        case events.TransactionTimeout(key):
            return f"{key} timeout"
        case events.TransactionFailed(key, reason):
            return f"{key} failed: {reason}"
        case events.TransactionEnded(key):
            return f"{key} ended"
        case events.StrayResponse(response):
            return f"stray {response.status}"
        case _:
            return type(output).__name__


def summary(message: Message) -> str:
    """Return the method, or status and method."""
    if isinstance(message, Request):
        return message.method
    assert isinstance(message, Response)
    return f"{message.status} {(message.headers.get('CSeq') or '').rpartition(' ')[2]}"


class Playbook:
    """Drives one engine.  ``log`` has every output with its time; `do` and `wait` return lines of `describe`."""

    def __init__(self, engine: Any, describe: Callable[[Any], str] = describe) -> None:
        self.engine = engine
        self.now = 0.0
        self.log: list[tuple[float, Any]] = []
        self._describe = describe

    def feed(self, event: Any) -> list[Any]:
        """Hand in an event now and return the outputs."""
        self.engine.handle(event, self.now)
        outputs = []
        while (output := self.engine.poll()) is not None:
            outputs.append(output)
            self.log.append((self.now, output))
        return outputs

    def do(self, event: Any) -> list[str]:
        """As `feed`, described."""
        return [self._describe(output) for output in self.feed(event)]

    def run(self, seconds: float) -> list[tuple[float, Any]]:
        """Let time pass, ticking at each deadline, and return the outputs with their time."""
        until = self.now + seconds
        start = len(self.log)
        while (due := self.engine.deadline()) is not None and due <= until:
            assert due >= self.now, "a deadline lies in the past"
            self.now = due
            self.feed(Tick())
            again = self.engine.deadline()
            assert again is None or again > due, "a tick left its own deadline standing"
        self.now = until
        return self.log[start:]

    def wait(self, seconds: float) -> list[str]:
        """As `run`, each line with its time: ``0.5 -> INVITE``."""
        return [f"{time:g} {self._describe(output)}" for time, output in self.run(seconds)]

    def sent(self, count: int = 1) -> Any:
        """Return the last (or ``count``-th last) message handed to the transport, through the wire's bytes."""
        messages = [output.message for _, output in self.log if isinstance(output, events.Transmit)]
        return parse_message(messages[-count].encode())

    def last(self, kind: type[Any]) -> Any:
        """Return the last output of a kind."""
        return next(output for _, output in reversed(self.log) if isinstance(output, kind))


def build_request(method: str = "INVITE", uri: str = "sip:bob@192.0.2.20", **fields: str) -> Request:
    """Build a request with all that is mandatory but Via; ``fields`` replace or add (``call_id`` is Call-ID)."""
    values: dict[str, str] = {
        "Max-Forwards": "70",
        "From": "<sip:alice@example.org>;tag=a",
        "To": "<sip:bob@example.org>",
        "Call-ID": "call-1",
        "CSeq": f"1 {method}",
    }
    for name, value in fields.items():
        values[{"cseq": "CSeq", "call_id": "Call-ID"}.get(name, name.replace("_", "-").title())] = value
    return Request.create(method, uri, values.items())


def build_flow(transport: Any = "UDP", local: str = "192.0.2.1", remote: str = "192.0.2.20", port: int = 5060) -> Flow:
    """Build a flow between two test addresses."""
    return Flow(transport, (local, 5060), (remote, port), 1)


def received(
    method: str = "INVITE", branch: str = "z9hG4bKb1", transport: str = "UDP", host: str = "192.0.2.20", **fields: str
) -> Request:
    """Build a request as a peer would send it: with its Via; ``uri`` may be among the ``fields``."""
    request = build_request(method, **fields)
    parameter = f";branch={branch}" if branch else ""
    request.headers.prepend("Via", f"SIP/2.0/{transport} {host}:5060{parameter}")
    return request


@pytest.fixture(scope="session")
def sip() -> Any:
    """The helpers of this file, as attributes."""

    class Helpers:
        pass

    for helper in (Tokens, Playbook, describe, summary, build_request, build_flow, received):
        setattr(Helpers, helper.__name__, staticmethod(helper))
    return Helpers
