"""The RTC Media Interworking Function (TR 23.701 5.7, MIF): for each call a leg to the page, a leg to IMS, a bridge.

Thin: descriptions are made and judged by ``imskit.sdp``, packets are handled by ``imskit.media``.  The page's leg has
a virtual address, which no interface has and only this process's TURN proxy delivers to; so media goes through the
proxy whatever ICE policy the page asks for, and no other program on the device or network can reach it.

A call from the page::

    call = rmf.open_call(page_offers=True, on_event=…)
    offer = interworking.ims_offer(page's offer, call.ims_endpoint)                        to IMS
    answer, web = interworking.web_answer(page's offer, ims, call.web_endpoint)            to the page
    call.apply(interworking.plan(web, ims))                                                media flows
    call.answered()                                                                        at the 200 OK

A call to the page: ``page_offers=False``, and ``ims_answer`` and ``web_offer`` with the same endpoints.  For a later
offer of the page call ``web_offer`` before ``web_endpoint`` is used: it may restart ICE.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from imskit.media.bridge import DirectionStats
from imskit.media.call import IMS_CLOCK, WEB_CLOCK, CallLegs
from imskit.media.events import LegEvent
from imskit.media.ims_leg import EXPEDITED_FORWARDING, PORTS, ImsLeg
from imskit.media.plane import Address, LegStats, MediaPlane, Source
from imskit.media.transports import Certificate
from imskit.media.webrtc_leg import WebRtcLeg

VIRTUAL_HOST = "192.0.2.2"
"""Address of the page's legs, from the documentation block (RFC 5737): nothing answers there if it ever leaks."""
ANSWERED_SECONDS = 20.0
"""From the answer on, the page has this long to connect."""

_VIRTUAL_PORTS = range(1024, 65536)

type OnCallEvent = Callable[[str, LegEvent], None]
"""Takes the side, ``web`` or ``ims``, and what happened there."""


@dataclass(frozen=True, slots=True)
class CallStats:
    """The figures of a call's media at one moment."""

    web: LegStats
    ims: LegStats
    web_to_ims: DirectionStats | None
    ims_to_web: DirectionStats | None
    web_round_trip_ms: float | None
    ims_round_trip_ms: float | None
    waiting_for: str
    """What the page's leg still waits for; empty when it is connected."""


class Call(CallLegs):
    """The media of one call; made by ``Rmf.open_call``."""

    def __init__(self, rmf: Rmf, *, page_offers: bool, on_event: OnCallEvent) -> None:
        self._rmf = rmf
        self._on_event = on_event
        self.events: list[tuple[str, LegEvent]] = []
        """All that happened so far, side by side with its time: the steps of a call's set-up."""
        ims = ImsLeg(
            rmf.plane,
            rmf.ims_host(),
            cname=secrets.token_urlsafe(12),
            clock_rate=IMS_CLOCK,
            interface=rmf.ims_interface,
            ports=rmf.ims_ports,
            dscp=rmf.ims_dscp,
            on_event=lambda event: self._event("ims", event),
        )
        try:
            self.web_address = rmf.virtual_address()
            """Virtual address of the page's leg."""
            web = WebRtcLeg(
                rmf.plane,
                self.web_address,
                candidates=[self.web_address],
                certificate=rmf.certificate,
                controlling=not page_offers,
                cname=secrets.token_urlsafe(12),
                clock_rate=WEB_CLOCK,
                on_event=lambda event: self._event("web", event),
            )
        except Exception:
            ims.close()
            raise
        super().__init__(rmf.plane, web, ims, source=rmf.source, executor=rmf.executor)

    def answered(self) -> None:
        """The call was answered: the page has to be connected soon."""
        self._web.connect_within(ANSWERED_SECONDS)

    def press(self, key: str, seconds: float) -> None:
        """Play a DTMF key towards IMS; ``ValueError`` for what is no key, or if IMS takes none."""
        self._bridge.press(key, seconds)

    def keep_alive(self, on: bool) -> None:
        """Keep a NAT binding towards IMS (TS 24.229 K.5.2.1), or no longer."""
        plan = self._bridge.plan
        media = () if plan is None else (*plan.ims.codecs, *plan.ims.telephone_events)
        self._ims.keep_alive([codec.send_payload_type for codec in media] if on else None)

    def stats(self) -> CallStats:
        """Return the figures; ``KeyError`` when the call is closed."""
        bridge = self._bridge.stats()
        return CallStats(
            self._plane.stats(self._web.id),
            self._plane.stats(self._ims.id),
            None if bridge is None else bridge[0],
            None if bridge is None else bridge[1],
            _milliseconds(self._web.reports.round_trip_time),
            _milliseconds(self._ims.reports.round_trip_time),
            self._web.waiting_for,
        )

    async def close(self) -> None:
        """End the media and free addresses and ports."""
        if self._closed:
            return
        await super().close()
        self._rmf.forget(self)

    def _event(self, side: str, event: LegEvent) -> None:
        self.events.append((side, event))
        self._on_event(side, event)


class Rmf:
    """Opens calls on a plane."""

    def __init__(
        self,
        plane: MediaPlane,
        *,
        ims_host: Callable[[], str],
        ims_interface: str | None = None,
        ims_ports: range = PORTS,
        ims_dscp: int = EXPEDITED_FORWARDING,
        source: Source = Source.SAME_HOST,
        virtual_host: str = VIRTUAL_HOST,
        admit: Callable[[Address], None] | None = None,
        retire: Callable[[Address], None] | None = None,
        executor: Executor | None = None,
    ) -> None:
        """``ims_host`` gives the local address of the IMS access at the time of a call.

        ``source`` is the policy for the origin of RTP from IMS, ``executor`` that of ``Bridge``.  ``admit`` and
        ``retire`` are told the address of a call's leg to the page when it opens and when it closes: only in between
        may the TURN proxy let clients reach it.
        """
        self.plane = plane
        self.ims_host = ims_host
        self.ims_interface = ims_interface
        self.ims_ports = ims_ports
        self.ims_dscp = ims_dscp
        self.source = source
        self.executor = executor
        self.certificate = Certificate()
        self._virtual_host = virtual_host
        self._admit = admit
        self._retire = retire
        self._calls: set[Call] = set()

    @property
    def calls(self) -> int:
        """Calls that are open."""
        return len(self._calls)

    def open_call(self, *, page_offers: bool, on_event: OnCallEvent) -> Call:
        """Take addresses and ports for a call; ``OSError`` when the IMS access has no free ports or is down."""
        call = Call(self, page_offers=page_offers, on_event=on_event)
        self._calls.add(call)
        if self._admit is not None:
            self._admit(call.web_address)
        return call

    def virtual_address(self) -> Address:
        """Return a virtual address that no leg has."""
        while True:
            address = (self._virtual_host, secrets.choice(_VIRTUAL_PORTS))
            if not self.plane.owns(address):
                return address

    def forget(self, call: Call) -> None:
        """Strike a closed call off."""
        self._calls.discard(call)
        if self._retire is not None:
            self._retire(call.web_address)

    async def close(self) -> None:
        """Close all calls."""
        for call in list(self._calls):
            await call.close()


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
