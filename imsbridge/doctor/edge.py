"""What the network edge's configuration needs: addresses, certificate, core, gateways, issuers, accounts."""

from __future__ import annotations

import asyncio
import datetime
import os
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509

from imsbridge.doctor.finding import Finding, free, own_address
from imsbridge.doctor.options import ask_options
from imskit.sip.io.resolver import ResolutionError, Resolver
from imskit.sip.wire.flow import Target, Transport
from network_edge.config import EdgeConfig, load_edge
from network_edge.ep_cscf.config import EpCscfConfig, IssuerConfig, MwConfig, parse_place
from network_edge.ep_cscf.server import EpCscfError, mw_tls, server_tls
from network_edge.iq.gateway import GatewayError
from network_edge.iq.ng_gateway import NgGateway

_SOON = datetime.timedelta(days=14)
_SPARE_FILES = 500
"""Beside one for each connection: gateways' sockets, the core's connections, the database."""
_MEDIA_PORTS = 2
"""Open files of a call in the gateway, at least."""


def edge(path: Path) -> Iterator[Finding]:
    """Look at what ``path`` (edge.toml) needs; ``ConfigError``."""
    config = load_edge(path)
    wwsf, ep_cscf, agw = config.parts
    yield Finding("configuration", "ok", f"{path} is valid")
    running = _running(config)
    yield running
    yield own_address("web_address", config.web_address)
    yield own_address("ims_address", config.ims_address)
    if running.verdict == "warn":
        yield free("page", wwsf.address, wwsf.port, socket.SOCK_STREAM)
        for name in ("wss", "ws", "json"):
            for text in getattr(ep_cscf, name):
                yield free(f"ep_cscf.{name}", *parse_place(name, text), socket.SOCK_STREAM)
        yield free("ep_cscf.mw", *ep_cscf.mw.place, socket.SOCK_DGRAM)
        if ep_cscf.http_port:
            yield free("metrics", ep_cscf.http_address, ep_cscf.http_port, socket.SOCK_STREAM)
    yield _state(config)
    yield _certificate(config, datetime.datetime.now(datetime.UTC))
    yield _page_name(wwsf.portal)
    yield _origins(config)
    yield asyncio.run(_core(ep_cscf))
    for gateway in ep_cscf.gateways:
        yield asyncio.run(_gateway(gateway.name, *gateway.place))
    for issuer in ep_cscf.issuers:
        yield asyncio.run(_issuer(issuer))
    files = ep_cscf.connections + _SPARE_FILES + (_MEDIA_PORTS * agw.calls if agw is not None else 0)
    yield _open_files(files)


def _running(config: EdgeConfig) -> Finding:
    async def ask() -> str:
        timeout = aiohttp.ClientTimeout(total=3)
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(config.control)), timeout=timeout) as http,
            http.get("http://edge/status") as response,
        ):
            return str((await response.json())["problem"] or "")

    try:
        problem = asyncio.run(ask())
    except (aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError):
        return Finding("edge", "warn", f"does not run (no answer at {config.control})", "imsbridge edge run -c FILE")
    if problem:
        return Finding("edge", "bad", f"runs: {problem}", "imsbridge edge status -c FILE, and its log, say more")
    return Finding("edge", "ok", "runs and takes calls")


def _state(config: EdgeConfig) -> Finding:
    folder = config.state
    there = folder
    while not there.exists():
        there = there.absolute().parent
    if not os.access(there, os.W_OK | os.X_OK):
        cure = f"run it as the owner of {there}, or name another folder: state = …"
        return Finding("state", "bad", f"{folder} cannot be written", cure)
    free_mb = os.statvfs(there).f_bavail * os.statvfs(there).f_frsize // 1_000_000
    if free_mb < 50:
        return Finding("state", "bad", f"only {free_mb} MB are free for {folder}", "make room: log-ins need to write")
    return Finding("state", "ok", f"{folder}, {free_mb:,} MB free")


def _certificate(config: EdgeConfig, now: datetime.datetime) -> Finding:
    file, key = config.parts[0].certificate, config.parts[0].key
    if config.own_certificate and not file.exists():
        cure = "for users: a certificate of an authority in [wwsf] certificate and key"
        return Finding("certificate", "warn", f"{file} is made at the first start, signed by itself", cure)
    try:
        server_tls(file, key)
        found = x509.load_pem_x509_certificate(file.read_bytes())
    except (EpCscfError, OSError, ValueError) as error:
        return Finding("certificate", "bad", str(error), "name a PEM chain and its key in [wwsf] certificate, key")
    left = found.not_valid_after_utc - now
    if missing := [name for name in config.names if not _carries(found, name)]:
        cure = "browsers refuse it: have it made for every name, or change [wwsf] portal and websocket"
        return Finding("certificate", "bad", f"{file} is not for {', '.join(missing)}", cure)
    if left < datetime.timedelta():
        return Finding("certificate", "bad", f"{file} has expired", "renew it, and restart the edge")
    if left < _SOON:
        return Finding("certificate", "warn", f"{file} expires in {left.days} days", "renew it, and restart the edge")
    if found.issuer == found.subject:
        cure = "trust it on each device, or take one of an authority; Safari and phones need the latter"
        return Finding("certificate", "warn", f"{file} is signed by itself: browsers warn of it", cure)
    return Finding("certificate", "ok", f"{file}, for {left.days} days, for {', '.join(config.names)}")


