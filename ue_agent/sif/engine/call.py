"""One call through the SIF: a back-to-back user agent between the page and IMS (TR 23.701 clause 5.7.1.2).

Requests pass through; what differs is the session description, which `imskit.sdp.interworking` turns round, and the
media, which the RMF carries.  A call machine hears of all three sides and answers with `Output` values.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from enum import Enum, auto

from imskit.ims import events as ims
from imskit.sdp import ims_side, interworking, web_side
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import LegMedia
from imskit.sdp.profile import IMS_FORMATS_WITH_G711
from imskit.sdp.web_side import WebEndpoint
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Message, Response
from imskit.sip.wire.uri import SipUri, TelUri, Uri
from ue_agent.sif.engine.events import ApplyMedia, CloseMedia, MediaAnswered, OpenMedia, Output, Step, ToIms, ToPage

_log = logging.getLogger(__name__)


class _Media(Enum):
    OPENING = auto()
    OPEN = auto()
    CLOSED = auto()


class GatewayCall(ABC):
    """What both directions share.  The same name serves the call on both sides and its media."""

    def __init__(self, name: str, flow: Flow) -> None:
        self.name = name
        self.flow = flow
        """The page's WebSocket."""
        self.outputs: deque[Output] = deque()
        self._web: WebEndpoint | None = None
        self._ims: ImsEndpoint | None = None
        self._media = _Media.OPENING
        self._page_over = False
        self._ims_over = False
        self._web_media: LegMedia | None = None
        self._ims_media: LegMedia | None = None
        self._ims_local: SessionDescription | None = None
        """Our last description towards IMS."""
        self._web_local: SessionDescription | None = None
        """Our last description towards the page."""

    @property
    def over(self) -> bool:
        """Whether nothing is left of the call on either side."""
        return self._page_over and self._ims_over

    # ---- media ----------------------------------------------------------------------------------------------------

    def media_opened(self, web: WebEndpoint, ims_endpoint: ImsEndpoint) -> None:
        """Ports and credentials are there."""
        self._web, self._ims = web, ims_endpoint
        self._media = _Media.OPEN
        if self._page_over or self._ims_over:
            self._close_media()
            return
        try:
            self._begin()
        except SdpError as error:
            self.fail(error.status if error.status != 400 else 488, str(error))

    @abstractmethod
    def _begin(self) -> None:
        """Media are there: go on with the call."""

    def media_failed(self, reason: str) -> None:
        """The media cannot be had, or broke."""
        _log.warning("call %s: media failed: %s", self.name, reason)
        self.fail(503, reason)

    def _close_media(self) -> None:
        if self._media is not _Media.CLOSED:
            self._media = _Media.CLOSED
            self.outputs.append(CloseMedia(self.name))

    def _apply(self) -> None:
        if self._web_media is not None and self._ims_media is not None:
            plan = interworking.plan(self._web_media, self._ims_media)
            self.outputs.append(ApplyMedia(self.name, plan))

    # ---- both sides -------------------------------------------------------------------------------------------------

    @abstractmethod
    def fail(self, status: int, reason: str) -> None:
        """End the call on both sides; ``reason`` is for people."""

    @abstractmethod
    def hang_up(self, reason: str) -> None:
        """End the call on both sides from here: the page has gone."""

    def from_page(self, output: page.Output) -> None:
        """Take in what the page's side says of this call."""
        match output:
            case page.Ended(_, cause, message):
                if not self._page_over:
                    self._page_over = True
                    self._step("page-ended")
                    self._page_ended(cause, message)
                self._close_media()
            case page.OfferReceived(_, _, exchange, sdp):
                self._page_offers(exchange, sdp)
            case page.OfferRequested(_, _, exchange):
                assert self._web_local is not None
                self.outputs.append(ToPage(page.AnswerOffer(exchange, self._web_local.encode())))
            case _:
                self._page_says(output)

    def from_ims(self, output: ims.Output) -> None:
        """Take in what the IMS side says of this call."""
        match output:
            case ims.Ended():
                if not self._ims_over:
                    self._ims_over = True
                    self._step("ims-ended")
                    self._ims_ended(output)
                self._close_media()
            case ims.Offer(_, exchange, sdp):
                self._ims_offers(exchange, sdp)
            case _:
                self._ims_says(output)

    @abstractmethod
    def _page_says(self, output: page.Output) -> None: ...

    @abstractmethod
    def _ims_says(self, output: ims.Output) -> None: ...

    @abstractmethod
    def _page_ended(self, cause: page.Cause, message: Message | None) -> None: ...

    @abstractmethod
    def _ims_ended(self, ended: ims.Ended) -> None: ...

    # ---- changes within the call -------------------------------------------------------------------------------------

    def _ims_offers(self, exchange: str, sdp: bytes | None) -> None:
        """IMS changes the media (hold, another codec): answered here, the page need not know."""
        if sdp is None:
            assert self._ims_local is not None
            self.outputs.append(ToIms(ims.AnswerOffer(self.name, exchange, self._ims_local.encode())))
            return
        assert self._ims is not None
        try:
            answer, media = interworking.ims_answer(
                SessionDescription.parse(sdp), self._ims, web=self._web_media, previous=self._ims_local
            )
            self._ims_local, self._ims_media = answer, media
            self._apply()
        except SdpError as error:
            _log.info("call %s: IMS's offer refused: %s", self.name, error)
            self.outputs.append(ToIms(ims.RejectOffer(self.name, exchange, 488)))
            return
        self.outputs.append(ToIms(ims.AnswerOffer(self.name, exchange, answer.encode())))

    def _page_offers(self, exchange: str, sdp: bytes) -> None:
        """The page changes the media (hold, new ICE): answered here, and told to IMS where the direction changes."""
        if self._web is None or self._ims_media is None or self._ims_local is None:
            self.outputs.append(ToPage(page.RejectOffer(exchange, 491)))
            return
        try:
            offer = SessionDescription.parse(sdp)
            answer, media = interworking.web_answer(offer, self._ims_media, self._web, previous=self._web_local)
        except SdpError as error:
            _log.info("call %s: the page's offer refused: %s", self.name, error)
            self.outputs.append(ToPage(page.RejectOffer(exchange, 488, None, warning(str(error)))))
            return
        before = self._web_media.direction if self._web_media is not None else None
        self._web_local, self._web_media = answer, media
        self.outputs.append(ToPage(page.AnswerOffer(exchange, answer.encode())))
        if media.direction is not before:
            change = self._ims_local.copy()
            for line in change.media:
                if line.port:
                    line.set_direction(media.direction.reversed)
            self.outputs.append(ToIms(ims.Modify(self.name, change.encode())))
        self._apply()

    def _step(self, name: str, codec: str = "") -> None:
        self.outputs.append(Step(self.name, name, codec))


