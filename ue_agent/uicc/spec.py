"""The one string that says where the card is: ``[card] reader`` of the agent, an argument of ``imsbridge card``.

============================== =====================================================================
``pcsc:`` or nothing           the first PC/SC reader that holds a card
``pcsc:ACR`` or just ``ACR``   the reader of that name or with that in its name
``modem:/dev/ttyUSB2``         a modem's AT port, ``?baud=9600`` behind it where 115200 does not fit
``software:/path/card.toml``   a card in software, for laboratories: its key lies in a file
============================== =====================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from ue_agent.uicc.errors import NoDaemonError
from ue_agent.uicc.transport import CardBackend

DEFAULT_BAUD = 115_200
_BAUD_RATES = (9_600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600)
_KINDS = ("pcsc", "modem", "software")
_KIND = re.compile(r"([a-z][a-z0-9+.-]*):(.*)", re.DOTALL)
_MAX_LENGTH = 4096


class SpecError(ValueError):
    """The string names no source of cards; says what is wrong with it and what would be right."""


@dataclass(frozen=True, slots=True)
class PcscSource:
    """A PC/SC reader."""

    reader: str = ""
    """Name or a part of it, empty for the first with a card."""

    def __str__(self) -> str:
        return f"pcsc:{self.reader}"


@dataclass(frozen=True, slots=True)
class ModemSource:
    """A modem's AT port."""

    device: Path
    baud: int = DEFAULT_BAUD
    """Bit/s; USB ports do not care."""

    def __str__(self) -> str:
        return f"modem:{self.device}" + (f"?baud={self.baud}" if self.baud != DEFAULT_BAUD else "")


@dataclass(frozen=True, slots=True)
class SoftwareSource:
    """A card in software."""

    file: Path

    def __str__(self) -> str:
        return f"software:{self.file}"


type CardSource = PcscSource | ModemSource | SoftwareSource


def parse_spec(text: str) -> CardSource:
    """Take the string apart; ``SpecError`` (a ``ValueError``).  ``str()`` of the result is its full form."""
    if len(text) > _MAX_LENGTH or not text.isprintable():
        raise SpecError("a card's source is one printable line")
    found = _KIND.fullmatch(text.strip())
    if found is None:
        return PcscSource(text.strip())
    kind, rest = found.groups()
    match kind:
        case "pcsc":
            return PcscSource(rest.strip())
        case "modem":
            return _modem(text, rest)
        case "software":
            return SoftwareSource(_path(text, rest, "/etc/imsbridge/card.toml"))
    raise SpecError(
        f"{text!r}: there is no source of cards called {kind!r}, but {', '.join(_KINDS)}; "
        f"if it is a reader's name write pcsc:{text}"
    )


def open_backend(source: CardSource) -> CardBackend:
    """Return the back end of ``source``, not connected yet; ``NoDaemonError`` if PC/SC is not installed at all."""
    match source:
        case PcscSource(reader):
            try:
                from ue_agent.uicc.pcsc import PcscBackend
            except ImportError as error:  # the system's PC/SC library is missing
                raise NoDaemonError(f"PC/SC is not installed on this device: {error}") from error
            return PcscBackend(reader)
        case ModemSource(device, baud):
            from ue_agent.uicc.modem import ModemBackend

            return ModemBackend(device, baud)
        case SoftwareSource(file):
            from ue_agent.uicc.software import SoftwareBackend

            return SoftwareBackend(file)


def _modem(text: str, rest: str) -> ModemSource:
    device, mark, query = rest.partition("?")
    path = _path(text, device, "/dev/ttyUSB2")
    baud = DEFAULT_BAUD
    try:
        settings = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if mark else []
    except ValueError:
        raise SpecError(f"{text!r}: behind the ? stands baud=RATE") from None
    for key, value in settings:
        if key != "baud":
            raise SpecError(f"{text!r}: a modem has no setting {key!r}, only baud")
        if not value.isascii() or not value.isdecimal() or int(value[:9]) not in _BAUD_RATES:
            raise SpecError(f"{text!r}: baud is one of {', '.join(map(str, _BAUD_RATES))}")
        baud = int(value)
    return ModemSource(path, baud)


def _path(text: str, path: str, example: str) -> Path:
    if not path.startswith("/") or not Path(path).name:
        raise SpecError(f"{text!r}: give the whole path, such as {example}")
    return Path(path)
