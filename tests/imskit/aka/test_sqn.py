"""Sequence numbers: what the USIM accepts, what the HSS makes, how AUTS joins them (TS 33.102 annex C)."""

import itertools

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
    SqnScheme,
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


# ---- other lengths of IND


@pytest.mark.parametrize("bits", range(9))
def test_every_length_of_ind(bits: int) -> None:
    """Annex C.1.1: the array has as many entries as IND has values; a batch of so many arrives in any order."""
    array, generator = SqnArray(limits=SqnLimits(ind_bits=bits)), SqnGenerator(scheme=SqnScheme(ind_bits=bits))
    batch = [generator.next() for _ in range(1 << bits)]
    assert all(array.accept(number) is SqnVerdict.FRESH for number in reversed(batch))
    assert all(array.accept(number) is SqnVerdict.USED for number in batch)
    assert SqnArray(array.accepted, SqnLimits(ind_bits=bits)).highest == array.highest == max(batch)


def test_without_ind_an_older_number_is_used() -> None:
    """A card with a single counter: only what is above the last one."""
    array = SqnArray([7], SqnLimits(ind_bits=0))
    assert [array.accept(number) for number in (7, 6, 8)] == [SqnVerdict.USED, SqnVerdict.USED, SqnVerdict.FRESH]


def test_a_card_never_wraps_around() -> None:
    """C.2.1: the largest number is reached only by jumps of delta, and nothing follows it."""
    array = SqnArray([join(SEQ_MAX - 1, 0)])
    assert array.accept(join(SEQ_MAX, 0)) is SqnVerdict.FRESH
    assert array.accept(join(0, 0)) is SqnVerdict.USED
    assert array.accept(join(1, 1)) is SqnVerdict.FRESH, "another index; the age limit is there to refuse it"
    assert SqnArray([join(SEQ_MAX, 0)], SqnLimits(age=1000)).judge(join(1, 1)) is SqnVerdict.TOO_OLD


@pytest.mark.parametrize(
    "wrong", [{"ind_bits": 9}, {"ind_bits": -1}, {"delta": 0}, {"age": 0}], ids=lambda fields: next(iter(fields))
)
def test_limits_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(AkaError, match=r"TS 33\.102 C"):
        SqnLimits(**wrong)


# ---- schemes with a clock


def seqs(generator: SqnGenerator, *times: float, bits: int = 5) -> list[int]:
    return [split(generator.next(now), bits)[0] for now in times]


PARTLY = SqnScheme("partly-time", seq2_bits=8, burst=16, delta=1 << 10)


def test_partly_time_based_follows_the_clock() -> None:
    """C.1.1.2 (i): SEQ2 < GLC < SEQ2 + p - D + 1 gives SEQ1 || GLC."""
    assert seqs(SqnGenerator(scheme=PARTLY), 5, 9, 200) == [5, 9, 200]


def test_partly_time_based_a_burst_runs_ahead() -> None:
    """C.1.1.2 (ii): up to D numbers while the clock stands, and until it has caught up, SEQ + 1."""
    generator = SqnGenerator(scheme=PARTLY)
    assert seqs(generator, *[100] * 4, 102, 110) == [100, 101, 102, 103, 104, 110]


def test_partly_time_based_a_new_period() -> None:
    """C.1.1.2 (iii): GLC + D - 1 < SEQ2 means that the clock went round: SEQ1 + 1 || GLC."""
    generator = SqnGenerator(scheme=PARTLY)
    assert seqs(generator, 200, 250, 256 + 3, 512 + 200) == [200, 250, 256 + 3, 256 + 200]


def test_partly_time_based_a_burst_across_the_end_of_a_period() -> None:
    """C.1.1.2 (ii), its other half: SEQ2 + p - D + 1 <= GLC is a burst that has begun the next period already."""
    generator = SqnGenerator(scheme=PARTLY)
    assert seqs(generator, 200, *[253] * 5) == [200, 253, 254, 255, 256, 257]
    assert seqs(generator, 254, 256 + 9) == [258, 256 + 9]


def test_partly_time_based_a_clock_put_back() -> None:
    """Within D it is as a burst; beyond, the numbers go on in the next period, and never back."""
    assert seqs(SqnGenerator(scheme=PARTLY), 100, 90, 60) == [100, 101, 256 + 60]


@pytest.mark.parametrize("kind", ["counter", "partly-time", "time"])
@given(times=st.lists(st.integers(0, 2000), min_size=1, max_size=60))
def test_numbers_only_rise(kind: str, times: list[int]) -> None:
    """Whatever the clock does, no number is given twice and none is below one given before."""
    scheme = SqnScheme(kind, seq2_bits=8, burst=16, delta=1 << 10, unit=1.0)  # type: ignore[arg-type]
    given_out = seqs(SqnGenerator(scheme=scheme), *times)
    assert all(a < b for a, b in itertools.pairwise(given_out))


def test_time_based_is_the_clock_with_the_subscribers_difference() -> None:
    """C.1.1.3: SEQ = GLC + DIF; several within a unit count on; after AUTS DIF is the card's distance to the clock."""
    generator = SqnGenerator(scheme=SqnScheme("time"))
    assert seqs(generator, 100.0, 100.05, 101.0) == [1000, 1001, 1010]
    assert generator.resynchronise(join(5000, 3), 102.0)
    assert seqs(generator, 102.0, 103.0) == [5001, 5010]


@pytest.mark.parametrize("kind", ["counter", "partly-time", "time"])
@pytest.mark.parametrize("card", [0, join(900, 9), join((1 << 30) + 5, 31), join(SEQ_MAX - (1 << 29), 0)])
@pytest.mark.parametrize("hss", [0, join(1 << 29, 7)])
@pytest.mark.parametrize("now", [0.0, 1_800_000_000.0])
def test_every_scheme_resynchronises(kind: str, card: int, hss: int, now: float) -> None:
    """Clause 6.3.5: after one AUTS at most the card accepts, for any card, any counter, any time."""
    array, generator = SqnArray([card]), SqnGenerator(hss, SqnScheme(kind))  # type: ignore[arg-type]
    if array.judge(generator.next(now)) is not SqnVerdict.FRESH:
        generator.resynchronise(array.highest, now + 1)
    assert array.accept(generator.next(now + 2)) is SqnVerdict.FRESH
    assert array.accept(generator.next(now + 3)) is SqnVerdict.FRESH


@pytest.mark.parametrize("kind", ["counter", "time"])
def test_a_network_at_its_end_gives_no_more(kind: str) -> None:
    """Wrap-around in the network would make old vectors fresh again: there is an error instead."""
    generator = SqnGenerator(join(SEQ_MAX - 1, 0), SqnScheme(kind))  # type: ignore[arg-type]
    generator.next(0.0)
    for _ in range(2):
        with pytest.raises(AkaError, match="used up"):
            generator.next(1e9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "partly-time", "seq2_bits": 43},
        {"kind": "partly-time", "burst": 1 << 24},
        {"kind": "partly-time", "seq2_bits": 30},
        {"kind": "time", "unit": 0.0},
        {"delta": 0},
        {"ind_bits": 12},
    ],
)
def test_schemes_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(AkaError, match=r"TS 33\.102 C"):
        SqnScheme(**wrong)  # type: ignore[arg-type]
