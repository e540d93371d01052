"""Keys, algorithm set and sequence numbers as files give them."""

import pytest

from imskit.aka.milenage import Milenage
from imskit.aka.subscription import CardSqnSettings, NetworkSqnSettings, SubscriptionKeys
from imskit.aka.tuak import Tuak
from imskit.config.model import ConfigError, parse

# TS 35.208 set 1; TS 35.233 set 6.
MILENAGE = 'k = "465b5ce8b199b49faa5f0a2ee238a6bc"\n'
OPC = 'opc = "cd63cb71954a9f4e48a5994e37a02baf"\n'
OP = 'op = "cdc202d5123e20f62b6d676ac72cb318"\n'
TUAK = 'algorithm = "tuak"\nk = "1574ca56881d05c189c82880f789c9cd4244955f4426aa2b69c29f15770e5aa5"\n'
TOP = 'op = "e59f6eb10ea406813f4991b0b9e02f181edf4c7e17b480f66d34da35ee88c95e"\n'
TOPC = 'opc = "b04a66f26c62fcd6c82de22a179ab65506ecf47f56245cd149966cfa9cec7a51"\n'
SET_6 = "[tuak]\nres = 32\nck = 32\nik = 32\niterations = 2\n"


@pytest.mark.parametrize("text", [MILENAGE + OPC, MILENAGE + OP])
def test_milenage(text: str) -> None:
    made = parse(SubscriptionKeys, text).algorithms()
    assert isinstance(made, Milenage)
    assert made.f2345(bytes.fromhex("23553cbe9637a89d218ae64dae47bf35")).res.reveal().hex() == "a54211d5e3ba50bf"


@pytest.mark.parametrize("text", [TUAK + TOP + SET_6, TUAK + TOPC + SET_6])
def test_tuak(text: str) -> None:
    """X-CARDLAB: TUAK wherever Milenage can be configured."""
    made = parse(SubscriptionKeys, text).algorithms()
    assert isinstance(made, Tuak)
    keys = made.f2345(bytes.fromhex("c570aac68cde651fb1e3088322498bef"))
    assert keys.ck.reveal().hex() == "ede57edfc57cdffe1aae75066a1b7479bbc3837438e88d37a801cccc9f972b89"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MILENAGE, "either opc or op"),
        (MILENAGE + OPC + OP, "either opc or op"),
        (MILENAGE + TOPC, "opc must have 32 hex digits"),
        (TUAK + OPC, "opc must have 64 hex digits"),
        (MILENAGE.replace("46", "xx") + OPC, "k must have 32 hex digits"),
        (TUAK.replace("1574", "") + TOPC, "k must have 32 or 64 hex digits"),
        ('algorithm = "comp128"\n' + MILENAGE + OPC, "'milenage', 'tuak'"),
        (TUAK + TOPC + "[tuak]\nres = 5\n", "RES cannot have 5"),
    ],
)
def test_mistakes_are_named_and_keys_are_not(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(SubscriptionKeys, text)
    assert "cd63cb71" not in str(caught.value)
    assert "5b5ce8b1" not in str(caught.value)


def test_numbers() -> None:
    limits = parse(CardSqnSettings, "ind_bits = 3\ndelta = 0\nage = 7").limits()
    assert (limits.ind_bits, limits.delta, limits.age) == (3, None, 7)
    chosen = parse(NetworkSqnSettings, 'scheme = "time"\nunit = 0.5').chosen()
    assert chosen.clock(10.0) == 20
    assert parse(NetworkSqnSettings, 'scheme = "time"').chosen().clock(10.0) == 100
    with pytest.raises(ConfigError, match="IND has 0 to 8 bits"):
        parse(CardSqnSettings, "ind_bits = 9")
    with pytest.raises(ConfigError, match="period of SEQ2"):
        parse(NetworkSqnSettings, 'scheme = "partly-time"\ndelta = 1000')
