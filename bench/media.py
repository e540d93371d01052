"""The media bridge beside rtpengine: CPU microseconds a packet (SRTP <-> RTP) and a frame (Opus <-> AMR-WB).

Run it as ``python -m bench.media [--json FILE]``.  Both run all the time in user space on loopback; calls are set up
through their own control (ng for rtpengine), with SDES keys, and take turns on the same prepared packets, which
``media_load.c`` plays.  What comes out is checked: authenticated and, when relayed, compared octet by octet.

Speech is real (espeak-ng), as both coders' time depends on it.  Settings differ where codecs have any: rtpengine's
Opus is stereo at about 32 kbit/s and its AMR-WB 14.25 kbit/s by default, ours are mono at 24 kbit/s and 12.65 kbit/s.
Part of the ratio is this choice.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import itertools
import json
import os
import re
import resource
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import pylibsrtp

from bench.measure import CpuMeter, Row, Sample, interleaved, main
from imskit.media.codecs import CodecSpec, make_decoder, make_encoder
from imskit.rtp.packet import RtpPacket

FORWARD_LOADS = (1, 20, 200)
"""Calls; each is 100 packets/s."""
FORWARD_GOAL = 1.5
"""CPU a packet, at most this many times rtpengine's; issue: SRTP<->RTP forwarding."""
TRANSCODE_CALLS = 6
TRANSCODE_GOAL = 0.8
"""CPU a frame, at most this many times rtpengine's; issue: Opus<->AMR-WB."""
ADDED_GOAL_MS = 2.0
"""Delay that transcoding adds."""

_KEEP = 50


@dataclass(frozen=True)
class Codec:
    """A codec as both gateways are told of it."""

    name: str
    clock: int
    type: int
    channels: int = 1
    parameters: str = ""

    @property
    def rtpmap(self) -> str:
        """Its rtpmap value."""
        return f"{self.type} {self.name}/{self.clock}" + (f"/{self.channels}" if self.channels > 1 else "")


PCMA = Codec("PCMA", 8000, 8)
OPUS = Codec("opus", 48000, 111, 2)
AMR_WB = Codec("AMR-WB", 16000, 104, parameters="octet-align=1")  # what rtpengine offers


class Call:
    """One call's two ends: sockets, keys, ports of the gateway, packets."""

    def __init__(self, web: Codec, ims: Codec) -> None:
        self.web, self.ims = web, ims
        self.sockets = tuple(_socket() for _ in range(2))
        self.web_key, self.gateway_key = secrets.token_bytes(30), secrets.token_bytes(30)
        self.ports = (0, 0)

    @property
    def local_ports(self) -> tuple[int, int]:
        """Where the page and the phone receive."""
        web, ims = (sock.getsockname()[1] for sock in self.sockets)
        return web, ims

    def close(self) -> None:
        """Close the ends."""
        for sock in self.sockets:
            sock.close()


class Gateway(Protocol):
    """A running server under test."""

    name: str
    pid: int

    def open(self, call: Call) -> None:
        """Set up a call: fill in ``ports`` and ``gateway_key``."""

    def close(self) -> dict[str, float]:
        """End all calls; further figures of the run."""


class Ours:
    """``bench.media_server``."""

    name = "imsbridge"

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def open(self, call: Call) -> None:
        """Set up a call."""
        web_port, ims_port = call.local_ports
        answer = self._ask(
            do="open",
            web={"name": call.web.name, "clock": call.web.clock, "type": call.web.type},
            ims={"name": call.ims.name, "clock": call.ims.clock, "type": call.ims.type},
            octet_aligned=bool(call.ims.parameters),
            web_port=web_port,
            ims_port=ims_port,
            web_key=base64.b64encode(call.web_key).decode(),
            our_key=base64.b64encode(call.gateway_key).decode(),
        )
        call.ports = answer["web_port"], answer["ims_port"]

    def close(self) -> dict[str, float]:
        """End all calls."""
        return self._ask(do="close")


