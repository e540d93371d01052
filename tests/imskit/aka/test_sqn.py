"""Sequence numbers: what the USIM accepts, what the HSS makes, how AUTS joins them (TS 33.102 annex C)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.errors import AkaError
from imskit.aka.milenage import Milenage
from imskit.aka.sqn import (
    DELTA,
    SEQ_MAX,
    SQN_MAX,
    SqnArray,
    SqnGenerator,
    SqnLimits,
    SqnVerdict,
    build_auts,
    check_auts,
    join,
    split,
)
from imskit.secrets import Secret

# The subscriber of TS 35.208 set 20, for whom a test USIM's AUTS was published (hostap, tests/test-milenage.c).
SET_20 = Milenage(
    Secret(bytes.fromhex("90dca4eda45b53cf0f12d7c9c3bc6a89")),
    Secret(bytes.fromhex("cb9cccc4b9258e6dca4760379fb82581")),
)


def test_each_index_has_its_own_memory() -> None:
    array = SqnArray()
    assert array.accept(join(10, 3)) is SqnVerdict.FRESH
    assert array.accept(join(10, 3)) is SqnVerdict.USED
    assert array.accept(join(9, 3)) is SqnVerdict.USED
    assert array.accept(join(9, 4)) is SqnVerdict.FRESH, "an older vector of another index arrives late"
    assert array.highest == join(10, 3)


def test_a_new_card_does_not_accept_zero() -> None:
    array = SqnArray()
    assert array.highest == 0
    assert array.accept(0) is SqnVerdict.USED
    assert array.accept(join(0, 31)) is SqnVerdict.USED


def test_the_largest_jump() -> None:
    """C.2.1: SEQ - SEQ_MS <= delta, SEQ_MS being the highest of the whole array."""
    array = SqnArray([join(100, 7)])
    assert array.judge(join(100 + DELTA + 1, 0)) is SqnVerdict.TOO_FAR
    assert array.judge(join(100 + DELTA, 0)) is SqnVerdict.FRESH
    assert SqnArray([join(100, 7)], SqnLimits(delta=None)).judge(SQN_MAX) is SqnVerdict.FRESH


def test_the_age_limit() -> None:
    """C.2.2: with a limit L, accepted only if SEQ_MS - SEQ < L."""
    array = SqnArray([join(100, 0)], SqnLimits(age=10))
    assert array.judge(join(91, 1)) is SqnVerdict.FRESH
    assert array.judge(join(90, 1)) is SqnVerdict.TOO_OLD


def test_a_refused_number_is_not_remembered() -> None:
    array = SqnArray()
    assert array.accept(join(DELTA + 1, 0)) is SqnVerdict.TOO_FAR
    assert array.highest == 0


@given(st.lists(st.integers(0, 200), max_size=60))
def test_no_number_is_accepted_twice(numbers: list[int]) -> None:
    array = SqnArray()
    accepted = [n for n in numbers if array.accept(n) is SqnVerdict.FRESH]
    assert len(accepted) == len(set(accepted))
    assert array.highest == max(accepted, default=0)


@given(st.permutations(range(32)), st.integers(0, 1 << 20))
def test_a_batch_of_32_vectors_may_arrive_in_any_order(order: list[int], start: int) -> None:
    generator, array = SqnGenerator(join(start, 0)), SqnArray([join(start, 0)])
    batch = [generator.next() for _ in range(32)]
    assert all(array.accept(batch[i]) is SqnVerdict.FRESH for i in order)


def test_the_generator_carries_on_and_ends() -> None:
    generator = SqnGenerator()
    first = generator.next()
    assert split(first) == (1, 1)
    assert SqnGenerator(generator.last).next() > first
    with pytest.raises(AkaError, match=r"used up \(TS 33.102"):
        SqnGenerator(join(SEQ_MAX, 0)).next()


@pytest.mark.parametrize("card", [join(500, 9), join(3, 31), join(DELTA + 700, 0), 0])
@pytest.mark.parametrize("hss", [0, join(499, 31), join(500, 9), join(DELTA + 501, 0)])
def test_after_resynchronisation_the_next_number_is_accepted(card: int, hss: int) -> None:
    array, generator = SqnArray([card]), SqnGenerator(hss)
    generator.resynchronise(array.highest)
    assert array.accept(generator.next()) is SqnVerdict.FRESH


def test_an_old_auts_does_not_turn_the_counter_back() -> None:
    generator = SqnGenerator(join(50, 1))
    assert generator.resynchronise(join(40, 0)) is False
    assert generator.last == join(50, 1)
    assert generator.resynchronise(join(51, 0)) is True


def test_auts_of_a_test_usim() -> None:
    """The published AUTS was made by a program nobody here wrote; its inverse gives it back octet for octet."""
    rand = bytes([0xAA] * 16)
    auts = bytes.fromhex("43681ad3daf006bcde405a207267")
    sqn_ms = check_auts(SET_20, rand, auts)
    assert sqn_ms is not None
    assert build_auts(SET_20, rand, sqn_ms) == auts
    assert check_auts(SET_20, bytes(16), auts) is None, "another challenge"


@given(st.binary(min_size=16, max_size=16), st.integers(0, SQN_MAX), st.integers(0, 14 * 8 - 1))
def test_auts_there_and_back(rand: bytes, sqn_ms: int, bit: int) -> None:
    auts = build_auts(SET_20, rand, sqn_ms)
    assert len(auts) == 14
    assert check_auts(SET_20, rand, auts) == sqn_ms
    broken = bytearray(auts)
    broken[bit // 8] ^= 1 << bit % 8
    assert check_auts(SET_20, rand, bytes(broken)) is None


def test_bad_lengths() -> None:
    with pytest.raises(AkaError, match="AUTS has 13 octets, not 14"):
        check_auts(SET_20, bytes(16), bytes(13))
    with pytest.raises(AkaError, match="48 bits"):
        split(SQN_MAX + 1)