class CallFromPage(GatewayCall):
    """The page calls (TR 23.701 figure 5.7.2.2-2, left to right)."""

    def __init__(self, incoming: page.IncomingCall) -> None:
        super().__init__(incoming.call, incoming.flow)
        self._request = incoming.request
        self._offer: SessionDescription | None = None
        self._ims_offer: SessionDescription | None = None
        self._answered = False
        self._early_shown = False
        self._step("page-invite")
        if incoming.sdp is None:
            self.fail(488, "an INVITE of the page must carry an offer")
            return
        try:
            self._offer = SessionDescription.parse(incoming.sdp)
            web_side.check_offer(self._offer)
        except SdpError as error:
            self.fail(error.status, str(error))
            return
        self.outputs.append(OpenMedia(self.name, controlling=False))

    def _begin(self) -> None:
        assert self._offer is not None
        assert self._ims is not None
        self._ims_offer = self._ims_local = interworking.ims_offer(self._offer, self._ims)
        target = _target(self._request.request_uri)
        self.outputs.append(ToIms(ims.Dial(self.name, target, self._ims_offer.encode())))
        self._step("ims-invite")

    def _page_says(self, output: page.Output) -> None:
        if isinstance(output, page.Confirmed):
            self._step("page-confirmed")

    def _ims_says(self, output: ims.Output) -> None:
        match output:
            case ims.MediaAgreed(_, sdp):
                self._agreed(sdp)
            case ims.Progress(_, status):
                self._step(f"ims-{status}")
                if status == 180:
                    self.outputs.append(ToPage(page.Provisional(self.name, 180, sdp=self._preview())))
                elif status not in (183, 199):
                    self.outputs.append(ToPage(page.Provisional(self.name, status)))
            case ims.Answered():
                self._step("ims-200")
                if self._web_local is None:
                    self.fail(488, "the other side answered without a session description")
                    return
                self._answered = True
                self.outputs.append(ToPage(page.Answer(self.name, self._web_local.encode())))
                self.outputs.append(MediaAnswered(self.name))
            case ims.ReserveResources():
                self.outputs.append(ToIms(ims.ResourcesReserved(self.name)))
            case _:
                pass

    def _agreed(self, sdp: bytes) -> None:
        """IMS answers our offer: answer the page with it, early, so that ICE and DTLS run while it rings."""
        assert self._offer is not None
        assert self._ims_offer is not None
        assert self._web is not None
        try:
            self._ims_media = ims_side.read_answer(self._ims_local or self._ims_offer, SessionDescription.parse(sdp))
            if self._web_local is None:
                self._web_local, self._web_media = interworking.web_answer(self._offer, self._ims_media, self._web)
            self._apply()
        except SdpError as error:
            self.fail(488, str(error))
            return
        self._step("media-agreed", self._ims_media.codec.encoding)
        if not self._early_shown and not self._answered:
            self.outputs.append(ToPage(page.Provisional(self.name, 183, sdp=self._preview())))

    def _preview(self) -> bytes | None:
        """The answer for a provisional response, once."""
        if self._web_local is None or self._early_shown:
            return None
        self._early_shown = True
        return self._web_local.encode()

    def _page_ended(self, cause: page.Cause, message: Message | None) -> None:
        if not self._ims_over:
            self.outputs.append(ToIms(ims.Hangup(self.name, _reason_of(message))))
            if self._media is _Media.OPENING or self._ims_offer is None:
                self._ims_over = True  # IMS has not heard of it yet

    def _ims_ended(self, ended: ims.Ended) -> None:
        if self._page_over:
            return
        if self._answered:
            self.outputs.append(ToPage(page.Hangup(self.name, _reason_of(ended.message))))
        else:
            self.outputs.append(ToPage(page.Reject(self.name, *_refusal(ended))))

    def fail(self, status: int, reason: str) -> None:
        """See ``GatewayCall``."""
        if not self._page_over:
            if self._answered:
                self.outputs.append(ToPage(page.Hangup(self.name, _reason(status, reason))))
            else:
                self.outputs.append(ToPage(page.Reject(self.name, status, None, warning(reason))))
        if self._ims_offer is None:
            self._ims_over = True
        elif not self._ims_over:
            self.outputs.append(ToIms(ims.Hangup(self.name, _reason(status, reason))))

    def hang_up(self, reason: str) -> None:
        """See ``GatewayCall``."""
        self.fail(480, reason)


