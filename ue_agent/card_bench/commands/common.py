"""What the card commands share: their options, the opened card, outcomes, and errors with their cure."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imskit.aka.errors import AkaError
from imskit.config.model import ConfigError
from imskit.observe import logs
from imskit.secrets import Secret
from ue_agent.card_bench.observe import Exchange, ObservedTransport, Observer
from ue_agent.uicc import errors, inventory
from ue_agent.uicc.apdu import CardChannel
from ue_agent.uicc.application import Source, UiccSession
from ue_agent.uicc.pin import Pin
from ue_agent.uicc.spec import PcscSource, SpecError, open_backend, parse_spec

VERSION = 1
"""Of the JSON forms (docs/card-json.md)."""
DONE, FAILED, WRONG_USE, NO_CARD, PIN = 0, 1, 2, 3, 4
EXIT_CODES = """\
exit codes: 0 done, 1 the card refused or did not answer as it should,
  2 wrong arguments or key file, 3 no card: no service, reader or card, or it
  does not answer, 4 the PIN is needed, wrong, blocked or down to its last try"""
CARD_OPTION = """\
--card says where the card is: a reader's name or a part of it ("pcsc:ACR"),
"modem:/dev/ttyUSB2", or "software:/path/card.toml" for a card in software.
Without it: the first reader with a card."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has to say, for people and for programs."""

    command: str
    code: int
    """Exit code."""
    fields: dict[str, Any]
    """JSON, beside ``version``, ``command`` and ``ok``."""
    show: Callable[[Console], None]
    """Prints the same as tables."""

    def as_json(self) -> dict[str, Any]:
        """Return the stable, documented form."""
        return {"version": VERSION, "command": self.command, "ok": self.code == DONE, **self.fields}


class UsageError(Exception):
    """The command line asks for what cannot be; says what would be right."""


type Work = Callable[[argparse.Namespace], Outcome]


@dataclass(frozen=True, slots=True)
class Opened:
    """A powered card."""

    source: str
    """Its full specification."""
    reader: str
    """Where it is, for people."""
    atr: bytes | None
    laboratory: bool
    """Whether it is no SIM card but a key in a file."""
    transport: ObservedTransport
    channel: CardChannel
    session: UiccSession
    pin: Pin

    def with_pin[T](self, action: Callable[[], T]) -> T:
        """Carry out ``action``; if the card wants a PIN that nobody has given, ask at the terminal and try again."""
        try:
            return action()
        except errors.PinRequiredError as error:
            if self.pin.value is not None or not sys.stdin.isatty():
                raise
            self.pin.value = ask(f"{error}\nPIN: ")
            return action()

    def source_of_aka(self, wanted: str | None) -> Source:
        """Return the application to run AKA in: the one asked for, else the ISIM, else the USIM."""
        found = self.session.sources()
        chosen = next((source for source in found if wanted in (None, source.lower())), None)
        if chosen is None:
            raise errors.WrongCardError(f"the card has no {(wanted or '').upper()}; it has {' and '.join(found)}")
        return chosen


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, work: Work, *, help: str, **texts: str
) -> argparse.ArgumentParser:
    """Add a sub-command with the options that all have; its function is ``work``."""
    parser = commands.add_parser(
        name,
        help=help,
        description=texts["description"],
        epilog=f"{texts['epilog'].rstrip()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON (docs/card-json.md)")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="error", help="(default error)")
    parser.set_defaults(run=run, work=work, observers=())
    return parser


def add_card_options(parser: argparse.ArgumentParser, *, pin: bool = True) -> None:
    """Add the options that say which card, and where its PIN is."""
    parser.add_argument("--card", metavar="SPEC", default="", help="where the card is (default: first reader with one)")
    if pin:
        parser.add_argument(
            "--pin-file",
            metavar="FILE",
            help="file whose first line is the PIN, - for standard input; else it is asked",
        )


def run(arguments: argparse.Namespace) -> int:
    """Do the command's work and print it; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        outcome = attempt(arguments)
        if arguments.json:
            print(json.dumps(outcome.as_json(), indent=2))
        else:
            outcome.show(console())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return outcome.code


def attempt(arguments: argparse.Namespace) -> Outcome:
    """Do the command's work; an error is an outcome too."""
    name = str(arguments.card_command)
    try:
        work: Work = arguments.work
        return work(arguments)
    except (errors.UiccError, ConfigError, SpecError, AkaError, UsageError) as error:
        return _failed(name, error)


@contextmanager
def opened(arguments: argparse.Namespace, *observers: Observer) -> Iterator[Opened]:
    """Power the card that the arguments name; the command's ``observers`` and these look on."""
    source = parse_spec(arguments.card)
    pin_file = getattr(arguments, "pin_file", None)
    pin = Pin(None if pin_file is None else read_secret(pin_file))
    reader, atr = str(source), None
    if isinstance(source, PcscSource):
        chosen = _chosen(source.reader)
        if chosen is not None:
            source, reader, atr = chosen.source, chosen.name, chosen.atr
    backend = open_backend(source)
    watching: Sequence[Observer] = (*arguments.observers, *observers)

    def observe(exchange: Exchange) -> None:
        for observer in watching:
            observer(exchange)

    transport = ObservedTransport(backend.connect(), observe)
    session = UiccSession(transport, pin)
    try:
        yield Opened(str(source), reader, atr, backend.laboratory, transport, CardChannel(transport), session, pin)
    finally:
        session.close()


