"""One call through the SIF: a back-to-back user agent between the page and IMS (TR 23.701 clause 5.7.1.2).

Requests pass through; what differs is the session description, which `imskit.sdp.interworking` turns round, and the
media, which the RMF carries.  A call machine hears of all three sides and answers with `Output` values.

The page's direction (hold) is told to IMS; that of IMS is obeyed by the media and not told to the page.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from imskit.ims import events as ims
from imskit.sdp import ims_side, interworking, web_side
from imskit.sdp.attributes import Direction
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import LegMedia, next_offer
from imskit.sdp.web_side import WebEndpoint
from imskit.sip.engine import user_agent as page
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Message
from ue_agent.sif.engine.events import (
    ApplyMedia,
    CloseMedia,
    MediaAnswered,
    OpenMedia,
    Output,
    PageOffered,
    Step,
    ToIms,
    ToPage,
)
from ue_agent.sif.engine.words import Fields, end_for_page, warning

_log = logging.getLogger(__name__)

_PENDING = 491


class Side(Enum):
    """Where one side of a call stands."""

    IDLE = auto()
    """It has not heard of the call."""
    UP = auto()
    ENDING = auto()
    """It has been told to end."""
    OVER = auto()


class _Media(Enum):
    NONE = auto()
    OPENING = auto()
    OPEN = auto()
    CLOSED = auto()


@dataclass
class _PageOffer:
    """A later offer of the page that waits for our answer."""

    exchange: str
    offer: SessionDescription


@dataclass
class _Change:
    """A later offer of ours that IMS has to answer."""

    before: SessionDescription
    """Our description until then."""
    direction: Direction
    """The page's, which it tells."""


