"""The eP-CSCF on its sockets: WebSocket towards clients, Mw towards the core, its media gateways and token issuers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

from imskit.observe.events import EventLog
from imskit.sip.engine.proxy import Resolve, Resolved
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.io.resolver import ResolutionError, Resolver, is_address
from imskit.sip.io.transport import Limits
from imskit.sip.wire.flow import DEFAULT_PORTS, Address, Target, Transport
from imskit.sockets import definite
from imskit.tasks import spawn
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig, parse_place
from network_edge.ep_cscf.engine.effects import (
    CallStep,
    Draining,
    DropFlow,
    MediaAnswer,
    MediaDelete,
    MediaFailed,
    MediaLost,
    MediaOffer,
    MediaReady,
    RegistrationStep,
    RegistrationStepKind,
    TokenAccepted,
    TokenRefused,
    ValidateToken,
)
from network_edge.ep_cscf.engine.ep_cscf import EpCscf, EpCscfEvent, EpCscfOutput
from network_edge.ep_cscf.engine.ims_alg import AlgLimits, ImsAlg
from network_edge.ep_cscf.engine.settings import EpCscfSettings
from network_edge.ep_cscf.engine.trickle import MediaCandidates
from network_edge.ep_cscf.health import HealthServer
from network_edge.ep_cscf.json_signalling.server import JsonSignalling
from network_edge.ep_cscf.metrics import Metrics
from network_edge.ep_cscf.tokens import (
    IntrospectedTokens,
    SignedTokens,
    TokenValidator,
    TrustedIssuer,
    Verifier,
    WebSource,
)
from network_edge.iq.gateway import GatewayError, MediaGateway, UnknownCallError
from network_edge.iq.ng_gateway import NgGateway
from network_edge.iq.pool import GatewayPool
from network_edge.wwsf.limits import address_key

_log = logging.getLogger(__name__)

_MAXIMUM_MESSAGE = 65_536
_MAXIMUM_MALFORMED = 50
_MOST_QUESTIONS = 16
"""Tokens of one address that are looked at at a time."""
_GAUGES = ("registrations", "calls", "connections", "connections_refused", "draining")


class EpCscfError(Exception):
    """The eP-CSCF cannot start; the text says why and what to do."""


class EpCscfServer:
    """One eP-CSCF: ``start()`` listens, ``drain()`` takes nothing new, ``close()`` ends it."""

    def __init__(
        self, config: EpCscfConfig, *, gateway: MediaGateway | None = None, validator: TokenValidator | None = None
    ) -> None:
        """``gateway`` and ``validator`` are the configured ones unless given; who gives a gateway closes it."""
        self._config = config
        self._gateway = gateway
        self._validator = validator
        self._stack = AsyncExitStack()
        self._events = EventLog("ep-cscf", config.events)
        self._origins = frozenset(config.origins)
        self._media: dict[str, asyncio.Task[None]] = {}
        self._asking: Counter[str] = Counter()
        """Tokens that are being looked at, by address."""
        """The last command of each call: a call's commands are carried out one after the other."""
        self._idle = asyncio.Event()
        self._draining = False
        self._endpoint: Endpoint[EpCscfEvent, EpCscfOutput] | None = None
        self._engine: EpCscf | None = None
        self._alg = ImsAlg(tokens, AlgLimits(retry_after=config.retry_after))
        self._resolver = Resolver()
        self._pool: GatewayPool | None = None
        self.metrics = Metrics(self._gauges, self.gateways)
        self.wss: tuple[Address, ...] = ()
        """Where clients connect with TLS, once started."""
        self.ws: tuple[Address, ...] = ()
        """The same in clear."""
        self.json: tuple[Address, ...] = ()
        """Where clients that signal in JSON connect."""
        self.mw: Address = config.mw.place
        """Where the core reaches this edge."""
        self.http_port = 0
        """Of health and metrics, once started with them."""

    # ---- start and end -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open every socket; ``EpCscfError`` if one, a certificate or the core's address cannot be had."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        config = self._config
        self._stack.callback(self._events.close)
        gateway = await self._make_gateway()
        gateway.on_media_lost = self._media_lost
        if self._validator is None and config.issuers:
            self._validator = self._make_validator()
        core = await self._find_core()
        tls = server_tls(config.certificate, config.key) if config.wss or config.json else None
        mw_server, mw_client = mw_tls(config.mw)
        mw = Target(_transport(config.mw), _definite(config.mw.place, "mw.address"))
        self.mw = mw.address
        w2 = [(kind, _definite(parse_place(kind, text), kind)) for kind, texts in self._listeners() for text in texts]
        limits = Limits(
            connections=config.connections,
            connect_seconds=config.handshake_seconds,
            ping_seconds=config.ping_seconds,
            websockets_per_address=config.connections_per_address,
            websocket_bytes=_MAXIMUM_MESSAGE,
            websocket_malformed=_MAXIMUM_MALFORMED,
        )
        engine = EpCscf(
            tuple(address for _, address in w2),
            mw,
            core[0],
            self._settings(core),
            tokens,
            self._alg,
        )
        self._engine = engine
        self._endpoint = Endpoint(engine, self._output, client_tls=mw_client, resolver=self._resolver, limits=limits)
        self._stack.push_async_callback(self._endpoint.close)
        # Mw first: with one host for all it is the socket that requests to the core leave by.
        for transport in ("TLS",) if mw.transport == "TLS" else ("UDP", "TCP"):
            await self._listen(cast(Transport, transport), mw.address, mw_server if transport == "TLS" else None)
        for kind, address in w2:
            bound = await self._listen("WSS" if kind == "wss" else "WS", address, tls if kind == "wss" else None)
            if kind == "wss":
                self.wss += (bound,)
            else:
                self.ws += (bound,)
                _log.warning(
                    "WebSocket in clear on %s port %d: only for a TLS proxy before it, or a lab. Whoever listens on "
                    "the way reads and takes over registrations",
                    *bound,
                )
        await self._listen_json(tls)
        self._sweep_later()
        self._stack.callback(self._stop_sweeping)
        await self._start_health()

    def _listeners(self) -> tuple[tuple[str, list[str]], ...]:
        return ("wss", self._config.wss), ("ws", self._config.ws)

    async def _listen(self, transport: Transport, address: Address, tls: ssl.SSLContext | None) -> Address:
        assert self._endpoint is not None
        check = self._judge if transport in ("WS", "WSS") else None
        try:
            return await self._endpoint.listen(transport, address, tls=tls, check=check)
        except OSError as error:
            raise EpCscfError(
                f"cannot listen on {transport} {address[0]} port {address[1]}: {error.strerror or error}. "
                "See: ip address, ss -lntu"
            ) from error

    async def _listen_json(self, tls: ssl.SSLContext | None) -> None:
        assert self._endpoint is not None
        signalling = JsonSignalling(self._endpoint.transports, self._config.home_domain)
        self._stack.push_async_callback(signalling.close)
        for text in self._config.json:
            address = _definite(parse_place("json", text), "json")
            try:
                self.json += (await signalling.listen(address, tls, self._judge),)
            except OSError as error:
                raise EpCscfError(
                    f"cannot listen for JSON on {address[0]} port {address[1]}: {error.strerror or error}. "
                    "See: ip address, ss -lntu"
                ) from error

    async def _start_health(self) -> None:
        config = self._config
        if not config.http_port:
            return
        health = HealthServer(self.state, self.metrics.text)
        self._stack.push_async_callback(health.aclose)
        try:
            self.http_port = await health.start(config.http_address, config.http_port)
        except OSError as error:
            place = f"{config.http_address} port {config.http_port}"
            raise EpCscfError(f"cannot listen on {place} for health and metrics: {error.strerror}") from error

    def drain(self) -> None:
        """From now on new calls and registrations get 503 with Retry-After; running calls finish."""
        self._draining = True
        if self._endpoint is not None:
            self._endpoint.handle(Draining(True))
        _log.info("draining: %d calls", self.calls)
        self._look_whether_idle()

    async def drained(self) -> None:
        """Return when, after ``drain()``, no call is left."""
        await self._idle.wait()

    async def close(self) -> None:
        """Close every socket; clients and core find out by themselves."""
        await self._stack.aclose()

    # ---- what it is made of --------------------------------------------------------------------------------------

    async def _make_gateway(self) -> MediaGateway:
        if self._gateway is not None:
            return self._gateway
        if not self._config.gateways:
            raise EpCscfError("there is no media gateway: give [[gateways]]")
        members: dict[str, MediaGateway] = {}
        for gateway in self._config.gateways:
            try:
                members[gateway.name] = await NgGateway.connect(*gateway.place)
            except OSError as error:
                raise EpCscfError(f"gateway {gateway.name} at {gateway.address}: {error.strerror}") from error
        self._pool = GatewayPool(members)
        self._stack.push_async_callback(self._pool.close)
        self._pool.start()
        self._gateway = self._pool
        return self._pool

    async def _find_core(self) -> tuple[Target, ...]:
        """Where requests to the core go, in the order of RFC 3263."""
        mw = self._config.mw
        uri = mw.core_uri
        transport = _transport(mw)
        if is_address(uri.host.strip("[]")):
            return (Target(transport, (uri.host.strip("[]"), uri.port or DEFAULT_PORTS[transport])),)
        wanted = uri if uri.transport else uri.with_parameter("transport", mw.transport)
        try:
            return tuple(await self._resolver.resolve(wanted))
        except ResolutionError as error:
            raise EpCscfError(f"the core {mw.core} cannot be found: {error}. See: dig {uri.host}") from error

    def _settings(self, core: tuple[Target, ...]) -> EpCscfSettings:
        config = self._config
        return EpCscfSettings(
            home_domain=config.home_domain,
            visited_network=config.visited_network or config.home_domain,
            core_addresses=frozenset([*config.mw.trusted, *(target.address[0] for target in core)]),
            access_network_info=config.access_network,
            authz_server=config.authz_server,
            emergency_numbers=frozenset(config.emergency_numbers),
            minimum_expires=config.minimum_expires,
            maximum_expires=config.maximum_expires,
            retry_after=config.retry_after,
            reg_event=config.reg_event,
            maximum_registrations=4 * config.connections,
        )

    def _make_validator(self) -> TokenValidator:
        trusted = []
        for issuer in self._config.issuers:
            verifier: Verifier
            if issuer.jwks:
                source = WebSource(issuer.jwks, issuer.ca)
                verifier = SignedTokens(source.keys, close=source.close)
            else:
                source = WebSource(issuer.introspection, issuer.ca, (issuer.client_id, issuer.client_secret))
                verifier = IntrospectedTokens(source.introspect, close=source.close)
            trusted.append(
                TrustedIssuer(
                    issuer.issuer,
                    issuer.audience,
                    issuer.web_server_identity,
                    tuple(issuer.identities),
                    tuple(issuer.private_identities),
                    verifier,
                    issuer.scope,
                )
            )
        validator = TokenValidator(trusted)
        self._stack.push_async_callback(validator.close)
        return validator

    # ---- what clients may do -------------------------------------------------------------------------------------

    def _judge(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Judge a WebSocket handshake by its Origin (RFC 6455 section 10.2)."""
        origin = headers.get("origin")
        if origin is None:
            if self._config.without_origin:
                return None
            self.metrics.refusals.labels("no-origin").inc()
            return 403, "this is for pages of the operator: no Origin was given"
        if origin not in self._origins:
            self.metrics.refusals.labels("origin").inc()
            return 403, "this is for pages of the operator, not for this Origin"
        return None

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(self._config.idle_seconds / 4, self._sweep)

    def _stop_sweeping(self) -> None:
        self._sweeper.cancel()

    def _sweep(self) -> None:
        """Close the connections that are of no use: nobody is registered on them, whatever is said there."""
        assert self._engine is not None
        seconds = self._config.idle_seconds
        silent = self._running.transports.silent_clients(seconds)
        for flow in {*silent, *self._engine.unused(seconds, self._running.now)}:
            if not self._engine.registered(flow):
                self.metrics.refusals.labels("idle").inc()
                self._running.transports.drop(flow, "nobody registers here")
        self._sweep_later()

    # ---- what the engine says ------------------------------------------------------------------------------------

    def _output(self, output: EpCscfOutput) -> None:
        match output:
            case ValidateToken():
                spawn(self._validate(output), "eP-CSCF token")
            case MediaOffer() | MediaAnswer():
                self._in_turn(output.request.call_id, self._ask_media(output))
            case MediaDelete(request):
                self._in_turn(request.call_id, self._end_media(output))
            case MediaCandidates(request):
                self._in_turn(request.call_id, self._tell_candidates(output))
            case Resolve():
                spawn(self._resolve(output), "eP-CSCF look-up")
            case DropFlow(flow, reason):
                self.metrics.refusals.labels("flow-dropped").inc()
                _log.warning("%s is closed: %s", flow, reason)
                self._running.transports.drop(flow, reason)
            case RegistrationStep():
                self._registration_step(output)
            case CallStep():
                self._call_step(output)

    def _registration_step(self, step: RegistrationStep) -> None:
        self.metrics.registrations.labels(step.kind.value, step.scenario).inc()
        if step.kind is RegistrationStepKind.REFUSED:
            self.metrics.refusals.labels(_label(step.detail)).inc()
        self._events.emit(f"registration-{step.kind.value}", scenario=step.scenario, detail=step.detail)

    def _call_step(self, step: CallStep) -> None:
        self.metrics.calls.labels(step.kind.value, step.side.value).inc()
        _log.info("call %s: %s (began on the %s side)%s", step.call_id, step.kind.value, step.side.value,
                  f": {step.detail}" if step.detail else "")  # fmt: skip
        self._events.emit(f"call-{step.kind.value}", call=step.call_id, side=step.side.value, detail=step.detail)
        self._look_whether_idle()

    def _look_whether_idle(self) -> None:
        if self._draining and self.calls == 0:
            self._idle.set()

    async def _validate(self, asked: ValidateToken) -> None:
        if self._validator is None:
            answer: TokenAccepted | TokenRefused = TokenRefused(asked.key, "invalid_token", "no issuer is configured")
        elif self._asking[who := address_key(asked.source)] >= _MOST_QUESTIONS:
            answer = TokenRefused(asked.key, "unavailable", "too many tokens of one address are being looked at")
        else:
            self._asking[who] += 1
            try:
                answer = await self._validator.check(asked)
            finally:
                self._asking[who] -= 1
                if not self._asking[who]:
                    del self._asking[who]
        self.metrics.tokens.labels("accepted" if isinstance(answer, TokenAccepted) else answer.error).inc()
        self._handle(answer)

    def _in_turn(self, call: str, work: Coroutine[Any, Any, None]) -> None:
        """Carry out a command once those of the same call before it are done."""
        previous = self._media.get(call)

        async def run() -> None:
            if previous is not None:
                await asyncio.wait([previous])
            try:
                await work
            finally:
                if self._media.get(call) is asyncio.current_task():
                    del self._media[call]

        self._media[call] = spawn(run(), "eP-CSCF media")

    async def _ask_media(self, asked: MediaOffer | MediaAnswer) -> None:
        assert self._gateway is not None
        command = "offer" if isinstance(asked, MediaOffer) else "answer"
        answer: MediaReady | MediaFailed
        try:
            if isinstance(asked, MediaOffer):
                sdp = await self._gateway.offer(asked.request)
            else:
                sdp = await self._gateway.answer(asked.request)
            answer = MediaReady(asked.key, sdp)
        except GatewayError as error:
            _log.warning("the media gateway refuses an %s: %s", command, error)
            answer = MediaFailed(asked.key, error.status, error.what)
        except Exception:
            _log.exception("the media gateway failed at an %s", command)
            answer = MediaFailed(asked.key, 500, "fault of the media gateway")
        outcome = "done" if isinstance(answer, MediaReady) else str(answer.status)
        self.metrics.media.labels(command, outcome).inc()
        self._handle(answer)

    async def _end_media(self, asked: MediaDelete) -> None:
        assert self._gateway is not None
        outcome = "done"
        try:
            await self._gateway.delete(asked.request)
        except UnknownCallError:
            outcome = "unknown"  # it has ended the media by itself
        except GatewayError as error:
            outcome = str(error.status)
            _log.warning("media of a call could not be ended: %s", error)
        self.metrics.media.labels("delete", outcome).inc()

    async def _tell_candidates(self, told: MediaCandidates) -> None:
        assert self._gateway is not None
        try:
            await self._gateway.candidates(told.request)
        except GatewayError as error:
            _log.debug("candidates were not taken: %s", error)

    async def _resolve(self, asked: Resolve) -> None:
        try:
            found: tuple[Target, ...] = tuple(await self._resolver.resolve(asked.uri))
        except ResolutionError as error:
            _log.warning("a next hop cannot be found: %s", error)
            found = ()
        self._handle(Resolved(asked.branch, found))

    def _media_lost(self, lost: MediaLost) -> None:
        self._handle(lost)

    def _handle(self, event: EpCscfEvent) -> None:
        if self._endpoint is not None:
            self._endpoint.handle(event)

    # ---- what it shows -------------------------------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """How many calls run."""
        return self._alg.calls

    @property
    def registrations(self) -> int:
        """How many clients are registered."""
        return self._engine.registrations if self._engine is not None else 0

    def gateways(self) -> dict[str, str]:
        """State of each media gateway."""
        if self._pool is not None:
            return self._pool.status()
        if self._gateway is None:
            return {}
        return {"own": "draining" if self._gateway.draining else "up"}

    def state(self) -> dict[str, object]:
        """What is to be said of this edge; ``problem`` is empty if new clients may come."""
        gateways = self.gateways()
        problem = ""
        if self._draining:
            problem = "draining"
        elif gateways and not any(text.startswith("up") for text in gateways.values()):
            problem = "no media gateway takes new calls"
        return {
            "problem": problem,
            "draining": self._draining,
            "registrations": self.registrations,
            "calls": self.calls,
            "connections": self._endpoint.transports.clients if self._endpoint is not None else 0,
            "connections_refused": self._endpoint.transports.refused if self._endpoint is not None else 0,
            "gateways": gateways,
        }

    def _gauges(self) -> dict[str, float]:
        state = self.state()
        return {name: float(cast(int, state[name])) for name in _GAUGES}

    @property
    def _running(self) -> Endpoint[EpCscfEvent, EpCscfOutput]:
        if self._endpoint is None:
            raise RuntimeError("the eP-CSCF has not been started")
        return self._endpoint


def tokens(digits: int) -> str:
    """Return unguessable hex digits."""
    return secrets.token_hex((digits + 1) // 2)[:digits]


def server_tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """A server's TLS with this certificate; ``EpCscfError``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, certificate, key)
    return context


def mw_tls(mw: MwConfig) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """TLS of Mw, as server and as client: both sides show a certificate (TS 33.210)."""
    if mw.transport != "tls":
        return None, None
    server = server_tls(mw.certificate, mw.key)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(client, mw.certificate, mw.key)
    for context in (server, client):
        try:
            context.load_verify_locations(mw.ca)
        except (OSError, ssl.SSLError) as error:
            raise EpCscfError(f"mw.ca {mw.ca} cannot be used: {error}") from error
    return server, client


def _load(context: ssl.SSLContext, certificate: Path | None, key: Path | None) -> None:
    assert certificate is not None
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise EpCscfError(f"certificate {certificate} or key {key} cannot be used: {error}") from error


def _transport(mw: MwConfig) -> Transport:
    return cast(Transport, mw.transport.upper())


def _definite(address: Address, name: str) -> Address:
    try:
        return definite(address)
    except OSError as error:
        raise EpCscfError(f"{name}: {address[0]} is no address of this machine: {error.strerror}") from error


def _label(detail: str) -> str:
    """The reason of a refusal as a label: its first word, if that is a status or an error's name."""
    word = detail.partition(" ")[0].rstrip(":")
    return word if len(word) <= 24 and word.replace("_", "").isalnum() else "other"
