"""Configuration of the core."""

from __future__ import annotations

import pytest

from imskit.config.model import ConfigError, parse, sample
from simulators.ims_core.config import CoreConfig

GOOD = """
domain = "ims.mnc001.mcc001.3gppnetwork.org"
gm = ["10.45.0.1:5060", "10.46.0.1:5060"]
[[subscribers]]
impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
impus = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org", "tel:+15550100"]
k = "465b5ce8b199b49faa5f0a2ee238a6bc"
opc = "cd63cb71954a9f4e48a5994e37a02baf"
"""


def test_a_good_one() -> None:
    config = parse(CoreConfig, GOOD)
    assert config.algorithms == ["AKAv1-MD5"]
    assert config.subscribers[0].impus[1] == "tel:+15550100"
    assert "465b5ce8" not in repr(config)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('gm = ["10.45.0.1:5060"', 'gm = ["10.45.0.1"', "no ADDR:PORT"),
        ('"10.46.0.1:5060"', '"10.45.0.1:5060"', "must differ"),
        ('domain = "', 'algorithms = ["MD5"]\ndomain = "', "no AKA digest algorithm"),
        ('domain = "', 'algorithms = []\ndomain = "', "at least one"),
        ('k = "465b', 'k = "zz5b', "32 hex digits"),
        ('opc = "cd63cb71954a9f4e48a5994e37a02baf"', "", "either opc or op"),
    ],
)
def test_mistakes_are_named(old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=words):
        parse(CoreConfig, GOOD.replace(old, new))


def test_the_sample_explains_subscribers() -> None:
    assert "# [[subscribers]]" in sample(CoreConfig)