class GatewayCall(ABC):
    """What both directions share."""

    def __init__(self, name: str, page_call: str, ims_call: str) -> None:
        self.name = name
        """Of the call at the gateway and its media."""
        self.page_call = page_call
        """What the user agent of the page's side calls it."""
        self.ims_call = ims_call
        """What the IMS client calls it."""
        self.flow: Flow | None = None
        """The WebSocket of the page that has this call."""
        self.instance = ""
        """That page."""
        self.answered = False
        """Whether the call has been answered."""
        self.page_dialog: DialogId | None = None
        """The dialog with the page."""
        self.outputs: deque[Output] = deque()
        self._page = Side.IDLE
        self._ims = Side.IDLE
        self._media = _Media.NONE
        self._web_endpoint: WebEndpoint | None = None
        self._ims_endpoint: ImsEndpoint | None = None
        self._web_media: LegMedia | None = None
        self._ims_media: LegMedia | None = None
        self._ims_local: SessionDescription | None = None
        """Our last description towards IMS."""
        self._web_local: SessionDescription | None = None
        """Our last description towards the page."""
        self._told = Direction.SENDRECV
        """The page's direction as IMS knows it."""
        self._page_offer: _PageOffer | None = None
        self._change: _Change | None = None

    @property
    def over(self) -> bool:
        """Whether nothing is left of the call on either side."""
        return self._page is Side.OVER and self._ims is Side.OVER

    # ---- media ----------------------------------------------------------------------------------------------------

    def _open_media(self, *, controlling: bool) -> None:
        self._media = _Media.OPENING
        self.outputs.append(OpenMedia(self.name, controlling))

    def media_opened(self, web: WebEndpoint, ims_endpoint: ImsEndpoint) -> None:
        """Ports and credentials are there."""
        if self._media is not _Media.OPENING:
            self.outputs.append(CloseMedia(self.name))  # the call has ended meanwhile
            return
        self._web_endpoint, self._ims_endpoint = web, ims_endpoint
        self._media = _Media.OPEN
        self._guarded(self._begin)

    @abstractmethod
    def _begin(self) -> None:
        """Media are there: go on with the call."""

    def media_failed(self, reason: str) -> None:
        """The media cannot be had, or broke."""
        _log.warning("call %s: media failed: %s", self.name, reason)
        self.fail(503, reason)

    def _close_media(self) -> None:
        if self._media in (_Media.OPENING, _Media.OPEN):
            self.outputs.append(CloseMedia(self.name))
        self._media = _Media.CLOSED

    def _apply(self) -> None:
        """Join what is agreed on both sides; ``SdpError`` if one refused the sound."""
        if self._web_media is not None and self._ims_media is not None and self._media is _Media.OPEN:
            self.outputs.append(ApplyMedia(self.name, interworking.plan(self._web_media, self._ims_media)))

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do what a description may spoil: the call then fails."""
        try:
            action()
        except SdpError as error:
            self.fail(488 if error.status == 400 else error.status, str(error), error.warning)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def fail(self, status: int, text: str, code: int = 399) -> None:
        """End the call on both sides; ``text`` is for people, ``code`` that of a Warning (RFC 3261 20.43)."""
        if self.over:
            return
        _log.info("call %s ends: %s", self.name, text)
        self._end_page(status, None, warning(text, code))
        self._end_ims(status, text, code)
        self._close_media()

    def hang_up(self, text: str) -> None:
        """End the call on both sides from here."""
        self.fail(480, text)

    @abstractmethod
    def _end_page(self, status: int, phrase: str | None, words: Fields) -> None:
        """End the page's side, if it is up."""

    @abstractmethod
    def _end_ims(self, status: int, text: str, code: int) -> None:
        """End the IMS side, if it is up."""

    @abstractmethod
    def page_lost(self) -> None:
        """The page cannot be reached any more on the way it was; the call is not answered yet."""

    def _hang_up_page(self, fields: Fields) -> None:
        if self._page is Side.UP:
            self._page = Side.ENDING
            self.outputs.append(ToPage(page.Hangup(self.page_call, fields)))
        elif self._page is Side.IDLE:
            self._page = Side.OVER

    def _hang_up_ims(self, fields: Fields) -> None:
        if self._ims is Side.UP:
            self._ims = Side.ENDING
            self.outputs.append(ToIms(ims.Hangup(self.ims_call, fields)))
        elif self._ims is Side.IDLE:
            self._ims = Side.OVER

    # ---- both sides -------------------------------------------------------------------------------------------------

    def from_page(self, output: page.Output) -> None:
        """Take in what the page's side says of this call."""
        match output:
            case page.Answered(_, dialog):
                self.page_dialog = dialog
        match output:
            case page.Ended(_, cause, message):
                self._page_over(cause, message)
            case page.OfferReceived(_, _, exchange, sdp):
                self._page_offers(exchange, sdp)
            case page.OfferRequested(_, _, exchange):
                self._page_wants_offer(exchange)
            case page.OfferWithdrawn(_, _, exchange):
                if self._page_offer is not None and self._page_offer.exchange == exchange:
                    self._page_offer = None
            case page.AnswerReceived(_, _, sdp):
                if self._page is Side.UP:
                    self._guarded(lambda: self._page_answers(sdp))
            case _:
                if self._page is Side.UP:
                    self._page_says(output)

    def page_refused(self, command: page.Command, refusal: page.Refusal, text: str) -> None:
        """The user agent of the page's side has not carried out a command of this call's."""
        late = refusal in (page.Refusal.UNKNOWN, page.Refusal.STATE)
        level = logging.DEBUG if late else logging.WARNING
        _log.log(level, "call %s: page: %s not done: %s %s", self.name, type(command).__name__, refusal.value, text)
        match command:
            case page.Call():
                self._page_over(page.Cause.PROTOCOL, None)
            case page.Reject(status=status, headers=headers) if refusal is page.Refusal.INVALID and headers:
                self.outputs.append(ToPage(page.Reject(self.page_call, status)))  # the words could not be written
            case page.Hangup(headers=headers) if refusal is page.Refusal.INVALID and headers:
                self.outputs.append(ToPage(page.Hangup(self.page_call)))
            case page.Answer() if not late:
                self.answered = False
                self.fail(500, "the page cannot be answered")
            case _:
                pass

    def _page_over(self, cause: page.Cause, message: Message | None) -> None:
        if self._page is Side.OVER:
            return
        self._page = Side.OVER
        self._page_offer = None
        self._step("page-ended")
        self._page_ended(cause, message)
        if self._page is Side.OVER:
            self._close_media()

    def from_ims(self, output: ims.Output) -> None:
        """Take in what the IMS side says of this call."""
        match output:
            case ims.Ended():
                if self._ims is not Side.OVER:
                    self._ims = Side.OVER
                    self._step("ims-ended")
                    self._ims_ended(output)
                self._close_media()
            case ims.Offer(_, exchange, sdp):
                self._ims_offers(exchange, sdp)
            case ims.OfferFailed(_, status):
                self._change_failed(status)
            case ims.MediaAgreed(_, sdp):
                if self._ims is Side.UP:
                    self._guarded(lambda: self._ims_answers(sdp))
            case ims.ReserveResources():
                # The media's ports are open and the access needs no other word.
                self.outputs.append(ToIms(ims.ResourcesReserved(self.ims_call)))
            case _:
                if self._ims is Side.UP:
                    self._ims_says(output)

    @abstractmethod
    def _page_says(self, output: page.Output) -> None: ...

    @abstractmethod
    def _ims_says(self, output: ims.Output) -> None: ...

    @abstractmethod
    def _page_ended(self, cause: page.Cause, message: Message | None) -> None: ...

    @abstractmethod
    def _ims_ended(self, ended: ims.Ended) -> None: ...

    def _ims_ended_answered(self, ended: ims.Ended) -> None:
        self._hang_up_page(end_for_page(ended))

    # ---- what IMS agrees to and wants ----------------------------------------------------------------------------

    def _ims_answers(self, sdp: bytes) -> None:
        """IMS answers our last offer."""
        if self._ims_local is None:
            return
        self._ims_media = ims_side.read_answer(self._ims_local, SessionDescription.parse(sdp))
        change, self._change = self._change, None
        if change is not None:
            self._told = change.direction
        self._ims_agreed()
        self._tell_ims()

    @abstractmethod
    def _ims_agreed(self) -> None:
        """Let the answer take effect."""

    def _ims_offers(self, exchange: str, sdp: bytes | None) -> None:
        """IMS changes the media (hold, another codec): answered here, the page need not know."""
        if self._ims_endpoint is None or self._ims_local is None or self._ims is not Side.UP:
            self.outputs.append(ToIms(ims.RejectOffer(self.ims_call, exchange, _PENDING)))
            return
        if sdp is None:
            if self._ims_media is not None:
                self._ims_local = next_offer(self._ims_local, self._ims_media, direction=self._direction)
            self._told = self._direction
            self.outputs.append(ToIms(ims.AnswerOffer(self.ims_call, exchange, self._ims_local.encode())))
            return
        try:
            answer, media = interworking.ims_answer(
                SessionDescription.parse(sdp), self._ims_endpoint, web=self._web_media, previous=self._ims_local
            )
        except SdpError as error:
            _log.info("call %s: IMS's offer refused: %s", self.name, error)
            self.outputs.append(ToIms(ims.RejectOffer(self.ims_call, exchange, error.status)))
            return
        self._ims_local, self._ims_media, self._told = answer, media, self._direction
        self.outputs.append(ToIms(ims.AnswerOffer(self.ims_call, exchange, answer.encode())))
        self._guarded(self._apply)

    # ---- what the page wants ------------------------------------------------------------------------------------

    @property
    def _direction(self) -> Direction:
        """What the page does: sends, receives."""
        return Direction.SENDRECV if self._web_media is None else self._web_media.direction.reversed

    @property
    def _ims_both_ways(self) -> LegMedia | None:
        """What IMS agreed to, without its direction: the media obey it, the page is not told."""
        return None if self._ims_media is None else replace(self._ims_media, direction=Direction.SENDRECV)

    def _web_answer(self, offer: SessionDescription, endpoint: WebEndpoint) -> tuple[SessionDescription, LegMedia]:
        """Answer the page; IMS's format is taken where the page has it."""
        agreed = self._ims_both_ways
        assert agreed is not None
        # The page offers actpass again and again; the DTLS association has its roles (RFC 8842 section 5.3).
        role = self._web_media.dtls_client if self._web_media is not None else None
        return interworking.web_answer(offer, agreed, endpoint, previous=self._web_local, dtls_client=role)

    def _page_offers(self, exchange: str, sdp: bytes) -> None:
        """The page changes the media (hold, new ICE): our side may have to be renewed before the answer."""
        if not self.answered or self._media is not _Media.OPEN or self._ims_media is None or self._page is not Side.UP:
            self.outputs.append(ToPage(page.RejectOffer(exchange, _PENDING)))
            return
        try:
            offer = SessionDescription.parse(sdp)
            web_side.check_offer(offer)
        except SdpError as error:
            self._refuse_page(exchange, error)
            return
        self._page_offer = _PageOffer(exchange, offer)
        self.outputs.append(PageOffered(self.name, offer))

    def web_renewed(self, endpoint: WebEndpoint) -> None:
        """Our side to the page is ready for the page's new offer."""
        waiting, self._page_offer = self._page_offer, None
        if waiting is None or self._media is not _Media.OPEN:
            return
        self._web_endpoint = endpoint
        try:
            self._web_local, self._web_media = self._web_answer(waiting.offer, endpoint)
        except SdpError as error:
            self._refuse_page(waiting.exchange, error)
            return
        self.outputs.append(ToPage(page.AnswerOffer(waiting.exchange, self._web_local.encode())))
        self._guarded(self._apply)
        self._tell_ims()

    def _refuse_page(self, exchange: str, error: SdpError) -> None:
        _log.info("call %s: the page's offer refused: %s", self.name, error)
        words = warning(str(error), error.warning)
        self.outputs.append(ToPage(page.RejectOffer(exchange, error.status, None, words)))

    def _page_wants_offer(self, exchange: str) -> None:
        if self._web_local is None or self._web_media is None:
            self.outputs.append(ToPage(page.RejectOffer(exchange, _PENDING)))
            return
        self._web_local = next_offer(self._web_local, self._web_media)
        self.outputs.append(ToPage(page.AnswerOffer(exchange, self._web_local.encode())))

    def _page_answers(self, sdp: bytes) -> None:
        """The page answers our last offer."""
        if self._web_local is None:
            return
        media = web_side.read_answer(self._web_local, SessionDescription.parse(sdp))
        if not media.accepted:
            raise SdpError("the page refused the sound", "RFC 3264 section 6", status=488, warning=304)
        self._web_media = media
        if self._ims_media is not None and not self.answered:
            self._step("media-agreed", self._ims_media.codec.encoding)
        self._apply()
        self._tell_ims()

    def _tell_ims(self) -> None:
        """Let IMS know of the page's direction, if it does not (hold, resume)."""
        if not self._can_change or self._change is not None or self._direction is self._told:
            return
        if self._ims_local is None or self._ims_media is None:
            return
        self._change = _Change(self._ims_local, self._direction)
        self._ims_local = next_offer(self._ims_local, self._ims_media, direction=self._direction)
        self.outputs.append(ToIms(ims.Modify(self.ims_call, self._ims_local.encode())))

    @property
    @abstractmethod
    def _can_change(self) -> bool:
        """Whether IMS takes a later offer now."""

    def _change_failed(self, status: int | None) -> None:
        """IMS has not taken our offer: the page's hold then works on this side only."""
        change, self._change = self._change, None
        if change is None:
            return
        _log.info("call %s: IMS has not taken our offer (%s)", self.name, status or "not asked")
        self._ims_local = change.before
        if status not in (None, _PENDING):
            self._told = change.direction  # asking again would change nothing

    # ---- log --------------------------------------------------------------------------------------------------------

    def _step(self, name: str, codec: str = "") -> None:
        _log.info("call %s: %s %s", self.name, name, codec)
        self.outputs.append(Step(self.name, name, codec))

    def _media_answered(self) -> None:
        self.answered = True
        self.outputs.append(MediaAnswered(self.name))
