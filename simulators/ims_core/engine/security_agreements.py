"""Security agreements at the P-CSCF (RFC 3329; TS 33.203 clauses 6, 7 and annexes H and M; TS 24.229 clause 5.2).

An agreement begins with the Security-Client of a REGISTER and the keys of the 401: it is *temporary* for 4 minutes,
*confirmed* by the 200 to the REGISTER that came inside it, and *leaving* when another takes its place or the
registration ends.  Agreements of one registration, over re-authentications, form a *chain*.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Iterable
from ipaddress import ip_address

from imskit.engine import Tokens
from imskit.ipsec.algorithms import AlgorithmPair
from imskit.ipsec.association import HIGHEST_SPI, LOWEST_SPI, Party
from imskit.ipsec.errors import IpsecError
from imskit.secrets import Secret
from imskit.sip.engine.timers import TS24229_UE
from imskit.sip.wire.flow import Address, Flow
from imskit.sip.wire.ims_headers import SecurityMechanism, security_mechanisms
from imskit.sip.wire.message import Message, Request, Response, response_to
from simulators.ims_core.engine.security_agreement import (
    Agreement,
    GmMode,
    GmSecurityPolicy,
    InstallAssociations,
    Proposal,
    RemoveAssociations,
    SecurityOutput,
    Stage,
)

_log = logging.getLogger(__name__)

REG_AWAIT_AUTH = 240.0
"""Seconds that a temporary set lives (TS 24.229 table 7.8.1)."""
MARGIN_SECONDS = 30.0
"""How long a set outlives its registration (TS 24.229 clause 5.2.2.2)."""
LEAVING_SECONDS = TS24229_UE.timeout
"""How long a set that was replaced is kept for what is under way: 64*T1 (TS 24.229 clause 5.2.2.2)."""
REFUSED_SECONDS = 8.0
"""How long a set whose REGISTER was refused is kept, for the refusal to get through."""
MAXIMUM_AGREEMENTS = 50_000
_TEMPORARY_EACH = 4
"""Temporary sets of one user at one address: nobody can fill the table in the name of another."""
_ELEMENTS = 64
"""Elements of Security-Client that are looked at."""
_ATTEMPTS = 3
"""How often SPIs are chosen anew when others use them."""

_SEC_AGREE = "sec-agree"
_IPSEC = "ipsec-3gpp"
_FIELDS = ("spi-c", "spi-s", "port-c", "port-s")


class SecurityAgreements:
    """All agreements of a P-CSCF.  Refusals are returned, effects come out of ``poll``."""

    def __init__(self, policy: GmSecurityPolicy, tokens: Tokens) -> None:
        self.mode = policy.mode
        self._pairs = policy.pairs
        self._ports = policy.ports
        self._tokens = tokens
        self._outputs: deque[SecurityOutput] = deque()
        self._by_name: dict[str, Agreement] = {}
        self._by_ends: dict[tuple[Address, Address], list[Agreement]] = {}
        """By our and the UE's address of what it sends, datagrams and its connections; the newest last."""
        self._by_chain: dict[str, list[Agreement]] = {}
        self._by_ue_port: dict[Address, list[Agreement]] = {}
        self._temporary: dict[tuple[str, str], list[Agreement]] = {}
        """By the UE's address and private identity."""
        self._spis: set[int] = set()
        self._ends_next: list[tuple[float, str]] = []
        """A heap; an entry counts while it is the agreement's ``ends_at``."""
        self._own = frozenset(
            (host, port) for host, ports in self._ports.items() for port in (*ports.server, *ports.client)
        )

    # ---- queries ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def addresses(self) -> frozenset[Address]:
        """Our protected addresses."""
        return self._own

    def protects(self, flow: Flow) -> bool:
        """Whether ``flow`` ends at a protected port."""
        return flow.local in self._own

    def of(self, flow: Flow) -> Agreement | None:
        """The agreement inside which a message came."""
        found = self._by_ends.get((flow.local, flow.remote))
        return found[-1] if found else None

    def named(self, name: str) -> Agreement | None:
        """The agreement called ``name``, if it is still there."""
        return self._by_name.get(name)

    def summary(self) -> list[dict[str, object]]:
        """What there is, for people: no identities, no keys."""
        return [
            {
                "ue": each.proposal.theirs.ip,
                "stage": each.stage.value,
                "algorithms": str(each.proposal.pair),
                "mode": each.proposal.mode,
                "ports": [each.client[1], each.server[1], each.ue_client[1], each.ue_server[1]],
            }
            for each in self._by_name.values()
        ]

    def poll(self) -> SecurityOutput | None:
        """Return the next effect."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """When the next set ends."""
        while self._ends_next:
            at, name = self._ends_next[0]
            agreement = self._by_name.get(name)
            if agreement is not None and agreement.ends_at == at:
                return at
            heapq.heappop(self._ends_next)
        return None

    def expire(self, now: float) -> None:
        """Take away the sets whose time is over."""
        while (at := self.deadline()) is not None and at <= now:
            self._forget(self._by_name[self._ends_next[0][1]])

    # ---- what UEs send --------------------------------------------------------------------------------------------

    def judge_register(self, request: Request, flow: Flow, impi: str, now: float) -> Proposal | Response | None:
        """Check a REGISTER's part of the agreement; a refusal, or what a challenge to it will be answered with.

        TS 24.229 clauses 5.2.2.1 and 5.2.2.2, RFC 3329 section 2.3.1.  Raises `SipParseError`.
        """
        agreement = self.of(flow)
        if self.protects(flow):
            if agreement is None:
                return _refuse(request, 403, "no security agreement protects this request")
            if agreement.proposal.impi not in (impi, str(request.to.uri)):
                # Its keys are those of one card: another's RES, got by other ways, must not do inside them.
                return _refuse(request, 403, "the security agreement belongs to another private identity")
            if not self._verified(request, agreement):
                self._refused(agreement, now)
                return self._no_agreement(request, "Security-Verify is not what Security-Server was")
            if agreement.stage is Stage.TEMPORARY and not self._repeated(request, agreement):
                # The bidding-down check: what came in clear was not what the UE had sent.
                self._refused(agreement, now)
                return self._no_agreement(request, "Security-Client is not what it was: somebody changed it")
        wants = _SEC_AGREE in {tag.lower() for tag in (*request.require, *request.proxy_require)}
        if not wants and "Security-Client" not in request.headers:
            if self.mode is GmMode.REQUIRED and not flow.secure and agreement is None:
                refusal = _refuse(request, 421, "this network wants a security agreement")
                refusal.headers.add("Require", _SEC_AGREE)
                return refusal
            return None
        if self.mode is GmMode.OFF or flow.secure:
            return None
        return self._proposal(request, flow, impi, agreement.chain if agreement is not None else "")

    def judge(self, request: Request, flow: Flow) -> Response | None:
        """Refuse a request other than REGISTER that is not as well protected as it must be."""
        if not self.protects(flow):
            if self.mode is GmMode.REQUIRED and not flow.secure:
                return _refuse(request, 403, "a request in clear: this network wants a security agreement")
            return None
        agreement = self.of(flow)
        if agreement is None or agreement.stage is Stage.TEMPORARY:
            return _refuse(request, 403, "no registration protects this request")
        if request.method in ("ACK", "CANCEL") or self._verified(request, agreement):
            return None
        return self._no_agreement(request, "Security-Verify is not what Security-Server was")

    def _verified(self, request: Request, agreement: Agreement) -> bool:
        given = security_mechanisms(request, "Security-Verify")
        return _normal(given) == _normal(SecurityMechanism.parse(value) for value in agreement.server_values)

    def _repeated(self, request: Request, agreement: Agreement) -> bool:
        given = security_mechanisms(request, "Security-Client")
        return _normal(given) == _normal(SecurityMechanism.parse(value) for value in agreement.proposal.values)

    def _proposal(self, request: Request, flow: Flow, impi: str, chain: str) -> Proposal | Response:
        mechanisms = security_mechanisms(request, "Security-Client")
        if len(mechanisms) > _ELEMENTS:
            return _refuse(request, 400, f"Security-Client has more than {_ELEMENTS} elements")
        # Annex M: who sends from elsewhere than it says is behind a NAT.
        mode = "trans" if _same_host(request.top_via.host, flow.remote[0]) else "UDP-enc-tun"
        offers: dict[AlgorithmPair, SecurityMechanism] = {}
        for mechanism in mechanisms:
            value = mechanism.parameters.get
            if (
                mechanism.name.lower() != _IPSEC
                or (value("prot") or "esp").lower() != "esp"
                or (value("mod") or "trans").lower() != mode.lower()
            ):
                continue
            try:
                pair = AlgorithmPair.parse(f"{value('alg')}/{value('ealg') or 'null'}".lower())
            except IpsecError:
                continue
            offers.setdefault(pair, mechanism)
        found = next((pair for pair in self._pairs if pair in offers), None)
        if found is None:
            words = "no mechanism in Security-Client is one of this network's"
            return self._no_agreement(request, f"{words} with mod={mode}", mode)
        numbers = [offers[found].number(name) for name in _FIELDS]
        spi_c, spi_s, port_c, port_s = numbers
        if spi_c is None or spi_s is None or port_c is None or port_s is None:
            return self._no_agreement(request, "spi-c, spi-s, port-c or port-s is missing in Security-Client", mode)
        if 0 in (spi_c, spi_s) or spi_c == spi_s or port_c == port_s:
            return _refuse(request, 400, "the SPIs and the ports in Security-Client must differ")
        if mode == "trans" and self._taken(flow.remote[0], (port_c, port_s), impi):
            return _refuse(request, 400, "another private identity has this address and protected port")
        values = tuple(str(mechanism) for mechanism in mechanisms)
        theirs = Party(flow.remote[0], spi_c, spi_s, port_c, port_s)
        return Proposal(values, found, mode, theirs, flow.local[0], impi, chain)

    def _taken(self, host: str, ports: tuple[int, int], impi: str) -> bool:
        """Whether one of a UE's protected ports is another's who has proved to be there (TS 33.203 clause 7.1)."""
        return any(
            each.stage is Stage.CONFIRMED and each.proposal.impi != impi
            for port in ports
            for each in self._by_ue_port.get((host, port), ())
        )

    def _no_agreement(self, request: Request, words: str, mode: str = "trans") -> Response:
        """494 with what this network takes (RFC 3329 section 2.3.1)."""
        refusal = _refuse(request, 494, words, "Security Agreement Required")
        if self._pairs:
            refusal.headers.add("Security-Server", ", ".join(_server_values(self._pairs, mode, None)))
        refusal.headers.add("Require", _SEC_AGREE)
        return refusal

    # ---- life of an agreement ---------------------------------------------------------------------------------------

    def begin(self, proposal: Proposal, ck: Secret[bytes], ik: Secret[bytes], now: float) -> Agreement:
        """Make the temporary set of a challenge, which is to be installed before the 401 goes; `IpsecError`."""
        temporary = self._temporary.get((proposal.theirs.ip, proposal.impi), [])
        if len(temporary) >= _TEMPORARY_EACH:
            self._forget(temporary[0])
        if len(self._by_name) >= MAXIMUM_AGREEMENTS:
            raise IpsecError(f"there are {MAXIMUM_AGREEMENTS} security agreements already")
        ours = self._our_party(proposal)
        agreement = Agreement(
            f"gm-{self._tokens(12)}",
            proposal,
            ours,
            _server_values(self._pairs, proposal.mode, ours),
            proposal.chain or self._tokens(16),
            now + REG_AWAIT_AUTH,
            (ck, ik),
        )
        return self._enter(agreement)

    def again(self, failed: Agreement, now: float) -> Agreement | None:
        """Choose other SPIs where some are in use by somebody else; ``None`` if that was tried often enough."""
        self._forget(failed)
        if failed.attempts >= _ATTEMPTS:
            return None
        agreement = self.begin(failed.proposal, *failed.keys, now)
        agreement.attempts = failed.attempts + 1
        return agreement

    def confirm(self, agreement: Agreement, registered_until: float, now: float) -> None:
        """A 200 went out to a REGISTER inside ``agreement`` (TS 24.229 clause 5.2.2.2)."""
        chain = self._by_chain[agreement.chain]
        longest = max((each.ends_at for each in chain if each.stage is Stage.CONFIRMED), default=0.0)
        self._end_at(agreement, max(longest, registered_until + MARGIN_SECONDS))
        if agreement.stage is not Stage.TEMPORARY:
            return
        agreement.stage = Stage.CONFIRMED
        self._no_longer_temporary(agreement)
        for each in chain:
            if each is agreement:
                continue
            if each.stage is Stage.CONFIRMED:
                each.stage = Stage.LEAVING
            self._end_at(each, min(each.ends_at, now + LEAVING_SECONDS))

    def refused(self, agreement: Agreement, now: float) -> None:
        """The REGISTER inside a temporary set was refused for good: the set goes when the refusal is through."""
        if agreement.stage is Stage.TEMPORARY:
            self._refused(agreement, now)

    def leave(self, chain: str, now: float) -> None:
        """A registration is over: its sets go, after what is still under way."""
        for each in self._by_chain.get(chain, ()):
            if each.stage is Stage.TEMPORARY:
                self._no_longer_temporary(each)
            each.stage = Stage.LEAVING
            self._end_at(each, min(each.ends_at, now + LEAVING_SECONDS))

    def drop(self, agreement: Agreement) -> None:
        """Forget a set that could not be installed."""
        self._forget(agreement)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _refused(self, agreement: Agreement, now: float) -> None:
        if agreement.stage is Stage.TEMPORARY:
            self._end_at(agreement, min(agreement.ends_at, now + REFUSED_SECONDS))

    def _end_at(self, agreement: Agreement, at: float) -> None:
        agreement.ends_at = at
        heapq.heappush(self._ends_next, (at, agreement.name))

    def _enter(self, agreement: Agreement) -> Agreement:
        proposal = agreement.proposal
        self._by_name[agreement.name] = agreement
        self._by_chain.setdefault(agreement.chain, []).append(agreement)
        self._temporary.setdefault((proposal.theirs.ip, proposal.impi), []).append(agreement)
        for ends in _ends(agreement):
            self._by_ends.setdefault(ends, []).append(agreement)
        for port in (agreement.ue_client, agreement.ue_server):
            self._by_ue_port.setdefault(port, []).append(agreement)
        self._spis |= {agreement.ours.spi_c, agreement.ours.spi_s}
        self._end_at(agreement, agreement.ends_at)
        self._outputs.append(InstallAssociations(agreement.associations()))
        return agreement

    def _forget(self, agreement: Agreement) -> None:
        if self._by_name.pop(agreement.name, None) is None:
            return
        _remove(self._by_chain, agreement.chain, agreement)
        self._no_longer_temporary(agreement)
        for ends in _ends(agreement):
            _remove(self._by_ends, ends, agreement)
        for port in (agreement.ue_client, agreement.ue_server):
            _remove(self._by_ue_port, port, agreement)
        self._spis -= {agreement.ours.spi_c, agreement.ours.spi_s}
        self._outputs.append(RemoveAssociations(agreement.name))

    def _no_longer_temporary(self, agreement: Agreement) -> None:
        _remove(self._temporary, (agreement.proposal.theirs.ip, agreement.proposal.impi), agreement)

    def _our_party(self, proposal: Proposal) -> Party:
        """Choose SPIs, and ports that this UE's other sets do not have together with its own (33.203 clause 7.1)."""
        ports = self._ports.get(proposal.ours)
        if ports is None:
            raise IpsecError(f"{proposal.ours} has no protected ports")
        theirs = proposal.theirs
        at_client, at_server = (
            [each for each in self._by_ue_port.get((theirs.ip, port), ()) if each.ours.ip == proposal.ours]
            for port in (theirs.port_c, theirs.port_s)
        )
        servers = {each.ours.port_s for each in at_client}
        clients = {each.ours.port_c for each in at_server}
        port_s = next((port for port in ports.server if port not in servers), None)
        port_c = next((port for port in ports.client if port not in clients), None)
        if port_s is None or port_c is None:
            others = at_client if port_s is None else at_server
            # What a REGISTER in clear asks for never ends a set in use: its sender may be anybody.
            going = [each for each in others if each.stage is Stage.LEAVING] or [
                each for each in others if each.stage is Stage.TEMPORARY
            ]
            if not going:
                raise IpsecError(f"every protected port for {theirs.ip} is in use")
            self._forget(min(going, key=lambda each: each.ends_at))
            return self._our_party(proposal)
        spis: list[int] = []
        while len(spis) < 2:
            spi = LOWEST_SPI + int(self._tokens(12), 16) % (HIGHEST_SPI + 1 - LOWEST_SPI)
            if spi not in self._spis and spi not in (theirs.spi_c, theirs.spi_s, *spis):
                spis.append(spi)
        return Party(proposal.ours, spis[0], spis[1], port_c, port_s)


