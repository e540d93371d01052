"""Run pytest; the few tests that fail run once more, alone, and are named if they pass then.

    python scripts/run_tests.py [PYTEST OPTIONS]

Many tests here stand on real browsers, servers and clocks, and share two cores with each other. A test that fails
twice fails the run, and so do more than a few at once; one that passes alone is listed under FLAKY, to be mended.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LAST_FAILED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
_SECOND_CHANCES = 5
_TESTS_FAILED = 1  # pytest's exit code; others (interrupted, nothing collected, …) stand as they are


def _pytest(options: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *options], cwd=ROOT, check=False).returncode


def main(options: list[str]) -> int:
    """Run the tests, return pytest's exit code."""
    _LAST_FAILED.unlink(missing_ok=True)
    code = _pytest(options)
    if code != _TESTS_FAILED or not _LAST_FAILED.exists():
        return code
    failed = sorted(json.loads(_LAST_FAILED.read_text()))
    if len(failed) > _SECOND_CHANCES:
        return code
    print(f"\n{len(failed)} failed: once more, alone.", flush=True)
    if (again := _pytest([*options, "--last-failed", "--last-failed-no-failures", "none"])) == 0:
        print("FLAKY, passed when run alone:", *failed, sep="\n  ", flush=True)
    return again


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
