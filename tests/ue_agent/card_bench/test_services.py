"""Services by name, on tables of real cards."""

from ue_agent.card_bench.services import announced


def test_isim() -> None:
    """EF_IST of a sysmoISIM-SJA2, and all services of TS 31.103 clause 4.2.7."""
    assert announced("ISIM", bytes.fromhex("190200")) == [
        (1, "P-CSCF address"),
        (4, "GBA-based local key establishment"),
        (5, "P-CSCF discovery for local breakout"),
        (10, "UICC access to IMS"),
    ]
    assert announced("ISIM", bytes.fromhex("020008")) == [(2, "GBA"), (20, "WebRTC URI")]
    assert [number for number, _ in announced("ISIM", b"\xff" * 3)] == list(range(1, 25))
    assert announced("ISIM", b"") == []


def test_usim() -> None:
    """TS 31.102 clause 4.2.8."""
    table = bytearray(19)
    for number in (27, 68, 91, 124, 125):
        table[(number - 1) // 8] |= 1 << (number - 1) % 8
    assert announced("USIM", bytes(table)) == [
        (27, "GSM access"),
        (68, "GBA"),
        (91, "SM over IP"),
        (124, "subscription identifier privacy (SUCI)"),
        (125, "SUCI calculation by the USIM"),
    ]
    names = dict(announced("USIM", b"\xff" * 19))
    assert names[26] == names[50] == names[152] == "reserved for future use"
