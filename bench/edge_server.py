"""The network edge as one process for the benches: eP-CSCF and media gateway, as ``imsbridge edge run`` has them.

``python -m bench.edge_server ORDER`` with a JSON order of ``core`` (UDP port), ``certificate``, ``key``,
``connections`` prints one JSON line of its ports, ``ws`` and ``wss``; for each line on its standard input it prints
its memory (resident, kB), and it ends with its input.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from pathlib import Path
from typing import Any

import uvloop

from bench.edge_core import DOMAIN
from bench.websocket_clients import ORIGIN
from imskit.long_service import expect_long_service
from imskit.media.python_plane import PythonPlane
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.server import EpCscfServer


def resident_kilobytes() -> int:
    """Memory of this process that is in RAM, garbage collected before."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")


async def _main(order: dict[str, Any]) -> None:
    media = Network("127.0.0.1", range(20000, 59998))
    gateway = Gateway(MediaNode(PythonPlane(), media, media), Limits(calls=10_000))
    config = EpCscfConfig(
        home_domain=DOMAIN,
        mw=MwConfig(address="127.0.0.1:0", core=f"127.0.0.1:{order['core']}"),
        ws=["127.0.0.1:0"],
        wss=["127.0.0.1:0"],
        certificate=Path(order["certificate"]),
        key=Path(order["key"]),
        origins=[ORIGIN],
        connections=order["connections"] + 100,
        connections_per_address=order["connections"] + 100,
        reg_event=order.get("reg_event", False),
    )
    server = EpCscfServer(config, gateway=gateway)
    await server.start()
    expect_long_service()
    print(json.dumps({"ws": server.ws[0][1], "wss": server.wss[0][1]}), flush=True)
    while await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        print(resident_kilobytes(), flush=True)
    await server.close()
    await gateway.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    uvloop.run(_main(json.loads(sys.argv[1])))
