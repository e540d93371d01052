"""``imsbridge card aka``: runs of AKA, judged and timed."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from imskit.aka.vector import Success, SyncFailure
from ue_agent.card_bench.aka_runs import CASES, AkaBench, Case, Run, Stopwatch, percentile
from ue_agent.card_bench.commands.common import (
    CARD_OPTION,
    DONE,
    FAILED,
    Outcome,
    UsageError,
    add_card_options,
    add_parser,
    cell,
    exit_code,
    on_card,
    opened,
    pairs,
)
from ue_agent.card_bench.commands.keys import KEY_FILE, add_key_options, hex_octets, lab_hss
from ue_agent.card_bench.lab_hss import Autn, Auts
from ue_agent.uicc.errors import UiccError

_DESCRIPTION = """\
Runs AKA on the card (AUTHENTICATE, TS 31.103 7.1.2).

With the card's key it plays the network and tries three cases: a good vector
(RES, CK and IK must be right), a used sequence number (AUTS with a right MAC-S
is wanted, and is shown in parts), a forged MAC (9862 is wanted).  A card whose
sequence number is ahead is followed first, so runs change no more on it than
the numbers that they use.  --repeat times many runs.

With --rand and --autn it hands in one challenge from elsewhere; with the key
as well, the answer is checked."""
_EPILOG = f"""\
examples:
  imsbridge card aka --keys keys.toml
  imsbridge card aka --keys keys.toml --repeat 1000 --json
  imsbridge card aka --keys keys.toml --case resync --application usim
  imsbridge card aka --rand 00112233445566778899AABBCCDDEEFF \\
      --autn 0102030405060708090A0B0C0D0E0F10

{KEY_FILE}

{CARD_OPTION}

With --repeat the default case is success alone: some cards count wrong MACs
and lock up."""
_PERCENTILES = (50, 90, 99)
_INTERRUPTED = 130


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``aka``."""
    parser = add_parser(
        commands, "aka", work, help="AKA runs, judged and timed", description=_DESCRIPTION, epilog=_EPILOG
    )
    add_card_options(parser)
    add_key_options(parser)
    parser.add_argument("--rand", metavar="HEX", help="RAND of a challenge from elsewhere, 32 hex digits")
    parser.add_argument("--autn", metavar="HEX", help="AUTN of that challenge, 32 hex digits")
    parser.add_argument("--case", choices=CASES, action="append", help="what to try (default: all three); repeatable")
    parser.add_argument("--repeat", metavar="N", type=int, default=1, help="rounds of the cases (default 1)")
    parser.add_argument("--application", choices=("isim", "usim"), help="where (default: the ISIM, else the USIM)")
    parser.add_argument("--show-keys", action="store_true", help="print RES, CK and IK")


def work(arguments: argparse.Namespace) -> Outcome:
    """Run AKA."""
    challenge = _challenge(arguments)
    hss = lab_hss(arguments)
    if challenge is None and hss is None:
        raise UsageError("say what to run: --keys FILE (or --ask-keys), or --rand with --autn; --help has examples")
    if arguments.repeat < 1:
        raise UsageError("--repeat is at least 1")
    if challenge is not None and (arguments.repeat > 1 or arguments.case):
        raise UsageError("a challenge can be handed in once: --repeat and --case go with --keys")
    cases: Sequence[Case] = arguments.case or (CASES if arguments.repeat == 1 else ("success",))
    watch = Stopwatch()
    runs: list[Run] = []
    stopped: UiccError | KeyboardInterrupt | None = None
    with opened(arguments, watch) as card:
        source = card.with_pin(lambda: card.source_of_aka(arguments.application))
        bench = AkaBench(card.session, source, watch, hss)
        where = on_card(card)
        if challenge is not None:
            runs.append(card.with_pin(lambda: bench.challenge(*challenge)))
        elif (failed := card.with_pin(bench.synchronise)) is not None:
            runs.append(failed)
        else:
            with _progress(arguments.repeat * len(cases)) as advance:
                stopped = _repeat(bench, cases, arguments.repeat, runs, advance)
    algorithm = None if hss is None else hss.algorithm
    ok = stopped is None and all(run.ok for run in runs)
    if isinstance(stopped, KeyboardInterrupt):
        code, why = _INTERRUPTED, "interrupted"
    elif stopped is not None:
        code, why = exit_code(stopped), str(stopped)
    else:
        code, why = DONE if ok else FAILED, None
    fields = {
        "card": where,
        "application": source,
        "algorithm": algorithm,
        "runs": [_run_json(run, arguments.show_keys) for run in runs[:100]],
        "statistics": [_statistics(case, [run for run in runs if run.case == case]) for case in _seen(runs)],
        "stopped": why,
    }

    def show(console: Console) -> None:
        title = f"AKA in the {source} of {where['reader']}" + (f", {algorithm.capitalize()}" if algorithm else "")
        _show(console, title, runs, why, show_keys=arguments.show_keys)

    return Outcome("aka", code, fields, show)


