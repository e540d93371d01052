"""GBA with the card: GBA_U, GBA_ME, EF_GBABP (S7-GBA, TS 33.220 clauses 4.5, 5.3)."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.errors import AkaError
from imskit.aka.gba import (
    Bootstrapped,
    BootstrappingInfo,
    BTid,
    InCard,
    KeyKind,
    bootstrap_key,
    conceal_for_uicc,
    derive_naf_key,
    naf_id,
)
from imskit.aka.vector import AuthenticationVector, MacFailure, Success, SyncFailure
from imskit.secrets import Identity, Secret
from imskit.uicc.personalise import ISIM_AID, USIM_AID
from imskit.uicc.uicc import Uicc
from ue_agent.uicc.apdu import Answer
from ue_agent.uicc.application import Source, UiccSession
from ue_agent.uicc.errors import CardDataError, CardError, PinRequiredError
from ue_agent.uicc.gba import (
    bootstrap_command,
    decode_bootstrapping,
    decode_derivation,
    decode_parameters,
    derivation_command,
    encode_parameters,
)
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.uicc.pin import Pin

IMPI = "001010000000001@ims.mnc001.mcc001.3gppnetwork.org"
NAF_ID = naf_id("portal.ims.example")
INFO = BootstrappingInfo(BTid.make(bytes(range(16)), "bsf.example"), datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC))


def session(card: Uicc, pin: str | None = None) -> UiccSession:
    return UiccSession(InProcessReader(card).connect(), Pin(Secret(pin) if pin else None))


def for_uicc(vector: AuthenticationVector) -> bytes:
    """AUTN* as the BSF makes it."""
    return conceal_for_uicc(vector.autn, vector.ik)


@pytest.mark.parametrize("source", ["ISIM", "USIM"])
def test_gba_u(make_card, make_vector, source: Source) -> None:
    """S7-GBA: Ks stays in the card, RES comes out, Ks_ext_NAF is the BSF's, Ks_int_NAF is kept."""
    card = make_card(gba=True, pin=Secret("1234"))
    vector, terminal = make_vector(), session(card, "1234")
    result = terminal.bootstrap(source, vector.rand, for_uicc(vector))
    assert result == InCard(vector.xres)
    key = terminal.naf_key(source, NAF_ID, IMPI)
    ks = bootstrap_key(vector.ck, vector.ik)
    assert key == derive_naf_key(ks, vector.rand, IMPI, NAF_ID)
    kept = card._gba[ISIM_AID if source == "ISIM" else USIM_AID].internal_keys
    assert kept == {NAF_ID: derive_naf_key(ks, vector.rand, IMPI, NAF_ID, KeyKind.UICC)}


def test_the_parameters_of_a_run_are_kept_on_the_card(make_card, make_vector) -> None:
    """TS 31.103 4.2.9, 4.2.10: EF_GBABP is written by the terminal, EF_GBANL by the card."""
    card, vector = make_card(gba=True), make_vector()
    terminal = session(card)
    assert terminal.stored_bootstrapping("ISIM", Identity(IMPI)) is None
    terminal.bootstrap("ISIM", vector.rand, for_uicc(vector))
    assert terminal.stored_bootstrapping("ISIM", Identity(IMPI)) is None, "B-TID and lifetime are not known yet"
    run = Bootstrapped(Identity(IMPI), vector.rand, INFO, None)
    terminal.store_bootstrapping("ISIM", run)
    assert session(card).stored_bootstrapping("ISIM", Identity(IMPI)) == run
    for name in ("a.example", "b.example", "a.example"):
        terminal.naf_key("ISIM", naf_id(name), IMPI)
    isim = next(adf for adf in card._applications if adf.aid == ISIM_AID)
    records = isim.by_fid(0x6FD7).content
    entries = [record.rstrip(b"\xff") for record in records if record.strip(b"\xff")]
    btid = INFO.btid.text.encode()
    assert entries == [
        bytes([0x80, len(naf_id(name))]) + naf_id(name) + bytes([0x81, len(btid)]) + btid
        for name in ("a.example", "b.example")
    ]


