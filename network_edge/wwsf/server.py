"""The WWSF's web server: the page, the log-in, and what a logged-in page may ask for."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from imskit.aka.gba import USER_AGENT_ME
from imskit.observe.events import EventLog
from imskit.secrets import Identity, Secret
from network_edge.wwsf.aka_login import AkaLogin, Challenged, LoggedIn, Outcome, Refused
from network_edge.wwsf.bsf import BsfClient, KeySource
from network_edge.wwsf.config import WwsfConfig
from network_edge.wwsf.gba_login import GbaLogin, LoggedInWithKey
from network_edge.wwsf.gba_login import Outcome as KeyOutcome
from network_edge.wwsf.home_network import HomeNetwork, HomeNetworkError
from network_edge.wwsf.identities.model import StoreError
from network_edge.wwsf.limits import RateLimit, address_key
from network_edge.wwsf.metrics import CONTENT_TYPE, Metrics
from network_edge.wwsf.sessions import Session, SessionStore, turn_credential, turn_user
from network_edge.wwsf.tokens.issuer import Issuer
from network_edge.wwsf.tokens.keys import KeyFileError
from network_edge.wwsf.web_login import BROWSER_COOKIE, LogInError, Opened, WebLogin

_log = logging.getLogger(__name__)

COOKIE = "__Secure-session"
_STATIC = Path(__file__).with_name("static")
_ASSETS = {
    "phone.js": "text/javascript",
    "phone.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_LOG_IN_PATHS = ("/", "/api/session", "/api/turn")
_OWN_PAGE_ONLY = ("/api/login", "/api/token")
_BODY_SECONDS = 10
_HEAD_SECONDS = 15
"""From a connection, or from the end of an answer, to the end of the next request's head; an idle one ends too."""
_TLS_SECONDS = 10
_ANSWER_SECONDS = 30
_CONNECTIONS = 2000
_NO_TURN_SECONDS = 3600
_NEW_SESSION = web.RequestKey("new session", str)
_CARD_TRIES, _CARD_SECONDS = 120, 60.0
"""Requests of a card's log-in from one address that ended in none; a log-in takes two, many devices may share a NAT."""
_MAX_BODY = 64 * 1024

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WwsfError(Exception):
    """The server cannot start; the text says why and what to do."""


