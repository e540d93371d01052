"""REGISTER through the engine of the eP-CSCF alone: parse, engine and encode, no sockets, one process.

``python -m bench.register_engine [--rounds N] [--profile]`` prints CPU per REGISTER, the answers of the core included
as they come in; ``--profile`` prints where it goes instead.  It is to find cost and to see that it went: compare its
figures with none but its own on the same idle machine, and a product's figures in ``websocket_register.py``.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import sys
import time

from bench.edge_core import DOMAIN, Core
from imskit.engine import Tick
from imskit.sip.engine.events import Received, Transmit
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.validate import parse_and_validate
from network_edge.ep_cscf.engine.ep_cscf import EpCscf
from network_edge.ep_cscf.engine.ims_alg import AlgLimits, ImsAlg
from network_edge.ep_cscf.engine.settings import EpCscfSettings, FlowLimits
from network_edge.ep_cscf.server import tokens

CLIENTS = 100
_RATE = 2000.0
"""REGISTERs a second of the engine's clock: it decides how many transactions stand."""
_W2, _MW, _CORE = ("127.0.0.1", 8443), ("127.0.0.1", 5060), ("127.0.0.1", 5070)
_DIGEST = (
    f'Authorization: Digest username="u@{DOMAIN}", realm="{DOMAIN}", nonce="bm9uY2U=", uri="sip:{DOMAIN}", '
    f'response="{"0" * 32}", algorithm=MD5, qop=auth, nc=00000001, cnonce="c0ffee"\r\n'
)


class _Clients:
    """The messages of `bench.websocket_clients`, without its connections."""

    def __init__(self) -> None:
        self._sequences = [0] * CLIENTS
        self.flows = [Flow("WSS", _W2, ("127.0.0.1", 20000 + number), number) for number in range(CLIENTS)]

    def register(self, number: int, more: str) -> bytes:
        self._sequences[number] += 1
        sequence, name, host = self._sequences[number], f"+1556{number:06}@{DOMAIN}", f"{number:x}.invalid"
        return (
            f"REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/WSS {host};branch=z9hG4bK{number:x}-{sequence}\r\n"
            f"Max-Forwards: 69\r\nTo: <sip:{name}>\r\nFrom: <sip:{name}>;tag={number:x}\r\n"
            f"Call-ID: {number:x}-3f5a77c1\r\nContact: <sip:{number:x}@{host};transport=ws>;+sip.ice;reg-id=1;"
            f'+sip.instance="<urn:uuid:00000000-0000-4000-8000-{number:012x}>";expires=3600\r\n'
            "Expires: 3600\r\nAllow: INVITE,ACK,CANCEL,BYE,UPDATE,MESSAGE,OPTIONS,REFER,INFO,NOTIFY\r\n"
            f"Supported: path, gruu, outbound\r\nUser-Agent: bench\r\nCSeq: {sequence} REGISTER\r\n"
            f"{more}Content-Length: 0\r\n\r\n"
        ).encode()


class Bench:
    """One engine, its clients and its core."""

    def __init__(self) -> None:
        settings = EpCscfSettings(DOMAIN, DOMAIN, reg_event=False, limits=FlowLimits(messages_per_second=1e9))
        mw, core = Target("UDP", _MW), Target("UDP", _CORE)
        self._engine = EpCscf((_W2,), mw, core, settings, tokens, ImsAlg(tokens, AlgLimits()))
        self._core = Core()
        self._core.port = _CORE[1]
        self._mw = {"UDP": Flow("UDP", _MW, _CORE, 1000), "TCP": Flow("TCP", _MW, _CORE, 1001)}
        self._clients = _Clients()
        self._now = 0.0
        self._seconds = 0.0
        self.pairs: list[float] = []
        """CPU of the engine's part alone, for each REGISTER that is challenged and the one that answers."""
        self.answers = {b"401": 0, b"200": 0}

    def round(self) -> None:
        """Every client registers: a REGISTER that is challenged, and the one that answers."""
        for number, flow in enumerate(self._clients.flows):
            self._seconds = 0.0
            for more in ("", _DIGEST):
                self._now += 1 / _RATE
                sent = self._step(self._clients.register(number, more), flow)
                for data, transport in sent:
                    for answer in self._answers(data):
                        for back, _ in self._step(answer, self._mw[transport]):
                            self.answers[back[8:11]] += 1
            self.pairs.append(self._seconds)

    def _answers(self, data: bytes) -> list[bytes]:
        found: list[bytes] = []
        self._core._take(data, found.append)
        return found

    def _step(self, data: bytes, flow: Flow) -> list[tuple[bytes, str]]:
        before = time.thread_time()
        engine = self._engine
        sent: list[tuple[bytes, str]] = []
        engine.handle(Received(parse_and_validate(data), flow), self._now)
        while (output := engine.poll()) is not None:
            if isinstance(output, Transmit):
                sent.append((output.message.encode(), output.destination.transport))
        if (due := engine.deadline()) is not None and due <= self._now:
            engine.handle(Tick(), self._now)
        self._seconds += time.thread_time() - before
        return sent


def main() -> int:
    """Measure or profile; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help=f"of {2 * CLIENTS} REGISTERs each (default 15)")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    arguments = parser.parse_args()
    bench = Bench()
    for _ in range(3):
        bench.round()
    gc.collect()
    profile = cProfile.Profile()
    bench.pairs.clear()
    for _ in range(arguments.rounds):
        if arguments.profile:
            profile.runcall(bench.round)
        else:
            bench.round()
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    found = sorted(each / 2 * 1e6 for each in bench.pairs)
    mean, low = sum(found) / len(found), found[len(found) // 10]
    print(f"us/REGISTER: {mean:.0f} on average; {low:.0f} in the best tenth, which other programs disturb least")
    return 0 if bench.answers[b"401"] == bench.answers[b"200"] == (3 + arguments.rounds) * CLIENTS else 1


if __name__ == "__main__":
    sys.exit(main())
