"""The simulated UICC at its contacts: what TS 102 221, TS 31.102 and TS 31.103 prescribe, octet by octet."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.aka.milenage import Milenage
from imskit.aka.sqn import check_auts, join
from imskit.aka.vector import AuthenticationVector
from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 set 1
MILENAGE = Milenage(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC)))
RAND = bytes.fromhex("23553cbe9637a89d218ae64dae47bf35")
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
ISIM = IsimProfile(
    impi=f"001010000000001@{DOMAIN}",
    domain=DOMAIN,
    impu=[f"sip:+15550100@{DOMAIN}", "tel:+15550100"],
    pcscf=["pcscf.ims.example", "10.45.0.1", "fe80::42:d7ff:fe53:335"],
)
SELECT_ISIM = "00A4040C 07 A0000000871004"
SELECT_USIM = "00A4040C 07 A0000000871002"
VERIFY_1234 = "00200001 08 31323334FFFFFFFF"


def card(**changes: object) -> Uicc:
    fields: dict[str, object] = {"imsi": "001010000000001", "k": Secret(K), "opc": Secret(OPC), "isim": ISIM}
    return Uicc(CardProfile(**{**fields, **changes}))  # type: ignore[arg-type]


def ask(uicc: Uicc, *commands: str) -> str:
    """Send commands, return the answer to the last; those before have to succeed."""
    *before, last = commands
    for command in before:
        answer = uicc.transmit(bytes.fromhex(command)).hex()
        assert answer[-4:] == "9000" or answer[-4:-2] == "61", f"{command} answered {answer}"
    return uicc.transmit(bytes.fromhex(last)).hex()


def challenge(sqn: int) -> str:
    vector = AuthenticationVector.generate(MILENAGE, RAND, sqn)
    return f"00880081 22 10 {vector.rand.hex()} 10 {vector.autn.hex()}"


def test_select_tells_the_fcp_through_get_response() -> None:
    uicc = card()
    assert ask(uicc, "00A40004 02 2FE2") == "6120"
    fcp = ask(uicc, "00C00000 20")
    assert fcp == "621e8202412183022fe28a0105ab0a800101900080010297008002000a8801109000"
    assert ask(uicc, "00C00000 20") == "6985", "it is told once"


def test_get_response_corrects_the_length_and_gives_parts() -> None:
    uicc = card()
    assert ask(uicc, "00A40004 02 2FE2", "00C00000 00") == "6c20"
    assert ask(uicc, "00C00000 21") == "6c20"
    first = ask(uicc, "00C00000 02")
    assert first == "621e611e"
    assert ask(uicc, "00C00000 1E").endswith("9000")


def test_get_response_is_gone_after_another_command() -> None:
    assert ask(card(), "00A40004 02 2FE2", "80F2000C", "00C00000 1F") == "6985"


def test_read_binary() -> None:
    uicc = card(iccid="8988211000000467343")  # content as on the real card of that number
    assert ask(uicc, "00A4000C 02 2FE2", "00B00000 00") == "6c0a"
    assert ask(uicc, "00B00000 0A") == "988812010000407643f39000"
    assert ask(uicc, "00B00008 02") == "43f39000"
    assert ask(uicc, "00B00008 05") == "6c02"
    assert ask(uicc, "00B0000B 01") == "6b00"
    assert ask(uicc, "00B20104 0A") == "6981", "not a record file"


def test_short_file_identifiers() -> None:
    uicc = card()
    assert ask(uicc, "00B08200 0A").endswith("9000")  # EF_ICCID by SFI 02
    assert ask(uicc, "00B20104 2B") == "6981", "READ BINARY made EF_ICCID current"
    assert ask(uicc, "00B201F4 2B").endswith("9000")  # EF_DIR by SFI 1E
    assert ask(uicc, "00B09F00 01") == "6a82"
    assert ask(uicc, SELECT_ISIM, "00B08200 80").startswith("80")  # EF_IMPI by SFI 02


def test_ef_dir_lists_both_applications() -> None:
    uicc = card()
    assert ask(uicc, "00A4000C 02 2F00", "00B20104 00") == "6c2b"
    usim, isim = (ask(uicc, f"00B2{n:02X}04 2B") for n in (1, 2))
    assert usim.startswith("61194f10a0000000871002ffffffff890709000050055553696d31")
    assert isim.startswith("61194f10a0000000871004ffffffff890709000050054953696d31")
    assert ask(uicc, "00B20304 2B") == "ff" * 43 + "9000"
    assert ask(uicc, "00B20504 2B") == "6a83"


def test_isim_files_hold_the_profile() -> None:
    """Values as in the examples of pySim's decoders (tag 80; P-CSCF types 00, 01, 02)."""
    uicc = card()
    impi = ask(uicc, SELECT_ISIM, "00A4000C 02 6F02", "00B00000 80")
    assert bytes.fromhex(impi).startswith(bytes([0x80, len(ISIM.impi)]) + ISIM.impi.encode() + b"\xff")
    tel = ask(uicc, "00A4000C 02 6F04", "00B20204 80")
    assert bytes.fromhex(tel).startswith(b"\x80\x0dtel:+15550100\xff")
    assert ask(uicc, "00A4000C 02 6F09", "00B20104 80").startswith("801200" + b"pcscf.ims.example".hex() + "ff")
    assert ask(uicc, "00B20204 80").startswith("8005010a2d0001ff")
    assert ask(uicc, "00B20304 80").startswith("801102fe800000000000000042d7fffe530335ff")
    assert ask(uicc, "00A4000C 02 6F07", "00B00000 03") == "0100009000", "service 1"
    assert ask(uicc, "00A4000C 02 6FFA") == "6a82", "no service 20, no EF_WebRTCURI"


