"""Configuration of the phone."""

from __future__ import annotations

import pytest

from imskit.aka.vector import MacFailure
from imskit.config.model import ConfigError, parse, sample
from simulators.phone.config import BEHAVIOURS, PhoneConfig

GOOD = """
impi = "001010000000002@ims.mnc001.mcc001.3gppnetwork.org"
impus = ["sip:+15550200@ims.mnc001.mcc001.3gppnetwork.org", "tel:+15550200"]
domain = "ims.mnc001.mcc001.3gppnetwork.org"
k = "465b5ce8b199b49faa5f0a2ee238a6bc"
opc = "cd63cb71954a9f4e48a5994e37a02baf"
address = "10.46.0.2"
p_cscf = "10.46.0.1:5060"
"""


def test_a_good_one() -> None:
    config = parse(PhoneConfig, GOOD)
    assert config.port == 5060
    assert config.behaviour in BEHAVIOURS
    assert isinstance(config.usim().verify(bytes(16), bytes(16)), MacFailure)
    assert "465b5ce8" not in repr(config)
    assert "p_cscf" in sample(PhoneConfig)


def test_opc_from_op() -> None:
    """TS 35.208 test set 1: OP and OPc of the same key."""
    config = parse(
        PhoneConfig, GOOD.replace('opc = "cd63cb71954a9f4e48a5994e37a02baf"', 'op = "cdc202d5123e20f62b6d676ac72cb318"')
    )
    usim, same = config.usim(), parse(PhoneConfig, GOOD).usim()
    assert usim.algorithms.f2345(bytes(16)).res == same.algorithms.f2345(bytes(16)).res


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('k = "465b', 'k = "zz5b', "32 hex digits"),
        ('opc = "cd63cb71954a9f4e48a5994e37a02baf"', "", "either opc or op"),
        ("10.46.0.1:5060", "10.46.0.1", "no ADDR:PORT"),
        ('"10.46.0.2"', '"phone"', "does not appear to be"),
        ("sip:+", "tel:+", "sip URI"),
        ("domain", 'codecs = ["OPUS"]\ndomain', "codecs must be"),
        ("domain", "answer_after = -1\ndomain", "negative"),
        ("domain", "port = 70000\ndomain", "port"),
    ],
)
def test_mistakes_are_named(old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=words):
        parse(PhoneConfig, GOOD.replace(old, new, 1))
