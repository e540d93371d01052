"""``imsbridge edge …``: the network edge (Annex A)."""

from __future__ import annotations

import argparse

from network_edge import command as whole
from network_edge.eims_agw import command as eims_agw
from network_edge.ep_cscf import command as ep_cscf
from network_edge.wwsf import command as wwsf


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``edge`` to the command line."""
    parser = subparsers.add_parser(
        "edge", help="the network edge: the page's web server, SIP over WebSocket, the media gateway"
    )
    commands = parser.add_subparsers(dest="edge_command", required=True)
    whole.register(commands)
    wwsf.register(commands)
    ep_cscf.register(commands)
    eims_agw.register(commands)
