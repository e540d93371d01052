"""Puts an impaired link between two hosts of the lab, whose programs notice nothing but its effects.

Where the kernel has netem, netem does it.  Elsewhere the device's end of the veth pair moves into a host of its own,
a new pair of the same name, addresses and routes takes its place, and a program there carries frames between the two.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulators.impairment.engine import QUEUE_SECONDS, Impairment
from simulators.lab.host import Host
from simulators.lab.world import LabError

_SIOCETHTOOL = 0x8946
_OFFLOADS = (0x17, 0x1F, 0x24)
"""ETHTOOL_STXCSUM, STSO, SGSO: each packet passes the link by itself, with its checksum."""
_MTU_OCTETS = 1514


@dataclass(frozen=True)
class Plug:
    """One end of a link."""

    host: Host
    interface: str


async def impair(
    near: Plug, far: Plug, impairment: Impairment, stack: contextlib.AsyncExitStack, root: Path, *, kernel: bool = True
) -> str:
    """Impair both directions until ``stack`` closes; returns what does it: ``kernel (netem)`` or ``user space``.

    Before programs of ``near`` open sockets: its interface is a new one afterwards.  ``kernel`` allows netem.
    """
    if kernel and _netem(near, far, impairment):
        return "kernel (netem)"
    between = Host(f"link-{near.host.name}-{near.interface}", root / f"link-{near.host.name}-{near.interface}")
    stack.push_async_callback(between.stop)
    _replug(near, between)
    for plug in (near, far):
        _no_offloads(plug)
    argv = [sys.executable, "-m", "simulators.impairment", "near", "far", str(impairment)]
    await between.start("impairment", argv, ready="ready:")
    return "user space"


def netem_arguments(impairment: Impairment) -> list[str]:
    """Return what netem is told; its queue is as long as the user-space link's."""
    found: list[str] = []
    if impairment.delay:
        found += ["delay", f"{1e6 * impairment.delay:.0f}us"]
        if impairment.jitter:
            found.append(f"{1e6 * impairment.jitter:.0f}us")
    if impairment.loss:
        found += ["loss", f"{100 * impairment.loss:g}%"]
    if impairment.rate is not None:
        packets = (impairment.delay + impairment.jitter + QUEUE_SECONDS) * impairment.rate / 8 / _MTU_OCTETS
        found += ["rate", f"{impairment.rate:.0f}bit", "limit", str(max(10, round(packets)))]
    return found


def _netem(near: Plug, far: Plug, impairment: Impairment) -> bool:
    done: list[Plug] = []
    try:
        for plug in (near, far):
            command = ["tc", "qdisc", "replace", "dev", plug.interface, "root", "netem"]
            plug.host.run(*command, *netem_arguments(impairment))
            done.append(plug)
    except LabError:  # no tc, or a kernel without netem
        for plug in done:
            plug.host.run("tc", "qdisc", "del", "dev", plug.interface, "root")
        return False
    return True


def _replug(near: Plug, between: Host) -> None:
    host, name = near.host, near.interface
    link = _ip(host, "address", "show", "dev", name)[0]
    routes = [route for route in _ip(host, "route", "show", "dev", name) if route.get("protocol") != "kernel"]
    host.run("ip", "link", "set", name, "netns", str(between.pid))
    between.run("ip", "link", "set", name, "name", "far")
    between.run("ip", "link", "add", "near", "type", "veth", "peer", "name", "lab-c")
    between.run("ip", "link", "set", "lab-c", "netns", str(host.pid))
    for interface in ("near", "far"):
        # The host between is a wire: it has no address, and says nothing of its own.
        quiet = f"echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/{interface}/disable_ipv6 || true"
        between.run("sh", "-c", quiet)
        between.run("ip", "link", "set", interface, "up")
    host.run("ip", "link", "set", "lab-c", "name", name, "address", link["address"])
    for item in link["addr_info"]:
        if item["scope"] != "link":
            host.run("ip", "address", "add", f"{item['local']}/{item['prefixlen']}", "dev", name)
    host.run("ip", "link", "set", name, "up")
    for route in routes:
        gateway = ["via", route["gateway"]] if "gateway" in route else []
        host.run("ip", "route", "add", route["dst"], *gateway, "dev", name)


def _ip(host: Host, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.run("ip", "-j", *words) or "[]")
    return found


def _no_offloads(plug: Plug) -> None:
    """Let the kernel cut and complete packets before they enter: the wire between takes them as they are."""
    with plug.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in _OFFLOADS:
            value = array.array("I", [command, 0])
            request = struct.pack("16sP8x", plug.interface.encode(), value.buffer_info()[0])
            try:
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
            except OSError as error:
                raise LabError(f"{plug.host.name}: {plug.interface}: offloads stay on: {error.strerror}") from error
