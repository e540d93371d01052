"""``imsbridge card trace``: another card command with every exchange in words, and as a capture."""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from ue_agent.card_bench.capture import Capture
from ue_agent.card_bench.commands import aka, gba, info, listing, pin
from ue_agent.card_bench.commands.common import (
    CARD_OPTION,
    DONE,
    EXIT_CODES,
    Outcome,
    UsageError,
    Work,
    add_card_options,
    add_parser,
    attempt,
    cell,
    on_card,
    opened,
    pairs,
    printable,
)
from ue_agent.card_bench.observe import Exchange
from ue_agent.card_bench.words import Narrator, Told

_DESCRIPTION = """\
Runs another card command, or what the agent does with the card when it starts,
and shows every command and answer: octets, names of files, meaning of status
words.  Keys (RES, CK, IK, those of GBA) and PINs are left out, in the capture
too; identities are not: they are what most traces are for."""
_EPILOG = f"""\
examples:
  imsbridge card trace start
  imsbridge card trace info --card "pcsc:ACR"
  imsbridge card trace --pcapng aka.pcapng aka --keys keys.toml
  imsbridge card trace info --json | jq -r '.trace[].command'
  tshark -r aka.pcapng -Y gsm_sim

Options of the trace stand before the command, those of the command behind it.
The capture is pcapng with GSMTAP (UDP port 4729, type SIM), for Wireshark.

{CARD_OPTION}

{EXIT_CODES}"""
_WIDTH = 80
_INDENT = " " * 9
_PADDING = re.compile(r"(?:FF){9,}(?= |$)")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``trace`` with the commands that can be traced below it."""
    parser = commands.add_parser(
        "trace",
        help="another card command with every exchange in words",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pcapng", metavar="FILE", type=Path, help="write a capture too")
    parser.add_argument(
        "--keys-in-trace", action="store_true", help="leave nothing out: keys and PIN in the trace and in the capture"
    )
    traced = parser.add_subparsers(dest="traced_command", metavar="COMMAND", required=True)
    start = add_parser(
        traced,
        "start",
        work_of_start,
        help="what the agent does when it starts",
        description="Reads the identities as the agent does when it starts.",
        epilog="example:\n  imsbridge card trace start",
    )
    add_card_options(start)
    for module in (listing, info, aka, gba, pin):
        module.register(traced)
    for command in traced.choices.values():
        command.set_defaults(work=_traced(command.get_default("work")))


def work_of_start(arguments: argparse.Namespace) -> Outcome:
    """Read the identities as the agent does."""
    with opened(arguments) as card:
        found, _ = card.with_pin(card.session.identities)
        where = on_card(card)
    impi = str.__str__(found.impi)
    fields = {"card": where, "source": found.source, "impi": impi}

    def show(console: Console) -> None:
        console.print(pairs("Identities", [("from", found.source), ("IMPI", impi)]))

    return Outcome("start", DONE, fields, show)


def _traced(work: Work) -> Callable[[argparse.Namespace], Outcome]:
    """Return a command's work with a trace around it."""

    def traced(arguments: argparse.Namespace) -> Outcome:
        narrator = Narrator(show_keys=arguments.keys_in_trace)
        told: list[Told] = []
        first: list[float] = []

        def observe(exchange: Exchange) -> None:
            line = narrator.tell(exchange)
            first.append(exchange.at)
            if capture is not None:
                capture.add(line.exchange)
            if arguments.json:
                told.append(line)
            else:
                sys.stdout.write(in_text(line, 1000 * (exchange.at - first[0])))

        inner = argparse.Namespace(
            **{
                **vars(arguments),
                "work": work,
                "card_command": arguments.traced_command,
                "observers": (observe,),
            }
        )
        if arguments.pcapng is None:
            capture = None
            outcome = attempt(inner)
        else:
            try:
                with os.fdopen(_open_capture(arguments.pcapng), "wb") as file:
                    capture = Capture(file)
                    outcome = attempt(inner)
            except OSError as error:
                raise UsageError(f"{arguments.pcapng}: cannot be written: {error.strerror}") from None
        trace = [_as_json(line, first[0]) for line in told]

        def show(console: Console) -> None:
            console.print()
            outcome.show(console)
            if arguments.pcapng is not None:
                console.print(cell(f"\n{len(first)} exchanges in {arguments.pcapng}"))

        return Outcome("trace", outcome.code, {"trace": trace, "result": outcome.as_json()}, show)

    return traced


def _open_capture(path: Path) -> int:
    """Open the file for its user alone, because identities are in it; a pipe to Wireshark will do as well."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fchmod(descriptor, 0o600)
    return descriptor


def in_text(told: Told, milliseconds: float) -> str:
    """Return the lines of one exchange, 80 columns wide; a long run of padding is only counted."""
    took = 1000 * told.exchange.seconds
    lines = [f"{milliseconds:7.1f}  {told.command}  ({took:.1f} ms)"]
    lines += _folded("> ", told.command_hex)
    lines += _folded("< ", told.answer_hex)
    mark = "" if told.ok else "! "
    lines += textwrap.wrap(mark + told.answer, _WIDTH, initial_indent=f"{_INDENT}  ", subsequent_indent=f"{_INDENT}  ")
    return printable("\n".join(lines)) + "\n"


def _folded(mark: str, octets: str) -> list[str]:
    text = _PADDING.sub(lambda run: f"FF..({len(run[0]) // 2})", octets)
    return textwrap.wrap(text, _WIDTH, initial_indent=_INDENT + mark, subsequent_indent=f"{_INDENT}  ")


def _as_json(told: Told, start: float) -> dict[str, Any]:
    return {
        "at_ms": round(1000 * (told.exchange.at - start), 3),
        "took_ms": round(1000 * told.exchange.seconds, 3),
        "command": told.command,
        "command_hex": told.command_hex,
        "answer": told.answer,
        "answer_hex": told.answer_hex,
        "sw": f"{told.exchange.sw:04X}",
        "ok": told.ok,
    }
