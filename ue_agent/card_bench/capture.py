"""A capture file of a card's conversation that Wireshark opens: pcapng with GSMTAP over UDP (type SIM).

Wireshark reads one T=0 command with its answer in a packet, so an exchange of another protocol, with data both ways, is
written as the two that T=0 makes of it: the command answered by 61xx, then GET RESPONSE.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from ue_agent.card_bench.observe import Exchange

GSMTAP_PORT = 4729
_GSMTAP_VERSION = 2
_GSMTAP_WORDS = 4
_GSMTAP_SIM = 4
_LINKTYPE_IPV4 = 228
_UDP = 17
_LOOPBACK = bytes((127, 0, 0, 1))
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_MAGIC = 0x1A2B3C4D
_MICROSECONDS = 1_000_000


class Capture:
    """Writes exchanges to ``file`` (binary, open for writing) as they come; the file is whole after each.

    What is handed in is written as it is: redact it before.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._identification = 0
        self._write(_SECTION, struct.pack("<IHHq", _MAGIC, 1, 0, -1) + _option(4, b"imsbridge card trace") + _END)
        self._write(_INTERFACE, struct.pack("<HHI", _LINKTYPE_IPV4, 0, 0))

    def add(self, exchange: Exchange) -> None:
        """Append one exchange."""
        for at, octets in _as_t0(exchange):
            self._identification = (self._identification + 1) & 0xFFFF
            packet = _ipv4(self._identification, _udp(_gsmtap(octets)))
            micros = round(at * _MICROSECONDS)
            head = struct.pack("<IIIII", 0, micros >> 32, micros & 0xFFFFFFFF, len(packet), len(packet))
            self._write(_PACKET, head + packet + bytes(-len(packet) % 4))
        self._file.flush()

    def _write(self, kind: int, body: bytes) -> None:
        length = 12 + len(body)
        self._file.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))


def _as_t0(exchange: Exchange) -> list[tuple[float, bytes]]:
    command, answer, sw = exchange.command, exchange.answer, exchange.sw.to_bytes(2)
    has_data = len(command) > 5
    if has_data and len(command) == 6 + command[4]:
        command = command[:-1]  # Le has no place in T=0
    if not has_data:  # Wireshark takes P3 for the length of what follows, also behind a refusal
        command = command[:4] + bytes([len(answer) & 0xFF])
    if not (has_data and answer):
        return [(exchange.at, command + answer + sw)]
    waiting = bytes([0x61, len(answer) & 0xFF])
    get_response = bytes([command[0], 0xC0, 0, 0, len(answer) & 0xFF])
    return [(exchange.at, command + waiting), (exchange.at + exchange.seconds, get_response + answer + sw)]


def _gsmtap(octets: bytes) -> bytes:
    return struct.pack(">BBBBHbbIBBBB", _GSMTAP_VERSION, _GSMTAP_WORDS, _GSMTAP_SIM, 0, 0, 0, 0, 0, 0, 0, 0, 0) + octets


def _udp(payload: bytes) -> bytes:
    length = 8 + len(payload)
    pseudo = _LOOPBACK * 2 + struct.pack(">BBH", 0, _UDP, length)
    head = struct.pack(">HHH", GSMTAP_PORT, GSMTAP_PORT, length)
    return head + struct.pack(">H", _checksum(pseudo + head + bytes(2) + payload) or 0xFFFF) + payload


def _ipv4(identification: int, payload: bytes) -> bytes:
    head = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(payload), identification, 0, 64, _UDP)
    return head + struct.pack(">H", _checksum(head + bytes(2) + _LOOPBACK * 2)) + _LOOPBACK * 2 + payload


def _checksum(octets: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{(len(octets) + 1) // 2}H", octets + bytes(len(octets) % 2)))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


_END = struct.pack("<HH", 0, 0)
