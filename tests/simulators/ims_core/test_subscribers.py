"""The HSS: identities in their spellings, the authentication centre."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imskit.aka.milenage import Milenage
from imskit.aka.sqn import join
from imskit.aka.subscription import CardSqnSettings, NetworkSqnSettings, TuakSettings
from imskit.aka.vector import Success, SyncFailure, Usim
from imskit.secrets import Secret
from imskit.sip.wire.uri import parse_uri
from imskit.uicc.profile import CardProfile
from simulators.ims_core.subscribers import Hss, SubscriberConfig, UnknownSubscriberError

K, OP, OPC = (
    "465b5ce8b199b49faa5f0a2ee238a6bc",
    "cdc202d5123e20f62b6d676ac72cb318",
    "cd63cb71954a9f4e48a5994e37a02baf",
)
HOME = "ims.example"


def config(number: str = "0100", **changes: object) -> SubscriberConfig:
    arguments = {
        "impi": f"{number}@{HOME}",
        "impus": [f"sip:+1555{number}@{HOME}", f"tel:+1555{number}", f"sip:User{number}@{HOME}"],
        "k": Secret(K),
        "opc": Secret(OPC),
    }
    return SubscriberConfig(**(arguments | changes))  # type: ignore[arg-type]


@pytest.fixture
def random() -> Callable[[int], bytes]:
    return lambda count: bytes(range(count))


@pytest.mark.parametrize(
    ("uri", "known"),
    [
        ("tel:+15550100", True),
        ("tel:+1.555-0100", True),
        ("tel:+15550100;cpc=ordinary", True),
        (f"sip:+15550100@{HOME}", True),
        (f"sip:+15550100@{HOME.upper()};user=phone", True),
        (f"sip:+15550100;npdi=yes@{HOME};user=phone", True),
        (f"sip:+1(555)0100@{HOME}", True),
        (f"sip:User0100@{HOME}", True),
        (f"sip:%55ser0100@{HOME}", True),
        (f"sip:user0100@{HOME}", False),
        (f"sip:15550100@{HOME}", False),
        ("sip:+15550100@other.example", False),
        (f"sip:+15550100@x.{HOME}", False),
        ("sip:+15550100@127.0.0.1", False),
        ("tel:15550100;phone-context=ims.example", False),
        (f"sip:{HOME}", False),
        ("urn:service:sos", False),
        ("mailto:+15550100@ims.example", False),
    ],
)
def test_spellings(random: Callable[[int], bytes], uri: str, known: bool) -> None:
    """TS 23.003 clause 13.4; a number at another host is not ours."""
    hss = Hss([config(), config("0200")], random)
    found = hss.by_uri(parse_uri(uri))
    assert (found is hss.by_impi(f"0100@{HOME}")) == known


def test_local_numbers_need_their_context(random: Callable[[int], bytes]) -> None:
    hss = Hss([config(impus=["tel:100;phone-context=ims.example"])], random)
    assert hss.by_uri(parse_uri("tel:1-00;phone-context=IMS.example")) is not None
    assert hss.by_uri(parse_uri("tel:100;phone-context=other.example")) is None


def test_identities_belong_to_one(random: Callable[[int], bytes]) -> None:
    with pytest.raises(ValueError, match="private identity"):
        Hss([config(), config()], random)
    with pytest.raises(ValueError, match="public identity"):
        Hss([config(), config("0200", impus=["tel:+15550100"])], random)
    with pytest.raises(UnknownSubscriberError):
        Hss([config()], random).by_impi("nobody")


def test_barred(random: Callable[[int], bytes]) -> None:
    hss = Hss([config(barred=[f"sip:User0100@{HOME}"])], random)
    assert not hss.usable(parse_uri(f"sip:User0100@{HOME}"))
    assert hss.usable(parse_uri("tel:+15550100"))
    assert not hss.usable(parse_uri("tel:+15559999"))
    assert len(hss.by_impi(f"0100@{HOME}").usable) == 2


def test_vectors_from_op_or_opc(random: Callable[[int], bytes]) -> None:
    """TS 35.208 test set 1 has K, OP and OPc."""
    with_op = Hss([config(opc=None, op=Secret(OP))], random).vector(f"0100@{HOME}")
    with_opc = Hss([config()], random).vector(f"0100@{HOME}")
    assert with_op.autn == with_opc.autn
    usim = Usim(Milenage(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC))))
    assert isinstance(usim.verify(with_op.rand, with_op.autn), Success)


def test_each_vector_is_fresh(random: Callable[[int], bytes]) -> None:
    hss = Hss([config()], random)
    usim = Usim(Milenage(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC))))
    for _ in range(100):
        vector = hss.vector(f"0100@{HOME}")
        assert isinstance(usim.verify(vector.rand, vector.autn), Success)


@pytest.mark.parametrize("changes", [{"k": Secret("00")}, {"opc": None}, {"op": Secret(OP)}, {"impus": []}])
def test_configurations_that_do_not_fit(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|give"):
        config(**changes)


TUAK = {
    "algorithm": "tuak",
    "k": Secret("ab" * 32),
    "opc": Secret("5c" * 32),
    "tuak": TuakSettings(res=16, iterations=2),
}


@pytest.mark.parametrize("keys", [{}, TUAK], ids=["milenage", "tuak"])
@pytest.mark.parametrize("scheme", ["counter", "partly-time", "time"])
@pytest.mark.parametrize("ind_bits", [0, 5])
def test_card_and_centre_agree(
    random: Callable[[int], bytes], keys: dict[str, object], scheme: str, ind_bits: int
) -> None:
    """X-CARDLAB: each algorithm set with each scheme of TS 33.102 annex C; a card that is ahead asks once."""
    now = [1_795_000_000.0]
    network = NetworkSqnSettings(scheme=scheme, ind_bits=ind_bits)  # type: ignore[arg-type]
    hss = Hss([config(**keys, numbers=network)], random, lambda: now[0])
    secrets = {"k": Secret(K), "opc": Secret(OPC), **keys}
    ahead = join(1 << 31, 0, ind_bits)
    card = CardProfile(
        "001010000000001",
        sqn=[ahead],
        numbers=CardSqnSettings(ind_bits=ind_bits, age=1 << 16),
        **secrets,  # type: ignore[arg-type]
    ).usim()
    first = hss.vector(f"0100@{HOME}")
    refused = card.verify(first.rand, first.autn)
    assert isinstance(refused, SyncFailure)
    now[0] += 1
    vector = hss.vector(f"0100@{HOME}", (first.rand, refused.auts))
    for _ in range(40):
        result = card.verify(vector.rand, vector.autn)
        assert isinstance(result, Success)
        assert result.res == vector.xres
        now[0] += 0.01
        vector = hss.vector(f"0100@{HOME}")
