"""``imsbridge card gba``: bootstrapping, against a BSF in this process or a real one."""

from __future__ import annotations

import argparse
import asyncio
import base64
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from imskit.aka.gba import (
    UA_HTTP_DIGEST,
    Bootstrapped,
    InCard,
    bsf_from_impi,
    bsf_from_ims_domain,
)
from imskit.aka.vector import AkaResult
from imskit.secrets import Identity, Secret
from ue_agent.card_bench.commands.common import (
    CARD_OPTION,
    DONE,
    FAILED,
    Opened,
    Outcome,
    UsageError,
    add_card_options,
    add_parser,
    on_card,
    opened,
    pairs,
)
from ue_agent.card_bench.commands.keys import KEY_FILE, add_key_options, lab_hss
from ue_agent.card_bench.gba_runs import GbaBench, GbaRun
from ue_agent.uicc.application import ImsIdentities, Source

_DESCRIPTION = """\
Bootstraps keys with the card (GBA, TS 33.220) and derives the key of a server
(NAF): with GBA_U if the card announces it, Ks then stays in the card and
EF_GBABP is written as a phone has to; else with GBA_ME.

With the card's key the bench is the BSF itself and compares RES and the
server's key on both sides.  With --bsf it bootstraps at a real BSF over Ub."""
_EPILOG = f"""\
examples:
  imsbridge card gba --keys keys.toml
  imsbridge card gba --keys keys.toml --mode me --naf xcap.ims.example
  imsbridge card gba --bsf http://bsf.ims.example
  imsbridge card gba --bsf auto --naf xcap.ims.example --show-keys

{KEY_FILE}

{CARD_OPTION}"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``gba``."""
    parser = add_parser(
        commands, "gba", work, help="bootstrapping (GBA_U, GBA_ME)", description=_DESCRIPTION, epilog=_EPILOG
    )
    add_card_options(parser)
    add_key_options(parser)
    parser.add_argument("--mode", choices=("auto", "u", "me"), default="auto", help="with --keys: GBA_U or GBA_ME")
    parser.add_argument("--bsf", metavar="URL", help="real BSF, http://HOST[:PORT]; auto: the name that the card gives")
    parser.add_argument("--naf", metavar="HOST", default="naf.example", help="server whose key is derived")
    parser.add_argument("--application", choices=("isim", "usim"), help="where (default: the ISIM, else the USIM)")
    parser.add_argument("--show-keys", action="store_true", help="print the server's key")


def work(arguments: argparse.Namespace) -> Outcome:
    """Bootstrap."""
    hss = lab_hss(arguments)
    if (hss is None) == (arguments.bsf is None):
        raise UsageError("say with whom to bootstrap: --keys FILE (or --ask-keys), or --bsf URL; --help has examples")
    with opened(arguments) as card:
        identities, _ = card.with_pin(card.session.identities)
        source = card.source_of_aka(arguments.application)
        where = on_card(card)
        if hss is None:
            host, port = _bsf(arguments.bsf, identities)
            found = asyncio.run(_at_bsf(card, source, identities, host, port, arguments.naf))
        else:
            bench = GbaBench(card.session, source, hss, identities.impi, _name(identities))
            in_card = arguments.mode == "u" or (arguments.mode == "auto" and card.session.announces_gba(source))
            found = bench.run(arguments.naf, in_card=in_card)

    rows = _rows(found, arguments.naf, show_keys=arguments.show_keys)
    fields = {"card": where, "application": source, **_as_json(found, arguments.naf, show_keys=arguments.show_keys)}

    def show(console: Console) -> None:
        console.print(pairs(f"GBA in the {source} of {where['reader']}", rows))

    return Outcome("gba", DONE if found.ok else FAILED, fields, show)


def _name(identities: ImsIdentities) -> str:
    if identities.source == "ISIM":
        return bsf_from_impi(str.__str__(identities.impi))
    return bsf_from_ims_domain(identities.domain)


def _bsf(url: str, identities: ImsIdentities) -> tuple[str, int]:
    if url == "auto":
        return _name(identities), 80
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("", "http") or not parts.hostname or port == -1 or parts.path not in ("", "/"):
        raise UsageError("--bsf is http://HOST[:PORT], as Ub runs on plain HTTP; or auto")
    return parts.hostname, port or 80


class _Card:
    """The opened card as the GBA client wants it; the calls block, nothing else runs meanwhile."""

    def __init__(self, card: Opened, source: Source) -> None:
        self._session = card.session
        self._source = source

    async def bootstrap(self, rand: bytes, autn: bytes) -> AkaResult | InCard:
        return self._session.bootstrap(self._source, rand, autn)

    async def naf_key(self, naf_id: bytes, impi: str) -> Secret[bytes]:
        return self._session.naf_key(self._source, naf_id, impi)

    async def store_bootstrapping(self, run: Bootstrapped) -> None:
        self._session.store_bootstrapping(self._source, run)

    async def stored_bootstrapping(self, impi: Identity) -> Bootstrapped | None:
        return None  # the bench bootstraps anew each time


async def _at_bsf(card: Opened, source: Source, identities: ImsIdentities, host: str, port: int, server: str) -> GbaRun:
    from ue_agent.gba.client import (  # takes a while, and the other commands need no HTTP
        BsfAddress,
        GbaClient,
        GbaError,
    )

    loop = asyncio.get_running_loop()
    client = GbaClient(_Card(card, source), identities.impi, BsfAddress(host, port), UA_HTTP_DIGEST)
    start = loop.time()
    try:
        run = await client.bootstrap()
        bootstrapped = loop.time()
        credential = await client.credential(server)
    except GbaError as error:
        return GbaRun(False, None, None, False, str(error), False, 1000 * (loop.time() - start), 0.0)
    text = f"bootstrapped with {host}"
    times = 1000 * (bootstrapped - start), 1000 * (loop.time() - bootstrapped)
    key = Secret(base64.b64decode(credential.password.reveal()))
    return GbaRun(run.in_card, run, key, True, text, False, *times)


def _rows(found: GbaRun, server: str, *, show_keys: bool) -> list[tuple[str, str]]:
    rows = [("result", found.text)]
    if found.run is not None:
        rows += [
            ("kind", "GBA_U: Ks stays in the card" if found.in_card else "GBA_ME: Ks is in the terminal"),
            ("B-TID", found.run.info.btid.text),
            ("until", f"{found.run.info.lifetime:%Y-%m-%d %H:%M:%S} UTC"),
        ]
    if found.synchronised:
        rows.append(("note", "the card's sequence number was ahead; it was followed"))
    if found.key is not None:
        shown = found.key.reveal().hex().upper() if show_keys else "not shown (--show-keys)"
        rows.append((f"key of {server}", shown))
    times = f"{found.bootstrap_ms:.1f} ms bootstrapping" + (f", {found.naf_ms:.1f} ms the key" if found.key else "")
    return [*rows, ("time", times)]


def _as_json(found: GbaRun, server: str, *, show_keys: bool) -> dict[str, Any]:
    run = found.run
    fields: dict[str, Any] = {
        "kind": None if run is None else "GBA_U" if found.in_card else "GBA_ME",
        "text": found.text,
        "btid": None if run is None else run.info.btid.text,
        "lifetime": None if run is None else run.info.lifetime.isoformat(),
        "naf": server,
        "synchronised": found.synchronised,
        "bootstrap_ms": round(found.bootstrap_ms, 3),
        "naf_ms": round(found.naf_ms, 3),
    }
    if show_keys and found.key is not None:
        fields["key"] = found.key.reveal().hex().upper()
    return fields
