"""The DNS proxy's cache.  Requirement S7-DNS."""

import dns.message

from ue_agent.dns_proxy.engine.cache import MAXIMUM_SIZE, Cache, aged
from ue_agent.dns_proxy.wire.message import Response, parse_response

TEXT = "id 7\nopcode QUERY\nrcode NOERROR\nflags QR RD RA\n;QUESTION\nwww.example. IN A\n;ANSWER\n"
DATA = dns.message.from_text(TEXT + "www.example. 300 IN CNAME a.example.\na.example. 60 IN A 192.0.2.1\n").to_wire()
READ = parse_response(DATA)


def test_it_lasts_as_long_as_the_lowest_ttl() -> None:
    cache = Cache()
    cache.store(b"k", DATA, READ, 100.0)
    assert cache.find(b"k", 159.9) is not None
    assert cache.find(b"other", 100.0) is None
    assert cache.find(b"k", 160.0) is None
    assert len(cache) == 0


def test_ttls_shrink_with_age_and_the_question_is_the_askers() -> None:
    cache = Cache()
    cache.store(b"k", DATA, READ, 100.0)
    entry = cache.find(b"k", 145.0)
    assert entry is not None
    question = DATA[12 : READ.question_end].replace(b"www", b"WwW")
    message = dns.message.from_wire(aged(entry, question, 145.0))
    assert [rrset.ttl for rrset in message.answer] == [255, 15]
    assert message.question[0].name.to_text() == "WwW.example."
    assert entry.data == DATA


def test_what_may_not_be_kept_is_not() -> None:
    cache = Cache()
    cache.store(b"k", DATA, READ._replace(ttl=None), 0.0)
    cache.store(b"l", DATA + bytes(MAXIMUM_SIZE), READ, 0.0)
    assert len(cache) == 0


def test_the_oldest_makes_room() -> None:
    cache = Cache(capacity=2)
    for key in (b"a", b"b", b"a", b"c"):
        cache.store(key, DATA, READ, 0.0)
    assert cache.find(b"b", 1.0) is None
    assert cache.find(b"a", 1.0) is not None
    assert isinstance(READ, Response)
    cache.clear()
    assert len(cache) == 0
