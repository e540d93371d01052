"""The card as IMS sees it: which application, whose identities, AKA (TS 24.229 5.1.1.1A, TS 23.003 13, TS 31.103).

Blocking; one thread.  Every public call is one transaction that selects what it needs anew, because other programs
may have used the card in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from imskit.aka.errors import AkaError
from imskit.aka.gba import Bootstrapped, InCard
from imskit.aka.sqn import AUTS_LENGTH
from imskit.aka.vector import AkaResult, MacFailure, Success, SyncFailure
from imskit.secrets import Identity, Secret
from ue_agent.uicc import files, gba
from ue_agent.uicc.apdu import (
    Answer,
    CardChannel,
    Command,
    authenticate,
    meaning,
    query_pin,
    select_aid,
    select_file,
    update_binary,
    verify_pin,
)
from ue_agent.uicc.errors import (
    CardDataError,
    CardError,
    PinBlockedError,
    PinLastTryError,
    PinRequiredError,
    WrongCardError,
)
from ue_agent.uicc.files import Ef, FileInfo
from ue_agent.uicc.pin import Pin
from ue_agent.uicc.reading import read_file, read_records
from ue_agent.uicc.transport import CardTransport

_log = logging.getLogger(__name__)
_MF = 0x3F00
_PIN_NEEDED = 0x6982
_PIN_BLOCKED = 0x6983
_PIN_DISABLED = 0x6984
_WRONG_MAC = 0x9862
_NOTHING_SELECTED = frozenset({0x6985, 0x6986})
_NO_SUCH_CONTEXT = frozenset({0x9864, 0x6A81, 0x6A86})
"""What cards answer that announce GBA and do not have it."""

type Source = Literal["ISIM", "USIM"]


@dataclass(frozen=True, slots=True)
class ImsIdentities:
    """Who the card says we are."""

    impi: Identity
    """Private identity."""
    impus: tuple[Identity, ...]
    """Public identities in the card's order; the one derived from an IMSI is only for REGISTER."""
    domain: str
    """Home network domain."""
    pcscf: tuple[str, ...]
    """Names or IP addresses of the P-CSCF from the ISIM, often none."""
    source: Source
    """The application they come from, which also authenticates."""
    imsi: Identity | None
    """From the USIM, where there is one."""
    webrtc_uris: tuple[str, ...] = ()
    """Addresses of the operator's WWSF, from the ISIM."""


