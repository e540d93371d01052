"""Commands that cannot be written are refused before anything is done."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.user_agent_check import check_command
from imskit.sip.memory_network import Pair
from imskit.sip.wire.errors import SipParseError

CALL: dict[str, Any] = {"call": "c", "uri": "sip:b@x", "from_": "<sip:a@x>", "to": "<sip:b@x>", "sdp": b"o"}


@pytest.mark.parametrize(
    "fields",
    [
        {"uri": "sip:b x"},
        {"uri": ""},
        {"from_": "<sip:a@x"},
        {"from_": "<sip:a@x>;tag=1"},
        {"from_": "<sip:a@x>\r\nX: y"},
        {"to": "nonsense"},
        {"contact": "<sip:>"},
        {"contact": "<sip:a@x>\r\n"},
        {"route": ("<sip:p",)},
        {"require": ("a\r\nb",)},
        {"headers": (("X", "a\nb"),)},
        {"headers": (("bad name", "x"),)},
        {"headers": (("Via", "SIP/2.0/UDP x"),)},
        {"headers": (("i", "compact Call-ID"),)},
        {"headers": [("X", "a list")]},
    ],
)
def test_calls(fields: dict[str, Any]) -> None:
    command = ua.Call(**(CALL | fields))
    with pytest.raises(SipParseError):
        check_command(command)
    pair = Pair()
    pair.at(pair.a, command)
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.INVALID and pair.a.last(ua.Refused).text
    assert pair.arrows() == [] and pair.a.engine.idle  # type: ignore[attr-defined]


def test_a_request_uri_without_a_way_is_refused() -> None:
    pair = Pair(hop=None)
    pair.at(pair.a, ua.Call(**(CALL | {"uri": "tel:+15550100"})))
    assert pair.a.last(ua.Refused).refusal is ua.Refusal.INVALID


def test_what_is_right_passes() -> None:
    headers = (("P-Preferred-Service", "urn:x"),)
    check_command(ua.Call(**CALL, headers=headers, route=("<sip:p;lr>",), contact="<sip:a@y>"))
    check_command(ua.Respond("r", 200, "OK", (("X", "y"),), b"x", "text/plain"))
    check_command(ua.RejectOffer("e", 699))


@pytest.mark.parametrize(
    "command",
    [
        ua.Respond("r", 199),
        ua.Respond("r", 700),
        ua.Respond("r", 200, "a\r\nb"),
        ua.Respond("r", 200, None, (), b"x", "no type"),
        ua.RejectOffer("e", 200),
        ua.Reject("c", 700),
        ua.Provisional("c", 100),
        ua.Configure(ua.Profile("<sip:a@x>", software="a\r\nb")),
        ua.Configure(ua.Profile("<sip:a@x>", route=("<sip:p",))),
        ua.Configure(ua.Profile("<sip:a@x>", rules=(ua.HeaderRule((("To", "x"),)),))),
    ],
)
def test_others(command: Any) -> None:
    with pytest.raises(SipParseError):
        check_command(command)
