"""Configuration of the simulated VoLTE phone."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from imskit.aka.sqn import SqnArray
from imskit.aka.subscription import CardSqnSettings, SubscriptionKeys
from imskit.aka.vector import Usim
from imskit.config.model import setting
from imskit.ims.security_agreement import Protection, SecurityPolicy
from imskit.ipsec.algorithms import STANDARD_PAIRS, AlgorithmPair
from imskit.ipsec.errors import IpsecError
from imskit.sockets import parse_address

_CODECS = ("AMR-WB", "AMR")

type Behaviour = Literal["answer", "manual", "busy", "decline", "ignore"]
BEHAVIOURS: tuple[Behaviour, ...] = ("answer", "manual", "busy", "decline", "ignore")
"""What the phone does with a call: answer after ``answer_after`` seconds of ringing, ring until told to answer, say
that it is busy, decline, or ring and never answer."""


@dataclass(frozen=True, repr=False)
class PhoneConfig(SubscriptionKeys):
    """VoLTE phone for labs, with a USIM in software.  Keys are not shown."""

    impi: str = setting("private identity")
    impus: list[str] = setting("public identities; the first, a sip URI, is the one registered")
    domain: str = setting("home network domain")
    address: str = setting("local IP address of SIP and media")
    p_cscf: str = setting("proxy, ADDR:PORT")
    numbers: CardSqnSettings = setting("sequence numbers", factory=CardSqnSettings)
    port: int = setting("local port of SIP; 0 takes a free one", 5060)
    transport: Literal["UDP", "TCP"] = setting("transport towards the proxy", "UDP")
    security: Literal["ipsec", "tls", "off"] = setting(
        "how Gm is protected: ipsec (security agreement), tls (AKAv2-SHA-256), off", "off"
    )
    ipsec_algorithms: list[str] = setting(
        "with ipsec: pairs integrity/encryption that are offered, the preferred first",
        factory=lambda: [str(pair) for pair in STANDARD_PAIRS],
    )
    backend: Literal["auto", "kernel", "userspace"] = setting("what does ESP: the kernel, or this process", "auto")
    nat: bool = setting("offer UDP-encapsulated tunnels too", False)
    trust: Path | None = setting("with tls: PEM file of the authorities that sign the proxy", None)
    interface: str | None = setting("network interface that Gm and media are bound to", None)
    imei: str = setting("IMEI as its URN shows it", "35693803-564380-0")
    access_network_info: str = setting(
        "P-Access-Network-Info: the cell", "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=001010001000019B"
    )
    codecs: list[str] = setting("speech codecs, the preferred first", factory=lambda: list(_CODECS))
    reservation: float = setting("seconds until the media resources of a call are there; 0: they always are", 0.0)
    behaviour: Literal["answer", "manual", "busy", "decline", "ignore"] = setting(
        "what to do with a call: answer, manual (ring until told), busy, decline, ignore (ring for ever)", "answer"
    )
    message_centre: str = setting("number of the short message centre", "+15550999")
    call_waiting: bool = setting("let a second call ring during the first; else it finds the phone busy", False)
    answer_after: float = setting("seconds that it rings before it is answered", 1.0)
    play: Path | None = setting("WAV file to speak, 16 kHz mono 16 bit; without it silence is sent", None)
    loop: bool = setting("begin again at the file's end", False)
    record: Path | None = setting("WAV file for what is heard, begun anew with each call", None)
    playout_delay: float = setting("seconds that received speech waits for late packets", 0.06)
    control: Path | None = setting("Unix socket by which the phone is operated", None)
    events: Path | None = setting("file that the steps of registrations and calls are appended to, JSON lines", None)

    def __post_init__(self) -> None:
        SubscriptionKeys.__post_init__(self)
        if not self.impus or not self.impus[0].startswith("sip:"):
            raise ValueError("impus must begin with a sip URI")
        ip_address(self.address)
        parse_address(self.p_cscf)
        self.policy()
        if not 0 <= self.port <= 65535:
            raise ValueError("port must be 0 to 65535")
        if not self.codecs or not set(self.codecs) <= set(_CODECS):
            raise ValueError(f"codecs must be some of {', '.join(_CODECS)}")
        if min(self.reservation, self.answer_after, self.playout_delay) < 0:
            raise ValueError("reservation, answer_after and playout_delay must not be negative")

    def policy(self) -> SecurityPolicy:
        """Return what is offered; ``ValueError`` for algorithms that there are not."""
        try:
            pairs = tuple(AlgorithmPair.parse(text) for text in self.ipsec_algorithms)
            return SecurityPolicy(Protection(self.security), pairs, self.nat)
        except IpsecError as error:
            raise ValueError(str(error)) from None

    def usim(self) -> Usim:
        """Return the card."""
        return Usim(self.algorithms(), SqnArray((), self.numbers.limits()))
