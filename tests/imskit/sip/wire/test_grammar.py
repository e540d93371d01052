"""The shared scanners."""

import pytest

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.grammar import (
    Parameters,
    check_host,
    check_value,
    host_port,
    parse_host_port,
    parse_number,
    quote,
    split_list,
    split_parameters,
    unfold,
    unquote,
)


def test_quote_and_unquote() -> None:
    for text in ("", "a", 'a"b', "a\\b", "\0", '\\"', "\u0440"):
        quoted = quote(text)
        assert unquote(quoted) == text
        check_value(quoted, "x")
    assert unquote("plain") == "plain" and unquote('"') == '"'


def test_unfold() -> None:
    assert unfold("a \r\n  b\r\n\tc") == "a b c"


def test_numbers() -> None:
    assert parse_number(" 000070 ", "x") == 70
    assert parse_number("0" * 100 + "1", "x") == 1
    for text in ("", "-1", "+1", "1.0", "1e3", "\u00b2", "\u0661", "1 2", "9" * 5000):
        with pytest.raises(SipParseError):
            parse_number(text, "x")


def test_hosts() -> None:
    for host in ("a", "a.b", "a.b.", "1.2.3.4", "::1", "2001:db8::192.0.2.1", "my_host"):
        assert check_host(host, "x") == host
    for host in ("", "a b", "-", "a/b", "::zz", ":::", "1::2::3", "a" * 256, "\u00e4"):
        with pytest.raises(SipParseError):
            check_host(host, "x")
    assert parse_host_port("[::1]:5", "x") == ("::1", 5) and parse_host_port("a", "x") == ("a", None)
    assert host_port("::1", 5) == "[::1]:5" and host_port("a", None) == "a"


def test_split_list() -> None:
    assert split_list('a, "b, c" <d,e> , f', "x") == ["a", '"b, c" <d,e>', "f"]


def test_parameters() -> None:
    parameters = Parameters.parse(' ; A = 1 ;b;c="x;\\"y" ;d=[::1]', "x")
    assert list(parameters) == [("A", "1"), ("b", None), ("c", '"x;\\"y"'), ("d", "[::1]")]
    assert parameters.get("a") == "1" and parameters.get("B") == "" and parameters.get("z") is None
    assert parameters.get("c") == 'x;"y' and parameters.raw("c") == '"x;\\"y"'
    assert "D" in parameters and "z" not in parameters and len(parameters) == 4
    assert str(parameters.with_("a", "2").with_("e").without("c", "D")) == ";a=2;b;e"
    assert not Parameters.parse("", "x")


def test_split_parameters() -> None:
    value, parameters = split_parameters('"a;b" x ; c=1', "x")
    assert value == '"a;b" x' and parameters.get("c") == "1"
    with pytest.raises(SipParseError):
        split_parameters('"a;b', "x")
