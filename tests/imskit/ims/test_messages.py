"""Short messages from strangers: what they may put into the UE [S7-IMS]; TS 23.040, TS 24.341."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.ims.events import MessageReceived
from imskit.ims.messages import Messages
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.memory_network import counter
from imskit.sip.wire.message import Request
from imskit.sms.wire import rp
from imskit.sms.wire.fields import Number
from imskit.sms.wire.tpdu import Deliver, Text

ME = "sip:+15550100@ims.example"
CENTRE = "sip:+15550999@ims.example"


class Bench:
    """The machine, and what came out of it."""

    def __init__(self) -> None:
        self.commands: list[ua.Command] = []
        self.told: list[Any] = []
        self.machine = Messages(self.commands.append, self.told.append, counter("a"))

    def receive(self, body: bytes, kind: str = rp.MEDIA_TYPE) -> None:
        fields = [("From", f"<{CENTRE}>;tag=c"), ("Call-ID", "c"), ("P-Asserted-Identity", f"<{CENTRE}>")]
        message = Request.create("MESSAGE", ME, fields)
        message.set_body(body, kind)
        assert self.machine.request("r-1", message, ME, 1.0)


def delivery(origin: Number, text: str = "hello") -> bytes:
    deliver = Deliver(origin, Text(text), datetime(2026, 1, 1, tzinfo=UTC))
    return rp.RpData(7, Number("+15550999"), deliver.encode(), from_ue=False).encode()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("Bank", "Bank"), ("a\r\nX: y", "a  X  y"), ("tel:112", "tel 112"), ("sip:a@b", "sip a@b"), ("\n", "?")],
)
def test_the_name_of_a_sender_is_a_name_and_no_more(name: str, shown: str) -> None:
    """Letters are chosen by whoever writes: they break no line, and are no URI that a page would call back."""
    bench = Bench()
    bench.receive(delivery(Number(name, alphanumeric=True)))
    (told,) = bench.told
    assert isinstance(told, MessageReceived)
    assert (told.sender.rstrip("@"), told.text) == (shown, "hello")


def test_a_number_stays_a_number() -> None:
    bench = Bench()
    bench.receive(delivery(Number("+15550200")))
    assert [told.sender for told in bench.told] == ["tel:+15550200"]


@given(st.data())
def test_whatever_comes_is_answered_and_nothing_escapes(data: st.DataObject) -> None:
    whole = delivery(Number("+15550200"))
    cut = data.draw(st.integers(0, len(whole)))
    bench = Bench()
    bench.receive(whole[:cut] + data.draw(st.binary(max_size=40)))
    assert isinstance(bench.commands[0], ua.Respond)
    assert bench.commands[0].status == 200
