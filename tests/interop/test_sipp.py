"""SIPp registers with AKAv1-MD5 at the simulated core, calls through it, calls our phone and is called by it.

SIPp has its own Milenage, digest and parser; what it says is in ``sipp/*.xml``.  (S7-IMS)
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.aka.milenage import Milenage, derive_opc
from imskit.observe.events import EventLog, read_events
from imskit.rtp.packet import RtpPacket
from imskit.secrets import Secret
from imskit.sockets import Address, definite
from imskit.tasks import spawn
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import SubscriberConfig
from simulators.phone.config import PhoneConfig
from simulators.phone.phone import Phone

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp (package sip-tester) is not installed"),
]

SCENARIOS = Path(__file__).parent / "sipp"
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
# Text, because SIPp takes octets of a hexadecimal key for a part of its scenario; it derives OPc from OP.
K, OP = b"the-key-of-sipp.", b"operator.variant"
PHONE_K, PHONE_OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
SIPP_A, SIPP_B, PHONE = "+15550100", "+15550200", "+15550300"


def impi(number: str) -> str:
    return f"00101000{number[-7:]}@{DOMAIN}"


def rand_for_sipp(octets: int) -> bytes:
    """A RAND for which RES holds no NUL: SIPp takes RES for a C string and would hash only what is before it."""
    milenage = Milenage(Secret(K), derive_opc(Secret(K), Secret(OP)))
    while b"\0" in milenage.f2345(rand := secrets.token_bytes(octets)).res.reveal():
        pass
    return rand


class Sipp:
    """One SIPp user: an address of its own, one process at a time."""

    def __init__(self, folder: Path, core: Address, number: str, host: str, transport: str = "u1") -> None:
        self._folder = folder
        self._core = f"{core[0]}:{core[1]}"
        self.number = number
        self.host, self.port = definite((host, 0))
        self._transport = transport

    async def run(self, scenario: str, *, calls: int = 1, ready: asyncio.Event | None = None, **keys: object) -> None:
        """Run a scenario; every call of it must end well."""
        text = (SCENARIOS / f"{scenario}.xml").read_text()
        for name, value in (("IMPI", impi(self.number)), ("OP", OP.decode()), ("KEY", K.decode())):
            text = text.replace(f"={name}", f"={value}")
        name = f"{scenario}-{self.number[1:]}-{secrets.token_hex(2)}"
        path = self._folder / f"{name}.xml"
        path.write_text(text)
        words = {"number": self.number, "impi": impi(self.number), "domain": DOMAIN, "expires": 600, **keys}
        errors, messages = self._folder / f"{name}.errors", self._folder / f"{name}.messages"
        process = await asyncio.create_subprocess_exec(
            "sipp",
            self._core,
            *("-sf", str(path), "-t", self._transport, "-i", self.host, "-p", str(self.port), "-m", str(calls)),
            *("-l", "1", "-nostdin", "-timeout", "30s", "-timeout_error", "-nd"),
            *("-trace_err", "-error_file", str(errors), "-trace_msg", "-message_file", str(messages)),
            *(word for key, value in words.items() for word in ("-key", key, str(value))),
            cwd=self._folder,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            if ready is not None:
                # SIPp says nothing when it listens, so there is no event to wait for.
                while not self._bound() and process.returncode is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                ready.set()
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        told = errors.read_text(errors="replace") if errors.exists() else ""
        assert status == 0, f"{name} ended with {status}:\n{told}\n{messages.read_text(errors='replace')[-6000:]}"

    async def register(self, **keys: object) -> None:
        await self.run("register", **keys)

    async def waits(self, scenario: str, **keys: object) -> asyncio.Task[None]:
        """Start a scenario that waits for a call; returns when it listens."""
        ready = asyncio.Event()
        task = spawn(self.run(scenario, ready=ready, **keys), f"sipp {scenario}")
        await ready.wait()
        return task

    def _bound(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((self.host, self.port))
            except OSError:
                return True
        return False


class Operator:
    """The core, its events, and a phone of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events = folder / "core.jsonl"
        subscribers = [
            SubscriberConfig(impi(n), [f"sip:{n}@{DOMAIN}", f"tel:{n}"], k=Secret(K.hex()), op=Secret(OP.hex()))
            for n in (SIPP_A, SIPP_B)
        ]
        subscribers.append(
            SubscriberConfig(
                impi(PHONE), [f"sip:{PHONE}@{DOMAIN}", f"tel:{PHONE}"], k=Secret(PHONE_K), opc=Secret(PHONE_OPC)
            )
        )
        config = CoreConfig(DOMAIN, ["127.0.0.40:0", "127.0.0.41:0"], subscribers, events=self.events)
        self.core = ImsCore(config, rand_for_sipp)
        self.phones: list[Phone] = []
        self.changed = asyncio.Event()

    def sipp(self, number: str, host: str, transport: str = "u1") -> Sipp:
        return Sipp(self.folder, self.core.gm[0], number, host, transport)

    async def phone(self, **settings: Any) -> Phone:
        gm = self.core.gm[1]
        arguments: dict[str, Any] = {
            "impi": impi(PHONE),
            "impus": [f"sip:{PHONE}@{DOMAIN}"],
            "domain": DOMAIN,
            "k": Secret(PHONE_K),
            "opc": Secret(PHONE_OPC),
            "address": "127.0.0.45",
            "port": 0,
            "p_cscf": f"{gm[0]}:{gm[1]}",
            "answer_after": 0.1,
            "events": self.folder / "phone.jsonl",
        }
        phone = Phone(PhoneConfig(**(arguments | settings)))
        self.phones.append(phone)
        await phone.start()
        await self.until(lambda: phone.status()["registration"] == "registered")
        return phone

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what comes with an event of the core or the phone."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def steps(self) -> list[str]:
        return [event["event"] for event in read_events(self.events)]


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    operator = Operator(tmp_path)
    emit = EventLog.emit

    def emit_and_tell(self: EventLog, event: str, **fields: Any) -> None:
        emit(self, event, **fields)
        operator.changed.set()

    monkeypatch.setattr(EventLog, "emit", emit_and_tell)
    await operator.core.start()
    yield operator
    for phone in operator.phones:
        await phone.close()
    await operator.core.close()