def _chosen(wanted: str) -> inventory.Reader | None:
    """The reader with a card that the back end will take, ``None`` if there is none: then it says why."""
    found = inventory.readers()
    if not wanted:
        return next((reader for reader in found if reader.atr is not None), None)
    exact = [reader for reader in found if reader.name == wanted]
    return next(iter(exact or [reader for reader in found if wanted in reader.name]), None)


def ask(prompt: str) -> Secret[str]:
    """Ask at the terminal, without echo."""
    try:
        return Secret(getpass.getpass(prompt, stream=sys.stderr).strip())
    except EOFError:
        raise UsageError("nothing was entered") from None


def read_secret(file: str) -> Secret[str]:
    """Return the first line of ``file``, of standard input if it is ``-``; ``ConfigError`` if there is none."""
    if file == "-":
        line = sys.stdin.readline()
    else:
        path = Path(file)
        try:
            if path.stat().st_mode & 0o077:
                raise ConfigError(f"{path}: holds a secret and others may get at it. Run: chmod 600 {path}")
            with path.open(encoding="utf-8") as text:
                line = text.readline(256)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not line.strip():
        raise ConfigError(f"{'standard input' if file == '-' else file}: its first line is empty")
    return Secret(line.strip())


def on_card(card: Opened) -> dict[str, Any]:
    """JSON of where the card is."""
    atr = None if card.atr is None else card.atr.hex().upper()
    return {"source": card.source, "reader": card.reader, "atr": atr, "laboratory": card.laboratory}


# ---- errors


def exit_code(error: Exception) -> int:
    """Return the exit code that stands for ``error``."""
    match error:
        case errors.PinRequiredError() | errors.PinLastTryError() | errors.PinBlockedError():
            return PIN
        case errors.CardError() | errors.WrongCardError() | errors.CardDataError():
            return FAILED
        case errors.UiccError():
            return NO_CARD
    return WRONG_USE


def cure(error: Exception) -> str:
    """Say what to do about ``error``, empty if it says so itself."""
    text = str(error)
    match error:
        case SpecError() | ConfigError():
            return ""
        case errors.NoDaemonError() if "refuses" in text:
            return "allow this user by a polkit rule (docs/how-to-card.md shows it), or run it as root"
        case errors.NoDaemonError() if "not installed" in text:
            return "apt-get install pcscd libpcsclite1"
        case errors.NoDaemonError():
            return "apt-get install pcscd, then: systemctl start pcscd.socket"
        case errors.NoReaderError():
            return "plug the reader in; `imsbridge card list` shows what is there"
        case errors.NoCardError() if "software card" in text:
            return ""
        case errors.NoCardError():
            return "put the card in; `imsbridge card list` shows which reader holds one"
        case errors.CardRemovedError():
            return "leave the card in its reader until the command has ended"
        case errors.AtError():
            return "a modem has several ports, try the next; end ModemManager: systemctl stop ModemManager"
        case errors.CardUnresponsiveError():
            return "turn the card over, contacts to the reader's; clean them; end other programs that use it"
        case errors.WrongCardError():
            return "`imsbridge card list` shows what is in which reader"
        case errors.PinBlockedError():
            return "imsbridge card pin unblock, with the PUK that came with the card"
        case errors.PinLastTryError():
            return "be sure of it, then: imsbridge card pin verify --last-try"
        case errors.PinRequiredError() if "is wrong" in text:
            return "each wrong one costs a try; the right one gives all back"
        case errors.PinRequiredError():
            return "give it at the prompt of a terminal, or with --pin-file FILE"
        case errors.CardError(sw=0x6982):
            return "imsbridge card info shows the PIN's state; some files only the operator may read"
        case errors.CardError(sw=0x9864):
            return "this application does not do that; try --application"
    return ""


def _failed(command: str, error: Exception) -> Outcome:
    advice = cure(error)
    status = getattr(error, "sw", None)
    fields = {
        "error": {
            "kind": type(error).__name__,
            "text": str(error),
            "cure": advice or None,
            "sw": None if status is None else f"{status:04X}",
        }
    }

    def show(_: Console) -> None:
        print(f"imsbridge card {command}: {printable(str(error))}", file=sys.stderr)
        if advice:
            print(f"  -> {advice}", file=sys.stderr)

    return Outcome(command, exit_code(error), fields, show)


# ---- tables


def console() -> Console:
    """Return a console that prints texts as they are."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def printable(text: str) -> str:
    """Return ``text`` without what would steer a terminal: readers and cards name themselves."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def tries_left(number: int) -> str:
    """``1 try left``, ``2 tries left``."""
    return f"{number} {'try' if number == 1 else 'tries'} left"


def cell(text: str, style: str = "") -> Text:
    """Return a table's cell."""
    return Text(printable(text), style)


def pairs(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Return a table of names and what they are, long ones folded."""
    table = Table(title=cell(title, "bold"), title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(cell(f"  {name}"), cell(text))
    return table
