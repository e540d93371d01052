"""Messages of the JSON signalling: strict, bounded, one exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network_edge.ep_cscf.json_signalling.wire import messages as wire
from network_edge.ep_cscf.json_signalling.wire.messages import JsonError, ServerMessage, parse

GOOD: list[dict[str, Any]] = [
    {"type": "login", "id": "1", "token": "aaa.bbb.ccc", "identity": "sip:+15550300@ims.example"},
    {"type": "register", "expires": 300},
    {"type": "unregister"},
    {"type": "call", "call": "c1", "to": "tel:+15550200", "sdp": "v=0\r\n"},
    {"type": "ring", "call": "c1"},
    {"type": "answer", "call": "c1", "sdp": "v=0\r\n"},
    {"type": "offer", "call": "c1", "sdp": "v=0\r\n"},
    {"type": "candidates", "call": "c1", "ufrag": "abcd", "pwd": "p" * 22, "candidates": ["1 1 udp 1 ::1 9 typ host"]},
    {"type": "hangup", "call": "c1", "reason": "busy"},
    {"type": "dtmf", "call": "c1", "digits": "12#"},
    {"type": "message", "to": "sip:a@ims.example", "text": "Grüße 👋"},
]  # fmt: skip


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message["type"])
def test_every_type(message: dict[str, Any]) -> None:
    parsed = parse(json.dumps(message))
    assert parsed.id == message.get("id")


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message["type"])
def test_one_member_more_or_of_another_type(message: dict[str, Any]) -> None:
    with pytest.raises(JsonError) as caught:
        parse(json.dumps({**message, "id": "7", "colour": "red"}))
    assert (caught.value.code, caught.value.id) == ("member", "7")
    for name in message.keys() - {"type", "id"}:
        for wrong in (None, [], {}, True, -1, "", "x\0" * 99_999):
            if name == "candidates" and wrong == []:
                continue
            with pytest.raises(JsonError):
                parse(json.dumps({**message, name: wrong}))


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", '{"type":1}', '{"type":"fly"}', '{"type":"ring","call":"a","call":"b"}', "[" * 100_000,
     '{"type":"register","expires":NaN}', '{"type":"register","expires":1e9}', '{"type":"register","expires":300.0}',
     '{"type":"ring","call":"a\\r\\nb"}', '{"type":"ring","call":"c","id":7}',
     '{"type":"register","expires":%s}' % ("9" * 5000),
     '{"type":"message","to":"http://x","text":"a"}', '{"type":"message","to":"sip:a@b?Route=c","text":"a"}',
     '{"type":"message","to":"sip:a@b","text":"\\ud800"}', '{"type":"login","token":"a b","identity":"sip:a@b"}',
     '{"type":"candidates","call":"c","ufrag":"a\\r\\nx","pwd":"p","candidates":[]}', "x" * 200_000],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(JsonError):
        parse(text)


def test_binary_is_refused() -> None:
    with pytest.raises(JsonError, match="text"):
        parse(b"{}")


def test_tokens_and_identities_are_not_shown() -> None:
    message = parse(json.dumps(GOOD[0]))
    assert "aaa.bbb" not in repr(message)
    assert "+15550300" not in repr(message)
    with pytest.raises(JsonError) as caught:
        parse('{"type":"login","token":"geheim wort","identity":"sip:a@b"}')
    assert "geheim" not in str(caught.value)


def test_server_message() -> None:
    message = ServerMessage.of("error", id="1", call=None, code="state", text='say "no"\n')
    assert json.loads(message.encode()) == {"type": "error", "id": "1", "code": "state", "text": 'say "no"\n'}
    assert "no" not in repr(message).split("text")[-1]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.sampled_from(GOOD),
    st.sampled_from(["type", "id", "call", "sdp", "to", "token", "expires", "candidates"]),
    VALUES,
)
def test_any_value_anywhere(message: dict[str, Any], name: str, value: Any) -> None:
    try:
        parse(json.dumps({**message, name: value}))
    except JsonError:
        pass


@given(st.sampled_from(GOOD), st.integers(0, 200), st.text(max_size=40))
def test_noise_behind_a_good_beginning(message: dict[str, Any], length: int, noise: str) -> None:
    try:
        parse(json.dumps(message, ensure_ascii=False)[:length] + noise)
    except JsonError:
        pass


def test_every_type_has_its_reader() -> None:
    """The documentation, the union and the readers name the same types."""
    assert {message["type"] for message in GOOD} == set(wire._READERS)
