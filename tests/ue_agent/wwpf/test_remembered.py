"""Log-ins that outlive a restart of the agent; requirement S7-AUTH."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from imskit.secrets import Identity
from ue_agent.wwpf import remembered as module
from ue_agent.wwpf.remembered import RememberedSessions

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64
USER, OTHER = Identity("user@home.example"), Identity("other@home.example")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log-ins.json"


def digests(sessions: RememberedSessions) -> list[str]:
    return [digest for digest, _ in sessions.live()]


def filled(path: Path) -> RememberedSessions:
    sessions = RememberedSessions(path)
    sessions.belong_to(USER)
    now = time.monotonic()
    sessions.change([(ONE, now + 60), (TWO, now + 120), (THREE, now - 1)], [])
    return sessions


def test_without_a_file_nothing_outlives() -> None:
    sessions = RememberedSessions()
    sessions.change([(ONE, time.monotonic() + 60)], [])
    assert digests(sessions) == [ONE]
    assert digests(RememberedSessions()) == []


def test_a_restart(path: Path) -> None:
    filled(path).change([], [TWO])
    again = RememberedSessions(path)
    assert digests(again) == [ONE]
    assert again.live()[0][1] == pytest.approx(time.monotonic() + 60, abs=5)
    assert not again.belong_to(USER)
    assert digests(again) == [ONE]


def test_a_restart_of_the_device(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock begins anew, the time of day goes on."""
    filled(path)
    later = time.time() + 70
    monkeypatch.setattr(module.time, "monotonic", lambda: 5.0)
    monkeypatch.setattr(module.time, "time", lambda: later)
    again = RememberedSessions(path)
    assert digests(again) == [TWO]
    assert again.live()[0][1] == pytest.approx(5 + 50, abs=5)


def test_another_card_ends_them(path: Path) -> None:
    sessions = filled(path)
    assert not sessions.belong_to(USER)
    assert sessions.belong_to(OTHER)
    assert digests(sessions) == digests(RememberedSessions(path)) == []


def test_another_card_while_the_agent_was_off(path: Path) -> None:
    filled(path)
    again = RememberedSessions(path)
    assert again.belong_to(OTHER)
    assert digests(again) == []
    assert not again.belong_to(OTHER)


def test_the_file_tells_nothing(path: Path) -> None:
    filled(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "user" not in path.read_text()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "{}", '{"owner": "x", "sessions": [1]}', '{"owner": "x", "sessions": {"' + ONE + '": "soon"}}'],
)
def test_a_file_that_is_none(path: Path, text: str) -> None:
    path.write_text(text)
    sessions = RememberedSessions(path)
    assert digests(sessions) == []
    sessions.belong_to(USER)
    assert json.loads(path.read_text())["sessions"] == {}


def test_nobody_stays_for_ever(path: Path) -> None:
    """A time of day that was set back does not lengthen a log-in."""
    path.write_text(json.dumps({"owner": "x", "sessions": {ONE: time.time() + 10 * module.MAXIMUM_LIFE_S}}))
    assert RememberedSessions(path).live()[0][1] <= time.monotonic() + module.MAXIMUM_LIFE_S


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    sessions = filled(tmp_path / "none" / "log-ins.json")
    assert digests(sessions) == [ONE, TWO]


def test_not_too_many(path: Path) -> None:
    sessions = RememberedSessions(path)
    sessions.change([(f"{number:064}", time.monotonic() + 60) for number in range(module.CAPACITY + 1)], [])
    assert len(sessions.live()) == module.CAPACITY
    assert f"{0:064}" not in digests(sessions)
