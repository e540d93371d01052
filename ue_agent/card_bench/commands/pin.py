"""``imsbridge card pin``: verify, change, enable, disable, unblock."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from imskit.secrets import Secret
from ue_agent.card_bench.commands.common import (
    CARD_OPTION,
    DONE,
    Opened,
    Outcome,
    UsageError,
    add_card_options,
    add_parser,
    ask,
    cell,
    on_card,
    opened,
    printable,
    read_secret,
)
from ue_agent.card_bench.commands.info import pin_json, pin_words
from ue_agent.card_bench.pins import PinState, operate, pin_state
from ue_agent.uicc.application import Source

_DESCRIPTION = """\
Works on the PIN of an application (PIN1).  Shows the tries left first, which
costs none, and does not use up the last try unless told to.  The PIN is asked
for without echo, or read from a file; it is never an argument.  Afterwards the
card is reset, so that no other program finds it open."""
_EPILOG = f"""\
examples:
  imsbridge card pin verify
  imsbridge card pin change --card "pcsc:ACR"
  imsbridge card pin disable --pin-file pin.txt
  imsbridge card pin unblock --puk-file puk.txt --new-pin-file pin.txt
  printf '1234\\n5678\\n' |
    imsbridge card pin change --pin-file - --new-pin-file -

{CARD_OPTION}
The PIN of a card in software stands in its file: it can only be verified."""
_DONE = {
    "verify": "the PIN is right",
    "change": "the PIN is changed",
    "enable": "the PIN is enabled",
    "disable": "the PIN is disabled",
    "unblock": "the PIN is unblocked, and is the new one",
}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pin``."""
    parser = add_parser(
        commands,
        "pin",
        work,
        help="verify, change, enable, disable, unblock the PIN",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("operation", choices=tuple(_DONE), help="what to do")
    add_card_options(parser)
    parser.add_argument("--new-pin-file", metavar="FILE", help="the new PIN, of change and unblock")
    parser.add_argument("--puk-file", metavar="FILE", help="the PUK, of unblock")
    parser.add_argument("--application", choices=("isim", "usim"), help="whose PIN (default: the ISIM's, else USIM's)")
    parser.add_argument("--last-try", action="store_true", help="also with one try left, or an unknown number")


def work(arguments: argparse.Namespace) -> Outcome:
    """Carry out the operation."""
    operation = arguments.operation
    unblock = operation == "unblock"
    takes_new = operation in ("change", "unblock")
    if arguments.new_pin_file is not None and not takes_new:
        raise UsageError("--new-pin-file goes with change and unblock")
    if arguments.puk_file is not None and not unblock:
        raise UsageError("--puk-file goes with unblock")
    if arguments.pin_file is not None and unblock:
        raise UsageError("unblock takes --puk-file and --new-pin-file")
    code_file = arguments.puk_file if unblock else arguments.pin_file
    arguments.pin_file = None  # it is this command that sends the PIN, nothing below it
    with opened(arguments) as card:
        if card.laboratory and operation != "verify":
            raise UsageError("the PIN of a card in software stands in its file: change it there")
        source = card.source_of_aka(arguments.application)
        with card.transport.transaction():
            before = _state(card, source)
            print(printable(f"{source} in {card.reader}: {pin_words(before)}"), file=sys.stderr)
            code = _code("PUK" if unblock else "PIN", code_file)
            new = _new(arguments.new_pin_file) if takes_new else None
            try:
                operate(card.channel, operation, before, code, new, last_try=arguments.last_try)
            except ValueError as error:
                raise UsageError(str(error)) from None
            finally:
                card.transport.reset()
            after = _state(card, source)
        where = on_card(card)
    fields = {
        "card": where,
        "application": source,
        "operation": operation,
        "before": pin_json(before),
        "after": pin_json(after),
    }

    def show(console: Console) -> None:
        console.print(cell(f"{_DONE[operation]}; now: {pin_words(after)}"))

    return Outcome("pin", DONE, fields, show)


def _state(card: Opened, source: Source) -> PinState:
    return pin_state(card.channel, card.session.select(source))


def _code(what: str, file: str | None) -> Secret[str]:
    if file is not None:
        return read_secret(file)
    if not sys.stdin.isatty():
        raise UsageError(f"the {what} is asked for at a terminal; elsewhere give --{what.lower()}-file FILE")
    return ask(f"{what}: ")


def _new(file: str | None) -> Secret[str]:
    if file is not None:
        return read_secret(file)
    if not sys.stdin.isatty():
        raise UsageError("the new PIN is asked for at a terminal; elsewhere give --new-pin-file FILE")
    new = ask("new PIN: ")
    if ask("new PIN again: ") != new:
        raise UsageError("the two new PINs differ; nothing was done")
    return new
