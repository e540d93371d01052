"""``imsbridge card info``: everything of a card that matters to IMS."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from ue_agent.card_bench.commands.common import (
    CARD_OPTION,
    DONE,
    PIN,
    Outcome,
    add_card_options,
    add_parser,
    cell,
    cure,
    exit_code,
    on_card,
    opened,
    pairs,
    tries_left,
)
from ue_agent.card_bench.commands.listing import operator
from ue_agent.card_bench.pins import PinState
from ue_agent.card_bench.survey import ApplicationInfo, CardInfo, survey
from ue_agent.uicc.application import ImsIdentities
from ue_agent.uicc.errors import CardDataError, CardError, PinBlockedError, PinLastTryError, PinRequiredError

_DESCRIPTION = """\
Shows the card's applications with their identities, services by name, P-CSCF
and WebRTC addresses, GBA files and PIN; and which identities the agent would
register with: the ISIM's, or derived from the IMSI if the ISIM is blank or
missing (TS 24.229 5.1.1.1A, TS 23.003 13).  It writes nothing to the card and
sends a PIN only if the card asks for it and has more than one try left."""
_EPILOG = f"""\
examples:
  imsbridge card info
  imsbridge card info --card "pcsc:ACR" --pin-file pin.txt
  imsbridge card info --json | jq .identities

{CARD_OPTION}"""
_NAMES = {
    "EF_IMPI": "IMPI",
    "EF_DOMAIN": "domain",
    "EF_IMPU": "IMPU",
    "EF_P-CSCF": "P-CSCF",
    "EF_WebRTCURI": "WebRTC URI",
    "EF_IMSI": "IMSI",
    "EF_SPN": "SPN",
}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``info``."""
    parser = add_parser(
        commands,
        "info",
        work,
        help="applications, identities, services, PIN of a card",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_card_options(parser)


def work(arguments: argparse.Namespace) -> Outcome:
    """Read the card."""
    identities: ImsIdentities | None = None
    problem: Exception | None = None
    with opened(arguments) as card:
        try:
            identities, _ = card.with_pin(card.session.identities)
        except (CardError, CardDataError, PinRequiredError, PinLastTryError, PinBlockedError) as error:
            problem = error
        with card.transport.transaction():
            info = survey(card.channel)
        where = on_card(card)
    code = DONE if problem is None or exit_code(problem) != PIN else PIN
    fields = {"card": where, **_as_json(info), "identities": _identities_json(identities)}
    fields["identities_problem"] = None if problem is None else str(problem)

    def show(console: Console) -> None:
        _show(console, where, info, identities)
        if problem is not None:
            console.print(cell(f"\nIdentities for IMS: {problem}", "red"))
            if cure(problem):
                console.print(cell(f"  -> {cure(problem)}"))

    return Outcome("info", code, fields, show)


def _identities_json(found: ImsIdentities | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "source": found.source,
        "impi": str(found.impi),
        "impus": [str(impu) for impu in found.impus],
        "domain": found.domain,
        "pcscf": list(found.pcscf),
        "webrtc_uris": list(found.webrtc_uris),
    }


def _as_json(info: CardInfo) -> dict[str, Any]:
    plmn = info.plmn or (None, None)
    return {
        "iccid": info.iccid,
        "imsi": info.imsi,
        "mcc": plmn[0],
        "mnc": plmn[1],
        "operator": info.operator,
        "applications": [_application_json(application) for application in info.applications],
        "notes": info.notes,
    }


def _application_json(found: ApplicationInfo) -> dict[str, Any]:
    pin, services = found.pin, found.services
    return {
        "name": found.name,
        "aid": found.aid.hex().upper(),
        "label": found.label,
        "blank": found.blank,
        "pin": None if pin is None else pin_json(pin),
        "services": None if services is None else [{"number": number, "name": name} for number, name in services],
        "files": {name: list(map(str, values)) for name, values in found.values.items()},
        "gba": None
        if found.gba is None
        else {"btid": found.gba.info.btid.text, "lifetime": found.gba.info.lifetime.isoformat()},
        "gba_nafs": found.gba_nafs,
        "locked": found.locked,
        "notes": found.notes,
    }


def _show(console: Console, where: dict[str, Any], info: CardInfo, identities: ImsIdentities | None) -> None:
    rows = [("reader", where["reader"])]
    if where["laboratory"]:
        rows.append(("note", "no SIM card: its key lies in a file; for laboratories"))
    if where["atr"]:
        rows.append(("ATR", bytes.fromhex(where["atr"]).hex(" ").upper()))
    rows += [("ICCID", info.iccid or "–"), ("IMSI", info.imsi or "–"), ("operator", operator(info) or "not known")]
    rows += [("note", note) for note in info.notes]
    console.print(pairs("Card", rows))
    for application in info.applications:
        console.print()
        console.print(pairs(_title(application), _application_rows(application)))
    if identities is not None:
        how = "the ISIM" if identities.source == "ISIM" else "the IMSI: derived (TS 23.003 13)"
        console.print()
        console.print(
            pairs(
                "Identities for IMS",
                [
                    ("from", how),
                    ("IMPI", str(identities.impi)),
                    *(("IMPU", str(impu)) for impu in identities.impus),
                    ("domain", identities.domain),
                ],
            )
        )


def _title(found: ApplicationInfo) -> str:
    label = f" {found.label!r}" if found.label else ""
    return f"{found.name}{label}" + ("  (blank: no identities on it)" if found.blank else "")


def _application_rows(found: ApplicationInfo) -> list[tuple[str, str]]:
    rows = [("AID", found.aid.hex().upper())]
    rows += [("PIN", pin_words(found.pin))] if found.pin else []
    for file, values in found.values.items():
        if file in _NAMES:
            rows += [(_NAMES[file], value) for value in values] or [(_NAMES[file], "blank")]
        elif file == "EF_AD":
            rows.append(("MNC", f"{values[0]} digits" if values else "length not told (EF_AD)"))
    if found.services is not None:
        named = " · ".join(f"{number} {name}" for number, name in found.services)
        rows.append(("services", named or "none"))
    if found.gba is not None:
        rows.append(("GBA", f"B-TID {found.gba.info.btid.text}, until {found.gba.info.lifetime:%Y-%m-%d %H:%M} UTC"))
    rows += [("GBA key", f"for {name}") for name in found.gba_nafs]
    if found.locked:
        rows.append(("locked", f"{', '.join(found.locked)}: needs the PIN, or the operator's right (6982)"))
    return rows + [("note", note) for note in found.notes]


def pin_json(pin: PinState) -> dict[str, Any]:
    """JSON of a PIN's state."""
    return {
        "reference": pin.reference,
        "enabled": pin.enabled,
        "open": pin.verified,
        "tries": pin.tries,
        "unblock_tries": pin.unblock_tries,
    }


def pin_words(pin: PinState) -> str:
    """Say how a PIN is, in a line."""
    if pin.tries == 0:
        state = "BLOCKED"
    elif pin.enabled is False:
        state = "disabled"
    else:
        state = "enabled" + (", open now" if pin.verified else "")
    tries = f", {tries_left(pin.tries)}" if pin.tries else ""
    puk = {None: "", 0: "; PUK blocked, or none"}.get(pin.unblock_tries)
    if puk is None:
        puk = f"; PUK {tries_left(pin.unblock_tries or 0)}"
    return f"{state}{tries}{puk} (reference {pin.reference:02X})"