def _ends(agreement: Agreement) -> tuple[tuple[Address, Address], ...]:
    # A connection that we have opened carries the UE's responses, and what it else sends there.
    return (agreement.server, agreement.ue_client), (agreement.client, agreement.ue_server)


def _remove[K](table: dict[K, list[Agreement]], key: K, agreement: Agreement) -> None:
    """Take an agreement out of a list of a table, and the list out of the table when it is empty."""
    found = table.get(key)
    if found is not None and agreement in found:
        found.remove(agreement)
        if not found:
            del table[key]


def _server_values(pairs: Iterable[AlgorithmPair], mode: str, ours: Party | None) -> tuple[str, ...]:
    """The elements of Security-Server, the preferred first (annex H); without SPIs and ports in a 494."""
    where = "" if ours is None else f";spi-c={ours.spi_c};spi-s={ours.spi_s};port-c={ours.port_c};port-s={ours.port_s}"
    return tuple(
        f"{_IPSEC};q=0.{9 - min(place, 8)};alg={pair.integrity};ealg={pair.encryption};prot=esp;mod={mode}{where}"
        for place, pair in enumerate(pairs)
    )


def _normal(mechanisms: Iterable[SecurityMechanism]) -> list[tuple[str, frozenset[tuple[str, str]]]]:
    """What of a list of mechanisms must be the same on both sides: everything but spelling."""
    return [
        (each.name.lower(), frozenset((name.lower(), (value or "").lower()) for name, value in each.parameters.items))
        for each in mechanisms
    ]


def _same_host(via: str, source: str) -> bool:
    try:
        return ip_address(via.strip("[]")) == ip_address(source)
    except ValueError:
        return True  # a name tells nothing


def _refuse(request: Request, status: int, words: str, reason: str | None = None) -> Response:
    response = response_to(request, status, reason)
    response.headers.add("Warning", f'399 pcscf "{words}"')
    _log.info("%s refused with %d: %s", request.method, status, words)
    return response


def without_agreement(message: Message) -> None:
    """Remove what is between UE and P-CSCF alone (TS 24.229 clause 5.2.2.1); an emptied header goes away."""
    for name in ("Security-Client", "Security-Verify"):
        message.headers.remove(name)
    for name in ("Require", "Proxy-Require"):
        tags = [tag for tag in message.headers.elements(name) if tag.lower() != _SEC_AGREE]
        message.headers.remove(name)
        if tags:
            message.headers.add(name, ", ".join(tags))
