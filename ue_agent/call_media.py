"""The RMF as the SIF sees it: media by the name of the call, its peers admitted at the TURN proxy while it lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from imskit.media.events import LegEvent, Step
from imskit.media.report import media_report
from imskit.observe.events import EventLog
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import MediaPlan
from imskit.sdp.web_side import WebEndpoint
from imskit.tasks import spawn
from ue_agent.rmf.rmf import Call, Rmf

_log = logging.getLogger(__name__)

_FAILURES = {
    Step.FAILED: "the media connection to the page failed",
    Step.CONSENT_LOST: "the page no longer answers on the media path",
    Step.MEDIA_TIMEOUT: "no media comes from the other side",
}


class Peers(Protocol):
    """Where the media addresses of live sessions are made known: the TURN proxy's policy."""

    def admit(self, address: tuple[str, int]) -> None:
        """Let clients reach ``address``."""

    def retire(self, address: tuple[str, int]) -> None:
        """Let them reach it no longer."""


class CallMedia:
    """`ue_agent.sif.server.MediaSide` over an `Rmf`."""

    def __init__(self, rmf: Rmf, peers: Peers, events: EventLog) -> None:
        self._rmf = rmf
        self._peers = peers
        self._events = events
        self._calls: dict[str, tuple[Call, tuple[tuple[str, int], ...]]] = {}

    async def open(
        self, call: str, *, controlling: bool, on_failed: Callable[[str], None]
    ) -> tuple[WebEndpoint, ImsEndpoint]:
        """See ``MediaSide``."""

        def happened(side: str, event: LegEvent) -> None:
            self._events.emit("media", call=call[-8:], side=side, step=event.step.name.lower())
            if event.step in _FAILURES:
                # A hold silences IMS for long; only the page's side must always answer.
                if side == "ims":
                    _log.info("call %s: %s", call[-8:], event.step.value)
                else:
                    reason = f": {event.reason}" if event.reason else ""
                    on_failed(_FAILURES[event.step] + reason)

        opened = self._rmf.open_call(page_offers=not controlling, on_event=happened)
        web = opened.web_endpoint
        addresses = tuple((candidate.address, candidate.port) for candidate in web.candidates)
        for address in addresses:
            self._peers.admit(address)
        self._calls[call] = (opened, addresses)
        return web, opened.ims_endpoint

    def page_offer(self, call: str, offer: SessionDescription) -> WebEndpoint:
        """See ``MediaSide``."""
        opened, _ = self._calls[call]
        opened.web_offer(offer)
        return opened.web_endpoint

    def apply(self, call: str, plan: MediaPlan) -> None:
        """See ``MediaSide``."""
        if call in self._calls:
            self._calls[call][0].apply(plan)

    def answered(self, call: str) -> None:
        """See ``MediaSide``."""
        if call in self._calls:
            self._calls[call][0].answered()

    def press(self, call: str, key: str, seconds: float) -> None:
        """See ``MediaSide``."""
        if call in self._calls:
            self._calls[call][0].press(key, seconds)

    def close(self, call: str) -> None:
        """See ``MediaSide``."""
        opened, addresses = self._calls.pop(call, (None, ()))
        if opened is None:
            return
        for address in addresses:
            self._peers.retire(address)
        try:
            self._report(call, opened)
        finally:
            spawn(opened.close(), "close RMF call")

    def _report(self, call: str, opened: Call) -> None:
        """Put the figures of a call into log and event log."""
        stats = opened.stats()
        fields = media_report(stats.web, stats.ims, stats.web_to_ims, stats.ims_to_web)
        _log.info("call %s: media ended: %s", call[-8:], fields)
        self._events.emit("media-report", call=call[-8:], **fields)
