"""What the WWPF does with each connection and request that mitmproxy hands it: the decisions, no sockets.

Hosts outside the operator's domains are tunnelled, plain HTTP to them passes as it is.  On the operator's hosts:
a browser's page load at a portal is logged in with the card; its WebSocket goes to the SIF; TURN credentials that the
portal hands out are told to the agent.  Everything else goes through to the operator.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence

from mitmproxy import connection, http, tcp, tls
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers import ClientTLSLayer, TCPLayer

from imskit.aka.gba import USER_AGENT_ME, USER_AGENT_UICC
from imskit.secrets import Secret
from ue_agent.wwpf import pages
from ue_agent.wwpf.agent import AgentError
from ue_agent.wwpf.agent_link import AgentLink, Sessions
from ue_agent.wwpf.config import Site, WwpfConfig
from ue_agent.wwpf.handover import SECRET_HEADER
from ue_agent.wwpf.login import LoginRefusedError, asks_for_card, log_in
from ue_agent.wwpf.owner import Owner, find_owner
from ue_agent.wwpf.portal import PageAnswer, PageRequest, Portal, PortalError
from ue_agent.wwpf.sessions import LoginSessions, SetCookie, read_cookies

_log = logging.getLogger(__name__)

MAXIMUM_REPLAY = 1024 * 1024
"""Octets of the largest request body that is kept, to be sent again after a log-in."""
_BROWSER, _SESSIONS, _OURS = "imsbridge-browser", "imsbridge-sessions", "imsbridge-ours"


class WwpfAddon:
    """One instance serves all connections."""

    def __init__(
        self,
        config: WwpfConfig,
        portal: Portal,
        agent: AgentLink | None,
        sessions: LoginSessions,
        owner_of: Callable[[tuple[str, int], tuple[str, int]], Owner | None] = find_owner,
    ) -> None:
        self._config = config
        self._portal = portal
        self._agent = agent
        self._sessions = sessions
        self._owner_of = owner_of
        self._browsers: dict[str, bool] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self.listening = asyncio.Event()
        """Set once the proxy is up."""

    # -- connections

    def running(self) -> None:
        """The proxy is up."""
        self.listening.set()

    def client_disconnected(self, client: connection.Client) -> None:
        """Forget what was found out about the client."""
        self._browsers.pop(client.id, None)

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        """Tunnel every connection (``CONNECT``) to a host that is not to be intercepted."""
        address = nextlayer.context.server.address
        if address is None or any(isinstance(known, ClientTLSLayer) for known in nextlayer.context.layers):
            return
        if not self._config.intercepts(address[0]):
            nextlayer.layer = TCPLayer(nextlayer.context, ignore=True)

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Open TLS only when the name inside is the host that was asked for, so that one decision holds."""
        address = data.context.server.address
        name = data.client_hello.sni
        if address is None or name is None or name.lower() != address[0].lower().removesuffix("."):
            data.ignore_connection = True

    def tcp_message(self, flow: tcp.TCPFlow) -> None:
        """Keep no copy of what passes through an upgraded connection (WebSocket)."""
        flow.messages.clear()

    # -- requests

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Let large bodies, and all of other hosts, flow through."""
        length = flow.request.headers.get("content-length", "0" if flow.request.method in ("GET", "HEAD") else "")
        small = length.isdigit() and int(length) <= MAXIMUM_REPLAY
        flow.request.stream = not (self._config.intercepts(flow.request.host) and small)

    async def request(self, flow: http.HTTPFlow) -> None:
        """Decide what becomes of a request to one of the operator's hosts."""
        request = flow.request
        if not self._config.intercepts(request.host):
            return
        site = Site(request.host.lower().removesuffix("."), request.port)
        _remove(request.headers, SECRET_HEADER)
        if request.scheme != "https":
            self._to_https(flow, site)
            return
        if _authority(request) != site:
            # RFC 9110 section 7.4: the name in the request is not the one that the certificate was for.
            self._answer(flow, pages.page(421, "Wrong host", "The request names another host.", "Load the page anew."))
            return
        if request.headers.get("upgrade", "").lower() == "websocket" and site in self._config.websockets:
            await self._hand_over(flow, site)
        elif site in self._config.portals:
            await self._to_portal(flow, site)

    def _to_https(self, flow: http.HTTPFlow, site: Site) -> None:
        """A portal is only ever loaded over TLS."""
        secure = next((portal for portal in self._config.portals if portal.host == site.host), None)
        if secure is not None and flow.request.method == "GET" and not flow.request.stream:
            location = secure.origin + flow.request.path
            flow.response = http.Response.make(307, b"", {"Location": location, "Cache-Control": "no-store"})
            flow.metadata[_OURS] = True

    async def _to_portal(self, flow: http.HTTPFlow, site: Site) -> None:
        request = flow.request
        own = request.headers.get_all("authorization")
        if any(value.lstrip().lower().startswith("digest") for value in own):
            _remove(request.headers, "authorization")  # only the card speaks Digest here
            own = []
        if self._agent is None or not await self._is_browser(flow):
            return
        flow.metadata[_BROWSER] = True
        flow.metadata[_SESSIONS] = self._sessions.find(read_cookies(request.headers.get_all("cookie")))
        if own or request.stream or not _is_page_load(request):
            return
        await self._load_page(flow, site)

    async def _load_page(self, flow: http.HTTPFlow, site: Site) -> None:
        """Fetch a page ourselves: with a log-in if there is none yet, or if the operator asks for a new one."""
        known: dict[str, str] = flow.metadata[_SESSIONS]
        if not known:
            await self._log_in(flow, site, None)
            return
        try:
            answer = await self._portal.fetch(_page_request(flow, site), None)
        except PortalError as error:
            _log.warning("portal: %s", error)
            self._answer(flow, pages.portal_unreachable(str(error)))
            return
        if answer.status == 401:
            await self._forget(known)
            if asks_for_card(answer.challenges):
                await self._log_in(flow, site, answer)
                return
        await self._follow_cookies(known, answer.all("set-cookie"))
        self._answer_as(flow, answer)

    async def _log_in(self, flow: http.HTTPFlow, site: Site, challenged: PageAnswer | None) -> None:
        agent, portal, page = self._agent, self._portal, _page_request(flow, site)
        assert agent is not None
        naf = None
        if self._config.gba:
            page = _announcing_gba(page)

            async def naf(challenge: str, renew: bool) -> str:
                return await agent.answer_naf_challenge(challenge, page.method, page.path, site.host, renew)

        try:
            # One at a time for a browser's connection: the card answers one at a time anyway.
            async with self._turns.setdefault(site.host, asyncio.Lock()):
                result = await log_in(
                    identity=await agent.identity(),
                    realm=site.host,
                    uri=page.path,
                    send=lambda authorization: portal.fetch(page, authorization),
                    answer=lambda challenge: agent.answer_challenge(challenge, page.method, page.path),
                    challenged=challenged,
                    answer_naf=naf,
                )
        except PortalError as error:
            _log.warning("log-in at %s: %s", site.host, error)
            self._answer(flow, pages.portal_unreachable(str(error)))
            await self._report("login-failed", str(error))
        except (LoginRefusedError, AgentError) as error:
            _log.warning("log-in at %s: %s", site.host, error)
            kind = error.kind if isinstance(error, AgentError) else None
            self._answer(flow, pages.for_agent_error(kind, str(error)) if kind else pages.login_refused(str(error)))
            await self._report("login-failed", str(error))
        else:
            if result.authenticated:
                await self._logged_in(site, result.answer)
            self._answer_as(flow, result.answer)

    async def _logged_in(self, site: Site, answer: PageAnswer) -> None:
        assert self._agent is not None
        opened = self._sessions.opened(answer.all("set-cookie"))
        if opened:
            _log.info("logged in at %s with the card", site.host)
        else:
            _log.warning("logged in at %s, but it sets no cookie that is Secure, HttpOnly and long enough", site.host)
        await self._remember(opened, [])
        await self._report("login", site.host)

    # -- responses

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Let responses flow through, except those that are looked at."""
        assert flow.response is not None
        looked_at = flow.response.status_code == 401 or self._is_turn(flow)
        flow.response.stream = not (flow.metadata.get(_OURS) or (flow.metadata.get(_BROWSER) and looked_at))

    async def response(self, flow: http.HTTPFlow) -> None:
        """See to what a portal's response means for the log-in."""
        response = flow.response
        known: dict[str, str] | None = flow.metadata.get(_SESSIONS)
        if response is None or known is None or flow.metadata.get(_OURS):
            return
        if response.status_code == 401:
            await self._refused(flow, known)
            return
        await self._follow_cookies(known, response.headers.get_all("set-cookie"))
        if known and response.status_code == 200 and self._is_turn(flow):
            await self._turn_credential(response)

    async def _refused(self, flow: http.HTTPFlow, known: dict[str, str]) -> None:
        """The operator wants a log-in: a page whose session has ended gets a new one without being loaded again."""
        assert flow.response is not None
        await self._forget(known)
        answer = _page_answer(flow.response)
        challenged = asks_for_card(answer.challenges)
        if (challenged or known) and not flow.request.stream and _is_of_the_page(flow.request):
            site = Site(flow.request.host.lower().removesuffix("."), flow.request.port)
            await self._log_in(flow, site, answer if challenged else None)
            if flow.response.status_code == 200 and self._is_turn(flow):
                await self._turn_credential(flow.response)
        elif challenged:
            self._answer_as(flow, answer)

    async def _turn_credential(self, response: http.Response) -> None:
        """Tell the agent the TURN credential before the page has it (draft-uberti-behave-turn-rest)."""
        assert self._agent is not None
        try:
            fields = json.loads(response.get_text(strict=False) or "")
            username, password, ttl = fields["username"], fields["password"], fields["ttl"]
            if not (isinstance(username, str) and isinstance(password, str) and isinstance(ttl, int | float)):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            _log.warning("portal: %s brings no username, password and ttl", self._config.turn_path)
            return
        try:
            await self._agent.turn_credential(username, Secret(password), float(ttl))
            _log.info("the page has a TURN credential for %d s", ttl)
        except AgentError as error:
            _log.warning("the TURN credential was not taken: %s", error)

    def _is_turn(self, flow: http.HTTPFlow) -> bool:
        return flow.request.path.partition("?")[0] == self._config.turn_path

    # -- the operator's WebSocket

    async def _hand_over(self, flow: http.HTTPFlow, site: Site) -> None:
        """Lead the page's WebSocket to the SIF, if it is the operator's page, logged in, in a known browser."""
        handover, request = self._config.handover, flow.request
        if handover is None:
            return
        origins = request.headers.get_all("origin")
        cookies = read_cookies(request.headers.get_all("cookie"))
        why = None
        if len(origins) != 1 or origins[0] not in [portal.origin for portal in self._config.portals]:
            why = "Only the operator's own page may use the phone."
        elif self._agent is None or not await self._is_browser(flow):
            why = "This program may not use the phone."
        elif not await self._is_alive():
            why = "The calling service on this device is not running."
        elif not self._sessions.find(cookies):
            why = "This page is not logged in with the SIM card."
        if why is not None:
            _log.warning("WebSocket to %s refused: %s", site.host, why)
            self._answer(flow, pages.not_allowed(why))
            return
        for name in ("cookie", "authorization", "sec-websocket-extensions"):  # not for the SIF
            _remove(request.headers, name)
        request.scheme = "http"
        request.host, request.port = handover.address
        request.headers["Host"] = site.host
        request.headers[SECRET_HEADER] = handover.secret.reveal()
        _log.info("WebSocket of %s handed to the SIF", origins[0])

    async def _is_alive(self) -> bool:
        """Ask the agent anything: that also brings the log-ins up to date after a new start of either side."""
        assert self._agent is not None
        try:
            await self._agent.status("websocket")
        except AgentError:
            return False
        return True

    # -- helpers

    async def _is_browser(self, flow: http.HTTPFlow) -> bool:
        client = flow.client_conn
        if client.id not in self._browsers:
            peer, ours = (client.peername[0], client.peername[1]), (client.sockname[0], client.sockname[1])
            owner = await asyncio.to_thread(self._owner_of, peer, ours)
            allowed = owner is not None and owner.is_one_of(self._config.browsers)
            if not allowed:
                _log.info("no log-in for %s", "a client of another device" if owner is None else owner.stranger)
            self._browsers[client.id] = allowed
        return self._browsers[client.id]

    async def _follow_cookies(self, known: dict[str, str], set_cookies: Sequence[str]) -> None:
        """A logged-in browser gets another cookie in place of its own, or loses it."""
        if not known or not set_cookies:
            return
        read = [(text, SetCookie.parse(text)) for text in set_cookies]
        replaced = [(text, cookie.name) for text, cookie in read if cookie is not None and cookie.name in known]
        if replaced:
            closed = [known[name] for _, name in replaced]
            self._sessions.closed(closed)
            await self._remember(self._sessions.opened(text for text, _ in replaced), closed)

    async def _forget(self, known: dict[str, str]) -> None:
        """The operator does not know the session any more."""
        if known:
            closed = list(known.values())
            self._sessions.closed(closed)
            await self._remember([], closed)

    async def _remember(self, opened: Sessions, closed: list[str]) -> None:
        if self._agent is not None and (opened or closed):
            try:
                await self._agent.sessions_changed(opened, closed)
            except AgentError as error:
                _log.warning("log-in not remembered: %s", error)

    async def _report(self, state: str, detail: str) -> None:
        if self._agent is not None:
            try:
                await self._agent.status(state, detail)
            except AgentError as error:
                _log.debug("not reported: %s", error)

    def _answer(self, flow: http.HTTPFlow, page: pages.Page) -> None:
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        }
        flow.response = http.Response.make(page.status, page.body, headers)
        flow.metadata[_OURS] = True

    def _answer_as(self, flow: http.HTTPFlow, answer: PageAnswer) -> None:
        """Give the browser the portal's answer, without anything of the challenge."""
        fields = [
            (name.encode("latin-1", "replace"), value.encode("utf-8", "surrogateescape"))
            for name, value in answer.headers
            if name.lower() != "authentication-info"
            and not (name.lower() == "www-authenticate" and asks_for_card([value]))
        ]
        fields.append((b"Content-Length", str(len(answer.body)).encode()))
        now = time.time()
        reason = answer.reason.encode("latin-1", "replace")
        flow.response = http.Response(
            b"HTTP/1.1", answer.status, reason, http.Headers(fields), answer.body, None, now, now
        )
        flow.metadata[_OURS] = True


