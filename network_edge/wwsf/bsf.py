"""What the WWSF, as a NAF, asks of the BSF (reference point Zn): the key behind a B-TID.

An operator's BSF speaks Diameter or SOAP (TS 29.109); this one speaks HTTP with JSON over a Unix socket, with the
server's own secret, which is how the lab's BSF offers the same question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from imskit.secrets import Identity, Secret

_TIMEOUT = aiohttp.ClientTimeout(total=5)
_KEY_LENGTH = 32


class BsfError(Exception):
    """The BSF did not answer or refused; ``unknown`` is true if it does not know the B-TID any more."""

    def __init__(self, text: str, *, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown


@dataclass(frozen=True)
class NafKey:
    """The key of a user for this server."""

    impi: Identity
    key: Secret[bytes]
    """Ks_NAF, with GBA_U Ks_ext_NAF; 32 octets."""
    in_card: bool
    """Whether it was derived inside the card (GBA_U)."""
    expires: float
    """When it ends, universal time in seconds."""


class KeySource(Protocol):
    """The one question."""

    async def key(self, btid: str, naf_id: bytes) -> NafKey:
        """Return the key behind a B-TID, or raise ``BsfError``."""

    async def close(self) -> None:
        """Release connections."""


class BsfClient:
    """``KeySource`` over the BSF's Unix socket."""

    def __init__(self, socket: Path, secret: Secret[str]) -> None:
        self._socket = socket
        self._secret = secret
        self._http: aiohttp.ClientSession | None = None

    async def key(self, btid: str, naf_id: bytes) -> NafKey:
        """See ``KeySource``."""
        answer = await self._ask({"btid": btid, "naf_id": naf_id.hex()})
        try:
            key = bytes.fromhex(answer["me_key"])
            found = NafKey(Identity(answer["impi"]), Secret(key), bool(answer["uicc_key"]), float(answer["expires"]))
        except (KeyError, TypeError, ValueError):
            raise BsfError("the BSF sent a key that is none") from None
        if len(key) != _KEY_LENGTH or not found.impi:
            raise BsfError("the BSF sent a key that is none")
        return found

    async def close(self) -> None:
        """See ``KeySource``."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _ask(self, body: Mapping[str, str]) -> Mapping[str, Any]:
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket)), timeout=_TIMEOUT)
        headers = {"Authorization": f"Bearer {self._secret.reveal()}"}
        try:
            async with self._http.post("http://bsf/keys", json=body, headers=headers) as response:
                if response.status == 404:
                    raise BsfError("the BSF does not know this B-TID", unknown=True)
                if response.status != 200:
                    raise BsfError(f"the BSF answered {response.status}")
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise BsfError(f"the BSF does not answer ({type(error).__name__})") from error
        if not isinstance(answer, dict):
            raise BsfError("the BSF sent something else than an object")
        return answer
