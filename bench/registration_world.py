"""A core and twenty UEs on two hosts, for ``bench.registration``: run it inside namespaces of its own.

``python -m bench.registration_world '{"security": "ipsec", "seconds": 2}'`` (``off``: in clear) prints one JSON object
of figures.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measure import CpuMeter
from imskit.ipsec.io.probe import choose
from imskit.secrets import Secret
from simulators.lab.host import Host
from simulators.lab.registration_times import Registrant, Subscription
from simulators.lab.world import command

UES = 20

_DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
_CORE, _UE = "10.45.0.1", "10.45.0.2"


def _subscriptions() -> list[Subscription]:
    return [
        Subscription(
            _UE,
            f"{_CORE}:5060",
            _DOMAIN,
            f"0010100000001{number:02}@{_DOMAIN}",
            f"sip:+155501{number:02}@{_DOMAIN}",
            Secret(secrets.token_hex(16)),
            Secret(secrets.token_hex(16)),
        )
        for number in range(UES)
    ]


def _configuration(root: Path, users: list[Subscription]) -> Path:
    text = f'domain = "{_DOMAIN}"\ngm = ["{_CORE}:5060"]\n[gm_security]\nmode = "offered"\n'
    for user in users:
        text += f'[[subscribers]]\nimpi = "{user.impi}"\nimpus = ["{user.impu}"]\n'
        text += f'k = "{user.k.reveal()}"\nopc = "{user.opc.reveal()}"\n'
    path = root / "core.toml"
    path.touch(0o600)
    path.write_text(text)
    return path


async def _world(security: str, seconds: float, root: Path) -> dict[str, Any]:
    users = _subscriptions()
    host = Host("core", root / "core")
    command("ip", "link", "set", "lo", "up")
    command("ip", "link", "add", "ims0", "type", "veth", "peer", "name", "ue0")
    command("ip", "link", "set", "ue0", "netns", str(host.pid))
    command("ip", "address", "add", f"{_UE}/24", "dev", "ims0")
    command("ip", "link", "set", "ims0", "up")
    host.run("ip", "address", "add", f"{_CORE}/24", "dev", "ue0")
    host.run("ip", "link", "set", "ue0", "up")
    argv = [sys.executable, "-m", "imsbridge", "sim", "core", "run", "-c", str(_configuration(root, users))]
    core = await host.start("core", [*argv, "--log-level", "error"], ready="ready:")
    backend = (await choose("auto")).backend
    registrants = [Registrant(user, user.usim(), backend if security == "ipsec" else None) for user in users]
    try:
        for registrant in registrants:
            await registrant.start()
        await asyncio.gather(*(_round(registrant) for registrant in registrants))  # warms up
        meter = CpuMeter(core.pid)
        before, own = meter.read(), time.process_time()
        began = time.perf_counter()
        done = await asyncio.gather(*(_again(registrant, began + seconds) for registrant in registrants))
        wall = time.perf_counter() - began
        return {
            "registrations": sum(rounds for rounds, _ in done),
            "failed": sum(failed for _, failed in done),
            "seconds": wall,
            "core_cpu": meter.read() - before,
            "clients_cpu": time.process_time() - own,
            "ues": UES,
            "backend": backend.kind,
        }
    finally:
        for registrant in registrants:
            await registrant.close()
        await backend.close()
        await host.stop()


async def _round(registrant: Registrant) -> None:
    await registrant.register()
    await registrant.leave()


async def _again(registrant: Registrant, until: float) -> tuple[int, int]:
    rounds = failed = 0
    while time.perf_counter() < until:
        try:
            await _round(registrant)
            rounds += 1
        except (OSError, TimeoutError):
            failed += 1
    return rounds, failed


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(json.dumps(asyncio.run(_world(asked["security"], asked["seconds"], Path(folder)))))
