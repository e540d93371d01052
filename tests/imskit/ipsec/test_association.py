"""The four associations of an agreement, from both sides (TS 33.203 7.1)."""

from __future__ import annotations

import dataclasses

import pytest

from imskit.ipsec.algorithms import STANDARD_PAIRS, expand_keys
from imskit.ipsec.association import Address, AssociationSet, Party, SecurityAssociation, UdpEncapsulation
from imskit.ipsec.errors import IpsecError
from imskit.secrets import Secret

PAIR = STANDARD_PAIRS[0]
KEYS = expand_keys(PAIR, Secret(bytes(16)), Secret(bytes(16)))
UE = Party("192.0.2.1", 1001, 1002, 40000, 40500)
P_CSCF = Party("192.0.2.2", 2001, 2002, 6000, 6500)


def test_four_associations() -> None:
    """SPIs are those of the receiver: SA1 uses spi_ps, SA2 spi_uc, SA3 spi_us, SA4 spi_pc."""
    made = AssociationSet.between("a", UE, P_CSCF, PAIR, KEYS)
    listed = [(sa.spi, sa.source.port, sa.destination.port) for sa in made.outbound + made.inbound]
    assert listed == [(2002, 40000, 6500), (2001, 40500, 6000), (1001, 6500, 40000), (1002, 6000, 40500)]


def test_both_sides_agree() -> None:
    """What is outbound at one side is inbound at the other, to the last field."""
    encapsulation = UdpEncapsulation(4500, 41234)
    here = AssociationSet.between("a", UE, P_CSCF, PAIR, KEYS, encapsulation)
    there = AssociationSet.between("a", P_CSCF, UE, PAIR, KEYS, UdpEncapsulation(41234, 4500))
    by_spi = {sa.spi: sa for sa in there.inbound + there.outbound}
    assert {sa.spi for sa in here.outbound} == {sa.spi for sa in there.inbound}
    for sa in here.inbound + here.outbound:
        assert dataclasses.replace(sa, keys=KEYS) == dataclasses.replace(by_spi[sa.spi], keys=KEYS)


def test_equal_spis_are_refused() -> None:
    """The four share their keys, so a P-CSCF that takes the UE's SPIs would make vectors repeat."""
    with pytest.raises(IpsecError, match="SPIs are equal"):
        AssociationSet.between("a", UE, dataclasses.replace(P_CSCF, spi_c=UE.spi_s), PAIR, KEYS)


def test_addresses_are_canonical() -> None:
    assert Address("2001:DB8:0::1", 5060) == Address("2001:db8::1", 5060)
    assert str(Address("2001:DB8:0::1", 5060)) == "[2001:db8::1]:5060"
    assert Address("192.0.2.1", 1).version == 4


@pytest.mark.parametrize(("ip", "port"), [("p-cscf.example", 1), ("", 1), ("192.0.2.1", 0), ("192.0.2.1", 65536)])
def test_bad_addresses(ip: str, port: int) -> None:
    with pytest.raises(IpsecError):
        Address(ip, port)


@pytest.mark.parametrize("spi", [0, -1, 1 << 32])
def test_bad_spis(spi: int) -> None:
    with pytest.raises(IpsecError, match="no SPI"):
        SecurityAssociation(spi, Address("192.0.2.1", 1), Address("192.0.2.2", 1), PAIR, KEYS)


def test_two_ip_versions() -> None:
    with pytest.raises(IpsecError, match="two IP versions"):
        AssociationSet.between("a", UE, dataclasses.replace(P_CSCF, ip="2001:db8::2"), PAIR, KEYS)


def test_keys_are_not_shown() -> None:
    keys = expand_keys(PAIR, Secret(b"0123456789abcdef"), Secret(b"fedcba9876543210"))
    text = repr(AssociationSet.between("a", UE, P_CSCF, PAIR, keys))
    assert "0123456789abcdef" not in text and "<redacted>" in text