class CallToPage(GatewayCall):
    """A phone calls: the page rings."""

    def __init__(self, incoming: ims.IncomingCall, flow: Flow, contact: str, identity: str) -> None:
        super().__init__(incoming.call, flow)
        self._incoming = incoming
        self._contact = contact
        self._identity = identity
        self._rung = False
        self._called = False
        self._answered = False
        self._step("ims-invite")
        self.outputs.append(OpenMedia(self.name, controlling=True))

    def _begin(self) -> None:
        assert self._ims is not None
        sdp = self._incoming.sdp
        if sdp is None:
            self._ims_local = ims_side.make_offer(self._ims, IMS_FORMATS_WITH_G711)
        else:
            self._ims_local, self._ims_media = interworking.ims_answer(SessionDescription.parse(sdp), self._ims)
        self.outputs.append(ToIms(ims.Prepare(self.name, self._ims_local.encode())))

    def _ims_says(self, output: ims.Output) -> None:
        match output:
            case ims.Alert():
                self._call_page()
            case ims.MediaAgreed(_, sdp):
                assert self._ims_local is not None
                try:
                    self._ims_media = ims_side.read_answer(self._ims_local, SessionDescription.parse(sdp))
                    self._apply()
                except SdpError as error:
                    self.fail(488, str(error))
            case ims.Confirmed():
                self._step("ims-confirmed")
            case ims.ReserveResources():
                self.outputs.append(ToIms(ims.ResourcesReserved(self.name)))
            case _:
                pass

    def _call_page(self) -> None:
        assert self._web is not None
        try:
            self._web_local = interworking.web_offer(self._ims_media, self._web)
        except SdpError as error:
            self.fail(488, str(error))
            return
        caller = self._incoming.caller
        number = caller.display or _number(caller.uri)
        from_ = NameAddr(caller.uri if isinstance(caller.uri, SipUri) else _as_sip(caller.uri), number)
        self._called = True
        self._step("page-invite")
        self.outputs.append(
            ToPage(
                page.Call(
                    self.name,
                    self._contact,
                    str(from_),
                    f"<{self._identity}>",
                    self._web_local.encode(),
                    hop=self.flow,
                    route=(),
                )
            )
        )

    def _page_says(self, output: page.Output) -> None:
        match output:
            case page.Progress(_, _, response):
                if response.status >= 180 and not self._rung:
                    self._rung = True
                    self._step("page-180")
                    self.outputs.append(ToIms(ims.Ring(self.name)))
            case page.AnswerReceived(_, _, sdp):
                self._page_answered(sdp)
            case page.Answered():
                self._step("page-200")
                if not self._answered:
                    self._answered = True
                    self.outputs.append(ToIms(ims.Accept(self.name)))
                    self.outputs.append(MediaAnswered(self.name))
            case _:
                pass

    def _page_answered(self, sdp: bytes) -> None:
        assert self._web_local is not None
        try:
            media = web_side.read_answer(self._web_local, SessionDescription.parse(sdp))
            if not media.accepted:
                self.fail(488, "the page refused the sound")
                return
            self._web_media = media
            self._apply()
        except SdpError as error:
            self.fail(488, str(error))
            return
        if self._ims_media is not None:
            self._step("media-agreed", self._ims_media.codec.encoding)

    def _page_ended(self, cause: page.Cause, message: Message | None) -> None:
        if self._ims_over:
            return
        if self._answered:
            self.outputs.append(ToIms(ims.Hangup(self.name, _reason_of(message))))
        elif isinstance(message, Response) and message.status >= 300:
            # RFC 3261 16.7: a page that cannot be reached says nothing of the user.
            status = 480 if message.status in (408, 481, 503) else message.status
            self.outputs.append(ToIms(ims.Reject(self.name, status)))
        else:
            self.outputs.append(ToIms(ims.Reject(self.name, 480)))

    def _ims_ended(self, ended: ims.Ended) -> None:
        if self._called and not self._page_over:
            self.outputs.append(ToPage(page.Hangup(self.name, _reason_of(ended.message))))
        elif not self._called:
            self._page_over = True

    def fail(self, status: int, reason: str) -> None:
        """See ``GatewayCall``."""
        if self._called and not self._page_over:
            self.outputs.append(ToPage(page.Hangup(self.name, _reason(status, reason))))
        elif not self._called:
            self._page_over = True
        if not self._ims_over:
            if self._answered:
                self.outputs.append(ToIms(ims.Hangup(self.name, _reason(status, reason))))
            else:
                self.outputs.append(ToIms(ims.Reject(self.name, status, None, warning(reason))))

    def hang_up(self, reason: str) -> None:
        """See ``GatewayCall``."""
        self.fail(480, reason)