class Rtpengine:
    """rtpengine, by its ng protocol."""

    name = "rtpengine"

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", port))
        self._sock.settimeout(5)
        self._cookies = itertools.count()
        self._calls: list[str] = []

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the answer."""
        cookie = f"{os.getpid()}_{next(self._cookies)}".encode()
        self._sock.send(cookie + b" " + _bencode(command))
        while True:
            got, _, body = self._sock.recv(65536).partition(b" ")
            if got == cookie:
                break
        answer: dict[str, Any] = _bdecode(body, 0)[0]
        if answer.get("result") not in ("ok", "pong"):
            raise RuntimeError(f"rtpengine: {answer}")
        return answer

    def open(self, call: Call) -> None:
        """Set up a call: the page's offer, the phone's answer."""
        name = secrets.token_hex(8)
        self._calls.append(name)
        web_port, ims_port = call.local_ports
        key = base64.b64encode(call.web_key).decode()
        crypto = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\n"
        codec: dict[str, Any] = {}
        if call.web != call.ims:
            codec = {"codec": {"transcode": [f"{call.ims.name}/{call.ims.clock}"], "mask": [call.web.name]}}
        towards_ims = self.ask(
            command="offer",
            **{"call-id": name, "from-tag": "page", "transport-protocol": "RTP/AVP", "ICE": "remove"},
            sdp=_sdp(web_port, "RTP/SAVP", call.web, crypto),
            **codec,
        )["sdp"]
        offered = re.search(rf"a=rtpmap:(\d+) {call.ims.name}/{call.ims.clock}", towards_ims, re.IGNORECASE)
        if offered is None:
            raise SystemExit(f"rtpengine does not offer {call.ims.name}; to encode it, install libavcodec-extra")
        call.ims = replace(call.ims, type=int(offered[1]))
        towards_web = self.ask(
            command="answer",
            **{"call-id": name, "from-tag": "page", "to-tag": "phone", "ICE": "remove"},
            sdp=_sdp(ims_port, "RTP/AVP", call.ims),
        )["sdp"]
        found = re.search(r"a=crypto:\d+ AES_CM_128_HMAC_SHA1_80 inline:([A-Za-z0-9+/=]+)", towards_web)
        if found is None:
            raise RuntimeError(f"rtpengine gave no key:\n{towards_web}")
        call.gateway_key = base64.b64decode(found[1])
        call.ports = _port(towards_web), _port(towards_ims)

    def close(self) -> dict[str, float]:
        """End all calls."""
        for name in self._calls:
            self.ask(command="delete", **{"call-id": name, "from-tag": "page", "delete-delay": 0})
        self._calls.clear()
        return {}


def _sdp(port: int, protocol: str, codec: Codec, more: str = "") -> str:
    return (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=audio {port} {protocol} {codec.type}\r\na=rtpmap:{codec.rtpmap}\r\n"
        + (f"a=fmtp:{codec.type} {codec.parameters}\r\n" if codec.parameters else "")
        + f"{more}a=sendrecv\r\n"
    )


def _port(sdp: str) -> int:
    found = re.search(r"m=audio (\d+)", sdp)
    assert found is not None
    return int(found[1])


def _bencode(value: Any) -> bytes:
    match value:
        case dict():
            return b"d" + b"".join([_bencode(k) + _bencode(v) for k, v in sorted(value.items())]) + b"e"
        case list():
            return b"l" + b"".join([_bencode(item) for item in value]) + b"e"
        case int():
            return b"i%de" % value
        case _:
            text = value.encode()
            return b"%d:%s" % (len(text), text)


def _bdecode(data: bytes, at: int) -> tuple[Any, int]:
    kind = data[at : at + 1]
    if kind == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1 : end]), end + 1
    if kind in (b"l", b"d"):
        items: list[Any] = []
        at += 1
        while data[at : at + 1] != b"e":
            item, at = _bdecode(data, at)
            items.append(item)
        return (items if kind == b"l" else dict(zip(items[::2], items[1::2], strict=True))), at + 1
    colon = data.index(b":", at)
    end = colon + 1 + int(data[at:colon])
    return data[colon + 1 : end].decode(), end


def _socket() -> socket.socket:
    """Bind an even port: gateways send RTCP to the next one."""
    while True:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        if sock.getsockname()[1] % 2 == 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            return sock
        sock.close()


_TEXT = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background. "
    "It is easy to tell the depth of a well. These days a chicken leg is a rare dish."
)
"""Harvard sentences, list 1 (IEEE 297-1969): what a speech coder spends its time on is speech."""


class Speech:
    """Payloads of a codec, encoded once and used for every call."""

    def __init__(self) -> None:
        sound = subprocess.run(["espeak-ng", "--stdout", _TEXT], capture_output=True, check=True).stdout
        resampler = av.AudioResampler("s16", "mono", 16000)
        with av.open(io.BytesIO(sound), "r") as container:
            pcm = b"".join(
                [
                    bytes(out.planes[0])[: 2 * out.samples]
                    for frame in container.decode(audio=0)
                    for out in resampler.resample(frame)
                ]
            )
        self._pcm = np.frombuffer(pcm, np.int16)
        self._known: dict[str, list[bytes]] = {}

    def payloads(self, codec: Codec, count: int) -> list[bytes]:
        """Return ``count`` consecutive ones."""
        if codec.name not in self._known:
            rate = 8000 if codec.clock == 8000 else 16000
            pcm = self._pcm[:: 16000 // rate]
            size = rate // 50
            encoder = make_encoder(_spec(codec), rate)
            self._known[codec.name] = [
                encoder.encode(pcm[i : i + size].tobytes()) or b"" for i in range(0, len(pcm) - size + 1, size)
            ]
        return list(itertools.islice(itertools.cycle(self._known[codec.name]), count))


def _spec(codec: Codec) -> CodecSpec:
    return CodecSpec(codec.name, octet_aligned=bool(codec.parameters))


def packets_of(codec: Codec, payloads: Sequence[bytes], key: bytes | None) -> list[bytes]:
    """Make a stream's datagrams, encrypted if there is a key."""
    ssrc, first = secrets.randbits(32), secrets.randbelow(1 << 15)
    ticks = codec.clock // 50
    plain = [
        RtpPacket(codec.type, (first + n) & 0xFFFF, n * ticks, ssrc, payload).encode()
        for n, payload in enumerate(payloads)
    ]
    if key is None:
        return plain
    session = pylibsrtp.Session(pylibsrtp.Policy(key=key, ssrc_type=pylibsrtp.Policy.SSRC_ANY_OUTBOUND))
    return [session.protect(packet) for packet in plain]


