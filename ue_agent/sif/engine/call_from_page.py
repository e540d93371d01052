"""A call that the page makes (TR 23.701 figure 5.7.2.2-2, left to right)."""

from __future__ import annotations

from imskit.ims import events as ims
from imskit.ims.call_words import CALL_WAITING
from imskit.sdp import interworking, web_side
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.message import Message
from ue_agent.sif.engine.addresses import is_emergency, target
from ue_agent.sif.engine.call import GatewayCall, Side
from ue_agent.sif.engine.events import ToIms, ToPage
from ue_agent.sif.engine.transfers import Referral
from ue_agent.sif.engine.words import Fields, reason, reason_of, refusal_for_page

_NO_EMERGENCY = "emergency calls cannot be made from this page: use the device's own dialler"
_PRIVACY = frozenset({"id", "user", "header"})


class CallFromPage(GatewayCall):
    """See the module's text."""

    def __init__(
        self,
        name: str,
        incoming: page.IncomingCall,
        instance: str,
        domain: str,
        referral: Referral | None = None,
    ) -> None:
        """``domain`` is the home domain; ``referral`` is what the call carries out.

        Raises `SipParseError` if the INVITE cannot be read.
        """
        super().__init__(name, incoming.call, name)
        self.page_dialog = incoming.dialog
        self._referral = referral
        self.flow, self.instance = incoming.flow, instance
        uri = incoming.request.request_uri
        self._target = target(uri, domain) if referral is None else referral.target
        self._anonymous = _wants_privacy(incoming.request)
        self._offer: SessionDescription | None = None
        self._early_shown = False
        self._page = Side.UP
        self._step("page-invite")
        if is_emergency(uri):
            self.fail(403, _NO_EMERGENCY)
        elif incoming.sdp is None:
            self.fail(488, "an INVITE of the page must carry an offer")
        else:
            self._take_offer(incoming.sdp)

    def _take_offer(self, sdp: bytes) -> None:
        try:
            self._offer = SessionDescription.parse(sdp)
            _, self._told = web_side.check_offer(self._offer)
        except SdpError as error:
            self.fail(error.status, str(error), error.warning)
            return
        self._open_media(controlling=False)

    def _begin(self) -> None:
        assert self._offer is not None
        assert self._ims_endpoint is not None
        self._ims_local = interworking.ims_offer(self._offer, self._ims_endpoint)
        self._ims = Side.UP
        dial = ims.Dial(
            self.ims_call,
            self._target,
            self._ims_local.encode(),
            anonymous=self._anonymous,
            referral=self._referral.name if self._referral is not None else "",
        )
        self.outputs.append(ToIms(dial))
        self._step("ims-invite")

    @property
    def _can_change(self) -> bool:
        return self.answered and self._ims is Side.UP

    # ---- page -------------------------------------------------------------------------------------------------------

    def _page_says(self, output: page.Output) -> None:
        if isinstance(output, page.Confirmed):
            self._step("page-confirmed")

    def _page_ended(self, cause: page.Cause, message: Message | None) -> None:
        self._hang_up_ims(reason_of(message))

    def page_lost(self) -> None:
        """See ``GatewayCall``: the page cannot hear the answer any more."""
        self.hang_up("the page was closed")

    def _end_page(self, status: int, phrase: str | None, words: Fields) -> None:
        if self.answered:
            text = words[0][1].partition('"')[2].rpartition('"')[0] if words else ""
            self._hang_up_page(reason(status, text))
        elif self._page is Side.UP:
            self._page = Side.ENDING
            self.outputs.append(ToPage(page.Reject(self.page_call, status, phrase, words)))

    # ---- IMS --------------------------------------------------------------------------------------------------------

    def _ims_says(self, output: ims.Output) -> None:
        match output:
            case ims.Progress(_, status, _, waiting):
                self._step(f"ims-{status}")
                if self._page is not Side.UP or self.answered:
                    pass
                elif status == 180:
                    fields = (("Alert-Info", f"<{CALL_WAITING}>"),) if waiting else ()
                    self.outputs.append(
                        ToPage(page.Provisional(self.page_call, 180, sdp=self._preview(), headers=fields))
                    )
                elif status not in (183, 199):
                    self.outputs.append(ToPage(page.Provisional(self.page_call, status)))
            case ims.Answered():
                self._step("ims-200")
                self._ims_answered()
            case _:
                pass

    def _ims_answered(self) -> None:
        if self._page is not Side.UP:
            return
        if self._web_local is None:
            self.fail(488, "the other side answered without a session description")
            return
        self._media_answered()
        self.outputs.append(ToPage(page.Answer(self.page_call, self._web_local.encode())))
        self._tell_ims()

    def _ims_agreed(self) -> None:
        """IMS answers our offer: answer the page with it, early, so that ICE and DTLS run while it rings."""
        assert self._offer is not None
        assert self._web_endpoint is not None
        assert self._ims_media is not None
        if self._web_local is None:
            self._web_local, self._web_media = self._web_answer(self._offer, self._web_endpoint)
        self._apply()
        self._step("media-agreed", self._ims_media.codec.encoding)
        if not self.answered and self._page is Side.UP and not self._early_shown:
            self.outputs.append(ToPage(page.Provisional(self.page_call, 183, sdp=self._preview())))

    def _preview(self) -> bytes | None:
        """The answer for a provisional response, once."""
        if self._web_local is None or self._early_shown:
            return None
        self._early_shown = True
        return self._web_local.encode()

    def _ims_ended(self, ended: ims.Ended) -> None:
        if self.answered:
            self._ims_ended_answered(ended)
        else:
            self._end_page(*refusal_for_page(ended))

    def _end_ims(self, status: int, text: str, code: int) -> None:
        self._hang_up_ims(reason(status, text))


def _wants_privacy(request: Message) -> bool:
    """Whether the page asks that the callee does not learn who calls (RFC 3323 section 4.2)."""
    values = (value for field in request.headers.get_all("Privacy") for value in field.split(";"))
    return any(value.strip().lower() in _PRIVACY for value in values)
