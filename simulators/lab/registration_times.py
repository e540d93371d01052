"""How long a UE needs to register, with and without a security agreement: one that registers again and again.

``python -m simulators.lab.registration_times`` reads what to do as one JSON object from standard input (so that keys
are in no argument list) and writes the milliseconds as another::

    {"address": …, "p_cscf": "10.46.0.1:5060", "domain": …, "impi": …, "impu": …, "k": …, "opc": …, "runs": 5}
    {"off": [8.1, …], "ipsec": [14.2, …], "agreed": "IPsec null/aes-gcm", "backend": "userspace"}
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from dataclasses import dataclass
from typing import Any

from imskit.aka.milenage import Milenage
from imskit.aka.vector import Usim
from imskit.ims import events as ims
from imskit.ims.io.ue_endpoint import UeEndpoint
from imskit.ims.profile import UeProfile
from imskit.ims.registration import RegistrationStatus, State
from imskit.ims.security_agreement import Protection, SecurityPolicy
from imskit.ims.ue import ImsUe
from imskit.ipsec.io.backend import IpsecBackend
from imskit.ipsec.io.probe import choose
from imskit.secrets import Identity, Secret
from imskit.sip.wire.flow import Target
from imskit.sockets import definite, parse_address

_SECONDS = 20.0
"""For one registration."""


@dataclass(frozen=True)
class Subscription:
    """Who registers, where from and where to."""

    address: str
    p_cscf: str
    domain: str
    impi: str
    impu: str
    k: Secret[str]
    opc: Secret[str]

    def usim(self) -> Usim:
        """The card."""
        k, opc = (Secret(bytes.fromhex(key.reveal())) for key in (self.k, self.opc))
        return Usim(Milenage(k, opc))


class Registrant:
    """A UE that does nothing but register and de-register."""

    def __init__(self, who: Subscription, usim: Usim, backend: IpsecBackend | None) -> None:
        """With ``backend`` it makes security agreements; ``OSError`` if the address is not this machine's."""
        self._usim = usim
        local = definite((who.address, 0))
        profile = UeProfile(
            Identity(who.impi),
            Identity(who.impu),
            who.domain,
            "urn:gsma:imei:35693803-564380-0",
            local,
            (Target("UDP", parse_address(who.p_cscf)),),
            security=SecurityPolicy(Protection.IPSEC if backend else Protection.OFF),
        )
        self._endpoint = UeEndpoint(ImsUe(profile, _tokens), local, self._heard, backend=backend)
        self._status = RegistrationStatus()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Open the sockets."""
        await self._endpoint.listen()

    async def register(self) -> float:
        """Register; returns the seconds from the decision to the 200."""
        begin = time.perf_counter()
        self._endpoint.handle(ims.Start())
        await self._until(State.REGISTERED)
        return time.perf_counter() - begin

    async def leave(self) -> None:
        """De-register."""
        self._endpoint.handle(ims.Stop())
        await self._until(State.OFF)

    async def close(self) -> None:
        """Close the sockets."""
        await self._endpoint.close()

    @property
    def agreed(self) -> str:
        """How Gm was protected."""
        return self._status.security

    def _heard(self, output: ims.Output) -> None:
        match output:
            case ims.AskCard(rand, autn):
                self._endpoint.handle(ims.CardAnswer(self._usim.verify(rand, autn)))
            case ims.RegistrationChanged(status):
                self._status = status
                self._changed.set()
            case _:
                pass

    async def _until(self, state: State) -> None:
        async with asyncio.timeout(_SECONDS):
            while self._status.state is not state:
                self._changed.clear()
                await self._changed.wait()
                if self._status.state is State.WAITING:
                    raise OSError(f"no registration: {self._status.reason}")


async def measure(who: Subscription, runs: int) -> dict[str, Any]:
    """Register ``runs`` times in clear and ``runs`` times inside a security agreement.

    ``OSError`` or ``IpsecError`` if that does not work.
    """
    usim = who.usim()
    choice = await choose("auto")
    found: dict[str, Any] = {"backend": choice.backend.kind}
    try:
        for name, backend in (("off", None), ("ipsec", choice.backend)):
            registrant = Registrant(who, usim, backend)
            await registrant.start()
            try:
                times = []
                for _ in range(runs + 1):  # the first warms up
                    times.append(round(await registrant.register() * 1000, 2))
                    agreed = registrant.agreed
                    await registrant.leave()
            finally:
                await registrant.close()
            found[name], found["agreed"] = times[1:], agreed
    finally:
        await choice.backend.close()
    return found


def _tokens(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]


if __name__ == "__main__":
    asked: dict[str, Any] = json.load(sys.stdin)
    number = asked.pop("runs")
    print(json.dumps(asyncio.run(measure(Subscription(**asked | {k: Secret(asked[k]) for k in ("k", "opc")}), number))))
