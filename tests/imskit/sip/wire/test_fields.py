"""The header list: names, order, lists."""

from collections.abc import Callable

import pytest

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.fields import Headers, field_key


def parsed(*lines: str) -> Headers:
    return Headers.parse(list(lines))


def test_names_compare_without_case_and_compact_forms_equal_long_ones() -> None:
    headers = parsed("v: a", "VIA: b", "Via : c", "x: 90", "r: <sip:a@b>", "o: reg", "b: <sip:c@d>", "y: sig")
    assert headers.get_all("via") == ["a", "b", "c"]
    assert headers.get("Session-Expires") == "90"
    assert headers.get("Refer-To") == "<sip:a@b>"
    assert headers.get("Event") == "reg"
    assert headers.get("REFERRED-BY") == "<sip:c@d>"
    assert headers.get("Identity") == "sig"
    assert "V" in headers and "Route" not in headers
    assert field_key("K") == "supported" and field_key("X-New") == "x-new"


def test_fold_and_space_before_colon() -> None:
    headers = parsed("Subject\t :  first", " second", "\tthird ", "X:")
    assert headers.get("subject") == "first second third"
    assert headers.get("X") == ""
    assert headers.lines() == ["Subject\t :  first\r\n second\r\n\tthird ", "X:"]


def test_elements_mind_quotes_and_angles() -> None:
    headers = parsed(
        'Contact: "Eve" <sip:victim@x>, "Eve" <sip:eve@x>',
        'm: "a, b" <sip:a,b@c;x=","> , sip:d@e',
        "Accept: ",
    )
    assert headers.elements("Contact") == [
        '"Eve" <sip:victim@x>',
        '"Eve" <sip:eve@x>',
        '"a, b" <sip:a,b@c;x=",">',
        "sip:d@e",
    ]
    assert headers.elements("Accept") == []
    assert headers.elements("Absent") == []


def test_fields_that_are_no_lists_come_whole() -> None:
    headers = parsed('WWW-Authenticate: Digest realm="a", qop="auth,auth-int"', "Date: Fri, 01 Jan 2010 16:00:00 GMT")
    assert headers.elements("WWW-Authenticate") == ['Digest realm="a", qop="auth,auth-int"']
    assert headers.elements("date") == ["Fri, 01 Jan 2010 16:00:00 GMT"]


@pytest.mark.parametrize("value", ["a,,b", ",a", "a,", 'a "b', "<a", "a>", "a, <b, c"])
def test_broken_lists_are_refused(value: str) -> None:
    with pytest.raises(SipParseError):
        parsed(f"Route: {value}").elements("Route")


def test_pop_element_takes_the_first_and_leaves_the_rest() -> None:
    headers = parsed("Route: <sip:a;lr>, <sip:b;lr>", "Max-Forwards: 1", "Route: <sip:c;lr>")
    assert headers.first_element("route") == "<sip:a;lr>"
    assert headers.pop_element("Route") == "<sip:a;lr>"
    assert headers.lines() == ["Route: <sip:b;lr>", "Max-Forwards: 1", "Route: <sip:c;lr>"]
    assert headers.pop_element("Route") == "<sip:b;lr>"
    assert headers.pop_element("Route") == "<sip:c;lr>"
    assert headers.pop_element("Route") is None
    assert headers.lines() == ["Max-Forwards: 1"]


def test_replace_element_changes_the_first_only() -> None:
    headers = parsed("v: a;rport, b", "Via: c")
    headers.replace_element("Via", "a;rport=5")
    assert headers.lines() == ["v: a;rport=5, b", "Via: c"]
    headers.replace_element("Route", "<sip:x>")
    assert headers.get("Route") == "<sip:x>"


def test_prepend_set_remove() -> None:
    headers = parsed("To: t", "Via: 1", "From: f", "Via: 2")
    headers.prepend("Via", "0")
    assert headers.lines() == ["To: t", "Via: 0", "Via: 1", "From: f", "Via: 2"]
    headers.prepend("Route", "r")
    assert headers.lines()[0] == "Route: r"
    headers.set("v", "9")
    assert headers.lines() == ["Route: r", "To: t", "v: 9", "From: f"]
    headers.set("New", 5)
    headers.remove("FROM")
    assert headers.lines() == ["Route: r", "To: t", "v: 9", "New: 5"]


def test_deep_folding_and_empty_first_fields_do_not_recurse_for_ever() -> None:
    headers = parsed(*["Route:"] * 200, "Route: <sip:a>")
    assert headers.pop_element("Route") == "<sip:a>"
    assert headers.first_element("Route") is None


@pytest.mark.parametrize("value", ["a\r\nVia: b", "a\nb", "a\rb", "a\0b"])
def test_values_that_would_end_a_line_are_refused(value: str) -> None:
    headers = Headers()
    for method in (headers.add, headers.set, headers.prepend, headers.replace_element):
        with pytest.raises(SipParseError):
            method("Subject", value)
    headers.add("Subject", "x")
    with pytest.raises(SipParseError):
        headers.replace_element("Subject", value)
    with pytest.raises(SipParseError):
        headers.add("Sub:ject", "x")


@pytest.mark.parametrize(
    "change",
    [
        lambda headers: headers.add("Route", "<sip:c>"),
        lambda headers: headers.prepend("route", "<sip:c>"),
        lambda headers: headers.set("Route", "<sip:c>"),
        lambda headers: headers.remove("Supported", "ROUTE"),
        lambda headers: headers.pop_element("Route"),
        lambda headers: headers.replace_element("Route", "<sip:c>"),
        lambda headers: headers.copy_from(Headers([("Route", "<sip:c>")]), "Route"),
        lambda headers: headers.elements("Route").append("<sip:c>"),
    ],
)
def test_a_list_that_was_read_follows_every_change(change: Callable[[Headers], object]) -> None:
    headers = Headers([("Route", "<sip:a>, <sip:b>"), ("Supported", "path")])
    assert headers.elements("Route") == ["<sip:a>", "<sip:b>"]
    copied = headers.copy()
    change(headers)
    assert headers.elements("Route") == Headers(headers).elements("Route")
    assert copied.elements("Route") == ["<sip:a>", "<sip:b>"]
