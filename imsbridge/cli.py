"""The one command line.  Each sub-command is a module of this package that offers ``register`` and ``run``."""

from __future__ import annotations

import argparse
import importlib
import sys

_COMMANDS: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    """Parse ``argv`` and run the sub-command; the return value is the exit code."""
    parser = argparse.ArgumentParser(prog="imsbridge")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in _COMMANDS:
        importlib.import_module(f"imsbridge.{name}").register(commands)
    arguments = parser.parse_args(argv)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
