"""What a comparison measured: plain values, and their stable form in JSON (``docs/compare.md``)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from simulators.lab.compare.figures import BY_KEY, FIGURES, POINTS, Figure
from simulators.lab.compare.statistics import Difference, Summary, difference, summary

VERSION = 1
"""Of the JSON; a change of meaning raises it."""


class ReportError(ValueError):
    """A file is no report of a comparison; the text says where."""


class Path(StrEnum):
    """Which way a call goes from page to IMS."""

    UE = "ue"
    EDGE = "edge"

    @property
    def label(self) -> str:
        """For people."""
        return {"ue": "UE path", "edge": "edge path"}[self.value]


@dataclass
class Usage:
    """What the processes of one element used while both talked."""

    cpu_percent: float
    """Of one core."""
    memory_mb: float
    """Proportional set size, largest seen."""


@dataclass
class Traffic:
    """What passed a reference point, both ways; ``None`` where it cannot be seen, and why."""

    messages: int | None = None
    packets: int | None = None
    bytes: int | None = None
    reason: str = ""


@dataclass
class CallMeasure:
    """One call over one path.  Every figure is in ``values``, or its absence is explained in ``reasons``."""

    path: Path
    number: int
    """Of the pair, from 1: the calls with the same number ran one after the other."""
    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    elements: dict[str, Usage] = field(default_factory=dict)
    points: dict[str, Traffic] = field(default_factory=dict)
    codecs: dict[str, str] = field(default_factory=dict)
    """``browser_sends``, ``browser_receives``, ``phone``: names of SDP."""
    talk_seconds: float = 0.0
    error: str = ""
    """Why the call ended before it was measured; empty if it did not."""

    def put(self, key: str, value: float | None, reason: str = "") -> None:
        """Set a figure, or say why there is none; an unknown name is a mistake of the caller (``KeyError``)."""
        figure = BY_KEY[key]
        if value is None:
            self.values.pop(key, None)
            self.reasons[key] = reason or "not observed"
        else:
            self.reasons.pop(key, None)
            self.values[key] = round(value, max(figure.digits, 1) + 1)

    def complete(self, reason: str) -> None:
        """Give ``reason`` to every figure that has neither value nor reason."""
        for figure in FIGURES:
            if figure.key not in self.values:
                self.reasons.setdefault(figure.key, reason)


@dataclass
class Conditions:
    """Under what the calls ran."""

    system: str = "lab"
    """``lab``, or the portal of a configured system."""
    impairment: str = ""
    """Of the device's access, each way: ``loss=2%,delay=50ms``; empty if there was none."""
    impairment_by: str = ""
    """``kernel (netem)`` or ``user space``."""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """Everything that a comparison measured."""

    created: str
    """ISO 8601, UTC."""
    wanted: int
    """Calls per path that were asked for."""
    paths: list[Path]
    conditions: Conditions = field(default_factory=Conditions)
    calls: list[CallMeasure] = field(default_factory=list)
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether every call that was asked for was made and measured."""
        done = all(len(self.of(path)) == self.wanted for path in self.paths)
        return not self.error and done and not any(call.error for call in self.calls)

    def of(self, path: Path) -> list[CallMeasure]:
        """The calls of a path, in their order."""
        return [call for call in self.calls if call.path is path]

    def values(self, path: Path, key: str) -> list[float]:
        """What the path's calls gave for a figure."""
        return [call.values[key] for call in self.of(path) if key in call.values]

    def summary(self, path: Path, key: str) -> Summary | None:
        """The distribution of a figure, `None` if no call gave it."""
        return summary(self.values(path, key))

    def difference(self, key: str) -> Difference | None:
        """How much the edge path's median lies above the UE path's, with 95 % confidence."""
        return difference(self.values(Path.UE, key), self.values(Path.EDGE, key))

    def reason(self, path: Path, key: str) -> str:
        """Why a figure is missing on a path, the reason that most calls gave."""
        given = [call.reasons[key] for call in self.of(path) if key in call.reasons]
        return max(dict.fromkeys(given), key=given.count) if given else ""

    def missing(self, path: Path) -> dict[str, list[Figure]]:
        """The figures that no call of a path gave, by the reason."""
        found: dict[str, list[Figure]] = {}
        for figure in FIGURES if self.of(path) else ():
            if self.summary(path, figure.key) is None:
                found.setdefault(self.reason(path, figure.key), []).append(figure)
        return found

    def element_names(self, path: Path) -> list[str]:
        """The elements that the path's calls saw."""
        return list(dict.fromkeys(name for call in self.of(path) for name in call.elements))

    def element(self, path: Path, name: str) -> tuple[Summary | None, Summary | None]:
        """Distributions of CPU (% of a core) and memory (MB) of an element."""
        seen = [call.elements[name] for call in self.of(path) if name in call.elements]
        return summary([usage.cpu_percent for usage in seen]), summary([usage.memory_mb for usage in seen])

    def point_names(self, path: Path) -> list[str]:
        """The reference points that the path's calls saw, in the order of the standard."""
        seen = {name for call in self.of(path) for name in call.points}
        return [name for name in POINTS if name in seen]

    def point(self, path: Path, name: str) -> dict[str, Summary | None]:
        """Distributions of messages, packets and bytes at a reference point."""
        seen = [call.points[name] for call in self.of(path) if name in call.points]
        return {
            what: summary([float(value) for item in seen if (value := getattr(item, what)) is not None])
            for what in ("messages", "packets", "bytes")
        }

    # ---- JSON ---------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Return the stable, documented form: raw values, and the statistics made of them."""
        return {
            "version": VERSION,
            "ok": self.ok,
            "created": self.created,
            "wanted": self.wanted,
            "paths": [path.value for path in self.paths],
            "error": self.error,
            "conditions": asdict(self.conditions),
            "calls": [_call_json(call) for call in self.calls],
            "figures": {figure.key: self._figure_json(figure) for figure in FIGURES},
        }

    def _figure_json(self, figure: Figure) -> dict[str, Any]:
        found: dict[str, Any] = {"title": figure.title, "unit": figure.unit}
        for path in self.paths:
            values = self.summary(path, figure.key)
            found[path.value] = asdict(values) if values is not None else None
            if values is None:
                found[f"{path.value}_reason"] = self.reason(path, figure.key)
        if len(self.paths) == 2:
            apart = self.difference(figure.key)
            found["edge_minus_ue"] = asdict(apart) if apart is not None else None
        return found

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `as_json` wrote (its statistics are made anew); `ReportError` if it is something else."""
        try:
            data = json.loads(text)
            if data["version"] != VERSION:
                raise ReportError(f"version: {data['version']!r}, this program reads version {VERSION}")
            return cls(
                created=str(data["created"]),
                wanted=int(data["wanted"]),
                paths=[Path(path) for path in data["paths"]],
                conditions=Conditions(**data["conditions"]),
                calls=[_call(item) for item in data["calls"]],
                error=str(data["error"]),
            )
        except ReportError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ReportError(f"no report of imsbridge compare --json: {type(error).__name__}: {error}") from error


def _call_json(call: CallMeasure) -> dict[str, Any]:
    found = asdict(call)
    found["values"] = {figure.key: call.values.get(figure.key) for figure in FIGURES}
    return found


def _call(item: dict[str, Any]) -> CallMeasure:
    values = {key: float(value) for key, value in item["values"].items() if value is not None and key in BY_KEY}
    return CallMeasure(
        path=Path(item["path"]),
        number=int(item["number"]),
        values=values,
        reasons={str(key): str(value) for key, value in item["reasons"].items()},
        elements={name: Usage(**usage) for name, usage in item["elements"].items()},
        points={name: Traffic(**traffic) for name, traffic in item["points"].items()},
        codecs={str(key): str(value) for key, value in item["codecs"].items()},
        talk_seconds=float(item["talk_seconds"]),
        error=str(item["error"]),
    )
