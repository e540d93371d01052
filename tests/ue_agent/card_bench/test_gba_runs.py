"""GBA with the bench as the BSF: both sides have the same key."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.aka.errors import AkaError
from imskit.aka.gba import bootstrap_key, derive_naf_key, naf_id
from imskit.aka.sqn import join
from imskit.secrets import Identity, Secret
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc
from ue_agent.card_bench.gba_runs import GbaBench
from ue_agent.card_bench.lab_hss import LabHss, LabKeys
from ue_agent.uicc.application import Source, UiccSession
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.uicc.pin import Pin

K = Secret("465b5ce8b199b49faa5f0a2ee238a6bc")
OPC = Secret("cd63cb71954a9f4e48a5994e37a02baf")
TUAK = {"algorithm": "tuak", "opc": Secret("ab" * 32)}
IMPI = Identity("user@ims.example")
ISIM = IsimProfile(impi=str.__str__(IMPI), domain="ims.example", impu=["sip:user@ims.example"])


def make(source: Source = "ISIM", keys: dict[str, Any] | None = None, **fields: Any) -> tuple[GbaBench, UiccSession]:
    secret = {"k": K, "opc": OPC, **(keys or {})}
    card = Uicc(CardProfile(**{"imsi": "001010000000001", "gba": True, "isim": ISIM, **secret, **fields}))
    session = UiccSession(InProcessReader(card).connect(), Pin())
    return GbaBench(session, source, LabHss(LabKeys(**secret)), IMPI, "bsf.ims.example"), session


@pytest.mark.parametrize("keys", [{}, TUAK], ids=["Milenage", "TUAK"])
@pytest.mark.parametrize("source", ["ISIM", "USIM"])
def test_gba_u(source: Source, keys: dict[str, Any]) -> None:
    """TS 33.220 clause 5.3: Ks stays in the card, EF_GBABP is written, Ks_ext_NAF is that of the BSF."""
    bench, session = make(source, keys)
    found = bench.run("naf.example", in_card=True)
    assert (found.ok, found.text) == (True, "RES and Ks_ext_NAF are those of the network")
    assert found.run is not None and found.run.ks is None and found.key is not None
    assert found.run.info.btid.text.endswith("@bsf.ims.example")
    stored = session.stored_bootstrapping(source, IMPI)
    assert stored is not None and stored.info == found.run.info


def test_gba_me() -> None:
    bench, _ = make(gba=False)
    found = bench.run("naf.example", in_card=False)
    assert found.ok and found.run is not None and found.run.ks is not None
    assert found.key == derive_naf_key(found.run.ks, found.run.rand, "user@ims.example", naf_id("naf.example"))


@pytest.mark.parametrize("in_card", [True, False])
def test_a_card_that_is_ahead_is_followed(in_card: bool) -> None:
    bench, _ = make(sqn=[join(70, 1)])
    found = bench.run("naf.example", in_card=in_card)
    assert found.ok and found.synchronised


def test_a_card_without_gba_u() -> None:
    bench, _ = make(gba=False)
    found = bench.run("naf.example", in_card=True)
    assert not found.ok and found.run is None


def test_a_wrong_key() -> None:
    bench, _ = make()
    wrong = GbaBench(bench._session, "ISIM", LabHss(LabKeys(k=OPC, opc=K)), IMPI, "bsf.ims.example")
    found = wrong.run("naf.example", in_card=True)
    assert (found.ok, found.text) == (False, "9862: incorrect MAC (is the key right?)")


def test_no_name_of_a_server() -> None:
    bench, _ = make()
    with pytest.raises(AkaError, match="no host name"):
        bench.run("no name", in_card=True)


def test_the_key_is_as_in_the_specification() -> None:
    """The same derivation by hand: HMAC-SHA-256 of TS 33.220 annex B."""
    import hmac

    rand, ck, ik = bytes(range(16)), Secret(b"\x11" * 16), Secret(b"\x22" * 16)
    text = b"\x01" + b"gba-me\x00\x06" + rand + b"\x00\x10" + b"user@ims.example\x00\x10"
    text += b"naf.example\x01\x00\x00\x00\x02" + b"\x00\x10"
    assert derive_naf_key(
        bootstrap_key(ck, ik), rand, "user@ims.example", naf_id("naf.example")
    ).reveal() == hmac.digest(b"\x11" * 16 + b"\x22" * 16, text, "sha256")