def _remove(headers: http.Headers, name: str) -> None:
    headers.pop(name, None)


def _authority(request: http.Request) -> Site | None:
    """Return the host and port that the request names (``Host`` or ``:authority``)."""
    host, separator, port = (request.host_header or "").lower().partition(":")
    if separator and not port.isdigit():
        return None
    return Site(host.removesuffix("."), int(port) if separator else 443)


def _is_page_load(request: http.Request) -> bool:
    """Tell whether a page is loaded into a tab: not a frame, not a script's request (W3C Fetch Metadata)."""
    if request.method != "GET":
        return False
    mode, dest = request.headers.get("sec-fetch-mode"), request.headers.get("sec-fetch-dest")
    if mode is None and dest is None:  # a browser without these headers
        return "text/html" in request.headers.get("accept", "") and "origin" not in request.headers
    return mode == "navigate" and dest == "document"


def _is_of_the_page(request: http.Request) -> bool:
    """Tell whether the request comes from the portal's own page, and not from another page in the same browser."""
    return request.headers.get("sec-fetch-site") == "same-origin"


def _page_request(flow: http.HTTPFlow, site: Site) -> PageRequest:
    request = flow.request
    return PageRequest(site, request.method, request.path, _fields(request.headers), request.raw_content or b"")


def _announcing_gba(page: PageRequest) -> PageRequest:
    """Say in ``User-Agent`` that bootstrapped keys can be had (TS 24.109 clause 5.2.2)."""
    own = next((value for name, value in page.headers if name.lower() == "user-agent"), "")
    tokens = f"{own} {USER_AGENT_ME} {USER_AGENT_UICC}".strip()
    headers = [(name, value) for name, value in page.headers if name.lower() != "user-agent"]
    return dataclasses.replace(page, headers=[*headers, ("User-Agent", tokens)])


def _page_answer(response: http.Response) -> PageAnswer:
    headers = [(name, value) for name, value in _fields(response.headers) if name.lower() != "content-length"]
    return PageAnswer(response.status_code, response.reason, headers, response.raw_content or b"")


def _fields(headers: http.Headers) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in headers.fields]
