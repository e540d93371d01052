"""Names of directories and files by identifier and place (TS 102 221 clause 13, TS 31.102 and TS 31.103 clause 4)."""

from __future__ import annotations

from typing import Literal

from ue_agent.uicc.files import ISIM_AID, USIM_AID

type Place = Literal["MF", "USIM", "ISIM", ""]
"""Where a file identifier is looked up; empty: in an application that is neither."""

_APPLICATIONS = {
    USIM_AID: "USIM",
    ISIM_AID: "ISIM",
    bytes.fromhex("A0000003431002"): "CSIM",
    bytes.fromhex("A0000000871006"): "HPSIM",
    bytes.fromhex("A0000005591010"): "ISD-R",
    bytes.fromhex("A000000151"): "ISD",
    bytes.fromhex("A00000006310"): "ARA-M",
}
_DIRECTORIES = {
    0x3F00: "MF",
    0x7FFF: "the application",
    0x7F10: "DF_TELECOM",
    0x7F20: "DF_GSM",
    0x5F3A: "DF_PHONEBOOK",
    0x5F3B: "DF_GSM-ACCESS",
    0x5F3C: "DF_MExE",
    0x5F40: "DF_WLAN",
    0x5F70: "DF_SoLSA",
    0x5FC0: "DF_5GS",
}
_FILES: dict[str, dict[int, str]] = {
    "MF": {
        0x2F00: "EF_DIR",
        0x2F05: "EF_PL",
        0x2F06: "EF_ARR",
        0x2F08: "EF_UMPC",
        0x2FE2: "EF_ICCID",
    },
    "USIM": {
        0x6F05: "EF_LI",
        0x6F06: "EF_ARR",
        0x6F07: "EF_IMSI",
        0x6F08: "EF_Keys",
        0x6F09: "EF_KeysPS",
        0x6F31: "EF_HPPLMN",
        0x6F38: "EF_UST",
        0x6F40: "EF_MSISDN",
        0x6F42: "EF_SMSP",
        0x6F46: "EF_SPN",
        0x6F56: "EF_EST",
        0x6F5B: "EF_START-HFN",
        0x6F5C: "EF_THRESHOLD",
        0x6F60: "EF_PLMNwAcT",
        0x6F61: "EF_OPLMNwAcT",
        0x6F62: "EF_HPLMNwAcT",
        0x6F73: "EF_PSLOCI",
        0x6F78: "EF_ACC",
        0x6F7B: "EF_FPLMN",
        0x6F7E: "EF_LOCI",
        0x6FAD: "EF_AD",
        0x6FB7: "EF_ECC",
        0x6FC4: "EF_NETPAR",
        0x6FC5: "EF_PNN",
        0x6FC6: "EF_OPL",
        0x6FD6: "EF_GBABP",
        0x6FD7: "EF_MSK",
        0x6FD9: "EF_EHPLMN",
        0x6FDA: "EF_GBANL",
        0x6FE3: "EF_EPSLOCI",
        0x6FE4: "EF_EPSNSC",
        0x6FF3: "EF_ePDGId",
        0x6FF7: "EF_FromPreferred",
    },
    "ISIM": {
        0x6F02: "EF_IMPI",
        0x6F03: "EF_DOMAIN",
        0x6F04: "EF_IMPU",
        0x6F06: "EF_ARR",
        0x6F07: "EF_IST",
        0x6F09: "EF_P-CSCF",
        0x6F3C: "EF_SMS",
        0x6F42: "EF_SMSP",
        0x6F43: "EF_SMSS",
        0x6F47: "EF_SMSR",
        0x6FAD: "EF_AD",
        0x6FD5: "EF_GBABP",
        0x6FD7: "EF_GBANL",
        0x6FDD: "EF_NAFKCA",
        0x6FE7: "EF_UICCIARI",
        0x6FF7: "EF_FromPreferred",
        0x6FF8: "EF_IMSConfigData",
        0x6FFA: "EF_WebRTCURI",
        0x6FFC: "EF_XCAPConfigData",
    },
    "": {},
}
_HOLDING_KEYS = {0x4F03, 0x4F04, 0x4F05, 0x4F20, 0x4F52, 0x6F20, 0x6F52, 0x6FE4}
"""Session keys and security contexts of 2G, GPRS, EPS and 5GS, wherever they are."""
_HOLDING_KEYS_IN_USIM = {0x6F08, 0x6F09, 0x6FD7}


def application_name(aid: bytes) -> str:
    """Return what an AID, full or partial, stands for; its hex digits if that is not known."""
    for prefix, name in _APPLICATIONS.items():
        if aid.startswith(prefix):
            return name
    return f"application {aid.hex().upper()}"


def place_of(aid: bytes) -> Place:
    """Return where the files of the application ``aid`` are looked up."""
    if aid.startswith(USIM_AID):
        return "USIM"
    return "ISIM" if aid.startswith(ISIM_AID) else ""


def is_directory(fid: int) -> bool:
    """Whether ``fid`` is the identifier of the MF or of a DF or ADF."""
    return fid in _DIRECTORIES or fid >> 8 in (0x7F, 0x5F)


def file_name(fid: int, place: Place) -> str:
    """Return the name of a directory, or of the file ``fid`` in ``place``; ``file XXXX`` if it is not known."""
    if fid in _DIRECTORIES:
        return _DIRECTORIES[fid]
    return _FILES["MF"].get(fid) or _FILES[place].get(fid) or f"{'DF' if is_directory(fid) else 'file'} {fid:04X}"


def holds_keys(fid: int, place: Place) -> bool:
    """Whether a file's content is session keys, which a trace does not show."""
    return fid in _HOLDING_KEYS or (place == "USIM" and fid in _HOLDING_KEYS_IN_USIM)
