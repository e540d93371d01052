"""GBA_U on the card's side: AUTHENTICATE in the GBA context (TS 31.103 clause 7.1.1.3, TS 33.220 clause 5.3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from imskit.aka.errors import AkaError
from imskit.aka.gba import KeyKind, bootstrap_key, conceal_for_uicc, derive_naf_key
from imskit.aka.vector import MacFailure, Success, SyncFailure, Usim
from imskit.secrets import Secret
from imskit.uicc.files import Directory, ElementaryFile, tlv
from imskit.uicc.personalise import ISIM_AID, ISIM_GBA_FILES, USIM_GBA_FILES

_log = logging.getLogger(__name__)
_BOOTSTRAPPING, _NAF_DERIVATION = 0xDD, 0xDE
_WRONG_LENGTH, _NO_KEYS, _WRONG_DATA, _WRONG_MAC = 0x6700, 0x6985, 0x6A80, 0x9862


class GbaCommandError(Exception):
    """Ends the command with a status word."""

    def __init__(self, sw: int) -> None:
        super().__init__(f"{sw:04X}")
        self.sw = sw


class CardGba:
    """Ks of one application and the keys of NAFs that never leave the card."""

    def __init__(self, application: Directory, usim: Usim) -> None:
        gbabp, gbanl = ISIM_GBA_FILES if application.aid == ISIM_AID else USIM_GBA_FILES
        self._parameters, self._nafs = _file(application, gbabp), _file(application, gbanl)
        self._usim = usim
        self._ks: Secret[bytes] | None = None
        self._rand = b""
        self.internal_keys: dict[bytes, Secret[bytes]] = {}
        """Ks_int_NAF by NAF_Id, for applications on the card."""

    def remember(self) -> dict[str, object]:
        """What outlives power, as JSON has it; it holds Ks."""
        content, records = self._parameters.content, self._nafs.content
        assert isinstance(content, bytes)
        assert isinstance(records, tuple)
        return {
            "ks": "" if self._ks is None else self._ks.reveal().hex(),
            "rand": self._rand.hex(),
            "gbabp": content.hex(),
            "gbanl": [record.hex() for record in records],
        }

    def recall(self, memory: Mapping[str, object]) -> None:
        """Take back what ``remember`` gave; ``ValueError`` or ``KeyError`` if it is something else."""
        ks, rand, content = (bytes.fromhex(str(memory[name])) for name in ("ks", "rand", "gbabp"))
        listed = memory["gbanl"]
        records = tuple(bytes.fromhex(str(record)) for record in listed) if isinstance(listed, list) else ()
        old = self._nafs.content
        if len(content) != len(self._parameters.content) or [*map(len, records)] != [*map(len, old)]:  # type: ignore[arg-type]
            raise ValueError("the memory of GBA is wrong")
        self._ks, self._rand = Secret(ks) if ks else None, rand
        self._parameters.content, self._nafs.content = content, records

    def authenticate(self, data: bytes) -> bytes:
        """Carry out one command in the GBA context; ``GbaCommandError`` holds the status word of a refusal."""
        tag, fields = data[:1], _split(data[1:])
        if fields is None or len(fields) != 2:
            raise GbaCommandError(_WRONG_LENGTH)
        if tag == bytes([_BOOTSTRAPPING]):
            return self._bootstrap(*fields)
        if tag == bytes([_NAF_DERIVATION]):
            return self._derive(*fields)
        raise GbaCommandError(_WRONG_DATA)

    def _bootstrap(self, rand: bytes, autn: bytes) -> bytes:
        if (len(rand), len(autn)) != (16, 16):
            raise GbaCommandError(_WRONG_LENGTH)
        plain = conceal_for_uicc(autn, self._usim.algorithms.f2345(rand).ik)
        match self._usim.verify(rand, plain):
            case MacFailure():
                _log.info("AUTHENTICATE, GBA: wrong MAC")
                raise GbaCommandError(_WRONG_MAC)
            case SyncFailure(auts):
                _log.info("AUTHENTICATE, GBA: sequence number not accepted")
                return tlv(0xDC, auts)
            case Success(res, ck, ik):
                try:
                    self._ks = bootstrap_key(ck, ik)
                except AkaError:  # keys of 256 bits have no place in TS 33.220
                    raise GbaCommandError(_NO_KEYS) from None
                self._rand = rand
                # The terminal writes B-TID and lifetime once it has them (TS 31.103 4.2.9).
                _write(self._parameters, bytes([16]) + rand + b"\x00\x00")
                _log.info("AUTHENTICATE, GBA: bootstrapped")
                return tlv(0xDB, res.reveal())

    def _derive(self, naf_id: bytes, impi: bytes) -> bytes:
        if self._ks is None:
            raise GbaCommandError(_NO_KEYS)
        try:
            name = impi.decode()
        except UnicodeDecodeError:
            raise GbaCommandError(_WRONG_DATA) from None
        external, internal = (derive_naf_key(self._ks, self._rand, name, naf_id, kind) for kind in KeyKind)
        self.internal_keys[naf_id] = internal
        self._remember(naf_id)
        _log.info("AUTHENTICATE, GBA: key of a NAF derived")
        return tlv(0xDB, external.reveal())

    def _remember(self, naf_id: bytes) -> None:
        """Note NAF_Id (tag 80) and B-TID (tag 81) in EF_GBANL: in its old record, a free one, or the last."""
        assert isinstance(self._parameters.content, bytes)
        assert isinstance(self._nafs.content, tuple)
        known = _split(self._parameters.content.rstrip(b"\xff")) or []
        btid = known[1] if len(known) > 1 else b""
        records = list(self._nafs.content)
        entry = (tlv(0x80, naf_id) + tlv(0x81, btid)).ljust(len(records[0]), b"\xff")
        if len(entry) > len(records[0]):
            return
        own = tlv(0x80, naf_id)
        places = [index for index, record in enumerate(records) if record.startswith(own)]
        places += [index for index, record in enumerate(records) if not record.strip(b"\xff")]
        records[places[0] if places else -1] = entry
        self._nafs.content = tuple(records)


def _file(application: Directory, fid: int) -> ElementaryFile:
    found = application.by_fid(fid)
    assert found is not None
    return found


def _write(file: ElementaryFile, content: bytes) -> None:
    assert isinstance(file.content, bytes)
    file.content = content.ljust(len(file.content), b"\xff")


def _split(data: bytes) -> list[bytes] | None:
    """Values, each behind its length; ``None`` if one is cut off."""
    fields, position = [], 0
    while position < len(data):
        end = position + 1 + data[position]
        if end > len(data):
            return None
        fields.append(data[position + 1 : end])
        position = end
    return fields
