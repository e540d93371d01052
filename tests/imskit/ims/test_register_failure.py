"""The failure classes of REGISTER (TS 24.229 clauses 5.1.1.2.1 and 5.1.1.5, RFC 3329 section 2.3)."""

from __future__ import annotations

import pytest

from imskit.ims.register_failure import judge
from imskit.ims.security_agreement import Protection
from imskit.sip.wire.message import Response


def response(status: int, *fields: tuple[str, str]) -> Response:
    made = Response(status, "Because")
    for name, value in fields:
        made.headers.add(name, value)
    return made


@pytest.mark.parametrize("status", [305, 408, 420, 480, 500, 502, 503, 504])
def test_worth_a_try_at_another_p_cscf(status: int) -> None:
    refusal = judge(response(status), Protection.IPSEC)
    assert refusal.elsewhere
    assert not refusal.final


@pytest.mark.parametrize("status", [400, 405, 416, 423, 439, 481, 488, 494, 600, 603, 606])
def test_the_same_everywhere(status: int) -> None:
    refusal = judge(response(status), Protection.IPSEC)
    assert not refusal.elsewhere
    assert not refusal.final


@pytest.mark.parametrize("status", [403, 404])
def test_refused_for_good(status: int) -> None:
    refusal = judge(response(status, ("Warning", '399 x "no such user"')), Protection.OFF)
    assert refusal.final
    assert not refusal.elsewhere
    assert refusal.text == f"the core answered {status} Because (no such user)"


def test_the_networks_own_time_comes_first() -> None:
    refusal = judge(response(503, ("Retry-After", "77 (busy)")), Protection.OFF)
    assert refusal.delay == 77
    assert not refusal.elsewhere
    assert judge(response(503, ("Retry-After", "soon")), Protection.OFF).delay is None


def test_words_for_who_set_the_device_up() -> None:
    assert "knows no security agreement" in judge(response(420, ("Unsupported", "sec-agree")), Protection.IPSEC).text
    assert "not supported: path" in judge(response(420, ("Unsupported", "path")), Protection.IPSEC).text
    for status in (421, 494):
        demanding = response(status, ("Require", "sec-agree"))
        assert judge(demanding, Protection.OFF).final
        assert "IPsec" in judge(demanding, Protection.TLS).text
        assert not judge(demanding, Protection.IPSEC).final
    assert not judge(response(421, ("Require", "foo")), Protection.OFF).final
