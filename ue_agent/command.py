"""``imsbridge ue run | check | status``."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from imskit.config.model import ConfigError, load
from imskit.observe import logs
from ue_agent.config import ImsConfig, UeConfig
from ue_agent.private_memory import keep_private

_DEFAULT = Path("/etc/imsbridge/ue.toml")
_RUN_EPILOG = """\
It starts without a card and without a core and uses them as soon as they are there; `imsbridge ue status` says what
is missing.  What the browser needs (CA, proxy, resolver settings) is written to the state folder as
chromium-policy.json, to be put under /etc/chromium/policies/managed.

exit codes: 0 stopped by SIGTERM or SIGINT, 1 an address could not be had, 2 wrong configuration
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``run``, ``check`` and ``status`` to the sub-commands of ``imsbridge ue``."""
    run_parser = subparsers.add_parser(
        "run",
        help="run the whole agent",
        description="The agent: the operator's page in this device's browser gets the IMS service of its SIM card.",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _config_argument(run_parser)
    run_parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="(default info)")
    run_parser.set_defaults(run=run)
    check_parser = subparsers.add_parser(
        "check",
        help="check a configuration file and say what would be done",
        description="Reads the file as `run` would, names its first mistake with line and key, or shows what it means.",
        epilog="exit codes: 0 valid, 2 not",
    )
    _config_argument(check_parser)
    check_parser.set_defaults(run=check)
    status_parser = subparsers.add_parser(
        "status",
        help="show how the running agent does",
        description="Shows card, registration, pages and calls of the running agent, with what is wrong in words.",
        epilog="exit codes: 0 registered, 1 not registered or not running, 2 wrong configuration",
    )
    _config_argument(status_parser)
    status_parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    status_parser.set_defaults(run=status)


def _config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", metavar="FILE", type=Path, default=_DEFAULT, help=f"configuration (default {_DEFAULT})"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; the return value is the exit code."""
    logs.set_up(arguments.log_level)
    try:
        config = load(UeConfig, arguments.config)
    except ConfigError as error:
        print(f"imsbridge ue run: {error}", file=sys.stderr)
        return 2
    keep_private()
    return _in_loop(_serve(config, arguments.log_level))


async def _serve(config: UeConfig, log_level: str) -> int:
    from ue_agent.agent import Agent, StartError

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    agent = Agent(config, log_level)
    try:
        await agent.start()
    except StartError as error:
        print(f"imsbridge ue run: {error}", file=sys.stderr)
        return 1
    print("ready: ue agent", file=sys.stderr, flush=True)
    await stop.wait()
    await agent.stop()
    return 0


def _in_loop(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return int(uvloop.run(main))


def check(arguments: argparse.Namespace) -> int:
    """Check the configuration."""
    try:
        config = load(UeConfig, arguments.config)
    except ConfigError as error:
        print(f"imsbridge ue check: {error}", file=sys.stderr)
        return 2
    operator, ims = config.operator, config.ims
    print(f"{arguments.config}: valid")
    print(f"  pages of      {operator.domain}: portal {operator.portal}, WebSocket {operator.websocket}")
    print(f"  TURN          {', '.join(operator.turn)} -> {config.turn.address} port {config.turn.port}")
    print(f"  DNS           {', '.join(config.dns.listen)} -> {', '.join(config.dns.upstreams)}")
    print(f"  web proxy     {config.wwpf.address} port {config.wwpf.port}, for {', '.join(config.wwpf.browsers)}")
    print(f"  IMS           {ims.address} port {ims.port} -> {', '.join(ims.p_cscf) or 'the P-CSCF on the card'}")
    print(f"  Gm            {_wanted_security(ims)}")
    laboratory = "  (LABORATORY ONLY: its key lies in a file)" if config.card.reader.startswith("software:") else ""
    print(f"  SIM card      {config.card.reader or 'the first reader with a card'}{laboratory}")
    return 0


def _wanted_security(ims: ImsConfig) -> str:
    match ims.security:
        case "ipsec":
            return f"IPsec, back end {ims.backend}: {', '.join(ims.algorithms)}"
        case "tls":
            return "TLS with AKAv2-SHA-256"
        case _:
            return "in clear"


def status(arguments: argparse.Namespace) -> int:
    """Show the running agent's status."""
    try:
        config = load(UeConfig, arguments.config)
    except ConfigError as error:
        print(f"imsbridge ue status: {error}", file=sys.stderr)
        return 2
    try:
        found = asyncio.run(_ask(config.control))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        print(f"imsbridge ue status: no agent answers at {config.control}: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    return 0 if found["registration"]["ok"] else 1


async def _ask(socket: Path) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as http,
        http.get("http://agent/status") as response,
    ):
        answer: dict[str, Any] = await response.json()
        return answer


def _gm_security(gm: dict[str, Any]) -> tuple[bool, str]:
    """Whether Gm is protected as wanted, and a sentence."""
    if gm["wanted"] == "off":
        return True, "off: signalling goes in clear"
    if gm["wanted"] == "tls":
        return bool(gm["agreed"]), gm["agreed"] or "TLS: not registered"
    by = f"by the {gm['backend']} back end ({gm['why']})" if gm["backend"] else gm["why"]
    if not gm["agreed"]:
        return False, f"IPsec {by}: no security agreement"
    sets = "; ".join(f"{each['ports']}, {each['packets_out']} out, {each['packets_in']} in" for each in gm["sets"])
    return True, f"{gm['agreed']} {by}: {sets}"


def _show(found: dict[str, Any]) -> None:
    card, registration = found["card"], found["registration"]
    rows = [
        ("SIM card", card["ok"], card["state"]),
        ("IMS", registration["ok"], f"{registration['state']}: {registration['reason']}"),
        ("Gm security", *_gm_security(found["gm_security"])),
        ("web proxy", found["web_proxy"]["ok"], found["web_proxy"]["state"]),
        ("DNS proxy", found["dns"]["ok"], f"{', '.join(found['dns']['listen'])}: {found['dns']['state']}"),
        ("TURN proxy", found["turn"]["ok"], ", ".join(found["turn"]["listen"])),
    ]
    if found["gba"]["enabled"]:
        rows.append(("GBA", True, found["gba"]["state"]))
    for name, ok, text in rows:
        print(f"{'ok ' if ok else 'BAD'}  {name:<11} {text}")
    print(f"     pages {found['pages']}, calls {found['calls']}, running for {found['uptime_s']} s")