def wrong_of(kept: list[bytes], codec: Codec, sent: Sequence[bytes] | None, key: bytes | None) -> int:
    """Count what came out wrong: not authentic, another payload than was sent, or nothing a decoder reads."""
    wrong = 0
    session = None
    if key is not None:
        session = pylibsrtp.Session(pylibsrtp.Policy(key=key, ssrc_type=pylibsrtp.Policy.SSRC_ANY_INBOUND))
    decoder = None if sent is not None else make_decoder(_spec(codec), 16000)
    for datagram in kept:
        try:
            packet = RtpPacket.parse(datagram if session is None else session.unprotect(datagram))
            if packet.payload_type != codec.type:
                wrong += 1
            elif sent is not None:
                wrong += packet.payload not in sent
            elif decoder is not None:
                wrong += len(decoder.decode(packet.payload)) != 640
        except (ValueError, pylibsrtp.Error):
            wrong += 1
    return wrong


def one_run(
    gateway: Gateway, load: Path, speech: Speech, calls: int, codecs: tuple[Codec, Codec], seconds: float
) -> Sample:
    """Offer ``calls`` calls for ``seconds`` and return what it cost the gateway."""
    count = int(seconds * 50)
    open_calls = [Call(*codecs) for _ in range(calls)]
    for call in open_calls:
        gateway.open(call)
    streams = [
        datagrams
        for call in open_calls
        for datagrams in (
            packets_of(call.web, speech.payloads(call.web, count), call.web_key),
            packets_of(call.ims, speech.payloads(call.ims, count), None),
        )
    ]
    script = b"".join([struct.pack("!H", len(stream[n])) + stream[n] for n in range(count) for stream in streams])
    descriptors = [sock.fileno() for call in open_calls for sock in call.sockets]
    ports = [port for call in open_calls for port in call.ports]
    arguments = [str(number) for pair in zip(descriptors, ports, strict=True) for number in pair]
    meter = CpuMeter(gateway.pid)
    before = meter.read()
    result = subprocess.run(
        [str(load), str(len(streams)), str(count), str(_KEEP), *arguments],
        input=script,
        pass_fds=descriptors,
        check=True,
        capture_output=True,
        timeout=seconds + 60,
    ).stdout
    cpu = meter.read() - before
    extra = gateway.close()
    received = wrong = 0
    delays: list[int] = []
    at = 0
    relayed = codecs[0] == codecs[1]
    for index in range(len(streams)):
        call = open_calls[index // 2]
        to_web = index % 2 == 0
        number, delay, kept = struct.unpack_from("=III", result, at)
        at += 12
        datagrams = []
        for _ in range(kept):
            (length,) = struct.unpack_from("=I", result, at)
            datagrams.append(result[at + 4 : at + 4 + length])
            at += 4 + length
        received += number
        delays.append(delay)
        codec = call.web if to_web else call.ims
        payloads = speech.payloads(codec, count) if relayed else None
        wrong += wrong_of(datagrams, codec, payloads, call.gateway_key if to_web else None)
    for call in open_calls:
        call.close()
    sent = count * len(streams)
    return Sample(
        cpu,
        received,
        seconds,
        lost=sent - received,
        wrong=wrong,
        extra={"delay_ms": float(np.median(delays)) / 1000, **extra},
    )


@contextlib.contextmanager
def ours() -> Iterator[Ours]:
    """Run our server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.media_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Ours(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


@contextlib.contextmanager
def rtpengine() -> Iterator[Rtpengine]:
    """Run rtpengine in user space with its default threads and ports of its own."""
    port = _socket()
    ng = port.getsockname()[1]
    port.close()
    with tempfile.TemporaryDirectory() as directory:
        command = [
            "rtpengine", "--config-file=none", "--table=-1", "--interface=127.0.0.1", f"--listen-ng=127.0.0.1:{ng}",
            "--port-min=22000", "--port-max=29998", "--foreground", "--log-stderr", "--log-level=2",
            f"--pidfile={directory}/pid", "--delete-delay=0",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            gateway = Rtpengine(process.pid, ng)
            end = time.monotonic() + 20
            while True:
                try:
                    gateway.ask(command="ping")
                    break
                except (OSError, TimeoutError):
                    if process.poll() is not None or time.monotonic() > end:
                        raise RuntimeError("rtpengine does not start") from None
                    time.sleep(0.1)
            yield gateway
        finally:
            process.terminate()
            process.wait(10)


def rtpengine_version() -> str:
    """Return name and version of the installed rtpengine."""
    output = subprocess.run(["rtpengine", "--version"], capture_output=True, text=True, check=False)
    words = (output.stdout + output.stderr).split()
    return f"rtpengine {words[1]}" if len(words) > 1 else "rtpengine"


@contextlib.contextmanager
def load_program() -> Iterator[Path]:
    """Compile the load generator."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "media_load"
        source = Path(__file__).with_name("media_load.c")
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)], check=True)
        yield program


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Measure all loads."""
    for program, package in (("rtpengine", "rtpengine-daemon libavcodec-extra"), ("espeak-ng", "espeak-ng")):
        if shutil.which(program) is None:
            raise SystemExit(f"bench.media needs {program}: apt-get install {package}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    rows: list[Row] = []
    speech = Speech()
    peer = rtpengine_version()
    with load_program() as load, ours() as first, rtpengine() as second:

        def samples(calls: int, codecs: tuple[Codec, Codec]) -> dict[str, list[Sample]]:
            programs: dict[str, Callable[[], Sample]] = {
                "imsbridge": lambda: one_run(first, load, speech, calls, codecs, arguments.seconds),
                "rtpengine": lambda: one_run(second, load, speech, calls, codecs, arguments.seconds),
            }
            return interleaved(programs, arguments.runs)

        for calls in FORWARD_LOADS:
            found = samples(calls, (PCMA, PCMA))
            rows.append(
                Row.of(
                    "SRTP <-> RTP",
                    f"{calls} calls, {100 * calls} packets/s, 160 B",
                    "CPU us/packet",
                    found["imsbridge"],
                    found["rtpengine"],
                    peer=peer,
                    goal=FORWARD_GOAL,
                )
            )
        found = samples(TRANSCODE_CALLS, (OPUS, AMR_WB))
        load_text = f"{TRANSCODE_CALLS} calls, {100 * TRANSCODE_CALLS} frames/s"
        rows.append(
            Row.of(
                "Opus <-> AMR-WB",
                load_text,
                "CPU us/frame",
                found["imsbridge"],
                found["rtpengine"],
                peer=peer,
                goal=TRANSCODE_GOAL,
                note="settings differ: see the module's text",
            )
        )
        delays = tuple(round(sample.extra["delay_ms"], 3) for sample in found["imsbridge"])
        median = float(np.median(delays))
        rows.append(
            Row("Opus <-> AMR-WB, delay", load_text, "ms in to out", median, goal=ADDED_GOAL_MS, ours_runs=delays)
        )
    return rows


if __name__ == "__main__":
    sys.exit(main("Media bridge beside rtpengine.", measure))
