"""The gateway's figures for Prometheus, and its health, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from network_edge.eims_agw.gateway import Gateway
from network_edge.eims_agw.ng_server import NgServer


class GatewayCollector(Collector):
    """Reads the figures when they are asked for; nothing is kept twice."""

    def __init__(self, gateway: Gateway, server: NgServer | None = None) -> None:
        """``server`` is the one of the NG protocol, where there is one."""
        self._gateway = gateway
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Return all figures."""
        yield GaugeMetricFamily("imsbridge_agw_calls", "Calls with media", value=self._gateway.sessions)
        yield GaugeMetricFamily("imsbridge_agw_draining", "1: no new calls", value=int(self._gateway.draining))
        events = CounterMetricFamily("imsbridge_agw_events", "What happened to calls", labels=["event"])
        for name, count in self._gateway.counters.items():
            events.add_metric([name], count)
        yield events
        if self._server is None:
            return
        control = CounterMetricFamily("imsbridge_agw_control", "Commands, and datagrams dropped", labels=["command"])
        for name, count in self._server.counters.items():
            control.add_metric([name], count)
        control.add_metric(["repeated"], self._server.repeated)
        yield control


def application(gateway: Gateway, server: NgServer) -> web.Application:
    """``/health``: 200 while new calls are taken, 503 while draining.  ``/metrics``: Prometheus text."""
    registry = CollectorRegistry()
    registry.register(GatewayCollector(gateway, server))

    async def health(request: web.Request) -> web.Response:
        state = "draining" if gateway.draining else "up"
        return web.json_response({"state": state, "calls": gateway.sessions}, status=503 if gateway.draining else 200)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", metrics)
    return app
