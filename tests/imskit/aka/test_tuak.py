"""TUAK against the published test sets, and in a whole AKA run."""

from pathlib import Path

import pytest

from imskit.aka.errors import AkaError
from imskit.aka.sqn import SqnArray, SqnGenerator, check_auts, join
from imskit.aka.tuak import Tuak, TuakLengths, derive_topc
from imskit.aka.vector import AuthenticationVector, MacFailure, Success, SyncFailure, Usim
from imskit.secrets import Secret

SETS = [line.split() for line in (Path(__file__).parent / "ts_35_233.txt").read_text().splitlines() if line[0] != "#"]


def key(hexadecimal: str) -> Secret[bytes]:
    return Secret(bytes.fromhex(hexadecimal))


def octets(hexadecimal: str) -> int:
    return len(hexadecimal) // 2


@pytest.mark.parametrize("test_set", SETS, ids=lambda fields: f"set-{fields[0]}")
def test_ts_35_233(test_set: list[str]) -> None:
    """X-CARDLAB: all functions of all sets of TS 35.233 clauses 6.3 to 6.8: K, MAC, RES, CK, IK of all lengths."""
    _, iterations, k, rand, sqn, amf, top, topc, f1, f1_star, f2, f3, f4, f5, f5_star = test_set
    assert derive_topc(key(k), key(top), int(iterations)).reveal().hex() == topc
    lengths = TuakLengths(octets(f2), octets(f3), octets(f4), octets(f1), int(iterations))
    tuak = Tuak(key(k), key(topc), lengths)
    r, s, a = bytes.fromhex(rand), bytes.fromhex(sqn), bytes.fromhex(amf)
    assert tuak.f1(r, s, a).hex() == f1
    assert tuak.f1_star(r, s, a).hex() == f1_star
    keys = tuak.f2345(r)
    assert [x.reveal().hex() for x in (keys.res, keys.ck, keys.ik, keys.ak)] == [f2, f3, f4, f5]
    assert tuak.f5_star(r).reveal().hex() == f5_star


def test_there_are_six_sets() -> None:
    assert [int(fields[0]) for fields in SETS] == list(range(1, 7))


@pytest.mark.parametrize(
    ("k_octets", "lengths"), [(16, TuakLengths()), (32, TuakLengths(res=16, ck=32, ik=32, iterations=3))]
)
def test_a_whole_run_with_resynchronisation(k_octets: int, lengths: TuakLengths) -> None:
    """S7-UICC: success, then a number used before, AUTS, and success again; a wrong key is a MAC failure."""
    tuak = Tuak(Secret(bytes(range(k_octets))), Secret(bytes(range(32))), lengths)
    usim, hss, rand = Usim(tuak, SqnArray([join(900, 1)])), SqnGenerator(), bytes(range(16))
    stale = AuthenticationVector.generate(tuak, rand, hss.next())
    result = usim.verify(stale.rand, stale.autn)
    assert isinstance(result, SyncFailure)
    sqn_ms = check_auts(tuak, rand, result.auts)
    assert sqn_ms == join(900, 1)
    hss.resynchronise(sqn_ms)
    vector = AuthenticationVector.generate(tuak, rand, hss.next())
    success = usim.verify(vector.rand, vector.autn)
    assert isinstance(success, Success)
    assert (success.res, success.ck, success.ik) == (vector.xres, vector.ck, vector.ik)
    assert (len(success.res.reveal()), len(success.ck.reveal())) == (lengths.res, lengths.ck)
    other = Usim(Tuak(Secret(bytes(k_octets)), Secret(bytes(range(32))), lengths))
    assert other.verify(vector.rand, vector.autn) == MacFailure()


def test_a_long_mac_does_not_fit_into_autn() -> None:
    long_mac = Tuak(Secret(bytes(16)), Secret(bytes(32)), TuakLengths(mac=16))
    with pytest.raises(AkaError, match="MAC-A has 16 octets, not 8"):
        AuthenticationVector.generate(long_mac, bytes(16), 32)
    with pytest.raises(AkaError, match="MAC-A has 16 octets, not 8"):
        Usim(long_mac).verify(bytes(16), bytes(16))


def test_wrong_lengths_are_refused_without_showing_the_key() -> None:
    with pytest.raises(AkaError, match=r"K has 15 octets, not 16 or 32 \(TS 35.231"):
        Tuak(Secret(bytes(15)), Secret(bytes(32)))
    with pytest.raises(AkaError, match="TOPc has 16"):
        Tuak(Secret(bytes(16)), Secret(bytes(16)))
    with pytest.raises(AkaError, match="TOP has 31"):
        derive_topc(Secret(bytes(16)), Secret(bytes(31)))
    tuak = Tuak(Secret(bytes(16)), Secret(bytes(32)))
    with pytest.raises(AkaError, match="RAND has 0"):
        tuak.f2345(b"")
    with pytest.raises(AkaError, match="SQN has 5"):
        tuak.f1(bytes(16), bytes(5), bytes(2))
    with pytest.raises(AkaError, match="AMF has 3"):
        tuak.f1_star(bytes(16), bytes(6), bytes(3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"res": 5}, "RES cannot have 5"),
        ({"mac": 4}, "MAC cannot have 4"),
        ({"ck": 24}, "CK and IK"),
        ({"ik": 8}, "CK and IK"),
        ({"iterations": 0}, "1 to 255 times"),
    ],
)
def test_lengths_that_are_not_defined(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(AkaError, match=message):
        TuakLengths(**wrong)


def test_keys_do_not_print() -> None:
    keys = Tuak(Secret(bytes(16)), Secret(bytes(32))).f2345(bytes(16))
    assert repr(keys).count("<redacted>") == 4
