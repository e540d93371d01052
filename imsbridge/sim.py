"""``imsbridge sim …``: what the lab and the tests stand on."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Action = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    _Action = argparse._SubParsersAction

_COMMANDS = {
    "core": ("simulators.ims_core.command", "the operator's IMS core: P-CSCF, I/S-CSCF, HSS"),
    "phone": ("simulators.phone.command", "a VoLTE phone"),
    "card": ("simulators.card.command", "a SIM card in a virtual reader"),
    "modem": ("simulators.modem.command", "a modem with a SIM card, on a pseudo-terminal"),
    "dns": ("simulators.operator_dns.command", "the operator's name server"),
    "bsf": ("simulators.bsf.command", "bootstrapping server (GBA)"),
}


class _WhenNamed(_Action):
    """Imports a sub-command's module only when it is the one that is named: a phone takes seconds to load."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Put the module's own parser in the place of the one that only knows its name."""
        name = values[0] if values else None
        if name in _COMMANDS:
            del self._name_parser_map[name]
            importlib.import_module(_COMMANDS[name][0]).register(self)
        super().__call__(parser, namespace, values, option_string)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``sim`` to the command line."""
    parser = subparsers.add_parser("sim", help="core, phone, card, modem, name server, BSF")
    commands = parser.add_subparsers(dest="sim_command", metavar="WHAT", required=True, action=_WhenNamed)
    for name, (_, text) in _COMMANDS.items():
        commands.add_parser(name, help=text)