class Wwsf:
    """One portal: ``start()`` listens, ``stop()`` ends it."""

    def __init__(
        self,
        config: WwsfConfig,
        home: HomeNetwork | None,
        bsf: KeySource | None = None,
        *,
        head_seconds: float = _HEAD_SECONDS,
        connections: int = _CONNECTIONS,
    ) -> None:
        """``bsf`` is the configured one unless given; without ``home`` nobody logs in with a SIM card.

        A request's head must come within ``head_seconds``; ``connections`` are served at a time.
        """
        self._most_connections = connections
        self._config = config
        self._home = home
        self._events = EventLog("wwsf", config.events)
        self._sessions = SessionStore(config.session_hours * 3600, time.monotonic)
        self._metrics = Metrics()
        self._card_tries = RateLimit(_CARD_TRIES, _CARD_SECONDS, time.monotonic)
        self._login = AkaLogin(config.portal, config.algorithms, home, time.monotonic) if home is not None else None
        self._web: WebLogin | None = None
        if config.identities is not None:
            try:
                self._web = WebLogin(config, self._sessions, self._metrics)
            except KeyFileError as error:
                raise WwsfError(str(error)) from error
        self._bsf, self._gba = bsf, None
        if config.gba is not None and config.login != "aka":
            self._bsf = bsf or BsfClient(config.gba.zn, config.gba.secret)
            self._gba = GbaLogin(
                config.portal,
                self._bsf,
                bytes.fromhex(config.gba.protocol),
                in_card=config.gba.in_card,
                clock=time.monotonic,
                today=time.time,
            )
        self._page = _read("index.html")
        self._files = {name: _read(name) for name in _ASSETS}
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[self._guard, self._log_in])
        app.router.add_get("/", self._get_page)
        app.router.add_get("/assets/{name}", self._get_asset)
        app.router.add_get("/api/session", self._get_session)
        app.router.add_get("/api/turn", self._get_turn)
        app.router.add_post("/api/logout", self._post_logout)
        app.router.add_get("/healthz", self._get_health)
        if self._web is not None:
            app.router.add_post("/api/login", self._post_login)
            app.router.add_post("/api/token", self._post_token)
            app.router.add_get("/login/{provider}", self._get_provider)
            app.router.add_get("/login/{provider}/callback", self._get_callback)
            app.router.add_get("/.well-known/jwks.json", self._web.get_keys)
            app.router.add_post("/oauth/introspect", self._web.introspect)
        # aiohttp ends a connection on which no whole head has come when this time is over, dripping or silent.
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=head_seconds)
        self._listener: asyncio.Server | None = None
        inner = web.Application()
        inner.router.add_get("/metrics", self._get_metrics)
        self._inner = web.AppRunner(inner, access_log=None)
        self.port = config.port
        """The port in use, once started (differs from the configured one only if that is 0)."""
        self.metrics_port = 0
        """The port of the metrics, once started with them."""

    @property
    def issuer(self) -> Issuer | None:
        """Who issues the tokens of log-ins without a SIM card, where there are such."""
        return self._web.issuer if self._web is not None else None

    @property
    def sessions(self) -> int:
        """How many are logged in."""
        return len(self._sessions)

    async def start(self) -> None:
        """Listen; ``WwsfError`` if the certificate or the address cannot be used."""
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(config.certificate, config.key)
        except (OSError, ssl.SSLError) as error:
            raise WwsfError(f"certificate {config.certificate} or key {config.key} cannot be used: {error}") from error
        await self._runner.setup()
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._protocol,
                config.address,
                config.port,
                ssl=context,
                ssl_handshake_timeout=_TLS_SECONDS,
                reuse_address=True,
            )
        except OSError as error:
            raise WwsfError(f"cannot listen on {config.address} port {config.port}: {error.strerror}") from error
        self.port = self._listener.sockets[0].getsockname()[1]
        if config.metrics is not None:
            await self._inner.setup()
            try:
                await web.TCPSite(self._inner, config.metrics.address, config.metrics.port, reuse_address=True).start()
            except OSError as error:
                place = f"{config.metrics.address} port {config.metrics.port}"
                raise WwsfError(f"cannot listen on {place} for metrics: {error.strerror}") from error
            self.metrics_port = self._inner.addresses[0][1]
        _log.info("portal %s listens on %s port %d", config.portal, config.address, self.port)

    def _protocol(self) -> asyncio.Protocol:
        """What serves a new connection."""
        server = self._runner.server
        assert server is not None
        return server() if len(server.connections) < self._most_connections else _TooMany()

    async def stop(self) -> None:
        """Finish what runs, close the sockets."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()
        await self._inner.cleanup()
        if self._web is not None:
            await self._web.close()
        if self._home is not None:
            await self._home.close()
        if self._bsf is not None:
            await self._bsf.close()
        self._events.close()

    # ---- pages ----------------------------------------------------------------------------------------------

    async def _get_page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._page, content_type="text/html", charset="utf-8")

    async def _get_asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in _ASSETS:
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=_ASSETS[name], charset="utf-8")

    async def _get_health(self, _: web.Request) -> web.StreamResponse:
        if self._web is not None:
            try:
                await self._web.check()
            except StoreError as error:
                _log.error("not healthy: %s", error)
                return web.json_response({"status": "the identity store does not answer"}, status=503)
        return web.json_response({"status": "ok"})

    async def _get_metrics(self, _: web.Request) -> web.StreamResponse:
        if self._web is not None:
            try:
                await self._web.count()
            except StoreError as error:
                _log.error("the ranges cannot be counted: %s", error)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    # ---- what a logged-in page asks for ------------------------------------------------------------------------

    async def _get_session(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        if session is None:
            offered = self._web.offered if self._web is not None else {"password": False, "providers": []}
            return web.json_response({"error": "not logged in", "log_in": offered}, status=401)
        return web.json_response(
            {
                "display": session.display,
                "sip": {
                    "uri": session.sip_uri,
                    "impi": str.__str__(session.impi),
                    "display_name": session.display,
                    "websocket": self._config.websocket,
                    "registration": self._registration(session),
                },
            }
        )

    def _registration(self, session: Session) -> dict[str, object]:
        if self._web is None or session.registration == "network":
            return {"method": "network"}
        return self._web.registration(session)

    async def _post_token(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        if session is None:
            return web.json_response({"error": "not logged in"}, status=401)
        return web.json_response(self._registration(session))

    async def _get_turn(self, request: web.Request) -> web.StreamResponse:
        session = self._session(request)
        if session is None:
            return web.json_response({"error": "not logged in"}, status=401)
        turn = self._config.turn
        if turn is None:
            return web.json_response({"uris": [], "ttl": _NO_TURN_SECONDS})
        user = turn_user(turn.secret, session.impi)
        name, password = turn_credential(turn.secret, user, int(time.time()) + turn.ttl)
        return web.json_response(
            {"username": name, "password": password.reveal(), "ttl": turn.ttl, "uris": turn.uris},
            headers={"Cache-Control": "no-store"},
        )

    async def _post_logout(self, request: web.Request) -> web.StreamResponse:
        if token := request.cookies.get(COOKIE):
            session = self._sessions.find(token)
            if self._web is not None and session is not None and session.subject:
                try:
                    await self._web.log_out(session)
                except LogInError as error:
                    return _refusal(error)
            self._sessions.close(token)
        response = web.json_response({})
        response.del_cookie(COOKIE, domain=self._config.cookie_domain or None, path="/", secure=True, httponly=True)
        return response

    def _session(self, request: web.Request) -> Session | None:
        return self._sessions.find(request.get(_NEW_SESSION) or request.cookies.get(COOKIE))

    # ---- log-in of the web -------------------------------------------------------------------------------------

    async def _post_login(self, request: web.Request) -> web.StreamResponse:
        # A form of another site cannot send JSON, nor this page's Origin; a body that drips in is not waited for.
        if request.content_type != "application/json":
            return web.json_response({"error": "JSON is needed"}, status=415)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = json.loads(await request.read())
            name, password = body["name"], body["password"]
        except TimeoutError:
            return web.json_response({"error": "the request did not come"}, status=408)
        except (ValueError, KeyError, TypeError, RecursionError):
            return web.json_response({"error": "name and password are needed"}, status=400)
        if not isinstance(name, str) or not isinstance(password, str):
            return web.json_response({"error": "name and password are needed"}, status=400)
        assert self._web is not None
        try:
            opened = await self._web.by_password(name, Secret(password), request.remote)
        except LogInError as error:
            self._events.emit("password-refused", status=error.status)
            return _refusal(error)
        self._events.emit("password-done")
        return self._with_cookie(web.json_response({}), opened)

    async def _get_provider(self, request: web.Request) -> web.StreamResponse:
        assert self._web is not None
        browser = secrets.token_urlsafe(32)
        try:
            where = await self._web.start(request.match_info["provider"], browser, request.remote)
        except LogInError as error:
            return _refusal_page(error)
        response = web.Response(status=302, headers={"Location": where})
        # Lax: the provider's redirection back is a navigation from another site.
        response.set_cookie(BROWSER_COOKIE, browser, max_age=600, path="/", secure=True, httponly=True, samesite="Lax")
        return response

    async def _get_callback(self, request: web.Request) -> web.StreamResponse:
        assert self._web is not None
        browser = request.cookies.get(BROWSER_COOKIE, "")
        try:
            opened = await self._web.finish(request.match_info["provider"], dict(request.query), browser)
        except LogInError as error:
            self._events.emit("openid-refused", status=error.status)
            return _refusal_page(error)
        self._events.emit("openid-done")
        response = self._with_cookie(web.Response(status=303, headers={"Location": "/"}), opened)
        response.del_cookie(BROWSER_COOKIE, path="/", secure=True, httponly=True)
        return response

    def _with_cookie(self, response: web.StreamResponse, opened: Opened) -> web.StreamResponse:
        token, seconds = opened
        response.set_cookie(
            COOKIE,
            token,
            domain=self._config.cookie_domain or None,
            max_age=seconds,
            path="/",
            secure=True,
            httponly=True,
            samesite="Lax",
        )
        return response

    # ---- log-in with the SIM card ------------------------------------------------------------------------------

    @web.middleware
    async def _log_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whatever is asked for with ``Authorization`` is answered once the SIM card has, and with a session."""
        if request.method != "GET" or request.path not in _LOG_IN_PATHS:
            return await handler(request)
        authorization = request.headers.get("Authorization")
        if authorization is None:
            if self._gba is None or not _can_bootstrap(request) or self._session(request) is not None:
                return await handler(request)
            return self._challenged("gba", self._gba.challenge().challenges)
        body = await request.read()
        outcome: Outcome | KeyOutcome
        if self._gba is not None and (self._config.login == "gba" or self._gba.is_for_us(authorization)):
            kind = "gba"
            outcome = (
                await self._gba.handle(authorization, request.method, request.raw_path, body)
                if self._gba.is_for_us(authorization)
                else self._gba.challenge()
            )
        else:
            kind = "aka"
            if self._login is None:
                return _message(400, "Log-in failed", "This page has no log-in with the SIM card.")
            source = address_key(request.remote)
            if wait := self._card_tries.wait(source):
                self._events.emit("aka-refused", status=429)
                refusal = _message(429, "Log-in failed", f"Too many tries. Wait {wait} seconds.")
                refusal.headers["Retry-After"] = str(wait)
                return refusal
            # Each may cost a vector and a sequence number of somebody's card.
            self._card_tries.count(source)
            outcome = await self._login.handle(authorization, request.method, request.raw_path, body)
            if isinstance(outcome, LoggedIn):
                self._card_tries.forget(source)
        match outcome:
            case Challenged(challenges):
                return self._challenged(kind, challenges)
            case Refused(status, reason):
                self._events.emit(f"{kind}-refused", status=status)
                return _message(status, "Log-in failed", reason)
            case LoggedIn(impi, authentication_info):
                return await self._logged_in(request, handler, kind, impi, lambda _: authentication_info, None)
            case LoggedInWithKey(impi, seconds):
                return await self._logged_in(request, handler, kind, impi, outcome.authentication_info, seconds)

    def _challenged(self, kind: str, challenges: tuple[str, ...]) -> web.Response:
        self._events.emit(f"{kind}-challenged")
        refusal = _message(401, "Log-in", "This page is logged in to with the SIM card.")
        for challenge in challenges:
            refusal.headers.add("WWW-Authenticate", challenge)
        return refusal

    async def _logged_in(
        self,
        request: web.Request,
        handler: Handler,
        kind: str,
        impi: Identity,
        proof: Callable[[bytes], str],
        at_most: float | None,
    ) -> web.StreamResponse:
        """Answer with a session; ``proof`` makes Authentication-Info for the response's body."""
        assert self._home is not None
        try:
            profile = await self._home.profile(impi)
        except HomeNetworkError as error:
            return _message(503, "Log-in failed", f"Your identities cannot be found: {error}.")
        token, seconds = self._sessions.open(impi, profile.impus, profile.display, at_most)
        request[_NEW_SESSION] = token
        response = await handler(request)
        body = response.body if isinstance(response, web.Response) else None
        response.headers["Authentication-Info"] = proof(body if isinstance(body, bytes) else b"")
        self._with_cookie(response, (token, seconds))
        self._metrics.log_ins.labels(kind, "done").inc()
        self._events.emit(f"{kind}-done")
        return response

    # ---- for every answer --------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        response = await self._guarded(request, handler)
        for name, value in self._policy().items():
            response.headers.setdefault(name, value)
        self._metrics.requests.labels(str(response.status)).inc()
        self._metrics.seconds.observe(time.monotonic() - started)
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _same_site(request, self._config.portal):
            return web.json_response({"error": "this answers only to its own page"}, status=403)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await handler(request)
        except TimeoutError:
            _log.warning("a request to %s took longer than %d s", request.path, _ANSWER_SECONDS)
            return _message(503, "Not now", "This took too long. Try again.")
        except web.HTTPException as error:
            return _message(error.status, error.reason, "This page does not exist.")

    def _policy(self) -> Mapping[str, str]:
        socket = urlsplit(self._config.websocket)
        return {
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; "
                f"connect-src 'self' {socket.scheme}://{socket.netloc}; form-action 'self'; base-uri 'none'; "
                "frame-ancestors 'none'"
            ),
            "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
            "Referrer-Policy": "no-referrer",
            "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }


