"""The notifier helper under a transaction layer, against our subscriber: RFC 6665 section 4.2."""

from __future__ import annotations

from typing import Any

from imskit.engine import Tick
from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.layer import (
    RequestReceived,
    ResponseReceived,
    SendRequest,
    SendResponse,
    TransactionLayer,
    TransactionTimeout,
    Transmit,
)
from imskit.sip.engine.subscription_notifier import Notifier, judge
from imskit.sip.memory_network import Pair, Script, counter
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Request

SUBSCRIBE = ua.Subscribe("reg", "sip:alice@example.org", "<sip:a@example.org>", "<sip:a@example.org>", "reg", 3600)


class Registrar:
    """What an S-CSCF does with the helper, as an engine."""

    def __init__(self) -> None:
        self.layer = TransactionLayer(counter("b"))
        self.notifier: Notifier | None = None
        self.version = 0
        self.flow: Flow | None = None
        self._out: list[Any] = []
        self._now = 0.0
        self._sent = 0

    def handle(self, event: Any, now: float) -> None:
        """Answer SUBSCRIBE, notify on ``"change"`` and ``"end"``, look after the expiry."""
        self._now = now
        match event:
            case "change":
                self._notify()
            case "end":
                self._notify(state="terminated", reason="deactivated")
            case Tick():
                self.layer.handle(event, now)
                notifier = self.notifier
                if notifier is not None and now >= notifier.expires_at and not notifier.terminated:
                    self._notify()
            case _:
                self.layer.handle(event, now)
        while (output := self.layer.poll()) is not None:
            self._take(output)

    def _take(self, output: Any) -> None:
        match output:
            case Transmit():
                self._out.append(output)
            case RequestReceived(key, request, flow):
                self.flow = flow
                refusal = judge(request, ("reg",), least=60, tag="refused")
                if refusal is not None:
                    self.layer.handle(SendResponse(key, refusal), self._now)
                    return
                if self.notifier is not None and request.to.tag == self.notifier.id.local_tag:
                    response = self.notifier.refresh(request, self._now)
                else:
                    self.notifier, response = Notifier.accept(
                        request, contact="<sip:scscf@192.0.2.2>", tokens=counter("c"), now=self._now
                    )
                self.layer.handle(SendResponse(key, response), self._now)
                self._notify()
            case ResponseReceived(_, response, _) if not response.provisional:
                self._send(self.notifier.answered(response.status, self._now) if self.notifier else None)
            case TransactionTimeout():
                self._send(self.notifier.answered(None, self._now) if self.notifier else None)

    def _notify(self, **fields: Any) -> None:
        self.version += 1
        assert self.notifier is not None
        body = b"<reginfo version='%d'/>" % self.version
        self._send(self.notifier.notify(body, "application/reginfo+xml", self._now, **fields))

    def _send(self, request: Request | None) -> None:
        if request is not None and self.flow is not None:
            self._sent += 1
            self.layer.handle(SendRequest(request, self.flow, f"notify-{self._sent}"), self._now)
            while (output := self.layer.poll()) is not None:
                self._take(output)

    def poll(self) -> Any:
        """Return the next output."""
        return self._out.pop(0) if self._out else None

    def deadline(self) -> float | None:
        """Return the nearest of the layer's and the subscription's."""
        times = [self.layer.deadline()]
        if self.notifier is not None and not self.notifier.terminated:
            times.append(self.notifier.expires_at)
        return min((each for each in times if each is not None), default=None)


def versions(pair: Any) -> list[str]:
    """Return state and version of what alice was told."""
    return [f"{output.state.state} {output.message.body.decode()[18]}" for output in pair.a.all(ua.Notified)]


def test_subscribe_change_refresh_leave() -> None:
    registrar = Registrar()
    pair = Pair(b=registrar)
    pair.at(pair.a, SUBSCRIBE)
    assert pair.a.last(ua.Subscribed).expires == 3600
    pair.at(pair.b, "change", wait=1)
    assert versions(pair) == ["active 1", "active 2"]
    first = pair.a.all(ua.Notified)[0].state
    assert first.expires == 3600
    pair.net.run(3100)  # alice refreshes 600 s before the end; a NOTIFY follows
    assert versions(pair)[2:] == ["active 3"]
    pair.at(pair.a, ua.Unsubscribe("reg"), wait=1)
    assert versions(pair)[3:] == ["terminated 4"]
    assert pair.a.last(ua.SubscriptionEnded).reason == "timeout"
    assert registrar.notifier is not None and registrar.notifier.terminated and not registrar.notifier.pending
    assert pair.quiet()


def test_one_notify_at_a_time() -> None:
    registrar = Registrar()
    pair = Pair(b=registrar)
    pair.at(pair.a, SUBSCRIBE)
    pair.at(pair.b, "change", "change", "end", "change", wait=0)
    assert registrar.notifier is not None and registrar.notifier.pending
    pair.net.run(1)
    assert versions(pair) == ["active 1", "active 2", "active 3", "terminated 4"]
    ended = pair.a.last(ua.SubscriptionEnded)
    assert ended.reason == "deactivated" and ua.retry_delay(ended) == 0.0


def test_an_expired_subscription_is_ended_by_timeout() -> None:
    script = Script()
    registrar = Registrar()
    pair = Pair(a=script, b=registrar)
    pair.at(pair.a, script.build("SUBSCRIBE", 1, Event="reg", Expires=100), wait=110)
    states = [
        each.headers.get("Subscription-State")
        for each in script.received
        if isinstance(each, Request) and each.method == "NOTIFY"
    ]
    # Nobody answered the first NOTIFY: timer F removes the subscription (section 4.2.2).
    assert set(states) == {"active;expires=100"}
    assert registrar.notifier is not None and registrar.notifier.terminated


def test_refusals() -> None:
    script = Script()
    pair = Pair(a=script, b=Registrar())
    pair.at(pair.a, script.build("SUBSCRIBE", 1, Event="presence", Expires=100))
    refused = script.response("SUBSCRIBE")
    assert refused.status == 489 and refused.headers.get("Allow-Events") == "reg"
    pair.at(pair.a, script.build("SUBSCRIBE", 2, Event="reg", Expires=5))
    refused = script.response("SUBSCRIBE")
    assert refused.status == 423 and refused.min_expires == 60
    # Polling: Expires 0 is no interval too brief (section 4.2.1.1), and brings one NOTIFY (section 4.4.3).
    pair.at(pair.a, script.build("SUBSCRIBE", 3, Event="reg", Expires=0))
    assert script.response("SUBSCRIBE").expires == 0
    assert script.request("NOTIFY").headers.get("Subscription-State") == "terminated;reason=timeout"


def test_a_gone_subscriber_ends_it() -> None:
    request = Script().build("SUBSCRIBE", 1, Event="reg;id=7")
    notifier, response = Notifier.accept(request, contact="<sip:s@x>", tokens=counter(), now=0.0)
    assert response.expires == 3600 and response.to.tag == notifier.id.local_tag
    notify = notifier.notify(b"", "", 1.0, state="pending")
    assert notify is not None and notify.headers.get("Subscription-State") == "pending;expires=3599"
    assert notify.headers.get("Event") == "reg;id=7" and "Content-Type" not in notify.headers
    assert notifier.notify(b"x", "a/b", 2.0) is None
    assert notifier.answered(481, 3.0) is None and notifier.terminated
    assert notifier.notify(b"x", "a/b", 4.0) is None