def test_usim_files_hold_the_profile() -> None:
    uicc = card(imsi="001010000000102", mnc_length=2)
    assert ask(uicc, SELECT_USIM, "00A4000C 02 6F07", "00B00000 09") == "0809101000000010209000"  # real SJA2
    assert ask(uicc, "00A4000C 02 6FAD", "00B00000 04") == "000000029000"
    assert ask(card(mnc_length=0), SELECT_USIM, "00A4000C 02 6FAD", "00B00000 03") == "0000009000"
    even = card(imsi="31026012345678")
    assert ask(even, SELECT_USIM, "00A4000C 02 6F07", "00B00000 09") == "0831016210325476f89000"


def test_select_by_path_and_current_adf() -> None:
    uicc = card()
    assert ask(uicc, "00A4080C 04 7FFF6FAD") == "6a82", "no application yet"
    assert ask(uicc, SELECT_USIM, "00A4000C 02 3F00", "00A4080C 04 7FFF6FAD", "00B00000 04") == "000000029000"
    assert ask(uicc, "00A4080C 02 2F00", "00B20104 2B").endswith("9000")
    assert ask(uicc, "00A4080C 04 2F002F00") == "6a82"


def test_partial_aid_next_occurrence_and_absence() -> None:
    uicc = card()
    assert ask(uicc, "00A4040C 05 A000000087", "80F20001 12")[:4] == "8410"
    assert ask(uicc, "80F20001 12")[4:36] == "a0000000871002ffffffff8907090000"
    assert ask(uicc, "00A4040E 05 A000000087", "80F20001 12")[4:36] == "a0000000871004ffffffff8907090000"
    assert ask(uicc, "00A4040E 05 A000000087") == "6a82"
    assert ask(card(isim=None), SELECT_ISIM) == "6a82"
    assert ask(card(isim=None), "00A4000C 02 2F00", "00B20204 2B") == "ff" * 43 + "9000"


def test_a_blank_isim() -> None:
    """As delivered: present in EF_DIR, files all FF (sysmoISIM-SJA2)."""
    uicc = card(isim=IsimProfile())
    assert ask(uicc, SELECT_ISIM, "00A4000C 02 6F02", "00B00000 80") == "ff" * 128 + "9000"
    assert ask(uicc, "00A4000C 02 6F04", "00B20104 80") == "ff" * 128 + "9000"


def test_logical_channels() -> None:
    uicc = card()
    assert ask(uicc, "01A4000C 02 2FE2") == "6881"
    assert [ask(uicc, "00700000 01") for _ in range(4)] == ["019000", "029000", "039000", "6a81"]
    assert ask(uicc, "01A4040C 07 A0000000871004", "01A4000C 02 6F03", "01B00000 80").endswith("9000")
    assert ask(uicc, "00B00000 80") == "6986", "each channel has its own current file"
    assert ask(uicc, "01A40004 02 6F03", "00C00000 20") == "6985", "and its own waiting answer"
    assert ask(uicc, "00708001") == "9000"
    assert ask(uicc, "01B00000 80") == "6881"
    assert ask(uicc, "00700001 00") == "9000", "a channel asked for by number"
    assert ask(uicc, "00708000") == "6a86"
    assert ask(uicc, "41A4000C 02 2FE2") == "6881"
    assert ask(uicc, "0CA4000C 02 2FE2") == "6882"


def test_pin() -> None:
    uicc = card(pin=Secret("1234"))
    read = (SELECT_ISIM, "00A4000C 02 6F02", "00B00000 80")
    assert ask(uicc, *read) == "6982"
    assert ask(uicc, SELECT_USIM, "00A4000C 02 6FAD", "00B00000 04").endswith("9000"), "EF_AD needs none"
    assert ask(uicc, "00200001 00") == "63c3"
    assert ask(uicc, "00200001 08 30303030FFFFFFFF") == "63c2"
    assert ask(uicc, VERIFY_1234) == "9000"
    assert ask(uicc, "00200001") == "63c3", "the right PIN gives all tries back"
    assert ask(uicc, *read).endswith("9000")
    uicc.reset()
    assert ask(uicc, *read) == "6982"


