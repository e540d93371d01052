"""A call that a phone makes: the page rings (TR 23.701 figure 5.7.2.2-2, right to left)."""

from __future__ import annotations

from imskit.ims import events as ims
from imskit.sdp import ims_side, interworking
from imskit.sdp.description import SessionDescription
from imskit.sdp.profile import IMS_FORMATS_WITH_G711
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.flow import Flow
from imskit.sip.wire.message import Message, Response
from ue_agent.sif.engine.addresses import caller_for_page
from ue_agent.sif.engine.call import GatewayCall, Side
from ue_agent.sif.engine.events import ToIms, ToPage
from ue_agent.sif.engine.words import Fields, end_for_page, reason, reason_of, refusal_for_ims, warning

_ASSERTED = "P-Asserted-Identity"
_GONE = frozenset({page.Cause.TRANSPORT, page.Cause.TIMEOUT, page.Cause.LOCAL})
"""How a call to a page ends that has gone; ``LOCAL``: it moved to another WebSocket."""
MAXIMUM_TRIES = 4
"""Pages that are called, one after the other, before a call is given up."""


class CallToPage(GatewayCall):
    """See the module's text.  The gateway finds a page when there is need of one (`wants_page`)."""

    def __init__(self, name: str, incoming: ims.IncomingCall, domain: str, replaces: GatewayCall | None = None) -> None:
        """``replaces`` is the call that this one takes over."""
        super().__init__(name, name, incoming.call)
        self.replaces = replaces
        self._incoming = incoming
        self._domain = domain
        self._ims = Side.UP
        self._rung = False
        self._confirmed = False
        self.wants_page = False
        """Whether the call is ready to ring, and no page rings."""
        self.tried: list[Flow] = []
        """Where it has been tried."""
        self._step("ims-invite")
        self._open_media(controlling=True)

    def _begin(self) -> None:
        assert self._ims_endpoint is not None
        sdp = self._incoming.sdp
        if sdp is None:
            self._ims_local = ims_side.make_offer(self._ims_endpoint, IMS_FORMATS_WITH_G711)
        else:
            offer = SessionDescription.parse(sdp)
            self._ims_local, self._ims_media = interworking.ims_answer(offer, self._ims_endpoint)
        self.outputs.append(ToIms(ims.Prepare(self.ims_call, self._ims_local.encode())))

    @property
    def _can_change(self) -> bool:
        return self._confirmed and self._ims is Side.UP

    # ---- IMS --------------------------------------------------------------------------------------------------------

    def _ims_says(self, output: ims.Output) -> None:
        match output:
            case ims.Alert() if self._page is Side.IDLE:
                self.wants_page = True
            case ims.Confirmed():
                self._step("ims-confirmed")
                self._confirmed = True
                self._tell_ims()
            case _:
                pass

    def _ims_agreed(self) -> None:
        """The page has its offer already, or gets one when it is called."""
        self._apply()

    def _ims_ended(self, ended: ims.Ended) -> None:
        self.wants_page = False
        self._hang_up_page(end_for_page(ended))

    def _end_ims(self, status: int, text: str, code: int) -> None:
        self.wants_page = False
        if self.answered:
            self._hang_up_ims(reason(status, text))
        elif self._ims is Side.UP:
            self._ims = Side.ENDING
            # 503 would say that this device should not be asked for a while (RFC 3261 section 21.5.4).
            final = 480 if status == 503 else status
            self.outputs.append(ToIms(ims.Reject(self.ims_call, final, None, warning(text, code))))

    # ---- page -------------------------------------------------------------------------------------------------------

    def call_page(self, flow: Flow, instance: str, contact: str, identity: str) -> None:
        """Let this page ring."""
        assert self._web_endpoint is not None
        self.wants_page = False
        self.flow, self.instance = flow, instance
        self.tried.append(flow)
        self._web_local = interworking.web_offer(self._ims_both_ways, self._web_endpoint)
        self._page = Side.UP
        self._step("page-invite")
        caller = caller_for_page(self._incoming.caller, self._domain)
        call = page.Call(
            self.page_call,
            contact,
            str(caller),
            f"<{identity}>",
            self._web_local.encode(),
            self._takes_over() + self._asserted(),
            hop=flow,
            route=(),
        )
        self.outputs.append(ToPage(call))

    def _takes_over(self) -> Fields:
        """Say which call of the page's the new one replaces (RFC 3891)."""
        dialog = self.replaces.page_dialog if self.replaces is not None else None
        if dialog is None:
            return ()
        value = f"{dialog.call_id};to-tag={dialog.remote_tag};from-tag={dialog.local_tag}"
        return (("Replaces", value),)  # a page that does not know it rings as for any call

    def _asserted(self) -> Fields:
        """Say whom the network vouches for (RFC 3325), unless that identity is withheld: the page shows nobody else."""
        if self._incoming.caller.uri not in [each.uri for each in self._incoming.request.addresses(_ASSERTED)]:
            return ()
        return ((_ASSERTED, f"<{self._incoming.caller.uri}>"),)

    def _page_says(self, output: page.Output) -> None:
        match output:
            case page.Progress(_, _, response):
                if response.status >= 180 and response.status != 199 and not self._rung and not self.answered:
                    self._rung = True
                    self._step("page-180")
                    self.outputs.append(ToIms(ims.Ring(self.ims_call)))
            case page.Answered():
                self._step("page-200")
                if self._ims is Side.UP and not self.answered:
                    self._media_answered()
                    self.outputs.append(ToIms(ims.Accept(self.ims_call)))
            case _:
                pass

    def _page_ended(self, cause: page.Cause, message: Message | None) -> None:
        if self._ims is not Side.UP:
            return
        if self.answered:
            self._hang_up_ims(reason_of(message))
        elif cause in _GONE and not isinstance(message, Response) and len(self.tried) < MAXIMUM_TRIES:
            # The page has gone, not its user: another may be there, or it may come back.
            self._page = Side.IDLE
            self.flow, self._web_local, self._web_media = None, None, None
            self.wants_page = True
        else:
            status, fields = refusal_for_ims(message)
            self._ims = Side.ENDING
            self.outputs.append(ToIms(ims.Reject(self.ims_call, status, None, fields)))

    def page_lost(self) -> None:
        """See ``GatewayCall``: an INVITE cannot be completed over another connection."""
        if not self.answered and self._page is Side.UP:
            self._page = Side.ENDING
            self.outputs.append(ToPage(page.Hangup(self.page_call)))

    def _end_page(self, status: int, phrase: str | None, words: Fields) -> None:
        text = words[0][1].partition('"')[2].rpartition('"')[0] if words else ""
        self._hang_up_page(reason(status, text))
