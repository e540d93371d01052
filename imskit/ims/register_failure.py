"""What a UE does about a final response to REGISTER other than 2xx, 401 and 423 (TS 24.229 clauses 5.1.1.2 to .5)."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.ims.register_response import network_words, retry_after
from imskit.ims.security_agreement import SEC_AGREE, Protection
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Response

REFUSED = frozenset({403, 404})
"""The subscription does not allow it: asking again soon, or elsewhere, will not change that (5.1.1.2.1)."""
_ELSEWHERE = frozenset({305, 408, 420, 480, 500, 502, 503, 504})
"""Refusals that another P-CSCF may not share."""
_WANTS_AGREEMENT = frozenset({421, 494})


@dataclass(frozen=True)
class Refusal:
    """What a response comes to."""

    text: str
    """For the user, in the core's own words where it has any."""
    delay: float | None
    """Seconds to wait, where the core says so."""
    final: bool
    """Only a long wait, or the user, may lead to another attempt."""
    elsewhere: bool
    """Another P-CSCF is worth a try."""


def judge(response: Response, protection: Protection) -> Refusal:
    """Read a refusal; ``protection`` is what this UE wants on Gm."""
    status = response.status
    text = f"the core answered {status} {response.reason}".rstrip() + network_words(response)
    final = status in REFUSED
    if status in _WANTS_AGREEMENT and _is_about_agreement(response) and protection is not Protection.IPSEC:
        text += ": it demands a security agreement (IPsec), which this device is set not to make"
        final = True
    elif status == 420:
        unsupported = _tags(response, "Unsupported")
        if SEC_AGREE in unsupported:
            text += ": the P-CSCF knows no security agreement (sec-agree)"
        elif unsupported:
            text += f": not supported: {', '.join(sorted(unsupported))}"
    delay = retry_after(response)
    return Refusal(text, delay, final, not final and delay is None and status in _ELSEWHERE)


def _is_about_agreement(response: Response) -> bool:
    return response.status == 494 or SEC_AGREE in _tags(response, "Require")


def _tags(response: Response, name: str) -> set[str]:
    try:
        return {element.strip().lower() for element in response.headers.elements(name)}
    except SipParseError:
        return set()
