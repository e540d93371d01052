"""What the doctor finds, and what it looks at in more than one place."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Literal

type Verdict = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do."""

    what: str
    verdict: Verdict
    text: str
    cure: str = ""


def own_address(what: str, address: str) -> Finding:
    """Whether this device has ``address``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            cure = f"bring the interface up, or set {what} to an address that `ip address` shows"
            return Finding(what, "bad", f"{address} is no address of this device", cure)
    return Finding(what, "ok", f"{address} is this device's")


def free(what: str, host: str, port: int, kind: socket.SocketKind) -> Finding:
    """Whether a port can be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        try:
            probe.bind((host.strip("[]"), port))
        except PermissionError:
            cure = "run it with CAP_NET_BIND_SERVICE, or choose a port above 1023"
            return Finding(what, "bad", f"{host} port {port} is not allowed", cure)
        except OSError as error:
            cure = f"`ss -lnp | grep :{port}` shows who has it"
            return Finding(what, "bad", f"{host} port {port}: {error.strerror}", cure)
    return Finding(what, "ok", f"{host} port {port} is free")
