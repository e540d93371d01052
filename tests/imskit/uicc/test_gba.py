"""GBA_U on the card's side: its commands, right and wrong (TS 31.103 clause 7.1.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.gba import bootstrap_key, conceal_for_uicc, derive_naf_key, naf_id
from imskit.aka.sqn import join
from imskit.aka.vector import AuthenticationVector
from imskit.secrets import Secret
from imskit.uicc.gba import CardGba, GbaCommandError
from imskit.uicc.personalise import ISIM_AID
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc

K, OPC = "fec86ba6eb707ed08905757b1bb44b8f", "1006020f0a478bf6b699f15c062e42b3"  # TS 35.208 set 3
TUAK = {"algorithm": "tuak", "k": Secret("ab" * 32), "opc": Secret("5c" * 32)}


def card(**changes: object) -> Uicc:
    fields = {"k": Secret(K), "opc": Secret(OPC), "gba": True, "isim": IsimProfile("a@b", "b", ["sip:a@b"]), **changes}
    return Uicc(CardProfile("001010000000001", **fields))  # type: ignore[arg-type]


def isim(uicc: Uicc) -> CardGba:
    return uicc._gba[ISIM_AID]


def bootstrapping(uicc: Uicc, seq: int = 1) -> tuple[bytes, AuthenticationVector]:
    vector = AuthenticationVector.generate(uicc.usim.algorithms, bytes([seq]) * 16, join(seq, seq))
    return b"\xdd\x10" + vector.rand + b"\x10" + conceal_for_uicc(vector.autn, vector.ik), vector


def derivation(name: str = "naf.example", impi: str = "a@b") -> bytes:
    identifier = naf_id(name)
    return b"\xde" + bytes([len(identifier)]) + identifier + bytes([len(impi)]) + impi.encode()


@pytest.mark.parametrize("keys", [{}, TUAK], ids=["milenage", "tuak"])
def test_bootstrapping_and_derivation(keys: dict[str, object]) -> None:
    uicc = card(**keys)
    command, vector = bootstrapping(uicc)
    res = vector.xres.reveal()
    assert isim(uicc).authenticate(command) == bytes([0xDB, len(res)]) + res
    key = derive_naf_key(bootstrap_key(vector.ck, vector.ik), vector.rand, "a@b", naf_id("naf.example"))
    assert isim(uicc).authenticate(derivation()) == b"\xdb\x20" + key.reveal()


def test_a_new_run_replaces_the_old_key() -> None:
    uicc = card()
    isim(uicc).authenticate(bootstrapping(uicc, 1)[0])
    first = isim(uicc).authenticate(derivation())
    isim(uicc).authenticate(bootstrapping(uicc, 2)[0])
    assert isim(uicc).authenticate(derivation()) != first


def test_a_refused_challenge_leaves_the_old_key() -> None:
    uicc = card()
    isim(uicc).authenticate(bootstrapping(uicc)[0])
    first = isim(uicc).authenticate(derivation())
    with pytest.raises(GbaCommandError, match="9862"):
        isim(uicc).authenticate(b"\xdd\x10" + bytes(16) + b"\x10" + bytes(16))
    assert isim(uicc).authenticate(bootstrapping(uicc)[0])[:1] == b"\xdc", "a number used before"
    assert isim(uicc).authenticate(derivation()) == first


def test_each_application_has_its_own_key() -> None:
    uicc = card()
    isim(uicc).authenticate(bootstrapping(uicc)[0])
    usim = next(gba for aid, gba in uicc._gba.items() if aid != ISIM_AID)
    with pytest.raises(GbaCommandError, match="6985"):
        usim.authenticate(derivation())


@pytest.mark.parametrize(
    ("data", "sw"),
    [
        (b"", "6700"),
        (b"\xdd", "6700"),
        (b"\xdd\x10" + bytes(16) + b"\x10" + bytes(15), "6700"),
        (b"\xdd\x0f" + bytes(15) + b"\x10" + bytes(16), "6700"),
        (b"\xdc\x01\x00\x01\x00", "6A80"),
        (derivation()[:-1], "6700"),
        (derivation(), "6985"),
    ],
)
def test_commands_that_are_wrong(data: bytes, sw: str) -> None:
    with pytest.raises(GbaCommandError, match=sw):
        isim(card()).authenticate(data)


def test_keys_of_256_bits_have_no_place_in_gba() -> None:
    from imskit.aka.subscription import TuakSettings

    uicc = card(**TUAK, tuak=TuakSettings(ck=32))
    with pytest.raises(GbaCommandError, match="6985"):
        isim(uicc).authenticate(bootstrapping(uicc)[0])


@given(st.binary(max_size=255), st.sampled_from([b"", b"\xdd", b"\xde", b"\xdd\x10", b"\xde\x05naf.b"]))
def test_only_a_status_word_escapes(noise: bytes, prefix: bytes) -> None:
    uicc = card()
    isim(uicc).authenticate(bootstrapping(uicc)[0])
    try:
        isim(uicc).authenticate(prefix + noise)
    except GbaCommandError as error:
        assert error.sw >> 8 in (0x67, 0x69, 0x6A, 0x98)
