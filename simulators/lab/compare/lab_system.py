"""The lab as the system that is compared: handset with agent, laptop without, one operator."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path as File

from simulators.impairment.engine import Impairment
from simulators.impairment.plug import Plug, impair
from simulators.lab.browser import Browser
from simulators.lab.compare.capture import Capture
from simulators.lab.compare.model import Conditions, Path
from simulators.lab.compare.page import LogIn
from simulators.lab.compare.system import Access, FarPhone, Progress
from simulators.lab.compare.traffic import UDP, Rule
from simulators.lab.host import Host
from simulators.lab.lab import LAPTOP_PASSWORD, LAPTOP_USER, PHONE_NUMBER, PORTAL_URL, Lab
from simulators.lab.speech import make_speech
from simulators.lab.topology import EDGE_IMS, HANDSET_TURN, OPERATOR_EDGE, P_CSCF, PHONE_IMS


@dataclass(frozen=True)
class Device:
    """A device of the lab, and what is between its browser and IMS."""

    path: Path
    host: Host
    access: tuple[tuple[str, Host, str], ...]
    """Interfaces of its access: name, the far host, the name there."""
    taps: tuple[tuple[Host, tuple[Rule, ...]], ...]
    elements: tuple[str, ...]
    """Programs of the lab in this path."""
    log_in: LogIn | None = None


def ue_device(lab: Lab) -> Device:
    """The handset with its agent."""
    rules = (
        Rule("W3", HANDSET_TURN, interface="lo"),
        Rule("Gm", P_CSCF, interface="ims0", sip=True),
        Rule("Gm", P_CSCF, counted=False, sip=True),  # inside IPsec, on the device that it makes
        Rule("Mb", PHONE_IMS, interface="ims0"),
    )
    handset, operator = lab.net.handset, lab.net.operator
    access = (("wan0", operator, "wan0"), ("ims0", operator, "ims0"))
    return Device(Path.UE, handset, access, ((handset, rules),), ("agent", "core", "wwsf", "edge"))


def edge_device(lab: Lab) -> Device:
    """The laptop, which has nothing but a browser; its user logs in with a password."""
    laptop, operator = lab.net.laptop, lab.net.operator
    at_laptop = (Rule("W3", OPERATOR_EDGE, protocols=(UDP,)),)
    at_operator = (
        Rule("Mw", EDGE_IMS, P_CSCF, interface="lo", sip=True),
        Rule("Mb", EDGE_IMS, PHONE_IMS, interface="ims1", protocols=(UDP,)),
    )
    access = (("wan0", operator, "wan1"),)
    log_in = LogIn(LAPTOP_USER, LAPTOP_PASSWORD)
    return Device(Path.EDGE, laptop, access, ((laptop, at_laptop), (operator, at_operator)), ("edge", "core"), log_in)


class LabSystem:
    """A lab of its own, built for the comparison and taken down with it."""

    number = PHONE_NUMBER

    def __init__(
        self, root: File, progress: Progress, impairment: Impairment | None = None, log_level: str = "info"
    ) -> None:
        self._root = root
        self._progress = progress
        self._impairment = impairment
        self.lab = Lab(root, log_level=log_level, progress=progress)
        self._speech = make_speech(root)

    @property
    def phone(self) -> FarPhone:
        """The lab's VoLTE phone."""
        recording = self._root / "phone-heard.wav"
        return FarPhone(self.lab.phone_socket, self.lab.events("phone"), self._speech["phone"], recording)

    @property
    def microphone(self) -> File:
        """Known speech."""
        return self._speech["browser"]

    @contextlib.asynccontextmanager
    async def open(self, paths: list[Path], conditions: Conditions) -> AsyncIterator[Mapping[Path, Access]]:
        """Start the lab."""
        conditions.notes["phone"] = "rings for 1 s before it answers; jitter buffer included in mouth to ear"
        devices = [ue_device(self.lab) if path is Path.UE else edge_device(self.lab) for path in paths]
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.lab.stop)
            if self._impairment is not None:
                await self._impair(devices, self._impairment, conditions, stack)
            await self.lab.start(play=self.phone.spoken, record=self.phone.recording)
            if Path.EDGE in paths:
                await self.lab.start_edge()
            await self.lab.registered()
            yield {device.path: await self._access(device, stack) for device in devices}

    async def _impair(
        self, devices: list[Device], wanted: Impairment, conditions: Conditions, stack: contextlib.AsyncExitStack
    ) -> None:
        self._progress(f"the access of each device: {wanted}")
        conditions.impairment = str(wanted)
        for device in devices:
            for interface, far, far_interface in device.access:
                near = Plug(device.host, interface)
                by = await impair(near, Plug(far, far_interface), wanted, stack, self._root)
                conditions.impairment_by = by

    async def _access(self, device: Device, stack: contextlib.AsyncExitStack) -> Access:
        browser = await stack.enter_async_context(Browser(device.host, self.microphone, f"compare-{device.path}"))
        captures = [Capture(host, rules) for host, rules in device.taps]
        for capture in captures:
            stack.callback(capture.close)

        def elements() -> dict[str, int]:
            return {name: self.lab.processes[name].pid for name in device.elements if name in self.lab.processes}

        return Access(PORTAL_URL, browser, device.log_in, captures, elements)
