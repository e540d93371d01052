"""Steps of calls, without identities."""

from __future__ import annotations

from simulators.ims_core.engine import steps
from simulators.ims_core.engine.steps import CallSteps


def test_each_step_once_a_call() -> None:
    noted = CallSteps()
    first = noted.step("invite", "a@host", 1)
    assert first is not None
    assert first.subscriber == 1
    assert "host" not in (first.call or "")
    assert noted.step("invite", "a@host", 1) is None
    second = noted.step("180", "a@host")
    assert second is not None
    assert second.call == first.call
    other = noted.step("invite", "b@host")
    assert other is not None
    assert other.call != first.call


def test_memory_is_bounded() -> None:
    noted = CallSteps()
    for number in range(steps._REMEMBERED + 10):
        noted.step("invite", str(number))
    assert len(noted._seen) == steps._REMEMBERED
