"""Run the tests of this folder under a kernel with ESP and netem: each file in a guest of its own, side by side.

    python tests/kernel/run.py [FILE ...] [-- PYTEST OPTIONS]

The exit code is 0 if every file passed, and if no guest can run on this machine (said loudly).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from simulators.lab import user_mode_linux  # noqa: E402

_WITHIN_SECONDS = 600.0
_SPLIT = {"test_gm.py": ("UDP", "not UDP")}
"""Long files are run in parts, each in a guest of its own: expressions for ``-k``."""
_LONG = ("test_gm.py", "test_gm_faults.py", "test_esp.py")
"""Begun first."""
_SECOND_CHANCES = 2


def _parts(file: Path, options: list[str]) -> list[tuple[str, Path, list[str]]]:
    if file.name not in _SPLIT or "-k" in options:
        return [(file.name, file, options)]
    return [(f"{file.name} ({part})", file, [*options, "-k", part]) for part in _SPLIT[file.name]]


def _run(file: Path, options: list[str]) -> tuple[bool, str, float]:
    argv = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-m", "kernel", *options, str(file)]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    started = time.monotonic()
    try:
        done = user_mode_linux.run(argv, within=_WITHIN_SECONDS, directory=ROOT, environment=environment)
    except user_mode_linux.GuestError as error:
        return False, f"{error}\n", time.monotonic() - started
    # 5: of this file nothing was selected.
    passed = done.exit_code == 0 or (done.exit_code == 5 and "-k" in options)
    shown = done.output if passed else f"{done.output}--- the guest's console\n{done.console}\n"
    return passed, shown, done.seconds


def _passed(name: str, result: tuple[bool, str, float]) -> bool:
    passed, shown, seconds = result
    print(f"=== {name}: {'passed' if passed else 'FAILED'}, {seconds:.1f} s\n{shown}", flush=True)
    return passed


def main(argv: list[str]) -> int:
    """Run the files named, or all; return the exit code."""
    if (reason := user_mode_linux.missing()) is not None:
        print(f"\n{'!' * 100}\n!!! KERNEL TESTS SKIPPED: {reason}\n{'!' * 100}\n", flush=True)
        return 0
    split = argv.index("--") if "--" in argv else len(argv)
    files = [Path(name).resolve() for name in argv[:split]] or sorted(HERE.glob("test_*.py"))
    options = argv[split + 1 :]
    failed: list[tuple[str, Path, list[str]]] = []
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as guests:
        parts = [part for file in files for part in _parts(file, options)]
        parts.sort(key=lambda part: _LONG.index(part[1].name) if part[1].name in _LONG else len(_LONG))
        running = {guests.submit(_run, file, more): (name, file, more) for name, file, more in parts}
        try:
            for future in as_completed(running):
                if not _passed(running[future][0], future.result()):
                    failed.append(running[future])
        except BaseException:
            user_mode_linux.stop_all()
            guests.shutdown(cancel_futures=True)
            raise
    if 0 < len(failed) <= _SECOND_CHANCES:
        # Guests share the machine's cores: a clock that went wrong for that reason goes right alone, and is named.
        flaky = [part for part in failed if _passed(f"{part[0]}, once more, alone", _run(*part[1:]))]
        failed = [part for part in failed if part not in flaky]
        if flaky:
            print(f"=== FLAKY, passed when run alone: {', '.join(sorted(name for name, *_ in flaky))}")
    verdict = f"FAILED: {', '.join(sorted(name for name, *_ in failed))}" if failed else "all passed"
    print(f"=== kernel tests: {verdict}, {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main(sys.argv[1:]))
