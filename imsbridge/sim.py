"""``imsbridge sim …``: what the lab and the tests stand on."""

from __future__ import annotations

import argparse

from simulators.bsf import command as bsf
from simulators.card import command as card
from simulators.ims_core import command as core
from simulators.modem import command as modem
from simulators.operator_dns import command as dns
from simulators.phone import command as phone


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``sim`` to the command line."""
    parser = subparsers.add_parser("sim", help="core, phone, card, name server, BSF")
    commands = parser.add_subparsers(dest="sim_command", metavar="WHAT", required=True)
    for module in (core, phone, card, modem, dns, bsf):
        module.register(commands)