def _carries(certificate: x509.Certificate, name: str) -> bool:
    try:
        stated = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    if name in (str(address) for address in stated.get_values_for_type(x509.IPAddress)):
        return True
    names = [known.lower() for known in stated.get_values_for_type(x509.DNSName)]
    return name.lower() in names or f"*.{name.lower().partition('.')[2]}" in names


def _page_name(portal: str) -> Finding:
    try:
        found = socket.getaddrinfo(portal.strip("[]"), None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        cure = f"enter {portal} in your DNS (or /etc/hosts of the test device)"
        return Finding("page's name", "warn", f"{portal} cannot be resolved from here", cure)
    return Finding("page's name", "ok", f"{portal} is {', '.join(sorted({str(item[4][0]) for item in found}))}")


def _origins(config: EdgeConfig) -> Finding:
    page, ep_cscf = config.page, config.parts[1]
    if page.lower() in (origin.lower().rstrip("/") for origin in ep_cscf.origins):
        return Finding("ep_cscf.origins", "ok", f"the page {page} may connect")
    cure = f'add "{page}" to [ep_cscf] origins, as the browser shows it, without path'
    return Finding("ep_cscf.origins", "bad", f"the page {page} is not let in", cure)


async def _core(config: EpCscfConfig) -> Finding:
    """Ask the core's entry, as the edge's REGISTERs will come to it."""
    mw = config.mw
    try:
        targets = await _targets(mw)
        _, tls = mw_tls(mw)
    except (ResolutionError, EpCscfError) as error:
        return Finding("core", "bad", str(error), f"correct core: dig {mw.core_uri.host} shows what is known")
    failed = []
    for target in targets:
        try:
            answer = await ask_options(target, mw.place[0], config.home_domain, tls)
        except TimeoutError:
            failed.append(f"{target} does not answer")
        except OSError as error:
            failed.append(f"{target}: {error.strerror or error}")
        else:
            said = f"{target} answers {answer.status} {answer.reason}"
            if answer.status == 403:
                cure = f"enter {mw.place[0]} at the core as a trusted P-CSCF, with the network {_visited(config)}"
                return Finding("core", "warn", f"{said}: it may not know this edge", cure)
            return Finding("core", "ok", said)
    cure = "is it the I-CSCF's address and transport ([ep_cscf.mw] transport), and does its firewall let this host in?"
    return Finding("core", "bad", "; ".join(failed), cure)


def _visited(config: EpCscfConfig) -> str:
    return config.visited_network or config.home_domain


async def _targets(mw: MwConfig) -> list[Target]:
    uri = mw.core_uri
    if uri.port is not None and not uri.transport:
        uri = uri.with_parameter("transport", mw.transport)
    transports = [cast(Transport, mw.transport.upper())]
    return await Resolver(transports=transports, seconds=3.0).resolve(uri)


async def _gateway(name: str, host: str, port: int) -> Finding:
    what = f"gateway {name}"
    try:
        gateway = await NgGateway.connect(host, port, timeout=3.0, watch=0)
        try:
            await gateway.ping()
        finally:
            await gateway.close()
    except (GatewayError, OSError) as error:
        cure = "start it; it must take commands from this host (eIMS-AGW: controllers; rtpengine: --listen-ng)"
        return Finding(what, "bad", f"{host} port {port}: {error}", cure)
    if gateway.draining:
        return Finding(what, "warn", f"{host} port {port} takes no new calls: it is being stopped", "start it again")
    return Finding(what, "ok", f"{host} port {port} answers")


async def _issuer(issuer: IssuerConfig) -> Finding:
    url = issuer.jwks or issuer.introspection
    what = f"issuer {urlsplit(issuer.issuer).hostname or issuer.issuer}"
    try:
        tls = ssl.create_default_context(cafile=str(issuer.ca) if issuer.ca else None)
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            if not issuer.jwks:
                async with http.post(url, ssl=tls, allow_redirects=False) as response:
                    return Finding(what, "ok", f"{url} answers {response.status}")
            async with http.get(url, ssl=tls, allow_redirects=False) as response:
                keys = len((await response.json(content_type=None))["keys"])
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        cure = "is the page's server running, and is ca the authority of its certificate?"
        return Finding(what, "bad", f"{url}: {error or 'no answer within 5 s'}", cure)
    except (ValueError, KeyError, TypeError):
        return Finding(what, "bad", f"{url} gives no JWKS", "name the URL of its public keys in jwks")
    return Finding(what, "ok" if keys else "bad", f"{url}: {keys} keys", "" if keys else "it has no key: see its log")


def _open_files(wanted: int) -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        cure = f"systemd: LimitNOFILE={wanted}; shell: ulimit -Hn {wanted}; or fewer: [ep_cscf] connections"
        return Finding("open files", "warn", f"{hard:,} are allowed, full load needs {wanted:,}", cure)
    return Finding("open files", "ok", f"{wanted:,} for full load")
