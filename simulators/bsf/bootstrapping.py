"""The BSF itself, without sockets: bootstrapping over Ub, keys of servers over Zn (TS 33.220, TS 24.109 clause 4)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from imskit.aka.challenge import Challenge, decode_auts
from imskit.aka.errors import AkaError
from imskit.aka.gba import (
    MEDIA_TYPE,
    BootstrappingInfo,
    BTid,
    KeyKind,
    bootstrap_key,
    conceal_for_uicc,
    derive_naf_key,
    split_naf_id,
)
from imskit.aka.vector import AuthenticationVector
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.errors import SipParseError
from simulators.bsf.zh import Zh, ZhError

_log = logging.getLogger(__name__)

CHALLENGE_SECONDS = 60.0
MAX_PENDING = 10_000
MAX_RESYNCS = 1
"""How often a card may ask to resynchronise within one run."""
MAX_RUNS = 100_000
"""Bootstrapped keys kept; the oldest is forgotten above this."""
ALGORITHM, QOP = "AKAv1-MD5", "auth-int"


@dataclass(frozen=True)
class Answer:
    """An HTTP response on Ub."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "text/plain"


@dataclass(frozen=True)
class NafKeys:
    """What a server gets over Zn (TS 29.109 clause 5)."""

    impi: Identity
    me_key: Secret[bytes]
    """Ks_NAF, with GBA_U Ks_ext_NAF."""
    uicc_key: Secret[bytes] | None
    """Ks_int_NAF; ``None`` with GBA_ME."""
    expires: float
    """End of the key's life, universal time in seconds."""


