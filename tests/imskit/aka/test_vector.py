"""One AKA run, both ends, and against a real card."""

import pytest

from imskit.aka.errors import AkaError
from imskit.aka.milenage import Milenage, derive_opc
from imskit.aka.sqn import SqnArray, SqnGenerator, check_auts, join
from imskit.aka.vector import AuthenticationVector, MacFailure, Success, SyncFailure, Usim
from imskit.secrets import Secret

RAND = bytes.fromhex("23553cbe9637a89d218ae64dae47bf35")
K = Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"))
OPC = Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf"))
SET_1 = Milenage(K, OPC)


def test_a_real_card_agrees() -> None:
    """AUTHENTICATE result of a sysmoISIM-SJA5 (pySim, tests/pySim-shell_test/authenticate)."""
    k = Secret(bytes.fromhex("56c3a6da347ae7e43c69d37576725d81"))
    op = Secret(bytes.fromhex("e0012b514f84eca9bfd6182bee345e2c"))
    usim = Usim(Milenage(k, derive_opc(k, op)))
    rand = bytes.fromhex("e85b2b7fe58f0e6239b32543d3e3259a")
    autn = bytes.fromhex("7928ea47ae090000ca8ab1f93c7cb03a")
    result = usim.verify(rand, autn)
    assert isinstance(result, Success)
    assert result.res.reveal().hex() == "13484811d553ab35"
    assert result.ck.reveal().hex() == "0f93c4807f4ff57c6cd348fea590c06d"
    assert result.ik.reveal().hex() == "608e7bff4856c73e363e795b165a4158"
    assert usim.sqn.highest == 0x20
    made = AuthenticationVector.generate(Milenage(k, derive_opc(k, op)), rand, 0x20)
    assert (made.autn, made.xres, made.ck, made.ik) == (autn, result.res, result.ck, result.ik)


def test_autn_is_laid_out_as_ts_33_102_says() -> None:
    """TS 35.208 set 1: AUTN = (SQN xor f5) || AMF || f1."""
    vector = AuthenticationVector.generate(SET_1, RAND, 0xFF9BB4D0B607, bytes.fromhex("b9b9"))
    assert vector.autn.hex() == "55f328b43577" + "b9b9" + "4a9ffac354dfafb3"
    assert vector.xres.reveal().hex() == "a54211d5e3ba50bf"


def test_success_then_replay_then_resynchronisation() -> None:
    usim = Usim(SET_1, SqnArray([join(1000, 4)]))
    hss = SqnGenerator()
    stale = AuthenticationVector.generate(SET_1, RAND, hss.next())
    fresh_index = usim.verify(stale.rand, stale.autn)
    assert isinstance(fresh_index, Success), "index 1 of this card is unused"
    again = usim.verify(stale.rand, stale.autn)
    assert isinstance(again, SyncFailure)
    sqn_ms = check_auts(SET_1, RAND, again.auts)
    assert sqn_ms == join(1000, 4)
    assert hss.resynchronise(sqn_ms)
    vector = AuthenticationVector.generate(SET_1, RAND, hss.next())
    result = usim.verify(vector.rand, vector.autn)
    assert isinstance(result, Success)
    assert (result.res, result.ck, result.ik) == (vector.xres, vector.ck, vector.ik)


def test_any_changed_bit_is_a_mac_failure_and_costs_no_sequence_number() -> None:
    vector = AuthenticationVector.generate(SET_1, RAND, join(7, 7))
    usim = Usim(SET_1)
    for bit in range(128):
        autn = bytearray(vector.autn)
        autn[bit // 8] ^= 1 << bit % 8
        assert usim.verify(vector.rand, bytes(autn)) == MacFailure()
    other = Usim(Milenage(OPC, K))
    assert other.verify(vector.rand, vector.autn) == MacFailure()
    assert isinstance(usim.verify(vector.rand, vector.autn), Success)


def test_wrong_lengths() -> None:
    with pytest.raises(AkaError, match="AUTN has 15 octets"):
        Usim(SET_1).verify(RAND, bytes(15))
    with pytest.raises(AkaError, match="RAND has 17 octets"):
        Usim(SET_1).verify(bytes(17), bytes(16))


def test_nothing_secret_prints() -> None:
    vector = AuthenticationVector.generate(SET_1, RAND, 32)
    text = f"{vector!r} {Usim(SET_1).verify(vector.rand, vector.autn)!r}"
    for secret in (vector.xres, vector.ck, vector.ik):
        assert secret.reveal().hex() not in text
        assert repr(secret.reveal()) not in text
