"""Which back end is taken, and what is said of it; with kernels that have IPsec: ``tests/kernel/test_backend.py``."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.ipsec.algorithms import STANDARD_PAIRS
from imskit.ipsec.errors import IpsecError
from imskit.ipsec.io import probe
from imskit.ipsec.io.probe import choose


class Backend:
    """One that needs no rights."""

    def __init__(self, kind: str, interface: str | None = None) -> None:
        self.kind = kind
        self.interface = interface


class Machine:
    """What a machine can do; errors stand for what it cannot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel: IpsecError | None = None
        self.userspace: IpsecError | None = None
        self.examined: Any = None
        machine = self

        def examine(pairs: Any) -> None:
            machine.examined = pairs
            if machine.kernel:
                raise machine.kernel

        class Userspace:
            @staticmethod
            async def open(interface: str | None) -> Backend:
                if machine.userspace:
                    raise machine.userspace
                return Backend("userspace", interface)

        monkeypatch.setattr(probe, "examine_kernel", examine)
        monkeypatch.setattr(probe, "KernelBackend", lambda: Backend("kernel"))
        monkeypatch.setattr(probe, "UserspaceBackend", Userspace)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


async def test_the_kernel_where_it_can(machine: Machine) -> None:
    choice = await choose("auto", pairs=STANDARD_PAIRS[:2])
    assert choice.backend.kind == "kernel"
    assert "the kernel has ESP" in choice.why
    assert machine.examined == STANDARD_PAIRS[:2]


async def test_else_user_space_and_why(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    machine.kernel = IpsecError("cannot use null/aes-gcm", "Requested type not found", "Use another kernel.")
    choice = await choose("auto", interface="ims0")
    backend: Any = choice.backend
    assert (backend.kind, backend.interface) == ("userspace", "ims0")
    assert choice.why == "cannot use null/aes-gcm (Requested type not found)"
    assert "userspace back end: cannot use null/aes-gcm" in caplog.text


async def test_what_is_asked_for_or_nothing(machine: Machine) -> None:
    assert (await choose("userspace")).backend.kind == "userspace"
    assert machine.examined is None
    assert (await choose("kernel")).why.startswith("the configuration asks for it")
    machine.kernel = IpsecError("no ESP")
    with pytest.raises(IpsecError, match="no ESP"):
        await choose("kernel")


async def test_neither(machine: Machine) -> None:
    machine.kernel, machine.userspace = IpsecError("no ESP"), IpsecError("no TUN", cure="Run it as root.")
    with pytest.raises(IpsecError, match=r"kernel: no ESP; userspace: no TUN. Run it as root."):
        await choose("auto")


async def test_behind_a_nat_the_kernel_would_not_do(machine: Machine) -> None:
    choice = await choose("auto", nat=True)
    assert (choice.backend.kind, choice.why) == ("userspace", "there may be a NAT on the way")
    assert (await choose("kernel", nat=True)).backend.kind == "kernel"