class UiccSession:
    """One powered card."""

    def __init__(self, transport: CardTransport, pin: Pin) -> None:
        self._transport = transport
        self._channel = CardChannel(transport)
        self._pin = pin
        self._aids: dict[Source, bytes] | None = None
        self._iccid: str | None = None
        self._pin_used = False

    def identities(self) -> tuple[ImsIdentities, str | None]:
        """Read the identities, from the ISIM if it has them, else derived from the IMSI; and the ICCID.

        Raises ``WrongCardError``, ``CardDataError``, ``CardError`` and the PIN errors.
        """
        with self._transport.transaction():
            aids = self._applications()
            if "ISIM" in aids and (found := self._from_isim(aids)) is not None:
                return found, self._iccid
            if "USIM" not in aids:
                raise CardDataError("the ISIM is blank and there is no USIM to derive identities from")
            return self._from_usim(aids["USIM"]), self._iccid

    def sources(self) -> tuple[Source, ...]:
        """Which applications the card has, the ISIM first; raises as ``identities`` does."""
        with self._transport.transaction():
            return tuple(self._applications())

    def select(self, source: Source) -> bytes:
        """Select an application and return its FCP template; a transaction around it is due."""
        return self._channel.require(select_aid(self._applications()[source]))

    def authenticate(self, source: Source, rand: bytes, autn: bytes) -> AkaResult:
        """Run AKA in the application ``source``; ``rand`` and ``autn`` have 16 octets each."""
        if len(rand) != 16 or len(autn) != 16:
            raise ValueError("RAND and AUTN have 16 octets each")
        with self._transport.transaction():
            application = self._select_application(self._applications()[source])
            command = authenticate(rand, autn)
            answer = self._authenticate(application, command, _NOTHING_SELECTED)
            if answer.sw in _NOTHING_SELECTED:
                # A card that was reset behind our back has forgotten its application, and done nothing yet.
                _log.info("AUTHENTICATE: %04X; the application is selected again", answer.sw)
                answer = self._authenticate(self._select_application(self._applications()[source]), command)
            return MacFailure() if answer.sw == _WRONG_MAC else _aka_result(answer)

    def bootstrap(self, source: Source, rand: bytes, autn: bytes) -> AkaResult | InCard:
        """Run GBA's AKA: GBA_U if the application announces GBA, else GBA_ME (TS 33.220 clauses 4.5.2, 5.3.2).

        A challenge whose MAC is not one for GBA_U is tried as one for GBA_ME, because cards announce GBA in networks
        that know nothing of GBA_U; the card itself checks it in either case.
        """
        if len(rand) != 16 or len(autn) != 16:
            raise ValueError("RAND and AUTN have 16 octets each")
        with self._transport.transaction():
            application = self._select_application(self._applications()[source])
            if self._announces_gba(source, application):
                self._select_application(self._applications()[source])
                answer = self._authenticate(application, gba.bootstrap_command(rand, autn), _NO_SUCH_CONTEXT)
                if answer.ok:
                    return gba.decode_bootstrapping(answer)
                _log.info("the card does no GBA_U with this challenge (%04X); tried as GBA_ME", answer.sw)
            answer = self._authenticate(application, authenticate(rand, autn))
            return MacFailure() if answer.sw == _WRONG_MAC else _aka_result(answer)

    def naf_key(self, source: Source, naf_id: bytes, impi: str) -> Secret[bytes]:
        """Return Ks_ext_NAF of a run with GBA_U (TS 33.220 clause 5.3.3)."""
        with self._transport.transaction():
            application = self._select_application(self._applications()[source])
            command = gba.derivation_command(naf_id, impi)
            answer = self._authenticate(application, command)
            if not answer.ok:
                raise CardError(answer.sw, meaning(answer.sw), command.name)
            return gba.decode_derivation(answer)

    def store_bootstrapping(self, source: Source, run: Bootstrapped) -> None:
        """Write EF_GBABP at the end of a run with GBA_U, as the terminal has to (TS 31.103 clause 4.2.9)."""
        with self._transport.transaction():
            application = self._select_application(self._applications()[source])
            ef = _gbabp(source)
            info = files.decode_fcp(self._channel.require(select_file(ef.fid, ef.name)))
            content = gba.encode_parameters(run.rand, run.info)
            if info.size is not None:
                if len(content) > info.size:
                    raise CardDataError(f"{ef.name} has {info.size} octets, too few for this B-TID")
                content = content.ljust(info.size, b"\xff")
            for offset in range(0, len(content), 255):
                command = update_binary(offset, ef.name, content[offset : offset + 255])
                self._with_pin(application, lambda command=command: self._channel.require(command))  # type: ignore[misc]

    def stored_bootstrapping(self, source: Source, impi: Identity) -> Bootstrapped | None:
        """Return the run that EF_GBABP tells of, ``None`` if there is none or the card has no GBA."""
        with self._transport.transaction():
            application = self._select_application(self._applications()[source])
            if not self._announces_gba(source, application):
                return None
            content = self._optional(lambda: self._guarded_binary(application, _gbabp(source)))
            try:
                return gba.decode_parameters(content, impi) if content else None
            except AkaError as error:
                raise CardDataError(f"EF_GBABP: {error}") from error

    def announces_gba(self, source: Source) -> bool:
        """Whether the application says that it does GBA_U (service 2 of EF_IST, 68 of EF_UST)."""
        with self._transport.transaction():
            return self._announces_gba(source, self._select_application(self._applications()[source]))

    def _announces_gba(self, source: Source, application: FileInfo) -> bool:
        ef, number = (files.EF_IST, gba.SERVICE_GBA_ISIM) if source == "ISIM" else (gba.EF_UST, gba.SERVICE_GBA_USIM)
        table = self._optional(lambda: self._guarded_binary(application, ef)) or b""
        return files.has_service(table, number)

    def _authenticate(self, application: FileInfo, command: Command, accepted: frozenset[int] = frozenset()) -> Answer:
        """Send AUTHENTICATE, with the PIN if asked; a wrong MAC and ``accepted`` are answers, the rest are errors."""
        answer = self._channel.send(command)
        if answer.sw == _PIN_NEEDED:
            self._verify_pin(application)
            answer = self._channel.send(command)
        if not answer.ok and answer.sw != _WRONG_MAC and answer.sw not in accepted:
            raise CardError(answer.sw, meaning(answer.sw), command.name)
        return answer

    def close(self) -> None:
        """Give the card back, without a verified PIN."""
        if self._pin_used:
            try:
                self._transport.reset()
            except Exception as error:  # the card may be gone: nothing left to protect
                _log.debug("card not reset: %s", error)
        self._transport.close()

    # --- applications

    def _applications(self) -> dict[Source, bytes]:
        """AIDs by EF_DIR; of what it does not list, the applications that answer to their partial AID."""
        if self._aids is None:
            listed = self._directory()
            aids: dict[Source, bytes] = {}
            prefixes: dict[Source, bytes] = {"ISIM": files.ISIM_AID, "USIM": files.USIM_AID}
            for source, prefix in prefixes.items():
                if (aid := next((a for a in listed or () if a.startswith(prefix)), None)) is not None:
                    aids[source] = aid
                elif self._channel.send(select_aid(prefix)).ok:  # cards are seen that do not list all they have
                    aids[source] = prefix
            if not aids:
                raise WrongCardError("the card in the reader is no SIM card: it has neither an ISIM nor a USIM")
            self._aids = aids
            _log.info("card has %s", " and ".join(self._aids))
        return self._aids

    def _directory(self) -> list[bytes] | None:
        """The AIDs in EF_DIR, ``None`` if it cannot be read; notes the ICCID in passing."""
        try:
            # A modem may want the PIN before it lets anything through; a card never does so here.
            self._with_pin(FileInfo(), lambda: self._channel.require(select_file(_MF, "MF")))
            self._iccid = self._read_iccid()
            records = read_records(self._channel, files.EF_DIR)
        except CardError as error:
            _log.info("no EF_DIR: %s", error)
            return None
        applications = []
        for record in records:
            try:
                application = files.decode_dir_record(record)
            except CardDataError as error:
                _log.warning("%s", error)
            else:
                applications += [application] if application is not None else []
        return [application.aid for application in applications]

    def _read_iccid(self) -> str | None:
        try:
            return files.decode_iccid(read_file(self._channel, files.EF_ICCID))
        except (CardError, CardDataError) as error:
            _log.info("no ICCID: %s", error)
            return None

    def _select_application(self, aid: bytes) -> FileInfo:
        return files.decode_fcp(self._channel.require(select_aid(aid)))

    # --- identities

    def _from_isim(self, aids: dict[Source, bytes]) -> ImsIdentities | None:
        application = self._select_application(aids["ISIM"])
        impi = self._text(application, files.EF_IMPI)
        domain = self._text(application, files.EF_DOMAIN)
        impus = [text for text in self._texts(application, files.EF_IMPU) if _is_public_identity(text)]
        if impi is None or domain is None or not impus:
            _log.info("the ISIM is blank; identities are derived from the IMSI")
            return None
        services = self._optional(lambda: self._guarded_binary(application, files.EF_IST)) or b""
        pcscf: list[str] = []
        webrtc: list[str] = []
        # Cards announce files that they do not have, and blank ones.
        if files.has_service(services, files.SERVICE_PCSCF):
            pcscf = self._optional(lambda: self._addresses(application)) or []
        if files.has_service(services, files.SERVICE_WEBRTC_URI):
            webrtc = self._optional(lambda: self._texts(application, files.EF_WEBRTC_URI)) or []
        imsi = None
        if (usim := aids.get("USIM")) is not None:
            imsi = self._optional(lambda: self._imsi(self._select_application(usim)))
        return ImsIdentities(
            impi=Identity(impi),
            impus=tuple(map(Identity, impus)),
            domain=domain,
            pcscf=tuple(pcscf),
            source="ISIM",
            imsi=imsi,
            webrtc_uris=tuple(webrtc),
        )

    def _from_usim(self, aid: bytes) -> ImsIdentities:
        """TS 23.003 clauses 13.2, 13.3 and 13.4B."""
        application = self._select_application(aid)
        imsi = self._imsi(application)
        if imsi is None:
            raise CardDataError("the USIM has no IMSI")
        mnc_length = files.decode_mnc_length(self._guarded_binary(application, files.EF_AD))
        if mnc_length is None:
            raise CardDataError(
                "EF_AD does not say how long the MNC is (TS 31.102 4.2.18): the home domain cannot be derived"
            )
        mcc, mnc = imsi[:3], imsi[3 : 3 + mnc_length].zfill(3)
        domain = f"ims.mnc{mnc}.mcc{mcc}.3gppnetwork.org"
        impi = f"{imsi}@{domain}"
        return ImsIdentities(
            impi=Identity(impi),
            impus=(Identity(f"sip:{impi}"),),
            domain=domain,
            pcscf=(),
            source="USIM",
            imsi=imsi,
        )

    def _imsi(self, application: FileInfo) -> Identity | None:
        return files.decode_imsi(self._guarded_binary(application, files.EF_IMSI))

    def _text(self, application: FileInfo, ef: Ef) -> str | None:
        content = self._absent_is_blank(lambda: self._guarded_binary(application, ef))
        return files.decode_text(content, ef) if content else None

    def _texts(self, application: FileInfo, ef: Ef) -> list[str]:
        records = self._absent_is_blank(lambda: self._guarded_records(application, ef)) or []
        return _readable(records, lambda record: files.decode_text(record, ef))

    def _addresses(self, application: FileInfo) -> list[str]:
        return _readable(self._guarded_records(application, files.EF_PCSCF), files.decode_pcscf)

    @staticmethod
    def _absent_is_blank[T](read: Callable[[], T]) -> T | None:
        try:
            return read()
        except CardError as error:
            if error.sw not in (0x6A82, 0x6A88, 0x9404):
                raise
            return None

    @staticmethod
    def _optional[T](read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (CardError, CardDataError) as error:
            _log.info("left out: %s", error)
            return None

    # --- files

    def _guarded_binary(self, application: FileInfo, ef: Ef) -> bytes:
        return self._with_pin(application, lambda: read_file(self._channel, ef))

    def _guarded_records(self, application: FileInfo, ef: Ef) -> list[bytes]:
        return self._with_pin(application, lambda: read_records(self._channel, ef))

    # --- PIN

    def _with_pin[T](self, application: FileInfo, action: Callable[[], T]) -> T:
        try:
            return action()
        except CardError as error:
            if error.sw != _PIN_NEEDED:
                raise
        self._verify_pin(application)
        return action()

    def _verify_pin(self, application: FileInfo) -> None:
        """Verify the PIN if the card lets us, but never with its last try."""
        reference, pin = application.pin_reference, self._pin.value
        answer = self._channel.send(query_pin(reference))
        sw = answer.sw
        if answer.ok or sw == _PIN_DISABLED:
            return  # nothing to verify: whatever was refused was refused for another reason
        if sw in (_PIN_BLOCKED, 0x63C0):
            raise PinBlockedError(f"the PIN is blocked ({sw:04X}); unblock it with the PUK in a phone")
        if sw & 0xFFF0 != 0x63C0:
            raise PinRequiredError(
                f"the card wants a PIN but does not say how many tries are left ({sw:04X}: {meaning(sw)})"
            )
        tries = sw & 0x0F
        if pin is None:
            raise PinRequiredError(f"the card wants its PIN ({tries} tries left) and none is configured")
        if tries == 1:
            raise PinLastTryError("one PIN try is left, which is not risked; enter the right PIN in a phone first")
        if self._pin.was_refused_by(self._iccid):
            raise PinRequiredError(f"the configured PIN is wrong ({tries} tries left); it is not sent again")
        answer = self._channel.send(verify_pin(reference, pin.reveal()))
        sw = answer.sw
        if not answer.ok:
            self._pin.refuse(self._iccid)
            if sw & 0xFFF0 == 0x63C0:
                raise PinRequiredError(f"the configured PIN is wrong; {sw & 0x0F} tries left ({sw:04X})")
            raise CardError(sw, meaning(sw), "VERIFY PIN")
        self._pin_used = True
        _log.info("PIN verified")


def _gbabp(source: Source) -> Ef:
    return gba.EF_GBABP_ISIM if source == "ISIM" else gba.EF_GBABP_USIM


def _readable(records: list[bytes], decode: Callable[[bytes], str | None]) -> list[str]:
    """What the records say; one that says nonsense does not spoil the others."""
    texts = []
    for record in records:
        try:
            text = decode(record)
        except CardDataError as error:
            _log.warning("a record is left out: %s", error)
        else:
            texts += [text] if text is not None else []
    return texts


def _is_public_identity(text: str) -> bool:
    if text.lower().startswith(("sip:", "sips:", "tel:")):
        return True
    _log.warning("a record of EF_IMPU is no sip: or tel: URI and is left out")
    return False


def _aka_result(answer: Answer) -> AkaResult:
    """Read the answer to AUTHENTICATE (TS 31.103 clause 7.1.2.1); errors do not show it."""
    tag, fields = answer.data[:1], _fields(answer.data[1:])
    if tag == b"\xdb" and fields is not None and len(fields) >= 3:
        res, ck, ik = fields[:3]  # a USIM may add Kc
        # TUAK has longer ones than Milenage (TS 35.231 clause 6.2).
        if 4 <= len(res) <= 32 and len(ck) in (16, 32) and len(ik) in (16, 32):
            return Success(Secret(res), Secret(ck), Secret(ik))
    if tag == b"\xdc" and fields is not None and len(fields) == 1 and len(fields[0]) == AUTS_LENGTH:
        return SyncFailure(fields[0])
    raise CardDataError("the answer to AUTHENTICATE is not one of TS 31.103 7.1.2.1")


def _fields(data: bytes) -> list[bytes] | None:
    """Values, each behind its length; ``None`` if one is cut off."""
    fields, position = [], 0
    while position < len(data):
        end = position + 1 + data[position]
        if end > len(data):
            return None
        fields.append(data[position + 1 : end])
        position = end
    return fields
