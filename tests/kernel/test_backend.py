"""The kernel back end by itself: what it puts into the tables, what it leaves there, what it says when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, expand_keys
from imskit.ipsec.association import AssociationSet, Party
from imskit.ipsec.errors import IpsecError, SpiCollision
from imskit.ipsec.io.kernel import KernelBackend, examine_kernel
from imskit.ipsec.io.probe import choose
from imskit.secrets import Secret
from simulators.lab.world import command

PAIR = STANDARD_PAIRS[1]
OURS = Party("10.9.0.1", 0x1001, 0x1002, 5061, 5062)
THEIRS = Party("10.9.0.2", 0x2001, 0x2002, 6061, 6062)
KEYS = expand_keys(PAIR, Secret(b"confidentiality!"), Secret(b"and integrity..."))

_LOADER = Path("/proc/sys/kernel/modprobe")
_HOLD = """
import asyncio, sys
sys.path.insert(0, {here!r})
from test_backend import agreement
from imskit.ipsec.io.kernel import KernelBackend
async def main():
    backend = KernelBackend()
    await backend.install(agreement("held", *{moves}))
    print("held", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def agreement(name: str = "reg", spis: int = 0, clients: int = 0, servers: int = 0) -> AssociationSet:
    """A set; the numbers move its SPIs, client ports and server ports away from the first one's."""

    def moved(party: Party) -> Party:
        return Party(party.ip, party.spi_c + spis, party.spi_s + spis, party.port_c + clients, party.port_s + servers)

    return AssociationSet.between(name, moved(OURS), moved(THEIRS), PAIR, KEYS)


def table(what: str) -> str:
    return command("ip", "xfrm", what)


def run(line: str) -> None:
    command(*line.split())


@contextlib.contextmanager
def another_program(*moves: int) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a set of its own until it is killed."""
    script = _HOLD.format(here=str(Path(__file__).parent), moves=moves)
    process = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_tables_as_ip_xfrm_reads_them(caplog: pytest.LogCaptureFixture) -> None:
    """Algorithms, keys' lengths, window, no offload; a policy for UDP and TCP each way; all of it gone at the end."""
    caplog.set_level(logging.DEBUG)
    backend = KernelBackend()
    await backend.install(agreement())
    states, policies = table("state"), table("policy")
    assert states.count("proto esp") == 4
    assert states.count("auth-trunc hmac(sha1) 0x" + b"and integrity...".hex() + "00000000 96") == 4
    assert states.count("enc cbc(aes) 0x" + b"confidentiality!".hex()) == 4
    assert states.count("replay_window 64") == 4
    assert "offload" not in states
    assert "src 10.9.0.1/32 dst 10.9.0.2/32 sport 5061 dport 6062" in states
    for protocol in ("udp", "tcp"):
        for ends, direction in (
            ("src 10.9.0.1/32 dst 10.9.0.2/32 proto {} sport 5061 dport 6062", "out"),
            ("src 10.9.0.1/32 dst 10.9.0.2/32 proto {} sport 5062 dport 6061", "out"),
            ("src 10.9.0.2/32 dst 10.9.0.1/32 proto {} sport 6062 dport 5061", "in"),
            ("src 10.9.0.2/32 dst 10.9.0.1/32 proto {} sport 6061 dport 5062", "in"),
        ):
            assert f"{ends.format(protocol)} \n\tdir {direction} priority 900" in policies
    assert policies.count("action block") == 8  # two ports of ours, UDP and TCP, in and out
    await backend.close()
    await backend.close()
    assert table("state") == table("policy") == ""
    assert "confidentiality!" not in caplog.text and b"confidentiality!".hex() not in caplog.text


async def test_a_set_that_cannot_be_installed_leaves_nothing() -> None:
    """SPI collision: the one exception that tells the owner to choose anew; the first set is not touched."""
    with another_program(0, 10, 10):
        before = table("state"), table("policy")
        backend = KernelBackend()
        with pytest.raises(SpiCollision) as collision:
            await backend.install(agreement())
        assert collision.value.spi == OURS.spi_c
        assert (table("state"), table("policy")) == before
        await backend.close()
        assert (table("state"), table("policy")) == before


async def test_another_programs_policy_is_named() -> None:
    selector = "src 10.9.0.1 dst 10.9.0.2 proto tcp sport 5061 dport 6062 dir out"
    backend = KernelBackend()  # which removes what an earlier test's program left
    run(f"ip xfrm policy add {selector} priority 900")
    try:
        before = table("policy")
        with pytest.raises(IpsecError, match=r"another program has an IPsec policy for TCP 10\.9\.0\.1:5061"):
            await backend.install(agreement())
        assert (table("state"), table("policy")) == ("", before)
        await backend.close()
    finally:
        run(f"ip xfrm policy delete {selector}")


async def test_left_overs_of_a_crash_go_and_what_lives_stays(caplog: pytest.LogCaptureFixture) -> None:
    other = "src 10.8.0.1 dst 10.8.0.2 proto esp spi 0x77"
    command(*f"ip xfrm state add {other} reqid 7 mode transport enc cipher_null".split(), "")
    with another_program(2, 10, 10), another_program(4, 20, 20) as crashed:
        assert table("state").count("proto esp") == 9
        crashed.send_signal(signal.SIGKILL)
        crashed.wait()
        assert table("state").count("proto esp") == 9
        backend = KernelBackend()
        assert table("state").count("proto esp") == 5
        assert "sport 5071" in table("policy") and "sport 5081" not in table("policy")
        assert "removed 4 associations and 16 policies that an earlier run had left" in caplog.text
        await backend.close()
    KernelBackend.__init__(backend)  # the one that lived is dead now
    await backend.close()
    assert table("policy") == ""
    assert table("state").count("proto esp") == 1
    run(f"ip xfrm state delete {other}")


async def test_tables_flushed_by_somebody_else() -> None:
    """Nothing to remove is no error; what is no longer protected does not leave in clear."""
    run("ip addr add 10.9.0.1/24 dev lo")
    backend = KernelBackend()
    await backend.install(agreement())
    run("ip xfrm state flush")
    for line in ("link add out0 type dummy", "link set out0 up", "route add 10.9.0.2 dev out0"):
        run("ip " + line)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as wire,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        wire.bind(("out0", 0x0800))
        wire.setblocking(False)
        sender.bind(("10.9.0.1", OURS.port_c))
        with contextlib.suppress(OSError):  # whether the kernel tells the sender depends on its version
            sender.sendto(b"clear", ("10.9.0.2", THEIRS.port_s))
        with pytest.raises(PermissionError):
            sender.sendto(b"clear", ("10.9.0.2", 9))  # from a protected port to another than the P-CSCF's
        with pytest.raises(BlockingIOError):
            wire.recv(100)
    assert backend.statistics().unprotected >= 1
    await backend.close()
    assert table("policy") == ""
    run("ip link delete out0")
    run("ip addr delete 10.9.0.1/24 dev lo")


async def test_names_are_unique_and_removal_of_none_is_nothing() -> None:
    backend = KernelBackend()
    await backend.install(agreement("one"))
    with pytest.raises(IpsecError, match="one already"):
        await backend.install(agreement("one", 2, 10))
    await backend.remove("other")
    await backend.install(agreement("two", 2, 10))
    await backend.remove("one")
    assert table("state").count("proto esp") == 4
    assert "sport 5061" not in table("policy") and "dport 5062 " in table("policy")  # port-s is still the other's
    await backend.close()
    assert table("state") == table("policy") == ""


async def test_many_sets_of_a_core() -> None:
    """A P-CSCF with many UEs: each set in and out, nothing left."""
    count = 200
    backend = KernelBackend()
    for number in range(count):
        ue = Party(f"10.10.{number // 250}.{number % 250 + 1}", 1000 + number, 5000 + number, 5061, 5062)
        pcscf = Party("10.9.0.2", 0x10000 + 2 * number, 0x10001 + 2 * number, 6061, 6062)
        await backend.install(AssociationSet.between(str(number), pcscf, ue, PAIR, KEYS))
    assert len(backend.statistics().sets) == count
    await backend.close()
    assert table("state") == table("policy") == ""


async def test_the_kernel_is_taken_where_it_can() -> None:
    choice = await choose("auto", pairs=(*STANDARD_PAIRS, *LAB_PAIRS))
    assert choice.backend.kind == "kernel"
    assert choice.why == "the kernel has ESP and every algorithm that may be agreed on"
    await choice.backend.close()
    assert table("state") == table("policy") == ""


def test_without_the_right_it_says_so() -> None:
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            examine_kernel()
        except IpsecError as error:
            os._exit(0 if "CAP_NET_ADMIN" in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def no_ciphers() -> Iterator[None]:
    """The kernel forgets two of its ciphers and is told not to load them again."""
    loader = _LOADER.read_text().strip()
    for module in ("gcm", "des_generic"):
        if module in command("lsmod"):
            run(f"rmmod {module}")
    _LOADER.write_text("/bin/false")
    yield
    _LOADER.write_text(loader)


async def test_without_an_algorithm_user_space_is_taken(no_ciphers: None) -> None:
    with pytest.raises(IpsecError, match=r"cannot use \S+ with IPv4 in this kernel .*userspace back end"):
        examine_kernel((*STANDARD_PAIRS, *LAB_PAIRS))
    choice = await choose("auto", pairs=(*STANDARD_PAIRS, *LAB_PAIRS))
    assert choice.backend.kind == "userspace"
    assert "in this kernel" in choice.why
    await choice.backend.close()


async def test_cancelling_is_harmless() -> None:
    """``install`` does all at once: a task that is cancelled has installed all or nothing."""
    backend = KernelBackend()
    task = asyncio.create_task(backend.install(agreement()))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert table("state").count("proto esp") in (0, 4)
    await backend.close()
    assert table("state") == ""
