"""The body that asks for something else: what one side writes the other reads (TS 24.229 clause 7.6)."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from imskit.ims.alternative_service import add_emergency, add_restoration, asks_restoration, is_emergency
from imskit.sip.wire.message import Request, Response, parse_message, response_to

INVITE = Request.create("INVITE", "sip:b@x", [("From", "<sip:a@x>;tag=1"), ("To", "<sip:b@x>"), ("Call-ID", "c")])


@pytest.mark.parametrize(
    ("status", "add", "kind"), [(504, add_restoration, "restoration"), (380, add_emergency, "emergency")]
)
def test_what_is_written_is_read(status: int, add: Callable[[Response], None], kind: str) -> None:
    response = response_to(INVITE, status)
    add(response)
    again = parse_message(response.encode())
    assert isinstance(again, Response)
    assert (asks_restoration(again), is_emergency(again)) == (kind == "restoration", kind == "emergency")
    assert ElementTree.fromstring(again.body).findtext("alternative-service/type") == kind


@pytest.mark.parametrize("status", [200, 380, 500, 504])
def test_a_status_alone_says_nothing(status: int) -> None:
    response = response_to(INVITE, status)
    assert not asks_restoration(response) and not is_emergency(response)
    response.set_body(b"restoration initial-registration emergency", "text/plain")
    assert not asks_restoration(response) and not is_emergency(response)