def test_pin_blocks_for_good() -> None:
    uicc = card(pin=Secret("1234"))
    assert [ask(uicc, "00200001 08 30303030FFFFFFFF") for _ in range(4)] == ["63c2", "63c1", "63c0", "6983"]
    assert ask(uicc, VERIFY_1234) == "6983"
    uicc.reset()
    assert ask(uicc, "00200001 00") == "6983"
    assert uicc.pin_tries_left == 0


def test_disabled_pin() -> None:
    assert ask(card(), "00200001 00") == "6984"
    assert ask(card(), SELECT_ISIM, "00A4000C 02 6F02", "00B00000 80").endswith("9000")


def test_authenticate_success() -> None:
    """TS 35.208 set 1; the USIM adds Kc (service 27), the ISIM does not."""
    keys = "08a54211d5e3ba50bf10b40ba9a3c58b2a05bbf0d987b21bf8cb10f769bcd751044604127672711c6d3441"
    isim, usim = card(), card()
    assert ask(isim, SELECT_ISIM, challenge(33)) == "612c"
    assert ask(isim, "00C00000 2C") == "db" + keys + "9000"
    assert ask(usim, SELECT_USIM, challenge(33)) == "6135"
    assert ask(usim, "00C00000 35") == "db" + keys + "08eae4be823af9a08b9000"  # Kc: TS 55.205 set 1


def test_authenticate_as_a_real_card() -> None:
    """sysmoISIM-SJA5 with OP instead of OPc (pySim, tests/pySim-shell_test/authenticate)."""
    uicc = card(k=Secret("56c3a6da347ae7e43c69d37576725d81"), opc=None, op=Secret("e0012b514f84eca9bfd6182bee345e2c"))
    command = "00880081 22 10 e85b2b7fe58f0e6239b32543d3e3259a 10 7928ea47ae090000ca8ab1f93c7cb03a"
    assert ask(uicc, SELECT_USIM, command, "00C00000 35") == (
        "db" "0813484811d553ab35" "100f93c4807f4ff57c6cd348fea590c06d" "10608e7bff4856c73e363e795b165a4158"
        "0835f08eda84d3b377" "9000"
    )  # fmt: skip


def test_authenticate_sync_failure_is_no_error_status() -> None:
    uicc = card(sqn=[join(500, 1)])
    assert ask(uicc, SELECT_ISIM, challenge(join(500, 1)), "00C00000 10")[:4] == "dc0e"
    auts = ask(uicc, challenge(join(400, 1)), "00C00000 10")
    assert auts.endswith("9000")
    assert check_auts(MILENAGE, RAND, bytes.fromhex(auts[4:32])) == join(500, 1)


def test_authenticate_refusals() -> None:
    wrong = challenge(33)[:-2] + ("00" if challenge(33)[-2:] != "00" else "01")
    assert ask(card(), challenge(33)) == "6985", "no application"
    assert ask(card(), SELECT_ISIM, wrong) == "9862"
    assert ask(card(), SELECT_ISIM, challenge(33).replace("00880081", "00880084")) == "9864"
    assert ask(card(), SELECT_ISIM, "00880081 10" + "00" * 16) == "6700"
    assert ask(card(), SELECT_ISIM, challenge(33).replace("22 10", "22 11")) == "6700"
    assert ask(card(pin=Secret("1234")), SELECT_ISIM, challenge(33)) == "6982"
    assert ask(card(), SELECT_ISIM, challenge(33) + "00") == "612c", "a Le that a reader left is ignored"


def test_both_applications_share_the_sequence_numbers() -> None:
    uicc = card()
    assert ask(uicc, SELECT_ISIM, challenge(33)) == "612c"
    assert ask(uicc, SELECT_USIM, challenge(33)) == "6110"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("00", "6700"),
        ("00FF0000 00", "6d00"),
        ("80A40004 02 3F00", "6e00"),
        ("00F2000C", "6e00"),
        ("A0A40000 02 3F00", "6e00"),
        ("00A40104 02 2FE2", "6a86"),
        ("00A40001 02 2FE2", "6a86"),
        ("00A40004 03 2FE200", "6700"),
        ("00A40004 09 2FE2", "6700"),
        ("00A4000C 02 6FFF", "6a82"),
        ("00B00000 01", "6986"),
        ("00200002 00", "6a88"),
        ("80F20302 00", "6a86"),
        ("80F20001 00", "6985"),
    ],
)
def test_refusals(command: str, status: str) -> None:
    assert ask(card(), command) == status


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60) | st.binary(min_size=3, max_size=50).map(lambda b: b"\0\xa4" + b), max_size=8))
def test_nothing_sent_to_it_breaks_it(commands: list[bytes]) -> None:
    uicc = card(pin=Secret("1234"))
    for command in commands:
        assert len(uicc.transmit(command)) >= 2
    uicc.reset()
    assert ask(uicc, "00A4000C 02 2FE2", "00B00000 0A").endswith("9000")
