"""The card's key for the commands that play the network: from a file, or typed in; never from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ue_agent.card_bench.commands.common import UsageError, ask
from ue_agent.card_bench.lab_hss import LabHss, LabKeys, load_keys

KEY_FILE = """\
The key file is TOML, mode 0600; `imsbridge config sample card-keys` shows all:
  k   = "465b5ce8b199b49faa5f0a2ee238a6bc"
  opc = "cd63cb71954a9f4e48a5994e37a02baf"       # or op =
  algorithm = "milenage"                         # or "tuak"
The file of a simulated card (`imsbridge config sample card`) will do as well."""


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the card's key is."""
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--keys", metavar="FILE", type=Path, help="play the network with this key file")
    keys.add_argument("--ask-keys", action="store_true", help="play the network with a key typed in at the terminal")
    parser.add_argument(
        "--algorithm", choices=("milenage", "tuak"), default="milenage", help="of --ask-keys (default milenage)"
    )


def lab_hss(arguments: argparse.Namespace) -> LabHss | None:
    """Return the network's side, ``None`` if no key is given; ``ConfigError``, ``UsageError``."""
    if arguments.keys is not None:
        return LabHss(load_keys(arguments.keys))
    if not arguments.ask_keys:
        return None
    if not sys.stdin.isatty():
        raise UsageError("--ask-keys asks at a terminal; elsewhere use --keys FILE")
    k = ask("K (hex): ")
    opc = ask("OPc or TOPc (hex): ")
    try:
        return LabHss(LabKeys(k=k, opc=opc, algorithm=arguments.algorithm))
    except ValueError as error:
        raise UsageError(str(error)) from None


def hex_octets(name: str, text: str, octets: int) -> bytes:
    """Return the octets that ``text`` spells; ``UsageError`` unless there are that many."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != octets:
        raise UsageError(f"{name} is {2 * octets} hex digits")
    return value
