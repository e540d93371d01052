"""The one command line.

Each sub-command is a module of this package with a ``register(subparsers)`` that sets ``run``; only the module that
is asked for is imported, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys

_COMMANDS = {
    "demo": "a browser calls a VoLTE phone and is called back, in a lab on this machine",
    "compare": "the same calls over both paths, measured side by side; a report with plots",
    "ue": "the agent on a handset: run, check, status; and each of its functions alone",
    "edge": "the network edge: the page, SIP over WebSocket, media; all in one or each alone",
    "card": "a SIM card's identities, AKA and GBA runs, trace, PIN",
    "sim": "what the lab stands on: core, phone, card, modem, name server, BSF",
    "config": "sample configuration files",
    "doctor": "everything that can be wrong on this device, one line each",
}

_EPILOG = """\
examples:
  imsbridge demo                         see it work: no root, no hardware
  imsbridge config sample ue > ue.toml   then fill it in, and
  imsbridge ue check -c ue.toml
  imsbridge ue run -c ue.toml
  imsbridge doctor -c ue.toml            when something does not

exit codes: 0 all is well, 1 it failed, 2 wrong arguments or configuration, 3 something is not installed
"""


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv`` and run the sub-command; the return value is the exit code."""
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="imsbridge",
        description="The phone's own IMS service (VoLTE calls, messages) for an unmodified web browser.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, text in _COMMANDS.items():
        if name == wanted:
            importlib.import_module(f"imsbridge.{name}").register(commands)
        else:
            commands.add_parser(name, help=text)
    arguments = parser.parse_args(words)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
