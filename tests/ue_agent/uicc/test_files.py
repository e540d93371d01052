"""Files of real cards and published examples.

Sources: pySim's decoder examples (pySim/ts_31_103.py) and its dumps of real cards (tests/card_sanitizer: sysmoISIM-SJA2
8988211000000467343, two others), TS 102 221 and TS 31.102 examples.
"""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.uicc import files
from ue_agent.uicc.errors import CardDataError
from ue_agent.uicc.files import Application, FileInfo


@pytest.mark.parametrize(
    ("ef", "content", "text"),
    [
        (
            files.EF_IMPI,
            "803137333830303630303030303031303140696d732e6d6e633030302e6d63633733382e336770706e6574776f726b2e6f7267",
            "738006000000101@ims.mnc000.mcc738.3gppnetwork.org",
        ),
        (
            files.EF_DOMAIN,
            "8021696d732e6d6e633030302e6d63633733382e336770706e6574776f726b2e6f7267ffff",
            "ims.mnc000.mcc738.3gppnetwork.org",
        ),
        (
            files.EF_IMPU,
            "80357369703a37333830303630303030303031303140696d732e6d6e633030302e6d63633733382e336770706e6574776f726b2e6f7267",
            "sip:738006000000101@ims.mnc000.mcc738.3gppnetwork.org",
        ),
        (files.EF_WEBRTC_URI, "800f" + b"https://a.b.c/d".hex() + "ff", "https://a.b.c/d"),
        (files.EF_IMPI, "ff" * 128, None),  # real, delivered blank
        (files.EF_IMPU, "8000" + "ff" * 126, None),  # real
        (files.EF_IMPU, "80" + "ff" * 127, None),  # real
        (files.EF_IMPU, "8081804142" + "43" * 126, "AB" + "C" * 126),
    ],
)
def test_texts(ef: files.Ef, content: str, text: str | None) -> None:
    assert files.decode_text(bytes.fromhex(content), ef) == text


@pytest.mark.parametrize(
    ("record", "address"),
    [
        (
            "802c0070637363662e696d732e6d6e633030302e6d63633733382e7075622e336770706e6574776f726b2e6f7267",
            "pcscf.ims.mnc000.mcc738.pub.3gppnetwork.org",
        ),
        ("800501c0a80c22", "192.168.12.34"),
        ("801102fe800000000000000042d7fffe530335ffff", "fe80::42:d7ff:fe53:335"),
        ("80ff" + "ff" * 126, None),  # real, in a file that EF_IST announces
        ("ff" * 128, None),
    ],
)
def test_pcscf(record: str, address: str | None) -> None:
    assert files.decode_pcscf(bytes.fromhex(record)) == address


@pytest.mark.parametrize(
    ("record", "application"),
    [
        (
            "61294f10a0000000871002ffffffff890709000050055553696d31730ea00c80011781025f608203454150",
            Application(bytes.fromhex("a0000000871002ffffffff8907090000"), "USim1"),
        ),
        (
            "61194f10a0000000871004ffffffff890709000050054953696d31ffffffffffffffffffffffffffffffff",
            Application(bytes.fromhex("a0000000871004ffffffff8907090000"), "ISim1"),
        ),
        (
            "61184f10a0000000871002fff359ff89ffffffff50045553494dffffffffffffffffffffffffffff",
            Application(bytes.fromhex("a0000000871002fff359ff89ffffffff"), "USIM"),
        ),
        ("ff" * 43, None),
    ],
)
def test_ef_dir(record: str, application: Application | None) -> None:
    assert files.decode_dir_record(bytes.fromhex(record)) == application


@pytest.mark.parametrize(
    ("fcp", "info"),
    [
        ("621f8202412183026f02a506d00120d2010f8a01058b036f060380020080880110", FileInfo(size=128)),
        (
            "62228205422100800883026f04a506d00120d2010f8a01058b036f060380020400880120",
            FileInfo(size=1024, record_length=128, records=8),
        ),
        (
            "623c820278218302ff018410a0000000871004ffffffff8907090000a509800171830400018d088a01058c0100"
            "c60f90017083010183018183010a83010b",
            FileInfo(pin_reference=1),
        ),
        ("", FileInfo()),
    ],
)
def test_fcp_of_real_cards(fcp: str, info: FileInfo) -> None:
    assert files.decode_fcp(bytes.fromhex(fcp)) == info


