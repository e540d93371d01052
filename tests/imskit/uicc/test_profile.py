"""What a card can be made of."""

import pytest

from imskit.config.model import ConfigError, parse
from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile

GOOD = """
imsi = "001010000000001"
k = "465b5ce8b199b49faa5f0a2ee238a6bc"
opc = "cd63cb71954a9f4e48a5994e37a02baf"
pin = "1234"
sqn = [32, 65]
[isim]
impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
impu = ["tel:+15550100"]
"""


def test_a_toml_file() -> None:
    profile = parse(CardProfile, GOOD)
    assert profile.isim is not None
    assert profile.isim.impu == ["tel:+15550100"]
    assert profile.isim.domain == ""
    assert profile.usim().sqn.highest == 65
    assert profile.pin == Secret("1234")
    assert "465b" not in repr(profile)
    assert "001010000000001" not in repr(profile)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('imsi = "001010000000001"', 'imsi = "00101000000000x"', "6 to 15 digits"),
        ("465b5ce8", "465b", "32 hex digits"),
        ("opc =", "op =", ""),
        ('opc = "cd63cb71954a9f4e48a5994e37a02baf"', "", "either opc or op"),
        ('pin = "1234"', 'pin = "123"', "4 to 8 digits"),
        ("sqn = [32, 65]", "sqn = [281474976710656]", "48 bits"),
        ("sqn = [32, 65]", "mnc_length = 4", "2 or 3"),
        ("sqn = [32, 65]", 'iccid = "123"', "18 to 20 digits"),
        ("sqn = [32, 65]", 'atr = "3bx"', "non-hexadecimal"),
        ("sqn = [32, 65]", "pin_tries = 16", "0 to 15"),
        ("sqn = [32, 65]", "sqns = [1]", "did you mean 'sqn'"),
    ],
)
def test_mistakes_are_named(old: str, new: str, message: str) -> None:
    text = GOOD.replace(old, new)
    if not message:
        parse(CardProfile, text)
        return
    with pytest.raises(ConfigError, match=message) as error:
        parse(CardProfile, text)
    assert "465b5ce8" not in str(error.value)