def _target(uri: Uri) -> str:
    """Return the URI to call: the page's transport is its own affair."""
    if isinstance(uri, SipUri):
        uri = uri.without_parameters("transport")
        if uri.user_text.lstrip("+").isdigit():
            return str(uri.with_parameter("user", "phone"))
    return str(uri)


def _number(uri: Uri) -> str:
    if isinstance(uri, TelUri):
        return uri.digits
    return uri.user_text if isinstance(uri, SipUri) else str(uri)


def _as_sip(uri: Uri) -> SipUri:
    """Return a SIP URI for a page that reads no other (RFC 3966 has no meaning to it)."""
    return SipUri("sip", _number(uri) if isinstance(uri, TelUri) else "anonymous", None, "anonymous.invalid")


def warning(text: str) -> tuple[tuple[str, str], ...]:
    """A Warning with words for the user (RFC 3261 section 20.43, code 399)."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text)[:200].replace("\\", "/").replace('"', "'")
    return (("Warning", f'399 imsbridge "{shown}"'),)


def _reason(status: int, text: str) -> tuple[tuple[str, str], ...]:
    shown = "".join(c if " " <= c <= "~" else "?" for c in text)[:200].replace("\\", "/").replace('"', "'")
    return (("Reason", f'SIP;cause={status};text="{shown}"'),)


def _reason_of(message: Message | None) -> tuple[tuple[str, str], ...]:
    """The Reason values of what ended the other side (RFC 3326)."""
    if message is None:
        return ()
    return tuple(("Reason", value) for value in message.headers.get_all("Reason"))


def _refusal(ended: ims.Ended) -> tuple[int, str | None, tuple[tuple[str, str], ...]]:
    """Status, phrase and words for a page whose call IMS did not take."""
    message = ended.message
    if isinstance(message, Response) and message.status >= 300:
        fields = tuple((n, v) for n in ("Warning", "Reason", "Retry-After") for v in message.headers.get_all(n))
        return message.status, message.reason or None, fields
    status = ended.status or 503
    return (487 if ended.local else status), None, warning(ended.reason)
