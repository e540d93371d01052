"""``imsbridge card …``: the smart-card bench."""

from __future__ import annotations

import argparse

from ue_agent.card_bench.commands import aka, gba, info, listing, pin, trace

_DESCRIPTION = """\
A bench for SIM cards in PC/SC readers, in modems, and in software: what is on
them, AKA and GBA runs, every command in words, the PIN."""
_EPILOG = """\
examples:
  imsbridge card list                           what is in which reader
  imsbridge card info                           identities and services
  imsbridge card aka --keys keys.toml           does it authenticate?
  imsbridge card trace --pcapng x.pcapng info   every command, for Wireshark too

docs/how-to-card.md goes through all of it."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``card`` to the command line."""
    parser = subparsers.add_parser(
        "card",
        help="a SIM card's identities, AKA and GBA runs, trace, PIN",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="card_command", metavar="WHAT", required=True)
    for module in (listing, info, aka, gba, trace, pin):
        module.register(commands)
