"""The queue of alarms."""

from __future__ import annotations

from imskit.sip.engine.alarms import Alarms


def test_order_cancel_and_deadline() -> None:
    done: list[str] = []
    alarms = Alarms()
    assert alarms.deadline() is None and not alarms.run_due(1e9)
    first = alarms.set(5.0, lambda: done.append("a"))
    alarms.set(5.0, lambda: done.append("b"))
    alarms.set(1.0, lambda: done.append("c"))
    assert alarms.deadline() == 1.0
    assert alarms.run_due(2.0) and not alarms.run_due(2.0)
    first.cancel()
    first.cancel()
    assert alarms.deadline() == 5.0
    while alarms.run_due(5.0):
        pass
    assert done == ["c", "b"] and alarms.deadline() is None


def test_an_alarm_may_set_another_and_cancel_itself() -> None:
    done: list[float] = []
    alarms = Alarms()

    def again() -> None:
        done.append(len(done))
        alarm.cancel()
        if len(done) < 3:
            alarms.set(1.0, again)

    alarm = alarms.set(1.0, again)
    while alarms.run_due(1.0):
        pass
    assert done == [0, 1, 2]
