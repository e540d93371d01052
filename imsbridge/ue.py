"""``imsbridge ue …``: the agent on a handset, and each of its functions alone."""

from __future__ import annotations

import argparse

from ue_agent import command as agent
from ue_agent.dns_proxy import command as dns
from ue_agent.turn_proxy import command as turn
from ue_agent.wwpf import command as wwpf


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``ue`` to the command line."""
    parser = subparsers.add_parser("ue", help="the agent on a handset, and each of its functions alone")
    commands = parser.add_subparsers(dest="ue_command", metavar="WHAT", required=True)
    agent.register(commands)
    for module in (dns, turn, wwpf):
        module.register(commands)
