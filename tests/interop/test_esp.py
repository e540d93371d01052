"""Our ESP beside programs that others wrote: scapy both ways, Wireshark as a reader [S7-IMS].

The kernel's ESP is the third: ``tests/kernel``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP
from scapy.layers.ipsec import SecurityAssociation as ScapyAssociation
from scapy.packet import Raw

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair, Encryption, Integrity, expand_keys
from imskit.ipsec.association import AssociationSet, Party, SecurityAssociation, UdpEncapsulation
from imskit.ipsec.engine.database import Database
from imskit.ipsec.wire import ip
from imskit.secrets import Secret

pytestmark = pytest.mark.interop

ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
HEADERS = {4: IP, 6: IPv6}
TEXT = b"REGISTER sip:ims.example SIP/2.0\r\n\r\n"

SCAPY_CRYPT = {
    Encryption.AES_GCM: "AES-GCM",
    Encryption.AES_CBC: "AES-CBC",
    Encryption.DES_EDE3_CBC: "3DES",
    Encryption.NULL: "NULL",
}
SCAPY_AUTH = {Integrity.HMAC_SHA_1_96: "HMAC-SHA1-96", Integrity.HMAC_MD5_96: "HMAC-MD5-96", Integrity.NULL: "NULL"}


@pytest.fixture(params=STANDARD_PAIRS + LAB_PAIRS, ids=str)
def pair(request) -> AlgorithmPair:
    return request.param


@pytest.fixture(params=(4, 6), ids=("ipv4", "ipv6"))
def version(request) -> int:
    return request.param


def agreement(pair: AlgorithmPair, version: int = 4, encapsulation: UdpEncapsulation | None = None):
    """UE's and P-CSCF's database, and the two associations between the UE's client and the P-CSCF's server port."""
    ue, p_cscf = (
        Party(address, 1001 + n, 1011 + n, 40000 + n, 40010 + n) for n, address in enumerate(ADDRESSES[version])
    )
    keys = expand_keys(pair, Secret(bytes(range(16))), Secret(bytes(range(50, 66))))
    sets = [
        AssociationSet.between("a", here, there, pair, keys, encapsulation)
        for here, there in ((ue, p_cscf), (p_cscf, ue))
    ]
    databases = []
    for associations in sets:
        database = Database(os.urandom)
        database.install(associations, 0.0)
        databases.append(database)
    return *databases, sets[0].outbound[0], sets[0].inbound[0]


def scapy_association(association: SecurityAssociation) -> ScapyAssociation:
    keys, pair = association.keys, association.pair
    if pair.integrity is Integrity.AES_GMAC:
        algorithms = {"crypt_algo": "AES-NULL-GMAC", "crypt_key": keys.integrity.reveal()}
    else:
        algorithms = {
            "crypt_algo": SCAPY_CRYPT[pair.encryption],
            "crypt_key": keys.encryption.reveal(),
            "auth_algo": SCAPY_AUTH[pair.integrity],
            "auth_key": keys.integrity.reveal(),
        }
    source, destination = association.source, association.destination
    if association.encapsulation:
        ports = association.encapsulation
        algorithms["tunnel_header"] = HEADERS[source.version](src=source.ip, dst=destination.ip)
        algorithms["nat_t_header"] = UDP(sport=ports.source_port, dport=ports.destination_port)
    return ScapyAssociation(ESP, spi=association.spi, seq_num=1, **algorithms)


def clear(association: SecurityAssociation, transport=UDP):
    source, destination = association.source, association.destination
    header = HEADERS[source.version](src=source.ip, dst=destination.ip)
    packet = header / transport(sport=source.port, dport=destination.port) / Raw(TEXT)
    return HEADERS[source.version](bytes(packet))  # checksums filled in


@pytest.mark.parametrize("transport", [UDP, TCP])
def test_scapy_opens_what_we_seal_and_we_what_scapy_seals(pair, version, transport) -> None:
    ue, _, outbound, inbound = agreement(pair, version)
    packet = clear(outbound, transport)
    ours = ue.protect(bytes(packet), 0.0)
    carried = HEADERS[version](src=outbound.source.ip, dst=outbound.destination.ip) / ESP(ours.data)
    opened = scapy_association(outbound).decrypt(HEADERS[version](bytes(carried)))
    assert bytes(opened[transport]) == bytes(packet[transport])

    packet = clear(inbound, transport)
    theirs = bytes(scapy_association(inbound).encrypt(packet)[ESP])
    addresses = ip.packed(inbound.source.ip) + ip.packed(inbound.destination.ip)
    delivered = ue.unprotect(addresses, 0, 64, theirs)
    assert delivered is not None
    assert bytes(HEADERS[version](delivered)[transport]) == bytes(packet[transport])


def test_scapy_in_udp_and_tunnel_mode(pair) -> None:
    """mod=UDP-enc-tun (TS 33.203 annex M, RFC 3948)."""
    ue, _, outbound, inbound = agreement(pair, 4, UdpEncapsulation())
    packet = clear(outbound)
    ours = ue.protect(bytes(packet), 0.0)
    carried = IP(src=outbound.source.ip, dst=outbound.destination.ip) / UDP(sport=4500, dport=4500) / ESP(ours.data)
    opened = scapy_association(outbound).decrypt(carried)
    assert bytes(opened[UDP]) == bytes(packet[UDP])

    packet = clear(inbound)
    theirs = bytes(scapy_association(inbound).encrypt(packet)[ESP])
    delivered = ue.unprotect_udp((inbound.source.ip, 4500), theirs)
    assert delivered is not None and bytes(IP(delivered)[UDP]) == bytes(packet[UDP])


WIRESHARK_CRYPT = {
    Encryption.AES_GCM: "AES-GCM with 16 octet ICV [RFC4106]",
    Encryption.AES_CBC: "AES-CBC [RFC3602]",
    Encryption.DES_EDE3_CBC: "TripleDES-CBC [RFC2451]",
    Encryption.NULL: "NULL",
}
WIRESHARK_AUTH = {
    Integrity.HMAC_SHA_1_96: "HMAC-SHA-1-96 [RFC2404]",
    Integrity.HMAC_MD5_96: "HMAC-MD5-96 [RFC2403]",
    Integrity.NULL: "NULL",
}
WIRESHARK_PAIRS = [pair for pair in STANDARD_PAIRS + LAB_PAIRS if pair.integrity in WIRESHARK_AUTH]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("pair", WIRESHARK_PAIRS, ids=str)
def test_wireshark_reads_what_we_seal(pair, version, tmp_path: Path) -> None:
    """Deciphered with the keys, the integrity value found good.  Wireshark has no AES-GMAC for ESP."""
    ue, _, outbound, _ = agreement(pair, version)
    packets = []
    for _ in range(3):
        data = ue.protect(bytes(clear(outbound)), 0.0).data
        packets.append(HEADERS[version](src=outbound.source.ip, dst=outbound.destination.ip) / ESP(data))
    capture = tmp_path / "esp.pcap"
    _write(capture, [bytes(packet) for packet in packets])
    keys = [key.reveal() for key in (outbound.keys.encryption, outbound.keys.integrity)]
    encryption, integrity = (f"0x{key.hex()}" if key else "" for key in keys)
    association = ",".join(
        f'"{field}"'
        for field in (
            f"IPv{version}",
            outbound.source.ip,
            outbound.destination.ip,
            outbound.spi,
            WIRESHARK_CRYPT[pair.encryption],
            encryption,
            WIRESHARK_AUTH[pair.integrity],
            integrity,
        )
    )
    fields = ("esp.sequence", "esp.icv_good", "udp.srcport", "udp.dstport", "udp.payload", "_ws.malformed")
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-E", "separator=|"]
    for option in (
        "esp.enable_encryption_decode:TRUE",
        "esp.enable_authentication_check:TRUE",
        f"uat:esp_sa:{association}",
    ):
        command += ["-o", option]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert rows == [[str(n), "1", "40000", "40011", TEXT.hex(), ""] for n in (1, 2, 3)], done.stderr


def _write(path: Path, packets: list[bytes]) -> None:
    """A capture of raw IP packets."""
    capture = bytes.fromhex("d4c3b2a102000400000000000000000000000400") + (101).to_bytes(4, "little")
    for packet in packets:
        size = len(packet).to_bytes(4, "little")
        capture += bytes(8) + size + size + packet
    path.write_bytes(capture)
