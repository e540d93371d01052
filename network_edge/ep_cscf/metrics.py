"""What the eP-CSCF counts, for Prometheus.  No label holds an identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

type Gauges = Callable[[], Mapping[str, float]]
"""Returns figures of this moment by their names."""
type GatewayStates = Callable[[], Mapping[str, str]]
"""Returns the gateways' names, and of each ``up``, ``draining`` or ``down``, perhaps with more words behind."""

_STATES = ("up", "draining", "down")
_HELP = {
    "registrations": "Clients that are registered",
    "calls": "Calls that have begun and not ended",
    "connections": "WebSocket connections",
    "connections_refused": "WebSocket connections that were too many, since the start",
    "draining": "1: no new calls and registrations",
}


class Metrics:
    """Counters of one eP-CSCF, in a registry of their own."""

    def __init__(self, gauges: Gauges, gateways: GatewayStates) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Now(gauges, gateways))
        self.registrations = Counter(
            "ep_cscf_registration_steps",
            "Steps of registrations: registered, refreshed, deregistered, refused, expired, network-ended",
            ["step", "scenario"],
            registry=self.registry,
        )
        self.calls = Counter(
            "ep_cscf_call_steps",
            "Steps of calls: began, answered, ended, media-lost, flow-lost, flow-back",
            ["step", "side"],
            registry=self.registry,
        )
        self.refusals = Counter("ep_cscf_refusals", "What was refused, by reason", ["reason"], registry=self.registry)
        self.tokens = Counter("ep_cscf_tokens", "Access tokens by outcome", ["outcome"], registry=self.registry)
        self.media = Counter(
            "ep_cscf_media_commands", "Commands to media gateways by outcome", ["command", "outcome"],
            registry=self.registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)


class _Now(Collector):
    """Reads the figures of the moment when they are asked for; nothing is kept twice."""

    def __init__(self, gauges: Gauges, gateways: GatewayStates) -> None:
        self._gauges = gauges
        self._gateways = gateways

    def collect(self) -> Iterator[Metric]:
        """Return all figures."""
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"ep_cscf_{name}", _HELP[name], value=value)
        states = GaugeMetricFamily("ep_cscf_gateway", "1: the gateway is in this state", labels=["gateway", "state"])
        for gateway, text in self._gateways().items():
            for state in _STATES:
                states.add_metric([gateway, state], float(text.startswith(state)))
        yield states
