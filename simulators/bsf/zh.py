"""What the BSF asks of the HSS (reference point Zh): vectors, and whether the card keeps bootstrapped keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from imskit.aka.vector import AuthenticationVector
from imskit.secrets import Identity, Secret

_TIMEOUT = aiohttp.ClientTimeout(total=5)


class ZhError(Exception):
    """No vector: user ``unknown``, AUTS not the card's (``refused``), or the HSS does not answer."""

    def __init__(self, text: str, *, unknown: bool = False, refused: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown
        self.refused = refused


class Zh(Protocol):
    """The two questions.  Both may raise ``ZhError``."""

    async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
        """Return a fresh vector; ``resync`` is (RAND, AUTS) of a synchronisation failure."""

    async def keeps_keys(self, impi: Identity) -> bool:
        """Whether the subscriber's card does GBA_U (uiccType of the GUSS, TS 29.109)."""


class HssZh:
    """``Zh`` over the simulated HSS's Unix socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._http: aiohttp.ClientSession | None = None

    async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
        """See ``Zh``."""
        body: dict[str, Any] = {"impi": str.__str__(impi), "resync": None}
        if resync is not None:
            body["resync"] = {"rand": resync[0].hex(), "auts": resync[1].hex()}
        answer = await self._ask("POST", "/vector", json=body)
        try:
            rand, autn, xres, ck, ik = (bytes.fromhex(answer[name]) for name in ("rand", "autn", "xres", "ck", "ik"))
        except (KeyError, TypeError, ValueError):
            raise ZhError("the HSS sent a vector that is none") from None
        return AuthenticationVector(rand, autn, Secret(xres), Secret(ck), Secret(ik))

    async def keeps_keys(self, impi: Identity) -> bool:
        """See ``Zh``."""
        return bool((await self._ask("GET", "/guss", params={"impi": str.__str__(impi)})).get("uicc_type") == "GBA_U")

    async def close(self) -> None:
        """Release connections."""
        if self._http is not None:
            await self._http.close()

    async def _ask(self, method: str, path: str, **arguments: Any) -> Mapping[str, Any]:
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket)), timeout=_TIMEOUT)
        try:
            async with self._http.request(method, f"http://hss{path}", **arguments) as response:
                if response.status == 404:
                    raise ZhError("the HSS does not know this user", unknown=True)
                if response.status == 403:
                    raise ZhError("AUTS is not from this user's card", refused=True)
                if response.status != 200:
                    raise ZhError(f"the HSS answered {response.status}")
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise ZhError(f"the HSS does not answer ({type(error).__name__})") from error
        if not isinstance(answer, dict):
            raise ZhError("the HSS sent something else than an object")
        return answer
