"""The IMS client: one `ImsUe` on the IMS interface, with the SIM card behind it [S7-IMS].

It waits for a card, takes the identities from it, registers, and starts anew when the card changes.  Calls are its
owner's (the SIF's) affair: commands go in through `handle`, everything but registration comes out through `on_output`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imskit.aka.vector import AkaResult
from imskit.ims import events as ims
from imskit.ims.io.p_cscf_discovery import PCscfDiscovery
from imskit.ims.io.ue_endpoint import UeEndpoint
from imskit.ims.profile import UeProfile
from imskit.ims.registration import RegistrationStatus, RetryPolicy, State
from imskit.ims.ue import ImsUe
from imskit.ipsec.errors import IpsecError
from imskit.observe.events import EventLog
from imskit.secrets import Identity
from imskit.sip.engine.timers import TS24229_UE, TimerProfile
from imskit.sip.io.sockets import Binding
from imskit.sip.wire.flow import Transport
from imskit.tasks import spawn
from ue_agent.config import ImsConfig
from ue_agent.gm_security.protection import GmProtection
from ue_agent.uicc.application import ImsIdentities
from ue_agent.uicc.card import CardEvents, UiccCard
from ue_agent.uicc.errors import UiccError
from ue_agent.uicc.transport import CardInserted, CardRemoved
from ue_agent.wwpf.agent import AgentError, ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.card_login import answer_challenge

_log = logging.getLogger(__name__)

CARD_SECONDS = 20.0
"""How long one AKA run on the card may take."""
STOP_SECONDS = 6.0
CARD_RETRY_SECONDS = 3.0
_REMOVED = "the SIM card was removed"
_URN = re.compile(r"urn:[a-z0-9][a-z0-9-]{1,31}:[!-~]{1,200}", re.IGNORECASE)


class ImsClient:
    """See the module's text.  `start` never fails for want of a card or a core: `status` says what is missing."""

    def __init__(
        self,
        config: ImsConfig,
        card: UiccCard,
        state: Path,
        events: EventLog,
        on_output: Callable[[ims.Output], None],
        on_status: Callable[[], None],
        *,
        timers: TimerProfile = TS24229_UE,
    ) -> None:
        """``state`` is a folder that lasts; ``on_status`` tells that `status` or `card_state` has changed."""
        self._config = config
        self._card = card
        self._state = state
        self._events = events
        self._on_output = on_output
        self._on_status = on_status
        self._timers = timers
        self._gm = GmProtection(config)
        self._endpoint: UeEndpoint | None = None
        self._task: asyncio.Task[None] | None = None
        self._off = asyncio.Event()
        self._aka = asyncio.Lock()
        self.identities: ImsIdentities | None = None
        """Those of the card in use."""
        self.card_state = "looking for a SIM card"
        """A sentence for the user."""

    @property
    def status(self) -> RegistrationStatus:
        """Where the registration stands."""
        endpoint = self._endpoint
        if endpoint is None:
            return RegistrationStatus(State.OFF, self.card_state)
        return endpoint.ue.status

    @property
    def public_identities(self) -> tuple[Identity, ...]:
        """The identities that may be used: those of the registration, else of the card."""
        return self.status.associated or (self.identities.impus if self.identities else ())

    def security(self) -> dict[str, Any]:
        """How Gm is protected, for ``ue status``."""
        sets = self._endpoint.security_sets() if self._endpoint is not None else []
        return self._gm.status(sets, self.status.security)

    def start(self) -> None:
        """Begin to look for a card."""
        self._task = spawn(self._live(), "IMS client")

    async def stop(self) -> None:
        """De-register, close the sockets."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._leave("this device's agent was stopped")
        await self._gm.close()
        self._tell("this device's agent was stopped", logging.INFO)

    def handle(self, event: ims.Event) -> None:
        """Give the UE an event; without a registration a call ends at once."""
        if self._endpoint is not None:
            self._endpoint.handle(event)
        elif isinstance(event, ims.Dial):
            self._on_output(ims.Ended(event.call, None, self.card_state, local=True))

    # ---- card -----------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Be registered for as long as there is a card; ends when the card access is closed."""
        events = self._card.events()
        with contextlib.suppress(IpsecError, ValueError):  # `_enter` says it; the status has it at once
            await self._gm.backend()
        while True:
            try:
                entered = await self._enter()
            except Exception as error:
                _log.exception("the IMS client has a fault")
                self._tell(f"the IMS client has a fault: {type(error).__name__}: {error}")
                entered = False
            if not entered:
                if not await self._worth_a_try(events):
                    return
                continue
            if not await _removed(events):
                return
            await self._leave(_REMOVED)
            self._tell(_REMOVED)

    @staticmethod
    async def _worth_a_try(events: CardEvents) -> bool:
        """A card that failed may do better when it is inserted anew, or a little later; False: there is no more."""
        try:
            async with asyncio.timeout(CARD_RETRY_SECONDS):
                async for event in events:
                    if isinstance(event, CardInserted):
                        return True
        except TimeoutError:
            return True
        return False

    async def _enter(self) -> bool:
        """Begin to register with the card that is there; False, with the reason in `card_state`, if that cannot be."""
        try:
            identities = await self._card.identities()
            profile, discovery = self._profile(identities), self._discovery(identities)
        except (UiccError, ValueError) as error:
            self._tell(str(error))
            return False
        except OSError as error:
            self._tell(f"the state folder {self._state} cannot be used: {_why(error)}")
            return False
        try:
            backend, tls = await self._gm.backend(), self._gm.client_tls()
        except IpsecError as error:
            self._tell(f"IPsec cannot be used: {error}")
            return False
        except OSError as error:
            self._tell(f"the P-CSCF's authorities in {self._config.trust} cannot be used: {_why(error)}")
            return False
        self.identities = identities
        self._off.clear()
        ue = ImsUe(profile, _token, RetryPolicy(base=self._config.retry_base), self._timers)
        binding = Binding(self._config.interface, self._config.dscp_signalling)
        endpoint = UeEndpoint(
            ue, profile.local, self._output, backend=backend, client_tls=tls, binding=binding, discovery=discovery
        )
        try:
            await endpoint.listen()
        except OSError as error:
            await self._give_up(endpoint)
            where = f"{self._config.address} port {self._config.port}"
            self._tell(f"the IMS interface cannot be used at {where}: {_why(error)}")
            return False
        except BaseException:
            await self._give_up(endpoint)
            raise
        self._endpoint = endpoint
        card = "SOFTWARE CARD (laboratory only)" if self._card.laboratory else "SIM card"
        self._tell(f"{card} with {identities.source} in use", logging.INFO)
        endpoint.handle(ims.Start())
        return True

    async def _give_up(self, endpoint: UeEndpoint) -> None:
        self.identities = None
        await endpoint.close()

    async def _leave(self, reason: str) -> None:
        """De-register; what is left of the calls ends with ``reason``."""
        endpoint = self._endpoint
        if endpoint is None:
            return
        endpoint.handle(ims.Stop())
        try:
            await asyncio.wait_for(self._off.wait(), STOP_SECONDS)
        except TimeoutError:
            _log.warning("de-registration was not confirmed")
        self._endpoint = None
        self.identities = None
        await endpoint.close()
        for call in endpoint.ue.calls:
            self._on_output(ims.Ended(call, None, reason, local=True))

    def _tell(self, text: str, level: int = logging.WARNING) -> None:
        if text != self.card_state:
            _log.log(level, "%s", text)
            self.card_state = text
            self._on_status()

    def _profile(self, identities: ImsIdentities) -> UeProfile:
        config = self._config
        return UeProfile(
            impi=identities.impi,
            impu=identities.impus[0],
            domain=identities.domain,
            instance=config.instance or self._instance(),
            local=(config.address, config.port),
            p_cscfs=(),  # looked for anew in each round
            access_network_info=config.access_network_info,
            user_agent="imsbridge",
            security=self._gm.policy,
            # A tel URI comes with the SIP URI of the same subscription.
            more_impus=tuple(each for each in identities.impus[1:] if each.lower().startswith("sip:")),
        )

    def _discovery(self, identities: ImsIdentities) -> PCscfDiscovery:
        """``ValueError`` for a configured P-CSCF that is no address."""
        config = self._config
        transport: Transport = "TLS" if config.security == "tls" else "TCP" if config.transport == "TCP" else "UDP"
        return PCscfDiscovery(
            local=(config.address, config.port),
            transport=transport,
            domain=identities.domain,
            configured=config.p_cscf,
            card=identities.pcscf,
            interface=config.interface,
        )

    def _instance(self) -> str:
        """A URN that stays the same over restarts (RFC 5626 section 4.1); `OSError` if it cannot be kept."""
        path = self._state / "instance"
        try:
            known = path.read_text().strip()
        except FileNotFoundError:
            known = ""
        except UnicodeDecodeError:
            known = "?"
        if _URN.fullmatch(known):
            return known
        if known:
            _log.warning("%s holds no URN and is written anew", path)
        urn = f"urn:uuid:{uuid.uuid4()}"
        fresh = path.with_suffix(".new")
        fresh.write_text(urn + "\n")
        fresh.replace(path)
        return urn

    # ---- what the UE says -------------------------------------------------------------------------------------------

    def _output(self, output: ims.Output) -> None:
        match output:
            case ims.AskCard(rand, autn):
                self._events.emit("gm-401")
                spawn(self._ask(rand, autn), "AKA")
            case ims.RegistrationChanged(status):
                _log.info("IMS registration: %s (%s)", status.state.value, status.reason)
                self._events.emit("registration", state=status.state.name.lower())
                if status.state is State.OFF:
                    self._off.set()
                self._on_status()
            case ims.RequestReceived(request):
                _log.info("%s received and answered", request.method)
            case _:
                self._on_output(output)

    async def _ask(self, rand: bytes, autn: bytes) -> None:
        endpoint = self._endpoint
        event: ims.CardAnswer | ims.CardFailed
        try:
            async with asyncio.timeout(CARD_SECONDS), self._aka:
                event = ims.CardAnswer(await self._card.authenticate(rand, autn), rand)
        except UiccError as error:
            event = ims.CardFailed(str(error), rand)
        except TimeoutError:
            event = ims.CardFailed(f"the SIM card did not answer within {CARD_SECONDS:.0f} s", rand)
        if endpoint is not None and endpoint is self._endpoint:
            endpoint.handle(event)  # else the card was changed meanwhile

    # ---- for the web log-in -----------------------------------------------------------------------------------------

    async def answer_web_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        """Answer a web server's AKA challenge (a ``WWW-Authenticate`` value) with the card [S7-AUTH].

        ``AgentError`` says in words for the user why there is no answer.  RES, CK and IK stay here.
        """
        identities = self.identities
        if identities is None:
            raise AgentError("not-ready", self.card_state)
        who = LoginIdentity(identities.impi, identities.domain)
        return await answer_challenge(who, self._authenticate_for_web, challenge, method, uri)

    async def _authenticate_for_web(self, rand: bytes, autn: bytes) -> AkaResult:
        try:
            async with asyncio.timeout(CARD_SECONDS), self._aka:
                return await self._card.authenticate(rand, autn)
        except UiccError as error:
            raise AgentError("card", str(error)) from error
        except TimeoutError as error:
            raise AgentError("card", "the SIM card does not answer") from error


def _token(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]


def _why(error: OSError) -> str:
    """Return the system's words alone."""
    return error.strerror or str(error)


async def _removed(events: CardEvents) -> bool:
    """Wait until the card is pulled; False: the card access is closed."""
    async for event in events:
        if isinstance(event, CardRemoved):
            return True
    return False
