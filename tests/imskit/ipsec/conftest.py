"""Two hosts with a link between them, as network namespaces of the test's own process; agreements to install there."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess

import pytest

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, expand_keys
from imskit.ipsec.association import AssociationSet, Party, UdpEncapsulation
from imskit.secrets import Secret

CK = Secret(bytes(range(16)))
IK = Secret(bytes(range(100, 116)))
ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


class Host:
    """A network namespace; what is made ``inside()`` belongs to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            os.unshare(os.CLONE_NEWNET)
            self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            self._holder = subprocess.Popen(["sleep", "infinity"])
        finally:
            os.setns(home, os.CLONE_NEWNET)
            os.close(home)
        self.pid = self._holder.pid
        self.run("ip link set lo up")

    @contextlib.contextmanager
    def inside(self):
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        os.setns(self._namespace, os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(home, os.CLONE_NEWNET)
            os.close(home)

    def run(self, *commands: str) -> str:
        with self.inside():
            return "".join(
                subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout
                for command in commands
            )

    def sniffer(self, interface: str) -> socket.socket:
        """Hears every packet that enters or leaves by ``interface``."""
        with self.inside():
            heard = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(3))
            heard.bind((interface, 3))
        return heard

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()
        os.close(self._namespace)


@pytest.fixture(scope="session")
def make_host():
    """Makes hosts, which go at the end of the session."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("this machine has no /dev/net/tun for this user: ESP in user space is NOT tested")
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Host:
            try:
                host = Host(name)
            except PermissionError:
                pytest.skip("no right to make network namespaces here; test_in_a_user_namespace runs this file")
            stack.callback(host.end)
            return host

        yield make


@pytest.fixture(scope="session")
def hosts(make_host):
    """``(ue, p_cscf)``: 192.0.2.1 and .2, 2001:db8::1 and ::2 on ``wan``."""
    pair = ue, p_cscf = make_host("ue"), make_host("p-cscf")
    ue.run(
        "ip link add wan type veth peer name far",
        f"ip link set far netns {p_cscf.pid}",
        "ip link set wan up",
        "ip addr add 192.0.2.1/24 dev wan",
        "ip addr add 2001:db8::1/64 dev wan nodad",
    )
    p_cscf.run(
        "ip link set far name wan",
        "ip link set wan up",
        "ip addr add 192.0.2.2/24 dev wan",
        "ip addr add 2001:db8::2/64 dev wan nodad",
    )
    return pair


def parties(version: int = 4, generation: int = 0) -> tuple[Party, Party]:
    """UE and P-CSCF of an agreement; with each ``generation`` SPIs and client ports are new."""
    ue, p_cscf = ADDRESSES[version]
    base = 10000 + 10 * generation
    return (
        Party(ue, base + 1, base + 2, 40000 + generation, 40500),
        Party(p_cscf, base + 3, base + 4, 6000 + generation, 6500),
    )


def agreement(
    pair=STANDARD_PAIRS[0],
    version: int = 4,
    generation: int = 0,
    encapsulation: UdpEncapsulation | None = None,
    name: str = "",
) -> tuple[AssociationSet, AssociationSet]:
    """The sets of both sides."""
    ue, p_cscf = parties(version, generation)
    keys = expand_keys(pair, CK, IK)
    name = name or f"set{generation}"
    return (
        AssociationSet.between(name, ue, p_cscf, pair, keys, encapsulation),
        AssociationSet.between(name, p_cscf, ue, pair, keys, encapsulation),
    )


@pytest.fixture(name="agreement", scope="session")
def _agreement():
    return agreement


@pytest.fixture(params=STANDARD_PAIRS + LAB_PAIRS, ids=str)
def pair(request):
    """Each pair of algorithms in turn."""
    return request.param


@pytest.fixture(params=(4, 6), ids=("ipv4", "ipv6"))
def version(request):
    """Each IP version in turn."""
    return request.param
