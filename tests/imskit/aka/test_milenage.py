"""Milenage against the published test sets and a real card."""

from pathlib import Path

import pytest

from imskit.aka.errors import AkaError
from imskit.aka.milenage import Milenage, derive_opc
from imskit.secrets import Secret

SETS = [line.split() for line in (Path(__file__).parent / "ts_35_208.txt").read_text().splitlines() if line[0] != "#"]


def key(hexadecimal: str) -> Secret[bytes]:
    return Secret(bytes.fromhex(hexadecimal))


@pytest.mark.parametrize("test_set", SETS, ids=lambda fields: f"set-{fields[0]}")
def test_ts_35_208(test_set: list[str]) -> None:
    """All functions of all sets of TS 35.208 clause 4.3."""
    _, k, rand, sqn, amf, op, opc, f1, f1_star, f2, f3, f4, f5, f5_star = test_set
    assert derive_opc(key(k), key(op)).reveal().hex() == opc
    milenage = Milenage(key(k), key(opc))
    r, s, a = bytes.fromhex(rand), bytes.fromhex(sqn), bytes.fromhex(amf)
    assert milenage.f1(r, s, a).hex() == f1
    assert milenage.f1_star(r, s, a).hex() == f1_star
    keys = milenage.f2345(r)
    assert [x.reveal().hex() for x in (keys.res, keys.ck, keys.ik, keys.ak)] == [f2, f3, f4, f5]
    assert milenage.f5_star(r).reveal().hex() == f5_star


def test_there_are_twenty_sets() -> None:
    assert [int(fields[0]) for fields in SETS] == list(range(1, 21))


def test_wrong_lengths_are_refused_without_showing_the_key() -> None:
    with pytest.raises(AkaError, match=r"K has 15 octets, not 16 \(TS 35.206"):
        Milenage(Secret(bytes(15)), Secret(bytes(16)))
    with pytest.raises(AkaError, match="OPc has 17"):
        Milenage(Secret(bytes(16)), Secret(bytes(17)))
    milenage = Milenage(Secret(bytes(16)), Secret(bytes(16)))
    with pytest.raises(AkaError, match="RAND has 0"):
        milenage.f2345(b"")
    with pytest.raises(AkaError, match="SQN has 5"):
        milenage.f1(bytes(16), bytes(5), bytes(2))
    with pytest.raises(AkaError, match="AMF has 3"):
        milenage.f1_star(bytes(16), bytes(6), bytes(3))


def test_keys_do_not_print() -> None:
    keys = Milenage(Secret(bytes(16)), Secret(bytes(16))).f2345(bytes(16))
    assert repr(keys).count("<redacted>") == 4
    assert keys.res.reveal().hex() not in repr(keys)
