"""GBA for the WWPF: one client for the card that is in use, and whose challenges are answered at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from imskit.aka.errors import AkaError
from imskit.aka.gba import bsf_from_impi, bsf_from_ims_domain
from imskit.secrets import Identity
from ue_agent.gba.client import GbaCard, GbaClient, GbaError, PhishingError
from ue_agent.gba.config import GbaConfig
from ue_agent.gba.engine.bootstrapping import Cause
from ue_agent.uicc.application import ImsIdentities
from ue_agent.wwpf.agent import AgentError, Kind

_log = logging.getLogger(__name__)
_KINDS: dict[Cause, Kind] = {Cause.BSF: "bsf", Cause.WRONG_NETWORK: "wrong-network", Cause.CARD: "card"}


class GbaService:
    """``hosts`` are the only servers that get answers; ``on_step`` is told what happens, by name."""

    def __init__(
        self, config: GbaConfig, card: GbaCard, hosts: Collection[str], on_step: Callable[[str], None]
    ) -> None:
        self._config = config
        self._card = card
        self._hosts = frozenset(host.lower() for host in hosts)
        self._on_step = on_step
        self._client: GbaClient | None = None
        self._impi: Identity | None = None

    @property
    def state(self) -> str:
        """A sentence for the user."""
        return self._client.state if self._client is not None else "no keys bootstrapped yet"

    async def answer(
        self, identities: ImsIdentities, challenge: str, method: str, uri: str, host: str, renew: bool
    ) -> str:
        """Answer a challenge of ``host``; see ``LoginHandler.answer_naf_challenge``.  Raises ``AgentError``."""
        if not self._config.enabled:
            raise AgentError("bsf", "This device does not use bootstrapped keys (gba.enabled).")
        if host.lower() not in self._hosts:
            _log.warning("a key for %s is asked for, which is no server of the operator's: refused", host)
            raise AgentError("phishing", f"{host} is not the operator's page.")
        try:
            return await self.client(identities).answer(challenge, method, uri, host, renew=renew)
        except PhishingError as error:
            raise AgentError("phishing", str(error)) from error
        except GbaError as error:
            raise AgentError(_KINDS[error.cause], str(error)) from error

    def client(self, identities: ImsIdentities) -> GbaClient:
        """Return the client of this card; another card's keys are forgotten.  ``GbaError`` if no BSF can be named."""
        if self._client is None or self._impi != identities.impi:
            try:
                if identities.source == "ISIM":
                    derived = bsf_from_impi(str.__str__(identities.impi))
                else:
                    derived = bsf_from_ims_domain(identities.domain)
            except AkaError as error:
                if not self._config.bsf:
                    raise GbaError(Cause.BSF, f"{error}; gba.bsf must name it") from error
                derived = self._config.bsf
            address = self._config.address(derived)
            self._client = GbaClient(self._card, identities.impi, address, self._config.ua_protocol, self._on_step)
            self._impi = identities.impi
        return self._client
