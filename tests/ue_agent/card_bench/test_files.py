"""Names of files by identifier and place."""

from ue_agent.card_bench.files import application_name, file_name, holds_keys, is_directory, place_of

USIM, ISIM = bytes.fromhex("A0000000871002FF86FF0389FFFFFFFF"), bytes.fromhex("A0000000871004FF86FF0389FFFFFFFF")


def test_names() -> None:
    """TS 31.102 and TS 31.103: one identifier, two files."""
    assert (file_name(0x6F07, "USIM"), file_name(0x6F07, "ISIM")) == ("EF_IMSI", "EF_IST")
    assert (file_name(0x6F09, "USIM"), file_name(0x6F09, "ISIM")) == ("EF_KeysPS", "EF_P-CSCF")
    assert (file_name(0x6FD6, "USIM"), file_name(0x6FD5, "ISIM")) == ("EF_GBABP", "EF_GBABP")
    assert file_name(0x2FE2, "ISIM") == "EF_ICCID"
    assert (file_name(0x6F99, ""), file_name(0x7F66, "MF")) == ("file 6F99", "DF 7F66")
    assert is_directory(0x5F3B) and not is_directory(0x6F07)


def test_applications() -> None:
    assert (application_name(USIM), application_name(ISIM)) == ("USIM", "ISIM")
    assert (place_of(USIM), place_of(ISIM), place_of(b"\xa0\0\0\0\3")) == ("USIM", "ISIM", "")
    assert application_name(bytes.fromhex("A00000055910100102")) == "ISD-R"
    assert application_name(b"\xd2\x76") == "application D276"


def test_files_with_keys() -> None:
    assert holds_keys(0x6F08, "USIM") and holds_keys(0x4F20, "") and not holds_keys(0x6F09, "ISIM")
