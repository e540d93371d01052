"""GBA with the card: commands, answers and EF_GBABP (TS 31.102 and TS 31.103 clauses 4.2.9, 7.1.2)."""

from __future__ import annotations

from imskit.aka.gba import Bootstrapped, BootstrappingInfo, BTid, InCard, parse_lifetime
from imskit.aka.sqn import AUTS_LENGTH
from imskit.aka.vector import SyncFailure
from imskit.secrets import Identity, Secret
from ue_agent.uicc.apdu import Answer, Command
from ue_agent.uicc.errors import CardDataError
from ue_agent.uicc.files import Ef

EF_GBABP_ISIM = Ef("EF_GBABP", 0x6FD5, "TS 31.103 4.2.9")
EF_GBABP_USIM = Ef("EF_GBABP", 0x6FD6, "TS 31.102 4.2.79")
EF_UST = Ef("EF_UST", 0x6F38, "TS 31.102 4.2.8")
SERVICE_GBA_ISIM = 2
SERVICE_GBA_USIM = 68
_CONTEXT = 0x84
_KEY_LENGTH = 32


def bootstrap_command(rand: bytes, autn: bytes) -> Command:
    """AUTHENTICATE, GBA context, bootstrapping mode (tag DD)."""
    data = b"\xdd" + _object(rand) + _object(autn)
    return Command("AUTHENTICATE (GBA bootstrapping)", 0x88, 0x00, _CONTEXT, data, 256)


def derivation_command(naf_id: bytes, impi: str) -> Command:
    """AUTHENTICATE, GBA context, NAF derivation mode (tag DE); ``ValueError`` if the two do not fit into a command."""
    data = b"\xde" + _object(naf_id) + _object(impi.encode())
    if len(data) > 255:
        raise ValueError("NAF_Id and private identity are too long for one command")
    return Command("AUTHENTICATE (GBA NAF derivation)", 0x88, 0x00, _CONTEXT, data, 256)


def decode_bootstrapping(answer: Answer) -> InCard | SyncFailure:
    """Read the answer in bootstrapping mode: RES alone, or AUTS; errors do not show it."""
    value = _value(answer.data[1:])
    if answer.data[:1] == b"\xdb" and value is not None and 4 <= len(value) <= 32:
        return InCard(Secret(value))
    if answer.data[:1] == b"\xdc" and value is not None and len(value) == AUTS_LENGTH:
        return SyncFailure(value)
    raise CardDataError("the answer to AUTHENTICATE is not one of GBA bootstrapping (TS 31.103 7.1.2.3)")


def decode_derivation(answer: Answer) -> Secret[bytes]:
    """Read the answer in NAF derivation mode: Ks_ext_NAF, 32 octets."""
    value = _value(answer.data[1:])
    if answer.data[:1] == b"\xdb" and value is not None and len(value) == _KEY_LENGTH:
        return Secret(value)
    raise CardDataError("the answer to AUTHENTICATE is not one of GBA NAF derivation (TS 31.103 7.1.2.3)")


def encode_parameters(rand: bytes, info: BootstrappingInfo) -> bytes:
    """Return the content of EF_GBABP: RAND, B-TID and lifetime, each behind its length."""
    lifetime = info.lifetime.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    return _object(rand) + _object(info.btid.text.encode()) + _object(lifetime)


def decode_parameters(content: bytes, impi: Identity) -> Bootstrapped | None:
    """Read EF_GBABP; ``None`` where nothing, or only the beginning of a run, is stored.

    ``CardDataError`` or ``AkaError`` if it cannot be read.
    """
    fields: list[bytes] = []
    position = 0
    while len(fields) < 3:
        value = _value(content[position:], whole=False)
        if value is None:
            if content[position : position + 1] in (b"", b"\xff"):
                return None
            raise CardDataError("EF_GBABP is cut off (TS 31.103 4.2.9)")
        fields.append(value)
        position += 1 + len(value)
    rand, btid, lifetime = fields
    if not (rand and btid and lifetime):
        return None
    if len(rand) != 16:
        raise CardDataError("EF_GBABP holds no RAND (TS 31.103 4.2.9)")
    try:
        texts = btid.decode("ascii"), lifetime.decode("ascii")
    except UnicodeDecodeError:
        raise CardDataError("EF_GBABP holds something else than text (TS 31.103 4.2.9)") from None
    return Bootstrapped(impi, rand, BootstrappingInfo(BTid(texts[0]), parse_lifetime(texts[1])), None)


def _object(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def _value(data: bytes, *, whole: bool = True) -> bytes | None:
    """The value behind its length, ``None`` if it is cut off, or if ``whole`` and something follows."""
    if not data or len(data) < 1 + data[0] or (whole and len(data) != 1 + data[0]):
        return None
    return data[1 : 1 + data[0]]
