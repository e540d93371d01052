"""A subscriber and cards of it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnGenerator
from imskit.aka.vector import AuthenticationVector
from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc

K, OPC = "fec86ba6eb707ed08905757b1bb44b8f", "1006020f0a478bf6b699f15c062e42b3"  # TS 35.208 set 3
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"

type MakeCard = Callable[..., Uicc]
type MakeVector = Callable[[], AuthenticationVector]


@pytest.fixture
def isim() -> IsimProfile:
    """A personalised ISIM."""
    return IsimProfile(
        impi=f"001010000000001@{DOMAIN}",
        domain=DOMAIN,
        impu=[f"sip:+15550100@{DOMAIN}", "tel:+15550100"],
        pcscf=["10.45.0.1", "pcscf.ims.example"],
        webrtc_uri=["https://portal.ims.example/"],
    )


@pytest.fixture
def make_card(isim: IsimProfile) -> MakeCard:
    """Make a card; arguments change the profile."""

    def make(**changes: object) -> Uicc:
        fields = {"imsi": "001010000000001", "k": Secret(K), "opc": Secret(OPC), "isim": isim, **changes}
        return Uicc(CardProfile(**fields))  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_vector() -> MakeVector:
    """The HSS's side: each call a new vector."""
    milenage = Milenage(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC)))
    numbers = SqnGenerator()
    return lambda: AuthenticationVector.generate(milenage, os.urandom(16), numbers.next())