def test_fcp_names_another_pin() -> None:
    assert files.decode_fcp(bytes.fromhex("620ec60c900180830181830103830111")).pin_reference == 3


@pytest.mark.parametrize(
    ("content", "imsi"),
    [
        ("080910100000001020", "001010000000102"),  # real SJA2
        ("0831016210325476f8", "31026012345678"),
        ("ff" * 9, None),
    ],
)
def test_imsi(content: str, imsi: str | None) -> None:
    assert files.decode_imsi(bytes.fromhex(content)) == imsi


@pytest.mark.parametrize("content", ["00ffffffffffffffff", "0909101000000010", "08a9101000000010a0", "0201ffff", "08"])
def test_bad_imsi(content: str) -> None:
    with pytest.raises(CardDataError, match=r"EF_IMSI \(TS 31.102 4.2.2\)"):
        files.decode_imsi(bytes.fromhex(content))


@pytest.mark.parametrize(
    ("content", "iccid"),
    [
        ("988812010000407643f3", "8988211000000467343"),  # real SJA2
        ("989444000000115513f4", "8949440000001155314"),  # real
        ("98443501510011106387", "89445310150011013678"),  # real
    ],
)
def test_iccid(content: str, iccid: str) -> None:
    assert files.decode_iccid(bytes.fromhex(content)) == iccid


def test_empty_iccid() -> None:
    with pytest.raises(CardDataError):
        files.decode_iccid(b"\xff" * 10)


@pytest.mark.parametrize(
    ("content", "length"),
    [
        ("00000002", 2),  # real SJA2, pySim example
        ("01000802ff", 2),  # real
        ("01000103", 3),
        ("ffffff", None),  # real: EF_AD of a blank ISIM
        ("000000", None),
        ("000000f3", 3),
        ("00000004", None),
    ],
)
def test_mnc_length(content: str, length: int | None) -> None:
    assert files.decode_mnc_length(bytes.fromhex(content)) == length


def test_services() -> None:
    table = bytes.fromhex("190200")  # EF_IST of a real SJA2
    assert [n for n in range(1, 41) if files.has_service(table, n)] == [1, 4, 5, 10]


def test_another_tag_and_a_cut_are_named() -> None:
    with pytest.raises(CardDataError, match=r"EF_WebRTCURI \(TS 31.103 4.2.20\) does not begin with tag 80"):
        files.decode_text(bytes.fromhex("8103616263"), files.EF_WEBRTC_URI)
    with pytest.raises(CardDataError, match=r"EF_DIR \(TS 102 221 13.1\) is cut off inside tag 50"):
        files.decode_dir_record(bytes.fromhex("6104500341ffff"))


def test_a_control_character_is_refused() -> None:
    """What ends up in a SIP header has no line break in it."""
    with pytest.raises(CardDataError, match="control character"):
        files.decode_text(b"\x80\x07sip:a\r\n", files.EF_IMPU)
    with pytest.raises(CardDataError, match="not UTF-8"):
        files.decode_text(b"\x80\x02\xc3\x28", files.EF_IMPU)


def test_a_pcscf_address_of_the_wrong_length() -> None:
    with pytest.raises(CardDataError, match="type 1 and 3 octets"):
        files.decode_pcscf(bytes.fromhex("800401c0a80c"))


DECODERS: list[Callable[[bytes], object]] = [
    files.decode_fcp,
    files.decode_dir_record,
    files.decode_pcscf,
    files.decode_imsi,
    files.decode_iccid,
    files.decode_mnc_length,
    lambda content: files.decode_text(content, files.EF_IMPI),
]
VALID = [
    bytes.fromhex(text)
    for text in (
        "62228205422100800883026f04a506d00120d2010f8a01058b036f060380020400880120",
        "61294f10a0000000871002ffffffff890709000050055553696d31730ea00c80011781025f608203454150",
        "801102fe800000000000000042d7fffe530335",
        "080910100000001020",
        "8021696d732e6d6e633030302e6d63633733382e336770706e6574776f726b2e6f7267",
    )
]


@given(st.sampled_from(VALID), st.integers(0, 60), st.binary(max_size=40))
def test_only_card_data_error_escapes(valid: bytes, cut: int, noise: bytes) -> None:
    for decode in DECODERS:
        for content in (valid[:cut], valid[:cut] + noise, noise):
            try:
                decode(content)
            except CardDataError:
                pass
