"""The agent's side of Gm security: policy and IPsec back end from the configuration, TLS, words for the status."""

from __future__ import annotations

import logging
import ssl
from typing import Any

from imskit.ims.security_agreement import Protection, SecurityPolicy
from imskit.ipsec.algorithms import AlgorithmPair
from imskit.ipsec.errors import IpsecError
from imskit.ipsec.io.backend import IpsecBackend
from imskit.ipsec.io.probe import Choice, choose
from ue_agent.config import ImsConfig

_log = logging.getLogger(__name__)


class GmProtection:
    """What the configuration asks for, opened when it is first needed and kept until `close`."""

    def __init__(self, config: ImsConfig) -> None:
        self._config = config
        self._choice: Choice | None = None
        self._trouble = ""

    @property
    def policy(self) -> SecurityPolicy:
        """What the UE offers."""
        config = self._config
        pairs = tuple(AlgorithmPair.parse(text) for text in config.algorithms)
        return SecurityPolicy(Protection(config.security), pairs, config.nat)

    async def backend(self) -> IpsecBackend | None:
        """Return the IPsec back end, ``None`` if none is wanted; ``IpsecError`` says what is missing and the cure."""
        if self._config.security != "ipsec":
            return None
        if self._choice is None:
            try:
                self._choice = await choose(
                    self._config.backend,
                    pairs=self.policy.pairs,
                    interface=self._config.interface,
                    nat=self._config.nat,
                )
            except IpsecError as error:
                self._trouble = str(error)
                raise
            self._trouble = ""
        return self._choice.backend

    def client_tls(self) -> ssl.SSLContext | None:
        """Return what verifies the P-CSCF, ``None`` without TLS; ``OSError`` if the authorities cannot be read."""
        if self._config.security != "tls":
            return None
        return ssl.create_default_context(cafile=self._config.trust)

    def status(self, sets: list[dict[str, Any]], agreed: str) -> dict[str, Any]:
        """For ``ue status``: ``agreed`` is what protects the registration now."""
        wanted = self._config.security
        found: dict[str, Any] = {"wanted": wanted, "agreed": agreed, "sets": sets}
        if wanted == "ipsec":
            choice = self._choice
            found["backend"] = choice.backend.kind if choice else None
            found["why"] = self._trouble or (choice.why if choice else "not needed yet")
            if choice is not None:
                counters = choice.backend.statistics()
                found["refused"] = {
                    "unknown SPI": counters.unknown_spi,
                    "malformed": counters.malformed,
                    "not protected": counters.unprotected,
                }
        return found

    async def close(self) -> None:
        """Take away what was made on this device."""
        if self._choice is not None:
            choice, self._choice = self._choice, None
            await choice.backend.close()