class _TooMany(asyncio.Protocol):
    """Ends a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Cut it off."""
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _same_site(request: web.Request, portal: str) -> bool:
    """Whether the request comes from the portal's own page, or from nobody's (a navigation)."""
    origin = request.headers.get("Origin")
    if origin is None:
        # Browsers say where a POST comes from; the log-in takes no chance (a log-in as the attacker, RFC 9700 4.7).
        return request.path not in _OWN_PAGE_ONLY
    try:
        return urlsplit(origin).hostname == portal
    except ValueError:
        return False


def _can_bootstrap(request: web.Request) -> bool:
    """Whether the client says that it has bootstrapped keys (TS 24.109 clause 5.2.2)."""
    return USER_AGENT_ME in request.headers.get("User-Agent", "").lower().split()


def _refusal(error: LogInError) -> web.Response:
    headers = {"Retry-After": str(error.wait)} if error.wait else None
    return web.json_response({"error": str(error)}, status=error.status, headers=headers)


def _refusal_page(error: LogInError) -> web.Response:
    response = _message(error.status, "Log-in failed", str(error))
    if error.wait:
        response.headers["Retry-After"] = str(error.wait)
    return response


def _message(status: int, title: str, text: str) -> web.Response:
    body = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><link rel="stylesheet" href="/assets/phone.css">'
        f'<main><h1>{html.escape(title)}</h1><p class="notice">{html.escape(text)}</p>'
        '<p><a href="/">Try again</a></p></main></html>'
    )
    return web.Response(status=status, text=body, content_type="text/html")


def _read(name: str) -> bytes:
    try:
        return (_STATIC / name).read_bytes()
    except OSError as error:
        raise WwsfError(f"the page's {name} is missing ({error.strerror}): run scripts/setup to build it") from error
