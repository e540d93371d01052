"""Messages between WWPF and agent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.wwpf.agent import KINDS, MAXIMUM_LINE, AgentError, Message, ProtocolError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_there_and_back() -> None:
    message = Message(3, {"op": "turn", "username": "ü", "ttl": 60})
    assert message.encode().endswith(b"\n")
    assert Message.parse(message.encode()) == message


@pytest.mark.parametrize(
    "line", [b"", b"x", b"[]", b"{}", b'{"id":"1"}', b'{"id":true}', b"\xff", b"[" * 50_000, b" " * (MAXIMUM_LINE + 1)]
)
def test_what_is_no_message(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        Message.parse(line)


def test_fields_are_checked() -> None:
    digest = "a" * 64
    message = Message(1, {"text": "x", "ttl": 5, "list": [[digest, 1]]})
    assert (message.text("text"), message.number_of("ttl", 10), message.sessions("list")) == ("x", 5.0, [(digest, 1.0)])
    assert message.sessions("absent") == []
    for bad in (lambda: message.text("ttl"), lambda: message.text("text", 0), lambda: message.number_of("text", 1)):
        with pytest.raises(ProtocolError):
            bad()
    for value in (5, [[digest]], [["short", 1]], [[digest, "1"]], [[digest, True]], [[digest, 1]] * 1025):
        with pytest.raises(ProtocolError):
            Message(1, {"list": value}).sessions("list")
    for ttl in (-1, 11, True, "5", None, float("nan")):
        with pytest.raises(ProtocolError):
            Message(1, {"ttl": ttl}).number_of("ttl", 10)


def test_results_and_errors() -> None:
    assert Message(1, {"result": {"a": 1}}).result() == {"a": 1}
    for kind in KINDS:
        with pytest.raises(AgentError, match="why") as caught:
            Message(1, {"error": {"kind": kind, "message": "why"}}).result()
        assert caught.value.kind == kind
    for fields in ({}, {"result": 1}, {"error": "x"}, {"error": {"kind": "?", "message": "x"}}):
        with pytest.raises(ProtocolError):
            Message(1, fields).result()


@given(JSON)
def test_any_value(value: object) -> None:
    message = Message(1, {"x": value, "error": value})
    for read in (lambda: message.text("x"), lambda: message.number_of("x", 9), lambda: message.sessions("x")):
        try:
            read()
        except ProtocolError:
            pass
    try:
        message.result()
    except (ProtocolError, AgentError):
        pass


@given(st.binary(max_size=200))
def test_any_line(line: bytes) -> None:
    try:
        Message.parse(line)
    except ProtocolError:
        pass
