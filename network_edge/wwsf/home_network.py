"""What the WWSF asks of the home network: authentication vectors and identities (reference point Zh, Cx).

An operator's HSS speaks Diameter; this one speaks HTTP with JSON over a Unix socket that only its owner may open, which
is how the lab's core offers the same two questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from imskit.aka.vector import AuthenticationVector
from imskit.secrets import Identity, Secret

_TIMEOUT = aiohttp.ClientTimeout(total=5)


class HomeNetworkError(Exception):
    """The home network did not answer or refused; ``unknown`` is true if it does not know the user."""

    def __init__(self, text: str, *, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown


@dataclass(frozen=True)
class Profile:
    """The public identities of a user, the default first, and how the number is shown."""

    impus: tuple[Identity, ...]
    display: str


class HomeNetwork(Protocol):
    """The two questions."""

    async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
        """Return a fresh vector; ``resync`` is (RAND, AUTS) of a synchronisation failure.

        ``HomeNetworkError`` if the user is unknown, AUTS is wrong, or nobody answers.
        """

    async def profile(self, impi: Identity) -> Profile:
        """Return the identities of a user, or raise ``HomeNetworkError``."""

    async def close(self) -> None:
        """Release connections."""


class HssClient:
    """``HomeNetwork`` over the HSS's Unix socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._http: aiohttp.ClientSession | None = None

    async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
        """See ``HomeNetwork``."""
        body: dict[str, Any] = {"impi": str.__str__(impi), "resync": None}
        if resync is not None:
            body["resync"] = {"rand": resync[0].hex(), "auts": resync[1].hex()}
        answer = await self._ask("POST", "/vector", json=body)
        try:
            return AuthenticationVector(
                rand=bytes.fromhex(answer["rand"]),
                autn=bytes.fromhex(answer["autn"]),
                xres=Secret(bytes.fromhex(answer["xres"])),
                ck=Secret(bytes.fromhex(answer["ck"])),
                ik=Secret(bytes.fromhex(answer["ik"])),
            )
        except (KeyError, TypeError, ValueError):
            raise HomeNetworkError("the HSS sent a vector that is none") from None

    async def profile(self, impi: Identity) -> Profile:
        """See ``HomeNetwork``."""
        answer = await self._ask("GET", "/profile", params={"impi": str.__str__(impi)})
        try:
            return Profile(tuple(Identity(impu) for impu in answer["impus"]), str(answer["display"]))
        except (KeyError, TypeError):
            raise HomeNetworkError("the HSS sent a profile that is none") from None

    async def _ask(self, method: str, path: str, **arguments: Any) -> Mapping[str, Any]:
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket)), timeout=_TIMEOUT)
        try:
            async with self._http.request(method, f"http://hss{path}", **arguments) as response:
                if response.status == 404:
                    raise HomeNetworkError("the home network does not know this user", unknown=True)
                if response.status != 200:
                    raise HomeNetworkError(f"the HSS answered {response.status}")
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise HomeNetworkError(f"the HSS does not answer ({type(error).__name__})") from error
        if not isinstance(answer, dict):
            raise HomeNetworkError("the HSS answered with something that is no object")
        return answer

    async def close(self) -> None:
        """See ``HomeNetwork``."""
        if self._http is not None:
            await self._http.close()
