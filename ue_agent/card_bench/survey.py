"""Everything of a card that matters to IMS, read once (TS 102 221 clauses 11.1, 13; TS 31.102, TS 31.103 clause 4).

A file that the card does not have, or keeps behind its PIN, leaves its field empty and a line in ``notes``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from imskit.aka.errors import AkaError
from imskit.aka.gba import Bootstrapped, split_naf_id
from imskit.secrets import Identity
from ue_agent.card_bench.contents import decode_spn
from ue_agent.card_bench.files import application_name, place_of
from ue_agent.card_bench.operators import operator_name
from ue_agent.card_bench.pins import PinState, pin_state
from ue_agent.card_bench.services import announced
from ue_agent.uicc import files
from ue_agent.uicc.apdu import CardChannel, select_aid, select_file
from ue_agent.uicc.errors import CardDataError, CardError
from ue_agent.uicc.files import Ef
from ue_agent.uicc.gba import EF_GBABP_ISIM, EF_GBABP_USIM, EF_UST, decode_parameters
from ue_agent.uicc.reading import read_file, read_records

_log = logging.getLogger(__name__)
_MF = 0x3F00
_EF_SPN = Ef("EF_SPN", 0x6F46, "TS 31.102 4.2.12")
_EF_GBANL = {
    "ISIM": Ef("EF_GBANL", 0x6FD7, "TS 31.103 4.2.10"),
    "USIM": Ef("EF_GBANL", 0x6FDA, "TS 31.102 4.2.83"),
}
_ABSENT = (0x6A82, 0x6A83, 0x6A88, 0x9404)
_REFUSED = 0x6982

type Kind = Literal["ISIM", "USIM"]


@dataclass(slots=True)
class ApplicationInfo:
    """One entry of EF_DIR, or an application that answers to its partial AID."""

    aid: bytes
    name: str
    """ISIM, USIM, or what else is known."""
    label: str = ""
    pin: PinState | None = None
    services: list[tuple[int, str]] | None = None
    """Number and name of each announced service; ``None`` if they cannot be read."""
    values: dict[str, list[str]] = field(default_factory=dict)
    """What its files say, by file name: identities, addresses; an empty list for a blank file."""
    gba: Bootstrapped | None = None
    """The run that EF_GBABP tells of."""
    gba_nafs: list[str] = field(default_factory=list)
    """Names in EF_GBANL: servers for which the card holds a key."""
    locked: list[str] = field(default_factory=list)
    """Files that want the PIN, or a right that only the operator has (6982)."""
    notes: list[str] = field(default_factory=list)
    """What else could not be read, and why."""

    @property
    def blank(self) -> bool:
        """Whether this is an ISIM as delivered, without identities (TS 24.229 5.1.1.1A: then the USIM is used)."""
        wanted = ("EF_IMPI", "EF_DOMAIN", "EF_IMPU")
        return self.name == "ISIM" and any(self.values.get(name) == [] for name in wanted)


@dataclass(slots=True)
class CardInfo:
    """What ``survey`` found."""

    iccid: str | None = None
    applications: list[ApplicationInfo] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def imsi(self) -> str | None:
        """From the first USIM that tells it."""
        return next((values[0] for a in self.applications if (values := a.values.get("EF_IMSI"))), None)

    @property
    def plmn(self) -> tuple[str, str] | None:
        """MCC and MNC of the home network, ``None`` if EF_AD does not say how long the MNC is."""
        length = next((values[0] for a in self.applications if (values := a.values.get("EF_AD"))), None)
        imsi = self.imsi
        return None if imsi is None or length is None else (imsi[:3], imsi[3 : 3 + int(length)])

    @property
    def operator(self) -> str | None:
        """The name on the card (EF_SPN), else that of its MCC and MNC, else ``None``."""
        on_card = next((values[0] for a in self.applications if (values := a.values.get("EF_SPN"))), None)
        return on_card or (operator_name(*self.plmn) if self.plmn else None)


def survey(channel: CardChannel, *, brief: bool = False) -> CardInfo:
    """Read the card; ``brief`` stops at ICCID, IMSI and operator.  Sends no PIN; one transaction around it is due.

    Raises what the transport raises; a card's refusals end in ``notes``.
    """
    info = CardInfo()
    read = _Reader(channel, info.notes, [])
    if read.directory(_MF, "MF"):
        info.iccid = read.one(files.EF_ICCID, lambda: files.decode_iccid(read_file(channel, files.EF_ICCID)))
        records = read.one(files.EF_DIR, lambda: read_records(channel, files.EF_DIR)) or []
        for record in records:
            entry = read.one(files.EF_DIR, lambda record=record: files.decode_dir_record(record))  # type: ignore[misc]
            if entry is not None:
                info.applications.append(ApplicationInfo(entry.aid, application_name(entry.aid), entry.label))
    if not info.applications:  # cards without EF_DIR answer to the first octets of an AID
        for aid in (files.USIM_AID, files.ISIM_AID):
            if channel.send(select_aid(aid)).ok:
                info.applications.append(ApplicationInfo(aid, application_name(aid)))
    for application in info.applications:
        if place_of(application.aid) and not (brief and application.name == "ISIM"):
            _application(channel, application, brief=brief)
    return info


class _Reader:
    """Reads what can be read, and notes the rest."""

    def __init__(self, channel: CardChannel, notes: list[str], locked: list[str]) -> None:
        self._channel = channel
        self._notes = notes
        self._locked = locked

    def directory(self, fid: int, name: str) -> bool:
        answer = self._channel.send(select_file(fid, name))
        if not answer.ok:
            self._notes.append(f"no {name}: {answer.sw:04X}")
        return answer.ok

    def one[T](self, ef: Ef, read: Callable[[], T], *, expected: bool = True) -> T | None:
        try:
            return read()
        except CardError as error:
            if error.sw == _REFUSED:
                self._locked.append(ef.name)
            elif expected or error.sw not in _ABSENT:
                self._notes.append(f"{ef.name}: {error.sw:04X} {error.meaning}")
        except (CardDataError, AkaError) as error:
            self._notes.append(f"{ef.name}: {error}")
        return None


def _application(channel: CardChannel, found: ApplicationInfo, *, brief: bool) -> None:
    kind: Kind = "ISIM" if found.name == "ISIM" else "USIM"
    answer = channel.send(select_aid(found.aid))
    if not answer.ok:
        found.notes.append(f"cannot be selected: {answer.sw:04X}")
        return
    read = _Reader(channel, found.notes, found.locked)

    def values(ef: Ef, decode: Callable[[], list[str | None]], *, expected: bool = True) -> None:
        content = read.one(ef, decode, expected=expected)
        if content is not None:
            found.values[ef.name] = [value for value in content if value]

    def text(ef: Ef) -> Callable[[], list[str | None]]:
        return lambda: [files.decode_text(read_file(channel, ef), ef)]

    def texts(ef: Ef) -> Callable[[], list[str | None]]:
        return lambda: [files.decode_text(record, ef) for record in read_records(channel, ef)]

    if kind == "USIM":
        values(files.EF_IMSI, lambda: [files.decode_imsi(read_file(channel, files.EF_IMSI))])
        values(files.EF_AD, lambda: [_digits(files.decode_mnc_length(read_file(channel, files.EF_AD)))])
        values(_EF_SPN, lambda: [decode_spn(read_file(channel, _EF_SPN))], expected=False)
    if brief:
        return
    try:
        found.pin = pin_state(channel, answer.data)
    except CardDataError as error:
        found.notes.append(str(error))
    table_file = files.EF_IST if kind == "ISIM" else EF_UST
    table = read.one(table_file, lambda: read_file(channel, table_file))
    found.services = None if table is None else announced(kind, table)
    numbers = {number for number, _ in found.services or ()}
    if kind == "ISIM":
        values(files.EF_IMPI, text(files.EF_IMPI))
        values(files.EF_DOMAIN, text(files.EF_DOMAIN))
        values(files.EF_IMPU, texts(files.EF_IMPU))
        pcscf = files.EF_PCSCF
        values(
            pcscf,
            lambda: [files.decode_pcscf(record) for record in read_records(channel, pcscf)],
            expected=files.SERVICE_PCSCF in numbers,
        )
        values(files.EF_WEBRTC_URI, texts(files.EF_WEBRTC_URI), expected=files.SERVICE_WEBRTC_URI in numbers)
    if (2 if kind == "ISIM" else 68) in numbers:
        _gba(channel, found, kind, read)


def _gba(channel: CardChannel, found: ApplicationInfo, kind: Kind, read: _Reader) -> None:
    ef = EF_GBABP_ISIM if kind == "ISIM" else EF_GBABP_USIM
    found.gba = read.one(ef, lambda: decode_parameters(read_file(channel, ef), Identity("")))
    list_file = _EF_GBANL[kind]
    for record in read.one(list_file, lambda: read_records(channel, list_file)) or []:
        name = read.one(list_file, lambda record=record: _naf(record))  # type: ignore[misc]
        found.gba_nafs += [name] if name else []


def _naf(record: bytes) -> str | None:
    """A record of EF_GBANL: NAF_Id (tag 80), B-TID (tag 81); the server's name."""
    value = files.first_object(record, 0x80)
    return split_naf_id(value)[0] if value else None


def _digits(length: int | None) -> str | None:
    return None if length is None else str(length)
