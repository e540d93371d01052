"""What the agent's configuration needs on its device."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from imsbridge.doctor.finding import Finding, free, own_address
from imskit.config.model import load

if TYPE_CHECKING:
    from ue_agent.config import ImsConfig

_POLICY_FOLDERS = (Path("/etc/chromium/policies/managed"), Path("/etc/opt/chrome/policies/managed"))


def agent(path: Path) -> Iterator[Finding]:
    """Look at what ``path`` (ue.toml) needs; ``ConfigError``."""
    from ue_agent.config import UeConfig

    config = load(UeConfig, path)
    yield Finding("configuration", "ok", f"{path} is valid")
    running = _running(config.control)
    yield running
    yield own_address("ims.address", config.ims.address)
    if config.ims.interface is not None and config.ims.interface not in (name for _, name in socket.if_nameindex()):
        cure = "name the interface that has ims.address, as `ip address` shows it"
        yield Finding("ims.interface", "bad", f"there is no interface {config.ims.interface}", cure)
    yield _gm_security(config.ims)
    yield _card_source(config.card.reader)
    yield own_address("turn.address", config.turn.address)
    if ip_address(config.turn.address).is_loopback:
        yield Finding(
            "turn.address",
            "bad",
            f"{config.turn.address} is a loopback address: Firefox does not use TURN there",
            "give the device an address of its own: ip address add 10.99.0.1/32 dev lo",
        )
    if config.gba.enabled and config.gba.bsf:
        yield _bsf(config.gba.bsf)
    if running.verdict != "ok":
        for text in config.dns.listen:
            host, _, port = text.rpartition(":")
            yield free("dns.listen", host or text, int(port) if port.isdigit() else 53, socket.SOCK_DGRAM)
        yield free("wwpf.port", config.wwpf.address, config.wwpf.port, socket.SOCK_STREAM)
        yield free("ims.port", config.ims.address, config.ims.port, socket.SOCK_DGRAM)
    yield _resolver([text.rpartition(":")[0] or text for text in config.dns.listen])
    yield _policy(config.state / "chromium-policy.json")
    for browser in config.wwpf.browsers:
        if not Path(browser).exists():
            cure = "name the executable that /proc/PID/exe shows for the running browser"
            yield Finding("wwpf.browsers", "bad", f"{browser} does not exist", cure)
    if config.operator.trust is not None and not config.operator.trust.exists():
        yield Finding("operator.trust", "bad", f"{config.operator.trust} does not exist", "name a PEM file")


def _gm_security(ims: ImsConfig) -> Finding:
    """Try the IPsec back end that the agent would take; nothing of it stays."""
    from imskit.ipsec.errors import IpsecError
    from ue_agent.gm_security.protection import GmProtection

    if ims.security == "off":
        cure = 'a real network wants ims.security = "ipsec"'
        return Finding("Gm security", "warn", "off: signalling goes in clear", cure)
    protection = GmProtection(ims)
    if ims.security == "tls":
        try:
            protection.client_tls()
        except OSError as error:
            return Finding("Gm security", "bad", f"ims.trust: {error}", "name a PEM file with the P-CSCF's authority")
        return Finding("Gm security", "ok", "TLS with AKAv2-SHA-256")

    async def attempt() -> str:
        try:
            await protection.backend()
            status = protection.status([], "")
            return f"IPsec by the {status['backend']} back end: {status['why']}"
        finally:
            await protection.close()

    try:
        return Finding("Gm security", "ok", asyncio.run(attempt()))
    except IpsecError as error:
        why = f" ({error.why})" if error.why else ""
        cure = error.cure or "load the kernel modules esp4 and esp6, or give the agent CAP_NET_ADMIN and CAP_NET_RAW"
        return Finding("Gm security", "bad", f"{error.what}{why}", cure)


def _running(control: Path) -> Finding:
    import aiohttp

    async def ask() -> bool:
        timeout = aiohttp.ClientTimeout(total=3)
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(control)), timeout=timeout) as http,
            http.get("http://agent/status") as response,
        ):
            return bool((await response.json())["registration"]["ok"])

    try:
        registered = asyncio.run(ask())
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Finding("agent", "warn", f"does not run (no answer at {control})", "imsbridge ue run -c FILE")
    if registered:
        return Finding("agent", "ok", "runs and is registered")
    return Finding("agent", "warn", "runs, not registered", "imsbridge ue status -c FILE says why")


def _bsf(text: str) -> Finding:
    """The bootstrapping server that is configured; one that is derived from the card shows in ``ue status``."""
    name, _, port = text.partition(":")
    cure = "correct gba.bsf, or leave it empty: then the name comes from the card"
    try:
        with socket.create_connection((name, int(port or 80)), timeout=3):
            return Finding("gba.bsf", "ok", f"{text} takes connections")
    except socket.gaierror:
        return Finding("gba.bsf", "bad", f"the name {name} cannot be resolved", cure)
    except OSError as error:
        return Finding("gba.bsf", "warn", f"{text} cannot be reached: {error.strerror or error}", cure)


def _card_source(reader: str) -> Finding:
    """Whether a card is where the configuration says; it is powered and asked nothing."""
    from ue_agent.uicc.errors import NoCardError, NoReaderError, UiccError
    from ue_agent.uicc.spec import open_backend, parse_spec

    source = parse_spec(reader)
    try:
        backend = open_backend(source)
        backend.connect().close()
    except NoCardError as error:
        return Finding("card.reader", "bad", str(error), "put the SIM card in")
    except NoReaderError as error:
        return Finding("card.reader", "bad", str(error), "imsbridge card list shows what is there")
    except UiccError as error:
        return Finding("card.reader", "bad", str(error), f"imsbridge card info --card '{source}' may say more")
    if backend.laboratory:
        return Finding("card.reader", "warn", f"{source} is no SIM card but its key in a file", "for laboratories only")
    return Finding("card.reader", "ok", f"a card is there: {source}")


def _resolver(listen: list[str]) -> Finding:
    try:
        lines = Path("/etc/resolv.conf").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        return Finding("resolver", "bad", f"/etc/resolv.conf: {error.strerror}", f"write: nameserver {listen[0]}")
    servers = [line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1]
    if servers and servers[0] in listen:
        return Finding("resolver", "ok", f"asks {servers[0]}")
    return Finding(
        "resolver",
        "warn",
        f"asks {', '.join(servers) or 'nobody'}, not the agent",
        f"put first in /etc/resolv.conf: nameserver {listen[0]}",
    )


def _policy(made: Path) -> Finding:
    if not made.exists():
        return Finding("browser policy", "warn", f"{made} is not made yet", "start the agent once")
    try:
        wanted = json.loads(made.read_text())["CACertificates"]
        installed = [json.loads(file.read_text()) for folder in _POLICY_FOLDERS for file in folder.glob("*.json")]
    except (OSError, ValueError, KeyError) as error:
        return Finding("browser policy", "bad", f"a policy file cannot be read: {error}", "make it valid JSON")
    if any(set(wanted) <= set(policy.get("CACertificates", [])) for policy in installed):
        return Finding("browser policy", "ok", "installed, with this device's CA")
    cure = f"cp {made} {_POLICY_FOLDERS[0]}/imsbridge.json, and restart the browser"
    return Finding("browser policy", "bad", "not installed, or of another CA", cure)
