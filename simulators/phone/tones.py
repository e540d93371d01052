"""DTMF of the simulated phone: keys pressed and keys heard, as telephone events (RFC 4733)."""

from __future__ import annotations

from collections.abc import Callable

from imskit.rtp.errors import RtpError
from imskit.rtp.telephone_event import (
    DTMF,
    EventPacket,
    EventStarted,
    TelephoneEventReceiver,
    TelephoneEventSender,
    event_of,
)
from imskit.sdp.negotiation import LegMedia

KEY_SECONDS = 0.1
"""How long a key sounds (TS 24.229 and TS 26.114 annex G leave it to the UE; 65 ms is the least)."""


class Tones:
    """Both directions of one call; the clock is that of the format agreed beside the codec: 8000 or 16000 Hz."""

    def __init__(self) -> None:
        self.heard = ""
        """Keys that the other side pressed."""
        self.on_key: Callable[[], None] = lambda: None
        """Told of every key heard."""
        self._sender: TelephoneEventSender | None = None
        self._payload_type = 0
        self._receivers: dict[int, TelephoneEventReceiver] = {}
        self._source: int | None = None

    def agree(self, media: LegMedia) -> None:
        """Take what both sides have agreed on."""
        event = media.telephone_event
        if event is None:
            self._sender, self._receivers = None, {}
            return
        self._payload_type = event.send_payload_type
        if self._sender is None or self._sender.clock_rate != event.clock_rate:
            self._sender = TelephoneEventSender(event.clock_rate, event.clock_rate // 50)
        clocks = {item.receive_payload_type: item.clock_rate for item in media.telephone_events}
        if clocks != {number: receiver.clock_rate for number, receiver in self._receivers.items()}:
            self._receivers = {number: TelephoneEventReceiver(clock) for number, clock in clocks.items()}

    def press(self, keys: str) -> None:
        """Queue keys; ``ValueError`` for what is no key, or if the other side takes none."""
        if self._sender is None:
            raise ValueError("the other side takes no telephone events")
        try:
            events = [event_of(key) for key in keys]
        except RtpError as error:
            raise ValueError(f"{keys!r} are no keys: {error}") from None
        for event in events:
            self._sender.press(event, duration=KEY_SECONDS)

    def packet(self, timestamp: int) -> tuple[int, EventPacket] | None:
        """Return payload type and packet that take the place of this frame's sound."""
        packet = self._sender.packet(timestamp) if self._sender is not None else None
        return (self._payload_type, packet) if packet is not None else None

    def received(self, ssrc: int, payload_type: int, timestamp: int, payload: bytes, now: float) -> bool:
        """Take a packet; False if it is none of a tone's."""
        receiver = self._receivers.get(payload_type)
        if receiver is None:
            return False
        if self._source not in (None, ssrc):
            clocks = {number: old.clock_rate for number, old in self._receivers.items()}
            self._receivers = {number: TelephoneEventReceiver(clock) for number, clock in clocks.items()}
            receiver = self._receivers[payload_type]
        self._source = ssrc
        try:
            changes = receiver.received(timestamp, payload, now)
        except RtpError:
            return True
        for change in changes:
            if isinstance(change, EventStarted) and change.event < len(DTMF):
                self.heard += DTMF[change.event]
                self.on_key()
        return True