def _challenge(arguments: argparse.Namespace) -> tuple[bytes, bytes] | None:
    if arguments.rand is None and arguments.autn is None:
        return None
    if arguments.rand is None or arguments.autn is None:
        raise UsageError("a challenge is --rand and --autn")
    return hex_octets("--rand", arguments.rand, 16), hex_octets("--autn", arguments.autn, 16)


def _repeat(
    bench: AkaBench, cases: Sequence[Case], rounds: int, runs: list[Run], advance: Callable[[], None]
) -> UiccError | KeyboardInterrupt | None:
    """Run all, appending to ``runs``; return what ended it early: what was measured until then counts."""
    for _ in range(rounds):
        for case in cases:
            try:
                run = bench.run(case)
            except (UiccError, KeyboardInterrupt) as error:
                return error
            runs.append(run)
            advance()
            if case == "success" and not run.ok and run.auts is not None:
                bench.synchronise()  # somebody else has used the card in between
    return None


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error while there is much to do and somebody looks."""
    console = Console(stderr=True)
    if total < 10 or not console.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("runs", total=total)
        yield lambda: progress.advance(task)


def _seen(runs: Sequence[Run]) -> list[Case]:
    return [case for case in CASES if any(run.case == case for run in runs)]


def _statistics(case: Case, runs: Sequence[Run]) -> dict[str, Any]:
    good = [run for run in runs if run.ok]
    fields: dict[str, Any] = {
        "case": case,
        "runs": len(runs),
        "failures": len(runs) - len(good),
        "reasons": dict(Counter(run.text for run in runs if not run.ok)),
    }
    for name in ("authenticate", "card", "total"):
        times = [getattr(run.timing, name) for run in good]
        fields[f"{name}_ms"] = {f"p{p}": round(percentile(times, p), 3) for p in _PERCENTILES} if times else None
    return fields


def _run_json(run: Run, show_keys: bool) -> dict[str, Any]:
    names = {"Success": "success", "SyncFailure": "auts", "MacFailure": "mac"}
    fields: dict[str, Any] = {
        "case": run.case,
        "ok": run.ok,
        "result": names.get(type(run.result).__name__, "error"),
        "text": run.text,
        "sw": None if run.sw is None else f"{run.sw:04X}",
        "rand": run.rand.hex().upper(),
        "autn": run.autn.hex().upper(),
        "autn_parts": None if run.autn_parts is None else _autn_json(run.autn_parts),
        "auts": None,
        "authenticate_ms": round(run.timing.authenticate, 3),
        "total_ms": round(run.timing.total, 3),
    }
    if isinstance(run.result, SyncFailure):
        fields["auts"] = {"auts": run.result.auts.hex().upper(), **_auts_json(run.auts)}
    if show_keys and isinstance(run.result, Success):
        fields["keys"] = dict(_keys(run.result))
    return fields


def _autn_json(parts: Autn) -> dict[str, Any]:
    if not parts.mac_ok:
        return {"mac_ok": False, "sqn": None, "seq": None, "ind": None, "amf": None}
    numbers = {"sqn": f"{parts.sqn:012X}", "seq": parts.seq, "ind": parts.ind}
    return {"mac_ok": True, **numbers, "amf": parts.amf.hex().upper()}


def _auts_json(auts: Auts | None) -> dict[str, Any]:
    if auts is None or auts.sqn_ms is None:
        return {"mac_s_ok": None if auts is None else False, "sqn_ms": None, "seq": None, "ind": None}
    return {"mac_s_ok": True, "sqn_ms": f"{auts.sqn_ms:012X}", "seq": auts.seq, "ind": auts.ind}


def _keys(result: Success) -> list[tuple[str, str]]:
    return [(name.upper(), getattr(result, name).reveal().hex().upper()) for name in ("res", "ck", "ik")]


def _show(console: Console, title: str, runs: Sequence[Run], stopped: str | None, *, show_keys: bool) -> None:
    console.print(cell(title, "bold"))
    if len(runs) <= len(CASES):
        for run in runs:
            console.print()
            console.print(pairs(run.case or "challenge", _rows(run, show_keys)))
    else:
        console.print()
        console.print(_timing_table(runs))
        reasons = Counter(run.text for run in runs if not run.ok)
        for text, number in reasons.items():
            console.print(cell(f"{number} times: {text}", "red"))
    if stopped is not None:
        console.print(cell(f"\nended after {len(runs)} runs: {stopped}", "red"))
    elif runs and runs[0].case is None:
        return  # a challenge from elsewhere says nothing about the card
    elif runs and all(run.ok for run in runs):
        console.print(cell("\nthe card does as it should", "green"))
    else:
        console.print(cell("\nthe card does not do as it should", "red"))


def _rows(run: Run, show_keys: bool) -> list[tuple[str, str]]:
    rows = [
        ("answer", run.text),
        ("time", f"{run.timing.authenticate:.1f} ms AUTHENTICATE, {run.timing.total:.1f} ms in all"),
    ]
    if run.autn_parts is not None:
        parts = run.autn_parts
        number = f"{_number(parts.sqn, parts.seq, parts.ind)}, AMF {parts.amf.hex().upper()}"
        rows.append(("AUTN", number if parts.mac_ok else "its MAC is wrong for this key"))
    if isinstance(run.result, SyncFailure):
        rows.append(("AUTS", run.result.auts.hex().upper()))
        if run.auts is not None and run.auts.sqn_ms is not None:
            rows.append(("SQN_MS", _number(run.auts.sqn_ms, run.auts.seq, run.auts.ind)))
        elif run.auts is None:
            rows.append(("SQN_MS", "with the card's key (--keys) it can be read"))
    if isinstance(run.result, Success):
        rows += _keys(run.result) if show_keys else [("keys", "not shown (--show-keys)")]
    return rows


def _number(sqn: int, seq: int | None, ind: int | None) -> str:
    return f"{sqn:012X}: SEQ {seq}, IND {ind}"


def _timing_table(runs: Sequence[Run]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("case", "runs", "failed", "ms", *(f"p{p}" for p in _PERCENTILES)):
        table.add_column(heading, justify="left" if heading in ("case", "ms") else "right")
    for case in _seen(runs):
        found = _statistics(case, [run for run in runs if run.case == case])
        first = [case, str(found["runs"]), str(found["failures"])]
        for label, name in (
            ("AUTHENTICATE", "authenticate_ms"),
            ("all commands", "card_ms"),
            ("whole run", "total_ms"),
        ):
            times = found[name] or {}
            numbers = [f"{times[f'p{p}']:.1f}" if times else "–" for p in _PERCENTILES]
            table.add_row(*first, label, *numbers)
            first = ["", "", ""]
    return table
