"""Who issued a card, by the MCC and MNC of its IMSI (ITU-T E.212).

Names come from the list of Debian's ``mobile-broadband-provider-info`` where that is installed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

_LIST = Path("/usr/share/mobile-broadband-provider-info/serviceproviders.xml")
_TEST = {"001": "test network", "999": "private network"}
"""Mobile country codes that ITU-T E.212 sets aside."""


def operator_name(mcc: str, mnc: str, providers: Path = _LIST) -> str | None:
    """Return the operator's name, ``None`` if it is not known; ``mnc`` has 2 or 3 digits."""
    return _TEST.get(mcc) or _named(providers).get((mcc, mnc))


@cache
def _named(providers: Path) -> dict[tuple[str, str], str]:
    try:
        root = ET.parse(providers).getroot()
    except (OSError, ET.ParseError):
        return {}
    names: dict[tuple[str, str], str] = {}
    for provider in root.iter("provider"):
        name = (provider.findtext("name") or "").strip()
        for network in provider.iter("network-id"):
            if name:
                names.setdefault((network.get("mcc", ""), network.get("mnc", "")), name)
    return names
