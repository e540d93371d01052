"""The session timer's bookkeeping: RFC 4028 sections 5, 7, 9 and 10, table 2."""

from __future__ import annotations

import pytest

from imskit.sip.engine.session_timer import SessionTimer, SessionTimerPolicy
from imskit.sip.wire.message import Request, Response


def request(**fields: str) -> Request:
    """Build an INVITE with these fields."""
    return Request.create("INVITE", "sip:x", [(name.replace("_", "-"), value) for name, value in fields.items()])


def response(status: int = 200, **fields: str) -> Response:
    """Build a response with these fields."""
    made = Response(status)
    for name, value in fields.items():
        made.headers.add(name.replace("_", "-"), value)
    return made


@pytest.mark.parametrize(
    ("supported", "wanted", "chosen"),
    [
        (False, None, "uas"),
        (True, None, "uac"),
        (True, "uac", "uac"),
        (True, "uas", "uas"),
    ],
)
def test_rfc4028_table_2(supported: bool, wanted: str | None, chosen: str) -> None:
    timer = SessionTimer(SessionTimerPolicy())
    asked = request(Session_Expires="300" + (f";refresher={wanted}" if wanted else ""))
    if supported:
        asked.headers.add("Supported", "timer")
    fields = dict(timer.answer(asked, 10.0))
    assert fields["Session-Expires"] == f"300;refresher={chosen}"
    assert fields.get("Require") == ("timer" if supported else None)
    assert timer.refresher is (chosen == "uas")
    assert timer.expires_at == 10 + 300 - 32
    assert timer.refresh_at == (10 + 150 if timer.refresher else None)


def test_the_uas_may_ask_if_the_uac_can() -> None:
    timer = SessionTimer(SessionTimerPolicy(interval=600))
    assert dict(timer.answer(request(Supported="timer", Min_SE="900"), 0.0))["Session-Expires"] == "900;refresher=uac"
    assert timer.answer(request(), 0.0) == [] and timer.interval is None
    assert SessionTimer(SessionTimerPolicy(interval=None)).answer(request(Supported="timer"), 0.0) == []
    assert SessionTimer(None).answer(request(Supported="timer", Session_Expires="90"), 0.0) == []


def test_rfc4028_9_the_interval_is_never_below_90_nor_min_se() -> None:
    timer = SessionTimer(SessionTimerPolicy())
    assert dict(timer.answer(request(Session_Expires="20"), 0.0))["Session-Expires"] == "90;refresher=uas"
    assert timer.expires_at == 60.0  # a third of the interval is less than 32 s


def test_refusal_needs_a_peer_that_understands_it() -> None:
    timer = SessionTimer(SessionTimerPolicy(interval=1800, least=600))
    least = timer.refusal(request(Session_Expires="300", Supported="timer"))
    assert least is not None and least.seconds == 600
    assert timer.refusal(request(Session_Expires="300")) is None
    assert timer.refusal(request(Session_Expires="600", Supported="timer")) is None
    assert timer.refusal(request(Supported="timer")) is None


def test_what_a_request_says() -> None:
    assert dict(SessionTimer(SessionTimerPolicy(refresher="uac")).request_fields()) == {
        "Session-Expires": "1800;refresher=uac"
    }
    assert dict(SessionTimer(SessionTimerPolicy(interval=700, least=600)).request_fields()) == {
        "Session-Expires": "700",
        "Min-SE": "600",
    }
    assert SessionTimer(SessionTimerPolicy(interval=None)).request_fields() == []
    assert SessionTimer(None).request_fields() == []


def test_rfc4028_7_4_later_requests_keep_the_role_and_the_interval() -> None:
    timer = SessionTimer(SessionTimerPolicy())
    timer.accepted(response(Session_Expires="300;refresher=uas", Require="timer"), 0.0)
    assert not timer.refresher and dict(timer.request_fields())["Session-Expires"] == "300;refresher=uas"
    timer.requested(request(Supported="timer", Min_SE="400"))
    assert dict(timer.request_fields()) == {"Session-Expires": "400;refresher=uas", "Min-SE": "400"}
    timer.answer(request(Session_Expires="500;refresher=uas", Supported="timer"), 0.0)
    assert dict(timer.request_fields())["Session-Expires"] == "500;refresher=uac"


def test_rfc4028_7_2_a_2xx_without_the_header() -> None:
    timer = SessionTimer(SessionTimerPolicy(interval=300))
    timer.accepted(response(), 0.0)
    assert timer.refresher and timer.refresh_at == 150.0
    timer = SessionTimer(SessionTimerPolicy(interval=None))
    timer.accepted(response(Session_Expires="300;refresher=uac"), 0.0)
    assert timer.refresh_at == 150.0
    timer.accepted(response(), 10.0)  # turned off in mid-dialog
    assert timer.refresh_at is None and timer.expires_at is None


def test_rfc4028_7_3_a_422() -> None:
    timer = SessionTimer(SessionTimerPolicy(interval=300))
    assert timer.too_small(response(422, Min_SE="600"))
    assert dict(timer.request_fields()) == {"Session-Expires": "600", "Min-SE": "600"}
    assert not timer.too_small(response(422, Min_SE="600"))
    assert not timer.too_small(response(422))
    assert not SessionTimer(None).too_small(response(422, Min_SE="600"))


@pytest.mark.parametrize(("interval", "least"), [(89, 89), (1800, 60), (100, 200)])
def test_a_policy_has_bounds(interval: int, least: int) -> None:
    with pytest.raises(ValueError, match="session timer policy"):
        SessionTimerPolicy(interval, least)
