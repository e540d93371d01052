"""Health, readiness and metrics over plain HTTP, for the inner network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

from network_edge.ep_cscf.metrics import CONTENT_TYPE


class HealthServer:
    """``/health``: the process lives.  ``/ready``: 200 while new clients may come, else 503 and why.  ``/metrics``."""

    def __init__(self, state: Callable[[], Mapping[str, object]], metrics: Callable[[], bytes]) -> None:
        """``state`` holds ``problem``, empty if there is none, and what else is to be shown."""
        self._state = state
        self._metrics = metrics
        app = web.Application(client_max_size=4096)
        app.router.add_get("/health", self._get_health)
        app.router.add_get("/ready", self._get_ready)
        app.router.add_get("/metrics", self._get_metrics)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=30)

    async def start(self, address: str, port: int) -> int:
        """Listen and return the real port; ``OSError``."""
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port, reuse_address=True).start()
        return int(self._runner.addresses[0][1])

    async def aclose(self) -> None:
        """Close the socket."""
        await self._runner.cleanup()

    async def _get_health(self, _: web.Request) -> web.Response:
        return web.json_response(dict(self._state()))

    async def _get_ready(self, _: web.Request) -> web.Response:
        state = self._state()
        return web.json_response(dict(state), status=503 if state["problem"] else 200)

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE})