def test_the_list_of_nafs_overflows_into_its_last_record(make_card, make_vector) -> None:
    card, vector = make_card(gba=True), make_vector()
    terminal = session(card)
    terminal.bootstrap("ISIM", vector.rand, for_uicc(vector))
    for number in range(6):
        terminal.naf_key("ISIM", naf_id(f"naf{number}.example"), IMPI)
    isim = next(adf for adf in card._applications if adf.aid == ISIM_AID)
    records = isim.by_fid(0x6FD7).content
    assert [number for number in range(6) if any(b"naf%d" % number in record for record in records)] == [0, 1, 2, 5]


def test_a_card_without_gba_does_gba_me(make_card, make_vector) -> None:
    vector, terminal = make_vector(), session(make_card())
    assert terminal.bootstrap("ISIM", vector.rand, vector.autn) == Success(vector.xres, vector.ck, vector.ik)
    assert terminal.stored_bootstrapping("ISIM", Identity(IMPI)) is None
    with pytest.raises(CardError, match="9864"):
        terminal.naf_key("ISIM", NAF_ID, IMPI)


def test_a_card_that_announces_gba_in_a_network_without_gba_u(make_card, make_vector) -> None:
    """The plain AUTN is no GBA_U challenge; the card says so, and the run is one of GBA_ME."""
    vector, terminal = make_vector(), session(make_card(gba=True))
    assert terminal.bootstrap("ISIM", vector.rand, vector.autn) == Success(vector.xres, vector.ck, vector.ik)


def test_a_card_that_only_announces_gba(make_card, make_vector) -> None:
    card = make_card(gba=True)
    card._gba.clear()
    vector = make_vector()
    assert isinstance(session(card).bootstrap("ISIM", vector.rand, vector.autn), Success)


@pytest.mark.parametrize("gba", [True, False])
def test_wrong_mac_and_old_number(make_card, make_vector, gba: bool) -> None:
    terminal, old, vector = session(make_card(gba=gba)), make_vector(), make_vector()
    challenge = for_uicc(old) if gba else old.autn
    assert not isinstance(terminal.bootstrap("ISIM", old.rand, challenge), SyncFailure)
    assert isinstance(terminal.bootstrap("ISIM", old.rand, challenge), SyncFailure)
    assert terminal.bootstrap("ISIM", vector.rand, bytes(16)) == MacFailure()


def test_no_key_without_a_run(make_card) -> None:
    with pytest.raises(CardError, match="6985"):
        session(make_card(gba=True)).naf_key("ISIM", NAF_ID, IMPI)


def test_the_pin_is_asked_for(make_card, make_vector) -> None:
    vector, card = make_vector(), make_card(gba=True, pin=Secret("1234"))
    with pytest.raises(PinRequiredError):
        session(card).bootstrap("ISIM", vector.rand, for_uicc(vector))


def test_lengths() -> None:
    assert len(bootstrap_command(bytes(16), bytes(16)).data) == 35
    assert bootstrap_command(bytes(16), bytes(16)).p2 == 0x84
    assert derivation_command(b"n", "a@b").data == b"\xde\x01n\x03a@b"
    with pytest.raises(ValueError, match="too long"):
        derivation_command(bytes(200), "a" * 80)


@given(st.binary(max_size=300))
def test_only_card_data_error_escapes(data: bytes) -> None:
    for prefix in (b"", b"\xdb", b"\xdc"):
        for decode in (decode_bootstrapping, decode_derivation):
            try:
                decode(Answer(prefix + data, 0x9000))
            except CardDataError as error:
                assert data.hex() not in str(error) or len(data) < 2
    try:
        decode_parameters(data, Identity(IMPI))
    except (CardDataError, AkaError):
        pass


GOOD = encode_parameters(bytes(range(16)), INFO)


@pytest.mark.parametrize("end", range(len(GOOD)))
def test_truncated_parameters(end: int) -> None:
    content = GOOD[:end]
    try:
        assert decode_parameters(content, Identity(IMPI)) is None
    except (CardDataError, AkaError):
        pass
    assert decode_parameters(GOOD + b"\xff" * 20, Identity(IMPI)) is not None
