"""The lab's hosts and links: handset, laptop, operator, phone.

::

    handset  wan0 203.0.113.2  ----  203.0.113.1/10/12/20  operator  (internet side: DNS, portal, edge, other host)
             ims0 10.45.0.2    ----  10.45.0.1/3        operator     (IMS side: P-CSCF and core, edge)
    laptop   wan0 203.0.113.3  ----  the same           operator     (no agent, no card, no proxy)
    phone    ims0 10.46.0.2    ----  10.46.0.1          operator
    handset  lo   10.99.0.1                                          (TURN proxy: an address no wire carries)
"""

from __future__ import annotations

from pathlib import Path

from simulators.lab.host import Host
from simulators.lab.world import command

HANDSET_WAN = "203.0.113.2"
HANDSET_IMS = "10.45.0.2"
LAPTOP_WAN = "203.0.113.3"
HANDSET_TURN = "10.99.0.1"
OPERATOR_DNS = "203.0.113.1"
OPERATOR_PORTAL = "203.0.113.10"
OPERATOR_EDGE = "203.0.113.12"
"""The network edge towards browsers: SIP over WebSocket, and media."""
OTHER_HOST = "203.0.113.20"
P_CSCF = "10.45.0.1"
EDGE_IMS = "10.45.0.3"
"""The network edge towards IMS: Mw, and media."""
P_CSCF_PHONE_SIDE = "10.46.0.1"
PHONE_IMS = "10.46.0.2"


class Topology:
    """The four hosts, linked and addressed; ``root`` holds their files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.handset = Host("handset", root / "handset")
        self.laptop = Host("laptop", root / "laptop")
        self.operator = Host("operator", root / "operator")
        self.phone = Host("phone", root / "phone")
        internet = [OPERATOR_DNS, OPERATOR_PORTAL, OPERATOR_EDGE, OTHER_HOST]
        self._link(self.handset, "wan0", [f"{HANDSET_WAN}/24"], "wan0", internet)
        self._link(self.handset, "ims0", [f"{HANDSET_IMS}/24"], "ims0", [P_CSCF, EDGE_IMS])
        self._link(self.laptop, "wan0", [f"{LAPTOP_WAN}/24"], "wan1", [])
        self._link(self.phone, "ims0", [f"{PHONE_IMS}/24"], "ims1", [P_CSCF_PHONE_SIDE])
        self.handset.run("ip", "address", "add", f"{HANDSET_TURN}/32", "dev", "lo")
        self.handset.run("ip", "route", "add", "default", "via", OPERATOR_DNS)
        self.laptop.run("ip", "route", "add", "default", "via", OPERATOR_DNS)
        # The operator has its internet addresses on the handset's link, and answers for them on the laptop's too.
        self.operator.run("ip", "route", "add", f"{LAPTOP_WAN}/32", "dev", "wan1", "src", OPERATOR_DNS)
        self.handset.run("ip", "route", "add", "10.46.0.0/24", "via", P_CSCF)
        self.phone.run("ip", "route", "add", "default", "via", P_CSCF_PHONE_SIDE)
        self.operator.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def _link(self, near: Host, near_name: str, near_addresses: list[str], far_name: str, far: list[str]) -> None:
        """Join ``near`` to the operator with a veth pair."""
        command("ip", "link", "add", "lab-a", "type", "veth", "peer", "name", "lab-b")
        for host, temporary, name in ((near, "lab-a", near_name), (self.operator, "lab-b", far_name)):
            command("ip", "link", "set", temporary, "netns", str(host.pid))
            host.run("ip", "link", "set", temporary, "name", name)
            addresses = near_addresses if host is near else [f"{address}/24" for address in far]
            for address in addresses:
                host.run("ip", "address", "add", address, "dev", name)
            host.run("ip", "link", "set", name, "up")

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All hosts, in the order in which they are stopped."""
        return self.handset, self.laptop, self.phone, self.operator

    async def stop(self) -> None:
        """End all programs and hosts."""
        for host in self.hosts:
            await host.stop()
