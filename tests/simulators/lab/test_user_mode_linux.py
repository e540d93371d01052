"""Guests: they run a command, bring back what it said, and leave nothing behind."""

from __future__ import annotations

import contextlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from simulators.lab import user_mode_linux
from simulators.lab.user_mode_linux import GuestError, run

needs_guest = pytest.mark.skipif(
    user_mode_linux.missing() is not None, reason=f"NO GUEST KERNEL: {user_mode_linux.missing()}"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _guests(folder: Path) -> list[str]:
    """Process ids of the guests whose files are in ``folder``."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = each.read_bytes()
            if b"linux.uml" in line and bytes(folder) in line:
                found.append(each.parent.name)
    return found


@needs_guest
@pytest.mark.slow
def test_output_exit_code_and_nothing_left(temporary: Path) -> None:
    script = 'echo "$WORD from $(uname -r)"; echo also >&2; test "$(id -u)" = 0 && pwd && exit 7'
    with ThreadPoolExecutor() as guests:
        running = [
            guests.submit(run, ["sh", "-c", script], within=60, directory=temporary, environment={"WORD": word})
            for word in ("it's one", "two $HOME")
        ]
        for word, done in zip(("it's one", "two $HOME"), (each.result() for each in running), strict=True):
            assert done.exit_code == 7
            first, second, third = done.output.splitlines()
            assert first.startswith(f"{word} from ")
            assert (second, third) == ("also", str(temporary))
    assert list(temporary.iterdir()) == []
    assert _guests(temporary) == []


@needs_guest
@pytest.mark.slow
def test_what_does_not_end_is_killed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_mode_linux, "_BOOT_SECONDS", 15.0)
    with pytest.raises(GuestError, match="did not finish in 1 s and was killed") as error:
        run(["sh", "-c", "echo begun; sleep 1000"], within=1)
    assert "begun" in str(error.value)
    assert list(temporary.iterdir()) == []
    assert _guests(temporary) == []


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_mode_linux, "_program", lambda name: None if name == "linux.uml" else f"/bin/{name}")
    assert "user-mode-linux not installed" in (user_mode_linux.missing() or "")
    with pytest.raises(GuestError, match="no guest kernel: user-mode-linux not installed"):
        run(["true"], within=1)
