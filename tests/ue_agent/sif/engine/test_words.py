"""Words from one side to the other never break a header, however odd they are."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from imskit.ims import events as ims
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.headers import ReasonHeader
from imskit.sip.wire.message import Request, Response
from ue_agent.sif.engine.words import end_for_page, reason, refusal_for_ims, refusal_for_page, warning


@given(st.text(max_size=400))
def test_any_text(text: str) -> None:
    ((_, value),) = warning(text)
    assert value.startswith('399 imsbridge "')
    assert value.count('"') == 2
    assert value.isascii()
    ((_, value),) = reason(503, text)
    parsed = ReasonHeader.parse(value)
    assert (parsed.protocol, parsed.cause) == ("SIP", 503)
    for name, written in (*warning(text), *reason(503, text)):
        Response(486, "Busy Here").headers.add(name, written)


def response(status: int, *fields: tuple[str, str]) -> Any:
    made = Response(status, "As The Network Says")
    for name, value in fields:
        made.headers.add(name, value)
    return made


def test_a_refusal_keeps_phrase_and_words() -> None:
    fields = (("Warning", '399 a "b"'), ("Reason", 'Q.850;cause=1;text="c"'), ("Retry-After", "9"))
    message = response(404, *fields, ("Server", "x"))
    assert refusal_for_page(ims.Ended("c", 404, "", False, message)) == (404, "As The Network Says", fields)


def test_a_flood_of_words_is_bounded() -> None:
    message = response(404, *((("Warning", '399 a "b"'),) * 50))
    assert len(refusal_for_page(ims.Ended("c", 404, "", False, message))[2]) == 4


def test_a_bye_before_the_answer() -> None:
    bye = Request.create("BYE", "sip:x", [("Reason", 'SIP;cause=500;text="broken"')])
    ended = ims.Ended("c", None, "the other side hung up", False, bye, page.Cause.REMOTE)
    assert refusal_for_page(ended) == (480, None, (("Reason", 'SIP;cause=500;text="broken"'),))
    assert end_for_page(ended) == (("Reason", 'SIP;cause=500;text="broken"'),)


def test_a_page_without_an_answer_says_nothing_of_its_user() -> None:
    assert refusal_for_ims(None) == (480, ())
    assert refusal_for_ims(response(500, ("Reason", "x"))) == (480, ())
    assert refusal_for_ims(response(603, ("Retry-After", "60"))) == (603, (("Retry-After", "60"),))
