"""``imsbridge card list``: readers, modems, and what is in them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ue_agent.card_bench.commands.common import (
    DONE,
    NO_CARD,
    Outcome,
    add_parser,
    cell,
    cure,
    opened,
    pairs,
)
from ue_agent.card_bench.survey import CardInfo, survey
from ue_agent.uicc import inventory
from ue_agent.uicc.errors import NoDaemonError, UiccError

_DESCRIPTION = """\
Shows every PC/SC reader with the card in it: ICCID, IMSI, operator, answer to
reset; and the serial ports that look like a modem's.  A modem is asked for its
card only with --modems, because somebody else may be talking to it."""
_EPILOG = """\
examples:
  imsbridge card list
  imsbridge card list --modems
  imsbridge card list --json | jq -r '.places[] | [.source, .imsi] | @tsv'

The name of the operator is the card's own (EF_SPN), else it is looked up by
MCC and MNC in the list of the package mobile-broadband-provider-info."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A reader or port."""

    source: str
    name: str
    kind: str
    atr: bytes | None
    info: CardInfo | None
    """What its card says, ``None`` if there is none or it was not asked."""
    text: str
    """Why there is nothing to tell, or the error."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``list``."""
    parser = add_parser(
        commands, "list", work, help="readers, modems, and what is in them", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--modems", action="store_true", help="ask modems for their card too")


def work(arguments: argparse.Namespace) -> Outcome:
    """Look at all places."""
    problem: NoDaemonError | None = None
    places: list[_Place] = []
    try:
        for reader in inventory.readers():
            source = str(reader.source)
            if reader.atr is None:
                places.append(_Place(source, reader.name, "reader", None, None, "empty"))
            else:
                places.append(_look(arguments, source, reader.name, "reader", reader.atr))
    except NoDaemonError as error:
        problem = error
    for port in inventory.modem_ports():
        source, name = str(port.source), f"{port.device}  {port.description}".strip()
        if arguments.modems:
            places.append(_look(arguments, source, name, "modem", None))
        else:
            places.append(_Place(source, name, "modem", None, None, "not asked; --modems does"))
    service = None if problem is None else {"text": str(problem), "cure": cure(problem)}
    fields = {"places": [_as_json(place) for place in places], "pcsc_problem": service}
    found = any(place.info is not None for place in places)

    def show(console: Console) -> None:
        _show(console, places, service)

    return Outcome("list", DONE if found else NO_CARD, fields, show)


def _look(arguments: argparse.Namespace, source: str, name: str, kind: str, atr: bytes | None) -> _Place:
    chosen = argparse.Namespace(**{**vars(arguments), "card": source})
    try:
        with opened(chosen) as card, card.transport.transaction():
            info = survey(card.channel, brief=True)
    except UiccError as error:
        return _Place(source, name, kind, atr, None, str(error))
    if not info.applications:
        return _Place(source, name, kind, atr, info, "no SIM card: neither USIM nor ISIM")
    return _Place(source, name, kind, atr, info, "")


def _as_json(place: _Place) -> dict[str, Any]:
    info = place.info or CardInfo()
    plmn = info.plmn or (None, None)
    return {
        "source": place.source,
        "name": place.name,
        "kind": place.kind,
        "atr": None if place.atr is None else place.atr.hex().upper(),
        "iccid": info.iccid,
        "imsi": info.imsi,
        "mcc": plmn[0],
        "mnc": plmn[1],
        "operator": info.operator,
        "applications": [application.name for application in info.applications],
        "text": place.text,
    }


def _show(console: Console, places: list[_Place], problem: dict[str, str] | None) -> None:
    if problem is not None:
        console.print(cell(f"PC/SC: {problem['text']}", "red"))
        console.print(cell(f"  -> {problem['cure']}\n"))
    elif not places:
        console.print(cell("no card reader and no modem is connected"))
    for place in places:
        console.print(pairs(place.name, _rows(place)))
        console.print()


def _rows(place: _Place) -> list[tuple[str, str]]:
    info = place.info
    rows = [("state", place.text)] if place.text else []
    if info is not None:
        rows += [("ICCID", info.iccid)] if info.iccid else []
        if info.imsi:
            rows.append(("IMSI", info.imsi))
        elif any(application.name == "USIM" for application in info.applications):
            rows.append(("IMSI", "behind the PIN"))
        rows += [("operator", operator(info))] if operator(info) else []
        rows += [("has", ", ".join(a.name for a in info.applications))] if info.applications else []
    if place.atr:
        rows.append(("ATR", place.atr.hex(" ").upper()))
    return [*rows, ("use it", f'--card "{place.source}"')]


def operator(info: CardInfo) -> str:
    """Return name and PLMN of the card's operator, empty if neither is known."""
    plmn = "-".join(info.plmn) if info.plmn else ""
    return f"{info.operator} ({plmn})" if info.operator and plmn else info.operator or plmn