class ZnRefusedError(Exception):
    """No key: ``unknown`` B-TID (forgotten or expired), else the server asks for a key that is not its own."""

    def __init__(self, text: str, *, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown


@dataclass(frozen=True)
class _Pending:
    impi: Identity
    vector: AuthenticationVector
    in_card: bool
    expires: float
    resyncs: int


@dataclass(frozen=True)
class _Run:
    impi: Identity
    rand: bytes
    ks: Secret[bytes]
    in_card: bool
    expires: float


class Bsf:
    """One BSF.  ``clock`` is universal time in seconds; ``on_step`` is told what happens, by name."""

    def __init__(
        self, name: str, zh: Zh, lifetime: float, clock: Callable[[], float], on_step: Callable[[str], None]
    ) -> None:
        self._name = name
        self._zh = zh
        self._lifetime = lifetime
        self._clock = clock
        self._on_step = on_step
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    # ---- Ub

    async def handle(self, authorization: str | None, method: str, uri: str, body: bytes) -> Answer:
        """Answer a terminal's request (TS 24.109 clause 4.3)."""
        if authorization is None:
            return _refusal(400, "Authorization with the private identity is needed (TS 24.109 4.3.2)")
        try:
            credentials = Credentials.parse(authorization, "Authorization")
        except SipParseError as error:
            return _refusal(400, str(error))
        if not credentials.is_digest or (credentials.realm or "").lower() != self._name.lower():
            return _refusal(400, f"Authorization: a Digest for the realm {self._name} is needed")
        impi = Identity(credentials.username or "")
        if not impi:
            return _refusal(400, "Authorization: the private identity is missing")
        if not credentials.nonce:
            return await self._challenge(impi, None, 0)
        pending = self._pending.pop(credentials.nonce, None)
        if pending is None or pending.expires <= self._clock() or pending.impi != impi:
            return await self._challenge(impi, None, 0, stale=True)
        if auts := credentials.auts:
            return await self._resynchronise(pending, auts)
        return self._verify(credentials, pending, method, uri, body)

    async def _challenge(
        self, impi: Identity, resync: tuple[bytes, bytes] | None, resyncs: int, *, stale: bool = False
    ) -> Answer:
        try:
            in_card = await self._zh.keeps_keys(impi)
            vector = await self._zh.vector(impi, resync)
        except ZhError as error:
            _log.warning("no vector for %r: %s", impi, error)
            return _refusal(403 if error.unknown or error.refused else 503, str(error))
        # With GBA_U the card gets a MAC that only its GBA context accepts (TS 33.220 clause 5.3.2).
        autn = conceal_for_uicc(vector.autn, vector.ik) if in_card else vector.autn
        nonce = Challenge(vector.rand, autn).encode()
        now = self._clock()
        while self._pending and (
            len(self._pending) >= MAX_PENDING or next(iter(self._pending.values())).expires <= now
        ):
            self._pending.popitem(last=False)
        self._pending[nonce] = _Pending(impi, vector, in_card, now + CHALLENGE_SECONDS, resyncs)
        self._on_step("resynchronised" if resync else "challenged")
        challenge = DigestChallenge.digest(self._name, nonce, algorithm=ALGORITHM, qop=(QOP,), stale=stale or None)
        return Answer(401, b"bootstrap", (("WWW-Authenticate", str(challenge)),))

    async def _resynchronise(self, pending: _Pending, auts: str) -> Answer:
        if pending.resyncs >= MAX_RESYNCS:
            return _refusal(403, "the card asked to resynchronise twice")
        try:
            octets = decode_auts(auts)
        except AkaError as error:
            return _refusal(400, str(error))
        return await self._challenge(pending.impi, (pending.vector.rand, octets), pending.resyncs + 1)

    def _verify(self, credentials: Credentials, pending: _Pending, method: str, uri: str, body: bytes) -> Answer:
        if (credentials.algorithm or "").lower() != ALGORITHM.lower() or credentials.qop != QOP:
            return _refusal(400, f"Authorization: {ALGORITHM} with qop={QOP} is needed (TS 24.109 4.3.2)")
        if credentials.uri != uri:
            return _refusal(400, "Authorization: uri is not that of the request (RFC 7616 3.4.6)")
        vector = pending.vector
        try:
            genuine = digest.verify(credentials, vector.xres, method, body)
        except SipParseError as error:
            return _refusal(400, str(error))
        if not genuine:
            self._on_step("refused")
            _log.warning("wrong answer of the card of %r", pending.impi)
            return _refusal(403, "the card's answer is wrong")
        try:
            ks = bootstrap_key(vector.ck, vector.ik)
        except AkaError as error:  # TUAK with keys of 256 bits
            return _refusal(403, str(error))
        end = self._clock() + self._lifetime
        info = BootstrappingInfo(BTid.make(vector.rand, self._name), datetime.fromtimestamp(int(end), UTC))
        while len(self._runs) >= MAX_RUNS:
            self._runs.popitem(last=False)
        self._runs[info.btid.text] = _Run(pending.impi, vector.rand, ks, pending.in_card, float(int(end)))
        document = info.encode()
        proof = digest.authentication_info(credentials, vector.xres, document)
        _log.info(
            "bootstrapped %r, %s, for %g s", pending.impi, "GBA_U" if pending.in_card else "GBA_ME", self._lifetime
        )
        self._on_step("bootstrapped")
        return Answer(200, document, (("Authentication-Info", str(proof)),), MEDIA_TYPE)

    # ---- Zn

    def naf_keys(self, naf: str, btid: str, naf_id: bytes) -> NafKeys:
        """Return the keys of the server ``naf``, whose name has been proven; ``ZnRefusedError`` says why not."""
        try:
            name, _ = split_naf_id(naf_id)
        except AkaError as error:
            raise ZnRefusedError(str(error)) from None
        if name != naf.lower():
            _log.warning("Zn: %s asks for a key of another server", naf)
            raise ZnRefusedError("this server may not ask for another's key (TS 33.220 4.5.3)")
        run = self._runs.get(btid)
        if run is None or run.expires <= self._clock():
            self._runs.pop(btid, None)
            raise ZnRefusedError("the B-TID is not known, or has expired", unknown=True)
        impi = str.__str__(run.impi)
        me_key = derive_naf_key(run.ks, run.rand, impi, naf_id)
        uicc_key = derive_naf_key(run.ks, run.rand, impi, naf_id, KeyKind.UICC) if run.in_card else None
        self._on_step("key-given")
        return NafKeys(run.impi, me_key, uicc_key, run.expires)

    def forget(self) -> int:
        """Forget every bootstrapped key, as after a restart; returns how many there were."""
        count = len(self._runs)
        self._runs.clear()
        return count


def _refusal(status: int, words: str) -> Answer:
    return Answer(status, words.encode())
