"""``imsbridge card …``: the smart-card bench."""

from __future__ import annotations

import argparse

from ue_agent.card_bench.commands import aka, gba, info, listing, pin, trace

_DESCRIPTION = """\
A bench for SIM cards in PC/SC readers, in modems, and in software: what is on
them, AKA and GBA runs, every command in words, the PIN."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``card`` to the command line."""
    parser = subparsers.add_parser(
        "card",
        help="a SIM card's identities, AKA and GBA runs, trace, PIN",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="card_command", metavar="WHAT", required=True)
    for module in (listing, info, aka, gba, trace, pin):
        module.register(commands)
