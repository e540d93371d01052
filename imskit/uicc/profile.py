"""What a simulated card holds: one subscriber, as a TOML file or built in code.

Sample::

    imsi = "001010000000001"
    k = "465b5ce8b199b49faa5f0a2ee238a6bc"
    opc = "cd63cb71954a9f4e48a5994e37a02baf"
    pin = "1234"
    [isim]
    impi = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
    domain = "ims.mnc001.mcc001.3gppnetwork.org"
    impu = ["sip:+15550100@ims.mnc001.mcc001.3gppnetwork.org", "tel:+15550100"]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imskit.aka.sqn import SqnArray
from imskit.aka.subscription import CardSqnSettings, SubscriptionKeys
from imskit.aka.vector import Usim
from imskit.config.model import setting
from imskit.secrets import Secret

_IMSI = re.compile(r"[0-9]{6,15}")
_ICCID = re.compile(r"[0-9]{18,20}")
_PIN = re.compile(r"[0-9]{4,8}")
_SPN = re.compile(r"[ -~]{0,16}")
_PUK = re.compile(r"[0-9]{8}")
_REAL_ATR = "3b9f96801f878031e073fe211b674a4c753034054ba9"  # a sysmoISIM-SJA2: T=0 only


@dataclass(frozen=True, repr=False)
class IsimProfile:
    """The ISIM's files.  What is empty is blank on the card (all FF), as on cards delivered without IMS data."""

    impi: str = setting("EF_IMPI: the private identity, user@domain", "")
    domain: str = setting("EF_DOMAIN: the home network's domain", "")
    impu: list[str] = setting("EF_IMPU: public identities, sip: or tel:", factory=list)
    pcscf: list[str] = setting("EF_P-CSCF: addresses of the P-CSCF, names or IP addresses", factory=list)
    webrtc_uri: list[str] = setting("EF_WebRTCURI: addresses of the WWSF; empty: no such file", factory=list)


@dataclass(frozen=True, repr=False)
class CardProfile(SubscriptionKeys):
    """One card.  ``ValueError`` says what does not fit; keys and PIN are not shown."""

    imsi: str = setting("EF_IMSI: 6 to 15 digits")
    mnc_length: int = setting("EF_AD: digits of the MNC, 2 or 3; 0 leaves it out of the file", 2)
    iccid: str = setting("EF_ICCID: 18 to 20 digits", "89001010000000000010")
    spn: str = setting("EF_SPN: the operator's name, up to 16 ASCII characters; empty: no such file", "")
    pin: Secret[str] | None = setting("PIN1, 4 to 8 digits; without it the PIN is disabled", None)
    puk: Secret[str] | None = setting("PUK of PIN1, 8 digits; without it a blocked PIN stays blocked", None)
    pin_tries: int = setting("wrong PINs before it blocks, 0 for a blocked PIN", 3)
    sqn: list[int] = setting("sequence numbers accepted earlier", factory=list)
    gba: bool = setting("GBA_U: the card keeps bootstrapped keys (IST service 2, UST service 68)", False)
    atr: str = setting("answer to reset, hex", _REAL_ATR)
    numbers: CardSqnSettings = setting("sequence numbers", factory=CardSqnSettings)
    isim: IsimProfile | None = setting("without it the card has no ISIM", None)

    def __post_init__(self) -> None:
        SubscriptionKeys.__post_init__(self)
        checks = [
            (bool(_IMSI.fullmatch(self.imsi)), "imsi must have 6 to 15 digits"),
            (self.mnc_length in (0, 2, 3), "mnc_length must be 2 or 3, or 0"),
            (bool(_ICCID.fullmatch(self.iccid)), "iccid must have 18 to 20 digits"),
            (
                self.spn.isascii() and self.spn.isprintable() and len(self.spn) <= 16,
                "spn has up to 16 ASCII characters",
            ),
            (self.pin is None or bool(_PIN.fullmatch(self.pin.reveal())), "pin must have 4 to 8 digits"),
            (self.puk is None or bool(_PUK.fullmatch(self.puk.reveal())), "puk must have 8 digits"),
            (0 <= self.pin_tries <= 15, "pin_tries must be 0 to 15"),
        ]
        for holds, message in checks:
            if not holds:
                raise ValueError(message)
        bytes.fromhex(self.atr)
        self.usim()

    def usim(self) -> Usim:
        """Return the authentication centre's counterpart on the card, with fresh memory."""
        return Usim(self.algorithms(), SqnArray(self.sqn, self.numbers.limits()))
