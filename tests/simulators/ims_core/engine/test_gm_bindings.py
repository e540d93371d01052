"""The P-CSCF's memory of UEs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imskit.sip.wire.flow import Flow, Target
from simulators.ims_core.engine import gm_bindings
from simulators.ims_core.engine.gm_bindings import LINGER_SECONDS, GmBinding, GmBindings

LOCAL = ("10.45.0.1", 5060)


def flow(port: int = 5060, transport: str = "UDP", number: int = 1, host: str = "10.45.0.2") -> Flow:
    return Flow(transport, LOCAL, (host, port), number)  # type: ignore[arg-type]


def binding(token: str, at: Flow, expires: float = 100.0) -> GmBinding:
    return GmBinding(token, "impi", ("sip:10.45.0.2:5060",), at, expires)


def test_places() -> None:
    table = GmBindings()
    table.put(binding("a", flow()), 0.0)
    table.put(binding("b", flow(5070)), 0.0)
    assert [b.token for b in table.at(flow())] == ["a"]
    assert [b.token for b in table.at(flow(5070))] == ["b"]
    assert table.at(flow(5099)) == []
    assert table.at(flow(host="10.45.0.3")) == []
    # A connection that a long request opened: the host decides.
    assert len(table.at(flow(40000, "TCP", 9))) == 2
    table.put(binding("c", flow(41000, "TCP", 5)), 0.0)
    assert [b.token for b in table.at(flow(41000, "TCP", 5))] == ["c"]


def test_an_ended_registration_lingers_and_goes() -> None:
    table = GmBindings()
    one = binding("a", flow(), 1000.0)
    table.put(one, 0.0)
    table.end(one, 10.0)
    found = table.of_token("a")
    assert found is not None
    assert not found.active(10.0)
    table.put(binding("b", flow(5070), 1e9), 10.0 + LINGER_SECONDS)
    assert table.of_token("a") is None
    assert len(table) == 1


def test_lost_connections() -> None:
    table = GmBindings()
    tcp = flow(41000, "TCP", 5)
    table.put(binding("a", tcp), 0.0)
    table.put(replace(binding("b", tcp), contacts=("sip:elsewhere.example", "nonsense")), 0.0)
    table.put(binding("c", flow()), 0.0)
    table.lost(tcp)
    found = table.of_token("a")
    assert found is not None
    assert found.way == Target("TCP", ("10.45.0.2", 5060), source="10.45.0.1")
    assert table.of_token("b") is None
    assert table.of_token("c") is not None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gm_bindings, "MAXIMUM_BINDINGS", 3)
    table = GmBindings()
    for number in range(3):
        assert table.put(binding(str(number), flow(host=f"10.0.0.{number}"), 100.0), 0.0)
    assert not table.put(binding("x", flow(host="10.0.0.9")), 0.0)
    assert table.put(binding("0", flow(host="10.0.0.9")), 0.0), "a known one is replaced"
    assert table.at(flow(host="10.0.0.0")) == []
    late = 100.0 + LINGER_SECONDS
    assert table.put(binding("x", flow(host="10.0.0.8"), 1e9), late), "room by what has expired"
    assert len(table) == 1