class Ear(asyncio.DatagramProtocol):
    """Where SIPp's descriptions say that it takes RTP."""

    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.packets.append(RtpPacket.parse(data))


async def listen(host: str) -> tuple[Ear, int, asyncio.DatagramTransport]:
    transport, ear = await asyncio.get_running_loop().create_datagram_endpoint(Ear, local_addr=(host, 0))
    return ear, transport.get_extra_info("sockname")[1], transport


@pytest.mark.parametrize("transport", ["u1", "t1"])
async def test_register_and_de_register(operator: Operator, transport: str) -> None:
    sipp = operator.sipp(SIPP_A, "127.0.0.42", transport)
    await sipp.register()
    registered = operator.core.registrations()
    assert [entry["impi"] for entry in registered] == [impi(SIPP_A)]
    assert registered[0]["contacts"][0]["expires"] in range(590, 601)
    await sipp.register(expires=0)
    assert operator.core.registrations() == []
    assert operator.steps() == ["register-401", "registered", "register-401", "unregistered"]


async def test_wrong_key(operator: Operator) -> None:
    await operator.sipp(SIPP_A, "127.0.0.42").run("register_wrong_key")
    assert operator.core.registrations() == []
    assert operator.steps() == ["register-401", "register-403"]


async def test_two_sipps_call_each_other(operator: Operator) -> None:
    caller, callee = operator.sipp(SIPP_A, "127.0.0.42"), operator.sipp(SIPP_B, "127.0.0.43")
    await caller.register()
    await callee.register()
    waiting = await callee.waits("callee", media=40000)
    await caller.run("caller", target=f"tel:{SIPP_B}", media=40000)
    await waiting
    assert operator.steps()[-4:] == ["invite", "180", "200", "bye"]


async def test_an_unregistered_sipp_may_not_call(operator: Operator) -> None:
    await operator.sipp(SIPP_A, "127.0.0.42").run("caller_refused", target=f"tel:{SIPP_B}", media=40000)


@pytest.mark.parametrize("scenario", ["caller", "caller_with_preconditions", "caller_without_offer", "caller_holds"])
async def test_sipp_calls_our_phone(operator: Operator, scenario: str) -> None:
    """TS 34.229-5 case 7.4 as the caller, with SIPp's own idea of RAck, route sets and preconditions."""
    phone = await operator.phone()
    caller = operator.sipp(SIPP_A, "127.0.0.42")
    await caller.register()
    ear, port, transport = await listen("127.0.0.42")
    await caller.run(scenario, target=f"tel:{PHONE}", media=port)
    await operator.until(lambda: phone.last is not None)
    transport.close()
    assert phone.last is not None
    assert phone.last["media"]["codec"] == "AMR-WB"
    # 600 ms of AMR-WB, a frame of 12.65 kbit/s every 20 ms; nothing is sent during a hold.
    assert 20 <= len(ear.packets) <= 45
    assert {packet.payload_type for packet in ear.packets} == {96}
    assert {len(packet.payload) for packet in ear.packets} == {33}
    steps = [event["event"] for event in read_events(operator.folder / "phone.jsonl")]
    assert steps[:4] == ["registered", "incoming", "ringing", "answered"]


async def test_our_phone_calls_sipp(operator: Operator) -> None:
    phone = await operator.phone()
    callee = operator.sipp(SIPP_B, "127.0.0.43")
    await callee.register()
    ear, port, transport = await listen("127.0.0.43")
    waiting = await callee.waits("callee", media=port)
    phone.dial(SIPP_B)
    await operator.until(lambda: "answered" in [e["event"] for e in read_events(operator.folder / "phone.jsonl")])
    await operator.until(lambda: phone.status()["call"]["media"]["packets_sent"] >= 1)
    phone.hang_up()
    await waiting
    transport.close()
    assert ear.packets
    assert phone.last is not None
    assert phone.last["media"]["codec"] == "AMR-WB"
