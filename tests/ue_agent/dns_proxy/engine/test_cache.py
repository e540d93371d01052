"""The DNS proxy's cache.  Requirement S7-DNS."""

import dns.message
import pytest

from ue_agent.dns_proxy.engine import cache as c
from ue_agent.dns_proxy.wire.message import parse_response

TEXT = "id 7\nopcode QUERY\nrcode NOERROR\nflags QR RD RA\n;QUESTION\nwww.example. IN A\n;ANSWER\n"
DATA = dns.message.from_text(TEXT + "www.example. 300 IN CNAME a.example.\na.example. 60 IN A 192.0.2.1\n").to_wire()
QUESTION = DATA[12 : parse_response(DATA).question_end]


def test_it_lasts_as_long_as_the_lowest_ttl() -> None:
    cache = c.Cache()
    cache.store(b"k", DATA, 100.0)
    assert cache.find(b"k", QUESTION, 100.0) == DATA
    assert cache.find(b"k", QUESTION, 159.9) is not None
    assert cache.find(b"k", QUESTION, 160.0) is None
    assert b"k" not in cache


def test_ttls_shrink_with_age_and_the_question_is_the_askers() -> None:
    cache = c.Cache()
    cache.store(b"k", DATA, 100.0)
    found = cache.find(b"k", QUESTION.replace(b"www", b"WwW"), 145.0)
    assert found is not None
    message = dns.message.from_wire(found)
    assert [rrset.ttl for rrset in message.answer] == [255, 15]
    assert message.question[0].name.to_text() == "WwW.example."


@pytest.mark.parametrize("data", [DATA[:-1], DATA[:3] + b"\x82" + DATA[4:], DATA[:12]])
def test_what_may_not_be_handed_out_twice_is_not(data: bytes) -> None:
    """Cut short, SERVFAIL, empty: forwarded once as they came, never again."""
    cache = c.Cache()
    cache.store(b"k", data, 0.0)
    assert cache.find(b"k", QUESTION, 0.0) is None


def test_the_oldest_makes_room_and_the_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "CAPACITY", 2)
    cache = c.Cache()
    for key in (b"a", b"b", b"c"):
        cache.store(key, DATA, 0.0)
    assert list(cache) == [b"b", b"c"]
    cache.store(b"d", DATA + bytes(c.MAXIMUM_SIZE), 0.0)
    assert b"d" not in cache
