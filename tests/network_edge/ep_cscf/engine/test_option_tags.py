"""Which option tags pass from one side to the other."""

from __future__ import annotations

import pytest

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request, response_to
from network_edge.ep_cscf.engine import option_tags
from network_edge.ep_cscf.engine.effects import Side


def _request(*fields: tuple[str, str]) -> Request:
    return Request.create("INVITE", "sip:a@example", fields)


@pytest.mark.parametrize(("towards", "kept"), [(Side.WEB, ["timer"]), (Side.IMS, ["timer", "100rel"])])
def test_supported(towards: Side, kept: list[str]) -> None:
    request = _request(("Supported", "timer, Precondition"), ("Supported", "100rel,trickle-ice"))
    option_tags.edit(request, towards)
    assert request.supported == kept


def test_a_response_keeps_100rel() -> None:
    response = response_to(_request(), 200)
    response.headers.add("Supported", "100rel, precondition")
    option_tags.edit(response, Side.WEB)
    assert response.supported == ["100rel"]


def test_emptied_fields_go() -> None:
    request = _request(("Require", "precondition"), ("Recv-Info", "trickle-ice;x=1"))
    option_tags.edit(request, Side.IMS)
    assert "Require" not in request.headers
    assert "Recv-Info" not in request.headers


def test_untouched_fields_keep_their_spelling() -> None:
    request = _request(("Supported", "timer ,  100rel"), ("Recv-Info", ""))
    before = request.encode()
    option_tags.edit(request, Side.IMS)
    assert request.encode() == before


def test_lists_that_are_none() -> None:
    with pytest.raises(SipParseError):
        option_tags.edit(_request(("Supported", "a,,precondition")), Side.IMS)
