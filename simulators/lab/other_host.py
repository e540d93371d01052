"""A web host that has nothing to do with the operator: ``python -m simulators.lab.other_host ADDR PORT CERT KEY``."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys

from aiohttp import web


async def _page(_: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>Another host</title><p>Another host", content_type="text/html")


async def _main(address: str, port: str, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_get("/{path:.*}", _page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, int(port), ssl_context=context).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready: other host", file=sys.stderr, flush=True)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:5]))
