"""Bencoding: the examples of BEP 3, every bound, and noise."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from network_edge.eims_agw.wire import bencode
from network_edge.eims_agw.wire.errors import NgError

EXAMPLES = [  # https://www.bittorrent.org/beps/bep_0003.html
    (b"4:spam", "spam"),
    (b"i3e", 3),
    (b"i-3e", -3),
    (b"i0e", 0),
    (b"l4:spam4:eggse", ["spam", "eggs"]),
    (b"d3:cow3:moo4:spam4:eggse", {"cow": "moo", "spam": "eggs"}),
    (b"d4:spaml1:a1:bee", {"spam": ["a", "b"]}),
    (b"0:", ""),
    (b"de", {}),
]


@pytest.mark.parametrize("octets,value", EXAMPLES)
def test_the_examples_of_bep_3(octets, value):
    assert bencode.decode(octets) == value
    assert bencode.encode(value) == octets


@pytest.mark.parametrize(
    "octets",
    [b"", b"i", b"ie", b"i-e", b"i--1e", b"i1", b"5:spam", b"-1:", b"d1:ae", b"di1e1:ae", b"l", b"d", b"4:spamX", b"x",
     b"i" + b"9" * 30 + b"e", b"9" * 30 + b":", b"l" * 1000, b"l" + b"0:" * 9000 + b"e", b"0:" * 40000],
)  # fmt: skip
def test_what_is_refused(octets):
    with pytest.raises(NgError):
        bencode.decode(octets)


def test_octets_that_are_no_text_pass():
    assert bencode.encode(bencode.decode(b"2:\xff\xfe")) == b"2:\xff\xfe"


values = st.recursive(
    st.integers(-(10**18), 10**18) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None)
@given(values)
def test_there_and_back(value):
    octets = bencode.encode(value)
    assert bencode.decode(octets) == value
    for end in range(len(octets)):
        with pytest.raises(NgError):
            bencode.decode(octets[:end])


@settings(deadline=None)
@given(values, st.binary(max_size=40), st.integers(0, 200))
def test_noise_raises_nothing_else(value, noise, at):
    octets = bencode.encode(value)
    for data in (noise, octets[:at] + noise + octets[at:], octets[:at] + noise):
        try:
            bencode.decode(data)
        except NgError:
            continue
